//! Passes what the BPF programs log on to our own log.
#![expect(
    unsafe_code,
    reason = "registering a descriptor with the reactor is unsafe for arbitrary types"
)]

use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;
use tracing::warn;
use tracing_log::log::Log;

/// The programs' log and where it goes.
pub type HookLog = EbpfLogger<&'static dyn Log>;

/// Forwards for as long as the task lives.
pub async fn forward_log(log: HookLog) {
    // SAFETY: the log owns its ring buffer's descriptor, never replaces it, and is dropped with the registration.
    let mut log = match unsafe { AsyncFd::register(log) } {
        Ok(log) => log,
        Err(error) => {
            warn!(%error, "the BPF programs' own log cannot be waited for");
            return;
        }
    };
    while let Ok(mut ready) = log.readable_mut().await {
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}
