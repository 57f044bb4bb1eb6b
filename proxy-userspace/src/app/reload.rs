//! What SIGHUP reads again: certificates and policies.

use std::sync::Arc;

use tokio::signal::unix::Signal;
use tracing::error;

use crate::session::Stages;
use crate::tls;

/// Reads again whenever `hangup` comes; never ends.
pub(super) async fn on_hangup(stages: Arc<Stages>, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        let stages = Arc::clone(&stages);
        let reading = tokio::task::spawn_blocking(move || {
            tls::reload(&stages.routes);
            if let Err(error) = stages.policy.reload() {
                error!("policy not reloaded; the old one stays in force: {error}");
            }
        });
        if let Err(error) = reading.await {
            error!(%error, "reloading failed");
        }
    }
}
