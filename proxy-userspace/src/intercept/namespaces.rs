//! The network namespaces in which we have listeners: opened when somebody needs one, closed when nobody is left.
//!
//! Design: docs/decisions/0040-network-namespaces.md.

mod arrivals;
mod failure;
mod look;

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proxy_ebpf::unix::ListenerName;
use proxy_ebpf::wanted::WantedNetns;
use serde::{Deserialize, Serialize};
use tracing::{debug, error, warn};

use super::census::{self, Census};
use super::doors::Doors;
use super::intake::Intake;
use super::listener::{
    Families, ListenAddress, Listener, cookie_here, listen_for_unix_here, listen_here,
};
use super::namespace::{Entrance, Namespace};
use super::porter::{Porter, apart_and_wait};
use super::tables::ListenerTable;
use super::unix::Guise;

/// Counts for the status document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceCounts {
    /// Network namespaces whose connects are redirected now, our own included.
    pub intercepted: usize,
    /// Those that were given listeners since the start.
    pub opened: u64,
    /// Those whose listeners were closed again.
    pub released: u64,
    /// Tries to open listeners that failed.
    pub failed: u64,
}

pub use failure::OpenError;
pub use look::look_forever;

/// The namespaces with listeners of ours.
pub struct Namespaces {
    doors: Doors,
    intake: Arc<Intake>,
    known: Mutex<Known>,
    /// Our own, as it was at start.
    own: Namespace,
    /// The most besides it.
    limit: usize,
    /// Ports that no listener may have.
    intercepted: Vec<u16>,
    /// The guise of listeners for unix sockets, if there are any.
    unix: Option<Guise>,
    porter: Porter,
    opened: AtomicU64,
    released: AtomicU64,
    failed: AtomicU64,
}

struct Known {
    table: ListenerTable,
    /// Whether it was told that there is no more room, since there was some.
    is_full: bool,
    by_cookie: HashMap<u64, Entry>,
}

struct Entry {
    namespace: Arc<Namespace>,
    /// Whether the hooks know of it; if not, its listeners go at the next look.
    is_listed: bool,
}

impl Namespaces {
    /// Starts with listeners on `port` in our own namespace; in at most `limit` others they may be on any port but those
    /// that are `intercepted`.
    ///
    /// # Errors
    /// [`OpenError`]; nobody can be intercepted then.
    pub fn start(
        table: ListenerTable,
        port: u16,
        limit: usize,
        intercepted: Vec<u16>,
        porter: Porter,
    ) -> Result<Self, OpenError> {
        let families = Families::here()?;
        if families.is_none() {
            return Err(OpenError::NoLoopback);
        }
        if !families.v6 {
            warn!("no IPv6 loopback here; connects over IPv6 are not intercepted");
        }
        let mut listeners = listen_here(port, &intercepted, families)?;
        let unix = table.unix();
        if let Some(guise) = unix {
            listeners.push(apart_and_wait(|| listen_for_unix_here(guise))?);
        }
        let own = Namespace::own(addresses(&listeners))?.with_unix(name(&listeners));
        let namespaces = Self {
            doors: Doors::new()?,
            intake: Arc::default(),
            known: Mutex::new(Known {
                table,
                is_full: false,
                by_cookie: HashMap::new(),
            }),
            own: own.clone(),
            limit,
            intercepted,
            unix,
            porter,
            opened: AtomicU64::new(0),
            released: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        namespaces.enter(own, listeners)?;
        Ok(namespaces)
    }

    /// The addresses of our listeners in our own namespace.
    pub fn own_listeners(&self) -> &[ListenAddress] {
        self.own.listeners()
    }

    /// Every namespace whose connects are redirected now.
    pub(super) fn all(&self) -> Vec<Arc<Namespace>> {
        let known = self.lock();
        let listed = known.by_cookie.values().filter(|entry| entry.is_listed);
        listed.map(|entry| Arc::clone(&entry.namespace)).collect()
    }

    /// The counts as they stand.
    pub fn counts(&self) -> NamespaceCounts {
        let known = self.lock();
        let listed = known.by_cookie.values().filter(|entry| entry.is_listed);
        NamespaceCounts {
            intercepted: listed.count(),
            opened: self.opened.load(Ordering::Relaxed),
            released: self.released.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// Opens listeners in every namespace there is whose cookie is `wanted`, while there is room; returns the cookies.
    /// Blocks.
    pub fn open_all(&self, wanted: impl Fn(u64) -> bool) -> Vec<u64> {
        let known: HashSet<u64> = {
            let known = self.lock();
            let listed = known.by_cookie.values().filter(|entry| entry.is_listed);
            listed.map(|entry| entry.namespace.inode()).collect()
        };
        let mut opened = Vec::new();
        let census = census::take().unwrap_or_else(|error| {
            warn!(%error, "cannot tell which network namespaces there are");
            Census::new()
        });
        for (inode, path) in census {
            if known.contains(&inode) {
                continue;
            }
            match open_entrance(&path).and_then(|entrance| self.open(entrance, &wanted)) {
                Ok(cookie) => opened.push(cookie),
                Err(OpenError::Full(_)) => break,
                Err(error) if error.is_expected() => {
                    debug!(path = %path.display(), "not intercepted: {error}")
                }
                Err(error) => {
                    warn!(path = %path.display(), "a network namespace is not intercepted: {error}");
                }
            }
        }
        opened
    }

    /// Opens listeners in the namespace that a connect was made in. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]
    pub(super) fn open_for(&self, wanted: &WantedNetns) -> Result<(), OpenError> {
        let path = format!("/proc/{}/task/{}/ns/net", wanted.tgid(), wanted.tid());
        // The process may be gone, and its number another's: the cookie tells.
        let entrance = open_entrance(Path::new(&path))?;
        self.open(entrance, |cookie| cookie == wanted.netns_cookie())?;
        Ok(())
    }

    /// Opens listeners in the namespace of this descriptor, if its cookie is `wanted`.
    fn open(&self, entrance: File, wanted: impl Fn(u64) -> bool) -> Result<u64, OpenError> {
        let opened = self.open_inside(entrance, wanted);
        if opened
            .as_ref()
            .is_err_and(|error| !matches!(error, OpenError::Elsewhere))
        {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        opened
    }

    fn open_inside(&self, entrance: File, wanted: impl Fn(u64) -> bool) -> Result<u64, OpenError> {
        let inode = entrance.metadata()?.ino();
        let entrance = Entrance {
            descriptor: Arc::new(OwnedFd::from(entrance)),
            porter: self.porter.clone(),
        };
        let cookie = entrance.visit(cookie_here)?;
        if !wanted(cookie) {
            return Err(OpenError::Elsewhere);
        }
        if !self.make_room(cookie)? {
            return Ok(cookie);
        }
        let (intercepted, unix) = (self.intercepted.clone(), self.unix);
        let listen = move || {
            let mut listeners = listen_here(0, &intercepted, Families::here()?)?;
            // Last: the thread is of no use to others then.
            if let Some(guise) = unix {
                listeners.push(listen_for_unix_here(guise)?);
            }
            Ok(listeners)
        };
        let listeners = entrance.visit_as_envoy(listen)?;
        if listeners.is_empty() {
            return Err(OpenError::NoLoopback);
        }
        let namespace = Namespace::new(cookie, inode, Some(entrance), addresses(&listeners))
            .with_unix(name(&listeners));
        let has_tcp = !namespace.listeners().is_empty();
        if self.enter(namespace, listeners)? {
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
        // A namespace without loopback is there for unix sockets alone, and wanted as before.
        has_tcp.then_some(cookie).ok_or(OpenError::NoLoopback)
    }

    /// Whether the namespace is to be opened and may be; what is left of it from before is closed.
    fn make_room(&self, cookie: u64) -> Result<bool, OpenError> {
        let mut known = self.lock();
        match known.by_cookie.get(&cookie) {
            Some(entry) if entry.is_listed => {
                // For unix sockets there is what can be had.
                let is_whole = !entry.namespace.listeners().is_empty();
                return is_whole.then_some(false).ok_or(OpenError::NoLoopback);
            }
            Some(_) => self.close(&mut known, cookie),
            None => {}
        }
        let is_other = |cookie: &u64| *cookie != self.own.cookie();
        let others = known.by_cookie.keys().copied().filter(is_other);
        if is_other(&cookie) && others.count() >= self.limit {
            let error = OpenError::Full(self.limit);
            if !std::mem::replace(&mut known.is_full, true) {
                warn!("a network namespace is not intercepted, and no more will be: {error}");
            }
            return Err(error);
        }
        Ok(true)
    }

    /// Accepts behind these listeners, and then has connects sent to them; not if there are others by now.
    fn enter(&self, namespace: Namespace, listeners: Vec<Listener>) -> Result<bool, OpenError> {
        let namespace = Arc::new(namespace);
        let cookie = namespace.cookie();
        let mut known = self.lock();
        if known
            .by_cookie
            .get(&cookie)
            .is_some_and(|entry| entry.is_listed)
        {
            return Ok(false);
        }
        for listener in &listeners {
            if let Listener::Tcp { socket, .. } = listener {
                known.table.mark(socket)?;
            }
        }
        self.doors.open(listeners, &namespace)?;
        if let Err(error) = known.table.insert(cookie, namespace.ports()) {
            self.doors.close(&namespace);
            return Err(error.into());
        }
        debug!(cookie, listeners = ?namespace.listeners(), "network namespace intercepted");
        let is_listed = true;
        known.by_cookie.insert(
            cookie,
            Entry {
                namespace,
                is_listed,
            },
        );
        Ok(true)
    }

    /// Takes listeners down that listen no more; the next connect has others opened.
    fn close_dead(&self, namespace: &Arc<Namespace>) {
        let mut known = self.lock();
        let cookie = namespace.cookie();
        let is_current = |entry: &Entry| Arc::ptr_eq(&entry.namespace, namespace);
        if known.by_cookie.get(&cookie).is_some_and(is_current) {
            unlist(&mut known, namespace);
            self.close(&mut known, cookie);
        }
    }

    /// Closes what the hooks know nothing of any more.
    fn close(&self, known: &mut Known, cookie: u64) {
        if let Some(entry) = known.by_cookie.remove(&cookie) {
            self.doors.close(&entry.namespace);
            known.is_full = false;
            self.released.fetch_add(1, Ordering::Relaxed);
            debug!(cookie, "network namespace released");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a namespace out of the hooks' sight, unless it was opened anew meanwhile.
fn unlist(known: &mut Known, namespace: &Arc<Namespace>) {
    let cookie = namespace.cookie();
    let is_this = |entry: &&mut Entry| entry.is_listed && Arc::ptr_eq(&entry.namespace, namespace);
    let Some(entry) = known.by_cookie.get_mut(&cookie).filter(is_this) else {
        return;
    };
    match known.table.remove(cookie) {
        Ok(()) => entry.is_listed = false,
        Err(error) => {
            error!(%error, cookie, "connects in a network namespace that is given up are still redirected");
        }
    }
}

fn name(listeners: &[Listener]) -> Option<ListenerName> {
    listeners.iter().find_map(Listener::name)
}

fn addresses(listeners: &[Listener]) -> Vec<ListenAddress> {
    listeners.iter().filter_map(Listener::address).collect()
}

/// Opens what may be a network namespace, or anything else that lies at the end of the path.
fn open_entrance(path: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    // A pipe would keep us waiting.
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    options
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            // The process has gone.
            Some(libc::ENOENT | libc::ESRCH) => OpenError::Elsewhere,
            // It has while we were on the way (`proc_ns_get_link`).
            Some(libc::EACCES) if !path.exists() => OpenError::Elsewhere,
            _ => error.into(),
        })
}
