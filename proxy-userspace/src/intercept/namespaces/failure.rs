//! Why a namespace has no listeners.

use std::io;

use super::super::hooks::HookError;

/// Why a namespace has no listeners.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither 127.0.0.1 nor ::1 is there to be redirected to.
    #[error("it has no loopback address; is its `lo` down?")]
    NoLoopback,
    /// There are listeners in as many namespaces as allowed.
    #[error("listeners in {0} other namespaces are the limit; raise max_namespaces")]
    Full(usize),
    /// The namespace is not the one that was asked for.
    #[error("its processes have gone, or use its sockets from elsewhere")]
    Elsewhere,
    /// The operating system's refusal.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The hooks cannot be told.
    #[error(transparent)]
    Hooks(#[from] HookError),
}

impl OpenError {
    /// Whether this is the namespace's own state and nothing to look into, or has been told: anybody who can make
    /// namespaces could fill the log with it.
    pub(in crate::intercept) fn is_expected(&self) -> bool {
        matches!(self, Self::NoLoopback | Self::Elsewhere | Self::Full(_))
    }
}
