//! Many sessions: at once, and one after another. Afterwards nothing of them remains.

use anyhow::{Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::process::{Running, run};
use pgusher_tests::programs::c_client;
use pgusher_tests::stage::{Setup, Stage};

use crate::expect::{accepted_session, at};

/// What an idle session may take of userspace's memory, on average.
const IDLE_SESSION_KIB: u64 = 16;

fn libpq(stage: &Stage, mode: &str, count: usize) -> Result<Running> {
    let mut command = c_client(&stage.cgroup, "libpq")?;
    Running::start(command.args([mode, &stage.conninfo("app_trust"), &count.to_string()]))
}

/// One session, so that everything that is created once exists; then the number of descriptors.
fn warm_descriptors(stage: &Stage) -> Result<usize> {
    run(&mut stage.psql("select 1")?)?.success()?;
    stage.pgusher.trail.wait_for_sessions(1)?;
    stage.pgusher.descriptors()
}

fn nothing_remains(stage: &Stage, descriptors: usize) -> Result<()> {
    stage
        .pgusher
        .wait_for_counter("/sessions/active", |active| active == 0)?;
    stage
        .pgusher
        .wait_for_counter("/audit/queued", |queued| queued == 0)?;
    wait_until("the descriptors are closed", || {
        let open = stage.pgusher.descriptors()?;
        Ok(Seen::when(open <= descriptors, || {
            format!("{open} descriptors, {descriptors} before")
        }))
    })?;
    let status = stage.pgusher.status()?;
    ensure!(
        *at(&status, "/audit/dropped") == 0 && *at(&status, "/audit/failures") == 0,
        "{status}"
    );
    ensure!(
        at(&status, "/kernel/published") == at(&status, "/kernel/redirected"),
        "{status}"
    );
    Ok(())
}

#[test]
fn a_thousand_sessions_at_once_are_all_served() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let descriptors = warm_descriptors(stage)?;
        let before = stage.pgusher.resident_kib()?;
        let mut crowd = libpq(stage, "crowd", 1000)?;
        crowd.wait_for_value("open")?;
        let grown = stage.pgusher.resident_kib()?.saturating_sub(before);
        ensure!(
            grown <= 1000 * IDLE_SESSION_KIB,
            "1000 idle sessions take {grown} KiB"
        );
        ensure!(
            stage.pgusher.counter("/sessions/active")? == 1000,
            "{}",
            stage.pgusher.status()?
        );
        ensure!(
            stage.pgusher.threads()? < 32,
            "a thread a session: {}",
            stage.pgusher.threads()?
        );
        let finished = crowd.finish()?;
        ensure!(finished.value("sum")? == "500500000", "{finished:?}");
        for record in stage.pgusher.trail.wait_for_sessions(1001)?.iter().skip(1) {
            accepted_session(record, "app_trust")?;
        }
        nothing_remains(stage, descriptors)
    })
}

#[test]
fn ten_thousand_short_sessions_leave_nothing_behind() -> Result<()> {
    Setup::with(Version::V18).play(|stage| {
        let descriptors = warm_descriptors(stage)?;
        let clients = [libpq(stage, "short", 5000)?, libpq(stage, "short", 5000)?];
        for client in clients {
            let finished = client.finish()?;
            ensure!(
                finished.success().is_ok() && finished.value("right")? == "5000",
                "{finished:?}"
            );
        }
        let sessions = stage.pgusher.trail.wait_for_sessions(10_001)?;
        let verified = sessions
            .iter()
            .filter(|record| record["origin"]["exe"]["grade"] == "verified");
        ensure!(
            verified.count() == 10_001,
            "not every session names its program"
        );
        nothing_remains(stage, descriptors)
    })
}
