//! The threads that may do what the others have given up.

use std::io;

use anyhow::{Context as _, Error, Result};

use crate::admin::AdminError;
use crate::audit::SinkError;
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

/// Says why root is refused a file, if that is what ended pgusher.
pub fn explain_refusal(error: Error) -> Error {
    let is_refusal = |cause: &io::Error| cause.kind() == io::ErrorKind::PermissionDenied;
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref());
    let is_of_a_file = error.chain().any(|cause| {
        cause.is::<SinkError>() || matches!(cause.downcast_ref(), Some(AdminError::Bind { .. }))
    });
    if is_of_a_file && causes.any(is_refusal) {
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
    fn only_the_refusal_of_a_file_is_explained() {
        let of_the_socket = |kind: io::ErrorKind| {
            Error::from(AdminError::Bind {
                path: "/run/pgusher.sock".into(),
                source: kind.into(),
            })
        };
        let denied = io::ErrorKind::PermissionDenied;
        let cases = [
            (of_the_socket(denied), true),
            (of_the_socket(io::ErrorKind::NotFound), false),
            (Error::from(io::Error::from(denied)), false),
        ];
        for (error, is_explained) in cases {
            let text = format!("{:#}", explain_refusal(error.context("cannot start")));
            assert_eq!(text.contains("belongs to its user"), is_explained, "{text}");
            assert!(text.contains("cannot start"), "{text}");
        }
    }
}
