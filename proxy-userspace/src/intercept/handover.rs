//! Takes the record of an accepted connection from the kernel, once, and sweeps what nobody accepted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{HashMap, MapData, MapError};
use proxy_ebpf::endpoint::Endpoint;
use proxy_ebpf::handover::HandoverKey;
use proxy_ebpf::interception::Interception;
use rustix::time::{ClockId, clock_gettime};
use tracing::{debug, warn};

/// How old an entry may get: far longer than a SYN waits in an accept queue, far shorter than it takes to fill the
/// table with connects that died on the way.
pub const MAX_ENTRY_AGE: Duration = Duration::from_secs(120);

/// Why an accepted connection has no record.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The kernel has no entry: the connection did not come through the connect hooks.
    #[error(
        "no original destination is known for this connection: it was made to pgusher's own listener"
    )]
    Unknown,
    /// The table could not be read.
    #[error("the hand-over table cannot be read: {0}")]
    Table(MapError),
}

/// The hand-over table of redirected connects between their SYN and our accept.
pub struct Handover {
    /// Locked for two system calls at a time.
    entries: Mutex<HashMap<MapData, HandoverKey, Interception>>,
}

impl Handover {
    pub(super) fn new(entries: HashMap<MapData, HandoverKey, Interception>) -> Self {
        Self {
            entries: Mutex::new(entries),
        }
    }

    /// Takes the record of the connection from `client` to `listener`; a second take finds nothing.
    ///
    /// # Errors
    /// [`HandoverError`]; there is no default destination.
    pub fn take(
        &self,
        netns_cookie: u64,
        client: SocketAddr,
        listener: SocketAddr,
    ) -> Result<Interception, HandoverError> {
        let key = HandoverKey::new(
            netns_cookie,
            Endpoint::from(client),
            Endpoint::from(listener),
        );
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let interception = entries.get(&key, 0).map_err(|error| match error {
            MapError::KeyNotFound => HandoverError::Unknown,
            error => HandoverError::Table(error),
        })?;
        entries.remove(&key).map_err(HandoverError::Table)?;
        Ok(interception)
    }

    /// Removes entries older than [`MAX_ENTRY_AGE`]; returns how many.
    fn sweep(&self, now_ns: u64) -> usize {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |interception: &Interception| {
            let age = now_ns.saturating_sub(interception.connected_at_ns());
            u128::from(age) > MAX_ENTRY_AGE.as_nanos()
        };
        let old: Vec<HandoverKey> = entries
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, interception)| is_old(interception))
            .map(|(key, _)| key)
            .collect();
        old.iter().filter(|key| entries.remove(key).is_ok()).count()
    }
}

/// Sweeps the table for as long as the task lives.
pub async fn sweep_forever(handover: Arc<Handover>) {
    let mut ticks = tokio::time::interval(MAX_ENTRY_AGE / 4);
    loop {
        ticks.tick().await;
        match handover.sweep(boot_time_ns()) {
            0 => debug!("hand-over table swept, nothing was left behind"),
            swept => warn!(
                swept,
                "redirected connects were never accepted; their entries were removed"
            ),
        }
    }
}

/// Nanoseconds since boot, the clock of the records.
fn boot_time_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let nanoseconds = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or(0)
}
