//! Says what interception does not reach, in the log and in the audit trail: coverage is part of the truth.

use std::io;

use tracing::{info, warn};

use crate::audit::Audit;
use crate::audit::record::{Body, CoverageReport, Record};
use crate::config::{Adopt, Config};
use crate::intercept::{self, Coverage, Existing, Search, Settled};
use crate::succession::{self, Predecessors};

/// The most connections named in the log; the audit trail has more.
const MAX_LOGGED: usize = 10;

/// What to look for: connections of everybody but ourselves, and instances that were here before, known or noted.
pub(super) fn search(config: &Config, predecessors: &Predecessors) -> Search {
    let mut exempt = vec![std::process::id()];
    let noted = succession::noted(&config.admin_socket);
    let others = predecessors.processes().into_iter().chain(noted);
    exempt.extend(others.map(|process| process.pid));
    Search {
        ports: config.ports.clone(),
        adopt: config.adopt,
        exempt,
    }
}

/// Tells what was found and what became of it; returns the numbers.
pub(super) async fn report(
    config: &Config,
    with_unix: bool,
    settled: io::Result<Settled>,
    audit: &Audit,
) -> Coverage {
    let counts = intercept::uncovered(&config.ports, with_unix).unwrap_or_else(|error| {
        warn!(%error, "cannot count the unix sockets of servers");
        Coverage::default()
    });
    let (counts, listed) = match settled {
        _ if config.adopt == Adopt::Ignore => (counts, Vec::new()),
        Ok(settled) => {
            let counts = counts.with_connections(&settled);
            if let Some(error) = settled.refusal() {
                warn!(
                    left = settled.found() - settled.reset(),
                    "sessions that are older than pgusher go on, unseen: {}",
                    reason(error)
                );
            }
            (counts, settled.into_listed())
        }
        Err(error) => {
            warn!(%error, "cannot tell which connections exist already; is `tcp_diag` there?");
            (counts, Vec::new())
        }
    };
    log(counts, &listed);
    let report = CoverageReport::new(config.adopt, counts, listed);
    audit
        .record(Record::now(Body::Coverage(Box::new(report))))
        .await;
    counts
}

fn log(counts: Coverage, listed: &[Existing]) {
    let Coverage {
        established,
        reset,
        unix_established,
        unix_sockets,
    } = counts;
    let found = established.unwrap_or_default();
    if found == 0 && unix_established == 0 && unix_sockets == 0 {
        return;
    }
    let shown: Vec<String> = listed.iter().take(MAX_LOGGED).map(describe).collect();
    let shown = shown.join(", ");
    if found > reset || unix_established > 0 || unix_sockets > 0 {
        warn!(
            "not covered: {} established sessions, {unix_established} through unix sockets, {unix_sockets} unix sockets; {reset} sessions reset [{shown}]",
            found.saturating_sub(reset)
        );
    } else {
        info!("{reset} sessions that were there before are reset [{shown}]");
    }
}

fn describe(existing: &Existing) -> String {
    let pids: Vec<String> = existing.processes.iter().map(ToString::to_string).collect();
    format!(
        "{} to {} by {}",
        existing.local,
        existing.remote,
        pids.join(" and ")
    )
}

fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => {
            "this kernel cannot abort connections (CONFIG_INET_DIAG_DESTROY); restart their clients"
                .to_owned()
        }
        Some(libc::EPERM) => "CAP_NET_ADMIN is missing; restart their clients".to_owned(),
        _ => error.to_string(),
    }
}
