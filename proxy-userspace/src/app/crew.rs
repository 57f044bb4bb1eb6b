//! The threads that may do what the others have given up.

use std::io;

use anyhow::{Context as _, Error, Result};

use crate::fences::{self, Role, Starter};
use crate::intercept::Porter;

/// Who does what the runtime's threads may not.
pub struct Crew {
    /// Until pgusher has started.
    pub(super) starter: Starter,
    /// For as long as there are network namespaces.
    pub(super) porter: Porter,
}

impl Crew {
    /// Starts them and puts up the fences: around the process, and around the calling thread and all that it starts from
    /// here on. To be called before there is a runtime.
    ///
    /// # Errors
    /// A fence that does not stand; the process must not go on then.
    pub fn muster() -> Result<Self> {
        let starter = Starter::start().context("cannot start a thread")?;
        fences::enclose_process()?;
        let porter = Porter::start()?;
        fences::enclose_thread(Role::Relay)?;
        Ok(Self { starter, porter })
    }
}

/// Says why root is refused something, if that is what ended pgusher.
pub fn explain_refusal(error: Error) -> Error {
    let is_refusal = |cause: &io::Error| cause.kind() == io::ErrorKind::PermissionDenied;
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref());
    if causes.any(is_refusal) {
        error
            .context("pgusher, root or not, may write only where the directory belongs to its user")
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_is_explained() {
        for (kind, is_explained) in [
            (io::ErrorKind::PermissionDenied, true),
            (io::ErrorKind::NotFound, false),
        ] {
            let error = Error::from(io::Error::from(kind)).context("cannot open the audit file");
            let text = format!("{:#}", explain_refusal(error));
            assert_eq!(text.contains("belongs to its user"), is_explained, "{text}");
            assert!(text.contains("cannot open the audit file"), "{text}");
        }
    }
}
