//! Whether anybody is left in the namespaces that have listeners.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tracing::warn;

use super::super::census;
use super::super::listener::Families;
use super::super::namespace::Namespace;
use super::{Namespaces, unlist};

/// How often it is looked. A namespace that nobody is left in gets no more connects after one look and loses its listeners
/// at the next.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks for as long as the task lives.
pub async fn look_forever(namespaces: Arc<Namespaces>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let namespaces = Arc::clone(&namespaces);
        let looked = tokio::task::spawn_blocking(move || namespaces.look()).await;
        if let Err(error) = looked.unwrap_or_else(|error| Err(io::Error::other(error))) {
            warn!(%error, "cannot tell whether anybody is left in network namespaces; they are kept");
        }
    }
}

impl Namespaces {
    /// Looks who is left: closes the listeners that nobody was left for at the last look, and takes those out of the
    /// hooks' sight that nobody is left for now, or that cannot be reached any more. Blocks.
    ///
    /// # Errors
    /// The operating system's reason if it cannot be told; what it is about stays in sight then.
    fn look(&self) -> io::Result<()> {
        let mut listed = Vec::new();
        {
            let mut known = self.lock();
            let unlisted = known.by_cookie.iter().filter(|(_, entry)| !entry.is_listed);
            for cookie in unlisted.map(|(cookie, _)| *cookie).collect::<Vec<_>>() {
                self.close(&mut known, cookie);
            }
            let entries = known.by_cookie.values();
            listed.extend(entries.map(|entry| Arc::clone(&entry.namespace)));
        }
        listed.retain(|namespace| namespace.cookie() != self.own.cookie());
        if listed.is_empty() {
            return Ok(());
        }
        let left = inhabited(&listed)?;
        let mut outcome = Ok(());
        for namespace in listed {
            let is_left = left.contains(&namespace.inode());
            match is_as_opened(&namespace) {
                Ok(true) if is_left => {}
                // One that cannot be looked into keeps nobody else from being released.
                Err(error) if is_left => outcome = Err(error),
                _ => unlist(&mut self.lock(), &namespace),
            }
        }
        outcome
    }
}

/// Which of these processes live in, or are mounted somewhere, by inode.
fn inhabited(namespaces: &[Arc<Namespace>]) -> io::Result<HashSet<u64>> {
    let mut left: HashSet<u64> = census::take()?.into_keys().collect();
    let inodes = namespaces.iter().map(|namespace| namespace.inode());
    let missing: HashSet<u64> = inodes.filter(|inode| !left.contains(inode)).collect();
    if !missing.is_empty() {
        left.extend(census::entered_by_threads(&missing)?);
    }
    Ok(left)
}

/// Whether connects can still be redirected to every listener, and to no other loopback address.
fn is_as_opened(namespace: &Namespace) -> io::Result<bool> {
    let reached = namespace.visit(Families::here)?;
    Ok(reached == Families::of(namespace.listeners()))
}
