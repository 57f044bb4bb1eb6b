//! What must hold at the end of every test.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::Stage;
use crate::kernel;
use crate::pgusher::{self, trail};

impl Stage {
    /// Ends pgusher and checks what must hold after every test: something was redirected, every session that
    /// began also ended, nothing was lost on the way, and nothing remains attached or loaded.
    ///
    /// # Errors
    /// When one of these does not hold.
    pub(super) fn close(&mut self) -> Result<()> {
        if self.pgusher.is_running()? {
            drop(self.dialer.take());
            self.pgusher
                .wait_for_counter("/sessions/active", |active| active == 0)?;
            self.check_counters()?;
            let held = self.pgusher.held()?;
            ensure!(
                held.count("prog") > 0 && held.count("link") > 0,
                "pgusher holds no eBPF programs: {held:?}"
            );
            self.pgusher.signal(Signal::SIGTERM)?;
            let finished = self.pgusher.wait_for_end()?;
            ensure!(
                finished.status.success(),
                "pgusher ended with {}",
                finished.status
            );
            // Where it is to be closed when pgusher is down, that has to be undone.
            pgusher::detach(self.cgroup.path())?.success()?;
            held.wait_until_gone()?;
            check_trail(&self.pgusher.trail.records()?)?;
        }
        pgusher::detach(self.cgroup.path())?.success()?;
        kernel::wait_until_nothing_attached(self.cgroup.path())
    }

    fn check_counters(&self) -> Result<()> {
        let unix = self.pgusher.counter("/kernel/unix_redirected")?;
        ensure!(self.redirected()? + unix > 0, "nothing was intercepted");
        for lost in ["storage_failed", "publish_failed", "no_listener"] {
            let count = self.pgusher.counter(&format!("/kernel/{lost}"))?;
            ensure!(count == 0, "{lost} is {count}");
        }
        Ok(())
    }
}

/// Every session that began has ended, once, and no other ended.
fn check_trail(records: &[Value]) -> Result<()> {
    let of_type = |wanted: &str| -> Vec<String> {
        let chosen = records.iter().filter(|record| record["type"] == wanted);
        chosen.map(|record| record["session"].to_string()).collect()
    };
    let (begun, ended) = (of_type("session_start"), of_type("session"));
    let begun_once: BTreeSet<&String> = begun.iter().collect();
    let ended_once: BTreeSet<&String> = ended.iter().collect();
    ensure!(
        begun.len() == begun_once.len(),
        "a session began twice: {}",
        trail::tail(records)
    );
    ensure!(
        ended.len() == ended_once.len(),
        "a session ended twice: {}",
        trail::tail(records)
    );
    ensure!(
        begun_once == ended_once,
        "sessions began {begun_once:?} and ended {ended_once:?}"
    );
    check_statements(records)
}

/// Records of a session's statements are numbered without a gap, come before its closing record, and are as many as
/// that one says.
fn check_statements(records: &[Value]) -> Result<()> {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for record in records {
        let session = record["session"].to_string();
        let before = last.get(&session).copied().unwrap_or_default();
        if let Some(seq) = record["seq"].as_u64() {
            ensure!(
                seq == before + 1,
                "record {seq} follows {before} in session {session}: {record}"
            );
            last.insert(session, seq);
        } else if record["type"] == "session" {
            let statements = &record["statements"];
            ensure!(
                statements["recorded"] == before && statements["lost"] == 0,
                "{before} records precede {record}"
            );
            // Whatever comes later would be out of order.
            last.insert(session, u64::MAX - 1);
        }
    }
    Ok(())
}
