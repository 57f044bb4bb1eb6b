//! Live programs, and how they end: with us, by declaration, or not before somebody takes them away.

use std::mem::take;
use std::os::fd::OwnedFd;

use aya::Ebpf;
use aya::programs::links::FdLink;
use tracing::error;

use super::pins::{Generation, PinError, PinFolder};
use super::tables::Counters;
use super::unix::pin;

/// An attached program.
pub(super) struct Hook {
    name: &'static str,
    link: Link,
}

/// What keeps it attached.
enum Link {
    /// A link that aya made.
    Aya(FdLink),
    /// One that aya does not know the attach type of.
    Own(OwnedFd),
}

impl Hook {
    pub(super) fn new(name: &'static str, link: FdLink) -> Self {
        let link = Link::Aya(link);
        Self { name, link }
    }

    pub(super) fn of_own_link(name: &'static str, link: OwnedFd) -> Self {
        let link = Link::Own(link);
        Self { name, link }
    }

    /// Stays attached for as long as the pin is there.
    fn pin(self, generation: &Generation) -> Result<Self, PinError> {
        let name = self.name;
        let path = generation.hook(name);
        let pinned = match self.link {
            Link::Aya(link) => link.pin(path).map(|pinned| Link::Aya(pinned.into())),
            Link::Own(link) => pin(&link, &path).map(|()| Link::Own(link)),
        };
        let link = pinned.map_err(|source| generation.failed(source))?;
        Ok(Self { name, link })
    }
}

/// Live programs; dropping this detaches them all, unless they are pinned.
pub struct Attached {
    /// The connect hooks.
    redirecting: Vec<Hook>,
    /// getpeername goes on telling redirected sockets whom they dialled while sessions drain; and a socket redirected
    /// before the connect hooks went may send its SYN later (TCP_FASTOPEN_CONNECT), which sock_ops publishes.
    answering: Vec<Hook>,
    /// Where they are pinned.
    pinned: Option<Generation>,
    /// Whether they are to stay there.
    outlives_us: bool,
    /// The maps must outlive the links.
    _ebpf: Ebpf,
}

impl Attached {
    pub(super) fn new(redirecting: Vec<Hook>, answering: Vec<Hook>, ebpf: Ebpf) -> Self {
        Self {
            redirecting,
            answering,
            pinned: None,
            outlives_us: false,
            _ebpf: ebpf,
        }
    }

    /// Pins every hook, with its counters. A start that fails takes the pins away again.
    ///
    /// # Errors
    /// [`PinError`]; nothing is pinned then, or attached.
    pub fn pin(mut self, folder: &PinFolder, counters: &Counters) -> Result<Self, PinError> {
        let generation = folder.begin()?;
        let pinned = counters
            .pin(&generation.counters())
            .map_err(|source| generation.failed(source))
            .and_then(|()| pin_all(take(&mut self.answering), &generation))
            .and_then(|answering| {
                let redirecting = pin_all(take(&mut self.redirecting), &generation)?;
                Ok((answering, redirecting))
            });
        match pinned {
            Ok((answering, redirecting)) => {
                self.answering = answering;
                self.redirecting = redirecting;
                self.pinned = Some(generation);
                Ok(self)
            }
            Err(error) => {
                generation.remove()?;
                Err(error)
            }
        }
    }

    /// What is pinned stays when we end, however we end.
    pub fn outlive_us(&mut self) {
        self.outlives_us = true;
    }

    /// Detaches the connect hooks and lets nothing outlive us: new connects go direct from here on, or where others are
    /// attached; redirected sockets stay as they are.
    ///
    /// # Errors
    /// [`PinError`] when pins could not be removed.
    pub fn let_go(&mut self) -> Result<(), PinError> {
        // The pins first, so that it is our descriptors that the links end with: at once.
        let removed = self.pinned.take().map_or(Ok(()), |pins| pins.remove());
        self.redirecting.clear();
        removed
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.outlives_us {
            return;
        }
        if let Err(error) = self.let_go() {
            error!(%error, "hooks of ours stay pinned; `pgusher detach` removes them");
        }
    }
}

fn pin_all(hooks: Vec<Hook>, generation: &Generation) -> Result<Vec<Hook>, PinError> {
    let pinned = hooks.into_iter().map(|hook| hook.pin(generation));
    pinned.collect()
}
