//! `pgusher doctor`: does this host have what interception needs, and if not, what to do about it.

mod fences;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use proxy_ebpf::offsets::{FieldOffset, KernelOffsets};
use proxy_ebpf::refusals::Refusals;
use serde::Serialize;

use crate::app;
use crate::cli::tell;
use crate::intercept::{
    self, Cgroup, FastPath, FastPathError, Guise, Loaded, MIN_STALL_TIMEOUT, PinFolder, Reach,
    Terms,
};

/// One check's outcome.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Interception works, with less in its records.
    Limited,
    /// Interception does not work.
    Missing,
}

/// Runs every check and prints the outcomes, with the fences of the instance that answers at `admin_socket`; success
/// when nothing is missing.
///
/// # Errors
/// When they cannot be printed.
pub fn main(json: bool, admin_socket: &Path) -> Result<ExitCode> {
    let mut checks = run_checks();
    checks.extend(fences::running(admin_socket));
    if json {
        tell(serde_json::to_string_pretty(&checks)?)?;
    } else {
        for check in &checks {
            let mark = match check.verdict {
                Verdict::Ok => "ok     ",
                Verdict::Limited => "limited",
                Verdict::Missing => "MISSING",
            };
            tell(format_args!("{mark}  {:<14}  {}", check.name, check.detail))?;
        }
    }
    let lacks = checks.iter().any(|check| check.verdict == Verdict::Missing);
    Ok(if lacks {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn run_checks() -> Vec<Check> {
    let (programs, unix_sockets) = programs();
    vec![
        kernel(),
        fences::capabilities(),
        pid_namespace(),
        cgroup(),
        kernel_types(),
        listeners(),
        programs,
        unix_sockets,
        fast_path(),
        pins(),
        fences::available(),
    ]
}

impl Check {
    fn new(name: &'static str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            detail: detail.into(),
        }
    }

    fn from_result<T, E: Into<anyhow::Error>>(
        name: &'static str,
        result: Result<T, E>,
        describe: impl FnOnce(T) -> String,
    ) -> Self {
        match result {
            Ok(value) => Self::new(name, Verdict::Ok, describe(value)),
            Err(error) => Self::new(name, Verdict::Missing, format!("{:#}", error.into())),
        }
    }
}

fn kernel() -> Check {
    Check::from_result("kernel", app::check_kernel(), |version| {
        format!(
            "Linux {}.{}.{}",
            version.major, version.minor, version.patch
        )
    })
}

fn pid_namespace() -> Check {
    Check::from_result("pid namespace", app::check_pid_namespace(), |()| {
        "the host's".to_owned()
    })
}

fn cgroup() -> Check {
    Check::from_result("cgroup v2", Cgroup::open(None), |cgroup| {
        format!("root at {}", cgroup.path().display())
    })
}

/// Without these fields interception works and says less about who connected.
fn kernel_types() -> Check {
    const NAME: &str = "kernel BTF";
    let offsets = match intercept::kernel_offsets() {
        Ok(offsets) => offsets,
        Err(error) => {
            let detail = format!(
                "{error}; start time, executable and login uid will be absent from records; groups, privileges and namespaces are read later, and nothing read is verified: policies by executable, unit, slice, container, pod or group permit nobody"
            );
            return Check::new(NAME, Verdict::Limited, detail);
        }
    };
    let lacking = absent_facts(&offsets);
    if lacking.is_empty() {
        Check::new(
            NAME,
            Verdict::Ok,
            "start time, executable, login uid, groups, privileges and namespaces can be captured",
        )
    } else {
        Check::new(
            NAME,
            Verdict::Limited,
            format!("cannot be captured here: {}", lacking.join(", ")),
        )
    }
}

fn absent_facts(offsets: &KernelOffsets) -> Vec<&'static str> {
    let standing = &offsets.standing;
    let is_absent = |fields: &[FieldOffset]| fields.contains(&FieldOffset::ABSENT);
    let facts = [
        (
            "start time",
            [offsets.task_group_leader, offsets.task_start_boottime].to_vec(),
        ),
        ("login uid", [offsets.task_loginuid].to_vec()),
        (
            "executable",
            [
                offsets.task_mm,
                offsets.mm_exe_file,
                offsets.file_inode,
                offsets.inode_number,
                offsets.inode_super_block,
                offsets.super_block_device,
            ]
            .to_vec(),
        ),
        (
            "groups and privileges",
            [
                offsets.task_cred,
                standing.cred_cap_effective,
                standing.cred_group_info,
                standing.group_info_count,
                standing.group_info_ids,
                standing.task_atomic_flags,
                standing.task_seccomp_mode,
                standing.task_ptrace,
                standing.task_parent,
                offsets.task_group_leader,
                offsets.task_tgid,
            ]
            .to_vec(),
        ),
        (
            "namespaces",
            [
                offsets.task_cred,
                standing.cred_user_ns,
                standing.user_number,
                standing.task_nsproxy,
                standing.nsproxy_mnt,
                standing.mnt_number,
                standing.nsproxy_net,
                standing.net_number,
                standing.nsproxy_uts,
                standing.uts_number,
                standing.nsproxy_ipc,
                standing.ipc_number,
                standing.nsproxy_cgroup,
                standing.cgroup_number,
                standing.task_thread_pid,
                standing.pid_level,
                standing.pid_numbers,
                standing.upid_ns,
                standing.pid_number,
            ]
            .to_vec(),
        ),
    ];
    facts
        .into_iter()
        .filter(|(_, fields)| is_absent(fields))
        .map(|(name, _)| name)
        .collect()
}

fn listeners() -> Check {
    let bound = intercept::try_to_listen();
    Check::from_result("listeners", bound, |addresses| match addresses.len() {
        1 => "IPv4 loopback only".to_owned(),
        _ => "IPv4 and IPv6 loopback".to_owned(),
    })
}

/// The verifier's word on every program, and on those for unix sockets; they are loaded for a moment, and nothing is
/// attached.
fn programs() -> (Check, Check) {
    let mut loaded = Loaded::load(&Terms {
        offsets: intercept::kernel_offsets().unwrap_or(KernelOffsets::ABSENT),
        refusals: Refusals::ALWAYS,
        stall_timeout: MIN_STALL_TIMEOUT,
    });
    let unix_sockets = unix_sockets(loaded.as_mut().ok());
    let programs = Check::from_result("BPF programs", loaded, |_| {
        "connect4/6, getpeername4/6 and sock_ops load".to_owned()
    });
    (programs, unix_sockets)
}

/// Whether connects to servers' unix sockets can be intercepted too; what can be said only of a host where the others
/// can.
fn unix_sockets(loaded: Option<&mut Loaded>) -> Check {
    const NAME: &str = "unix sockets";
    let lacking = fences::lacking_for_unix_sockets();
    match loaded.map(|hooks| hooks.load_unix(Guise::default())) {
        Some(Ok(())) if !lacking.is_empty() => {
            let lacking = lacking.join(", ");
            let detail = format!(
                "{lacking} not effective: redirected clients would reach nobody; set unix_sockets = \"off\""
            );
            Check::new(NAME, Verdict::Limited, detail)
        }
        Some(Ok(())) => Check::new(
            NAME,
            Verdict::Ok,
            "connect_unix, getpeername_unix and getsockname_unix load",
        ),
        Some(Err(error)) => {
            let detail = format!("{:#}; they go direct", anyhow::Error::from(error));
            Check::new(NAME, Verdict::Limited, detail)
        }
        None => Check::new(NAME, Verdict::Limited, "they go direct, as all connects do"),
    }
}

/// What `fast_path` can do here; its programs are loaded for a moment.
fn fast_path() -> Check {
    const NAME: &str = "fast path";
    match FastPath::load(Reach::Unnoticed) {
        Ok(fast_path) if fast_path.reaches_applications() => {
            Check::new(NAME, Verdict::Ok, "unnoticed by applications both ways")
        }
        Ok(_) => Check::new(
            NAME,
            Verdict::Ok,
            "unnoticed by applications towards pgusher; fast_path = \"full\" asks something of them (docs/fast-path.md)",
        ),
        Err(error @ FastPathError::Noticed) => {
            Check::new(NAME, Verdict::Limited, error.to_string())
        }
        Err(error) => Check::new(
            NAME,
            Verdict::Limited,
            format!("{error}; sessions do without"),
        ),
    }
}

/// What stays attached when nobody serves.
fn pins() -> Check {
    const NAME: &str = "pins";
    match intercept::abandoned() {
        Ok(Some(what)) => return Check::new(NAME, Verdict::Limited, what),
        Ok(None) => {}
        Err(error) => return Check::new(NAME, Verdict::Missing, error.to_string()),
    }
    match PinFolder::of(0).check() {
        Ok(()) => Check::new(
            NAME,
            Verdict::Ok,
            "hooks can be pinned, nothing is without an instance",
        ),
        Err(error) => Check::new(NAME, Verdict::Limited, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_absent_when_any_field_on_their_way_is() {
        assert_eq!(
            absent_facts(&KernelOffsets::ABSENT),
            [
                "start time",
                "login uid",
                "executable",
                "groups and privileges",
                "namespaces"
            ]
        );
        let mut offsets = KernelOffsets::ABSENT;
        offsets.task_group_leader = FieldOffset::new(8);
        offsets.task_start_boottime = FieldOffset::new(16);
        assert_eq!(
            absent_facts(&offsets),
            [
                "login uid",
                "executable",
                "groups and privileges",
                "namespaces"
            ]
        );
    }
}
