//! What comes to the listeners of all namespaces.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, warn};

use super::Namespaces;
use crate::intercept::doors::{Accepted, NotAccepted};
use crate::intercept::intake::Intake;

const FIRST_BACKOFF: Duration = Duration::from_millis(5);
const LAST_BACKOFF: Duration = Duration::from_secs(1);
/// How often it is looked whether everybody has been accepted.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Namespaces {
    /// Since when connections may wait to be accepted.
    pub fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }

    /// Waits for the next connection, for this runtime. When the process is out of descriptors or memory it backs off and
    /// tries again: the connection stays in its accept queue meanwhile.
    ///
    /// # Cancel safety
    /// Cancel safe: a connection is either returned or still in its queue.
    pub async fn accept(&self, runtime: &tokio::runtime::Handle) -> Accepted {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let ready = self.doors.ready(|| self.intake.drained()).await;
            let failed = match ready.map(|door| self.doors.accept(door, runtime)) {
                Ok(Ok(accepted)) => return accepted,
                Ok(Err(NotAccepted::Nobody)) => continue,
                Ok(Err(NotAccepted::Dead(namespace))) => {
                    warn!(
                        cookie = namespace.cookie(),
                        "somebody closed our listener in a network namespace"
                    );
                    self.close_dead(&namespace);
                    continue;
                }
                Ok(Err(NotAccepted::NoRoom(error))) | Err(error) => error,
            };
            error!(error = %failed, ?backoff, "cannot accept a connection; raise LimitNOFILE if descriptors ran out");
            let held = self.intake.hold();
            tokio::time::sleep(backoff).await;
            drop(held);
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }

    /// Waits until nobody waits to be accepted, and then closes every listener.
    ///
    /// # Cancel safety
    /// Cancel safe: all are open until nobody waits.
    pub async fn close_all(&self) {
        while self.doors.has_callers() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let mut known = self.lock();
        for cookie in known.by_cookie.keys().copied().collect::<Vec<_>>() {
            self.close(&mut known, cookie);
        }
    }
}
