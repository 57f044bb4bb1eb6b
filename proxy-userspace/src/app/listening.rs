//! Listeners in every network namespace that there is at start.

use std::sync::Arc;

use anyhow::Result;
use tokio::runtime::Handle;
use tracing::info;

use crate::config::Config;
use crate::fences::Starter;
use crate::intercept::{Loaded, Namespaces, Porter};

/// Listeners in our own network namespace, on this port, and in every other that there is already.
pub(super) async fn open_namespaces(
    config: &Config,
    hooks: &mut Loaded,
    port: u16,
    starter: &Starter,
    porter: Porter,
) -> Result<Arc<Namespaces>> {
    let limit = config.max_namespaces;
    let (table, ports) = (hooks.listener_table()?, config.ports.clone());
    let runtime = Handle::current();
    // Our own port may be a privileged one.
    let start = move || {
        let _registering = runtime.enter();
        Namespaces::start(table, port, limit, ports, porter)
    };
    let namespaces = Arc::new(starter.run(start).await??);
    open_others(&namespaces).await?;
    Ok(namespaces)
}

/// Listeners in every other network namespace that has none.
pub(super) async fn open_others(namespaces: &Arc<Namespaces>) -> Result<()> {
    let others = Arc::clone(namespaces);
    let opened = tokio::task::spawn_blocking(move || others.open_all(|_| true).len()).await?;
    info!(opened, "other network namespaces intercepted");
    Ok(())
}
