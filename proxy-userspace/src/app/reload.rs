//! What SIGHUP reads again: certificates and policies.

use std::sync::Arc;

use tokio::signal::unix::Signal;

use crate::session::Stages;
use crate::succession::Predecessors;

/// Reads again whenever `hangup` comes; never ends.
pub(super) async fn on_hangup(stages: Arc<Stages>, predecessors: Predecessors, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        // What we cannot use nobody is to use.
        if Stages::reload(&stages).await {
            predecessors.reload();
        }
    }
}
