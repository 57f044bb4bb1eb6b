//! Ctrl-C that still cleans up.
//!
//! A signal only sets a flag. Commands that started servers look at it between their steps and leave through
//! their guards, which stop what they started. The client that is running gets the same Ctrl-C from the terminal and ends.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: std::ffi::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP no longer end this process but make [`check`] fail.
///
/// # Errors
///
/// When the kernel refuses a handler.
pub(crate) fn defer() -> Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        #[expect(unsafe_code, reason = "the standard library has no signal handlers")]
        // SAFETY: the handler only stores to an atomic, which is safe at any point of any thread.
        let installed = unsafe { sigaction(signal, &action) };
        installed.with_context(|| format!("cannot handle {signal}"))?;
    }
    Ok(())
}

/// Lets a command go on unless it has been interrupted.
///
/// # Errors
///
/// When a signal has come since [`defer`].
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
