//! What a running pgusher cannot do any more, thread by thread.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
#[cfg(target_arch = "x86_64")]
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::{Cluster, Version};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::kernel;
use pgusher_tests::netns::{Link, NetNs};
use pgusher_tests::pgusher::binary;
use pgusher_tests::process::run;
use pgusher_tests::programs::compiled;
use pgusher_tests::stage::{Setup, Stage};
use tempfile::TempDir;

/// Capabilities by number (include/uapi/linux/capability.h).
const DAC_READ_SEARCH: u64 = 1 << 2;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
/// CAP_DAC_OVERRIDE, CAP_SETGID and CAP_SETUID.
const AS_OTHERS: u64 = 1 << 1 | 1 << 6 | 1 << 7;
const BPF: u64 = 1 << 39;

/// What threads have whose task is anything but network namespaces. Old kernels ask for NET_ADMIN where others take
/// NET_RAW, and for BPF where others ask for nothing.
const KEPT: u64 = DAC_READ_SEARCH | NET_RAW | SYS_PTRACE;
const KEPT_ON_OLD_KERNELS: u64 = NET_ADMIN | BPF;

/// The fields of /proc/PID/task/TID/status.
type Fields = BTreeMap<String, String>;

fn threads(pid: u32) -> Result<Vec<Fields>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while we look.
        let Ok(text) = fs::read_to_string(task?.path().join("status")) else {
            continue;
        };
        let fields = text.lines().filter_map(|line| line.split_once(":\t"));
        found.push(
            fields
                .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
                .collect(),
        );
    }
    Ok(found)
}

fn field<'a>(thread: &'a Fields, name: &str) -> Result<&'a str> {
    let value = thread.get(name);
    Ok(value.with_context(|| format!("no {name} in {thread:?}"))?)
}

fn set(thread: &Fields, name: &str) -> Result<u64> {
    Ok(u64::from_str_radix(field(thread, name)?, 16)?)
}

/// Sessions, a namespace that is opened on first need and dialled from, and everything else that starts threads.
fn keep_busy(stage: &Stage) -> Result<()> {
    let client = NetNs::create()?;
    let link = Link::between(&client, stage.cluster.namespace()?)?;
    let connect = || -> Result<()> {
        let mut command = client.command(&stage.cgroup, compiled("connect")?)?;
        command.args(["blocking", &link.server[0], &stage.cluster.port.to_string()]);
        ensure!(run(&mut command)?.value("answer")? == "42");
        Ok(())
    };
    let before = stage.pgusher.counter("/namespaces/opened")?;
    connect()?;
    stage
        .pgusher
        .wait_for_counter("/namespaces/opened", |opened| opened == before + 1)?;
    (0..8).try_for_each(|_| connect())
}

/// Threads that live on: none is on an errand, of which some are sent now and then, or has no name of its own yet.
fn threads_at_rest(pid: u32) -> Result<Vec<Fields>> {
    wait_until("no thread is on an errand", || {
        let threads = threads(pid)?;
        let named = |name: &str| {
            let named = threads.iter().filter(|thread| {
                let found = thread.get("Name").map(String::as_str);
                found == Some(name)
            });
            named.count()
        };
        let is_at_rest = named("netns") == 0 && named("porter") == 1;
        let shown = format!("{threads:?}");
        Ok(Seen::some_or(is_at_rest.then_some(threads), || shown))
    })
}

#[test]
fn every_thread_has_given_up_what_it_does_not_need() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        keep_busy(stage)?;
        let threads = threads_at_rest(stage.pgusher.pid())?;
        ensure!(threads.len() > 3, "{threads:?}");
        let mut porters = 0;
        for thread in &threads {
            let name = field(thread, "Name")?;
            let (permitted, bounding) = (set(thread, "CapPrm")?, set(thread, "CapBnd")?);
            let mut most = KEPT | KEPT_ON_OLD_KERNELS;
            if name == "porter" {
                porters += 1;
                most |= SYS_ADMIN | AS_OTHERS;
                ensure!(
                    permitted & (SYS_ADMIN | AS_OTHERS) == SYS_ADMIN | AS_OTHERS,
                    "{thread:?}"
                );
            }
            ensure!(
                permitted & !most == 0 && permitted & KEPT == KEPT,
                "{thread:?}"
            );
            ensure!(bounding & !most == 0, "{thread:?}");
            ensure!(set(thread, "CapEff")? == permitted, "{thread:?}");
            ensure!(
                set(thread, "CapInh")? == 0 && set(thread, "CapAmb")? == 0,
                "{thread:?}"
            );
            ensure!(field(thread, "NoNewPrivs")? == "1", "{thread:?}");
            ensure!(field(thread, "Seccomp")? == "2", "{thread:?}");
            ensure!(name != "starter", "it has not ended: {threads:?}");
        }
        ensure!(porters == 1, "{threads:?}");
        Ok(())
    })
}

#[test]
fn doctor_shows_the_fences_of_the_instance_that_runs() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        keep_busy(stage)?;
        let mut doctor = Command::new(binary()?);
        doctor.args(["doctor", "--json", "--admin-socket"]);
        let finished = run(doctor.arg(stage.pgusher.admin_socket()))?;
        let checks: serde_json::Value = serde_json::from_str(finished.success()?)?;
        let check = |name: &str| {
            let mut checks = checks.as_array().into_iter().flatten();
            let found = checks.find(|check| check["name"] == name).cloned();
            found.with_context(|| format!("no {name} in {checks:?}"))
        };
        let (available, running) = (check("fences")?, check("running")?);
        ensure!(available["verdict"] == "ok", "{available}");
        ensure!(running["verdict"] == "ok", "{running}");
        let detail = running["detail"].as_str().context("a text")?;
        ensure!(
            detail.contains(&format!("pid {}", stage.pgusher.pid())),
            "{detail}"
        );
        ensure!(
            detail.contains("one with") && detail.contains("CAP_SYS_ADMIN"),
            "{detail}"
        );
        Ok(())
    })
}

/// Calls made by a thread of pgusher's own, which waits for work.
#[cfg(target_arch = "x86_64")]
#[test]
fn no_thread_of_a_running_pgusher_can_exec_fork_load_or_enter() -> Result<()> {
    use pgusher_tests::tracee::Tracee;

    const BPF_PROG_LOAD: u64 = 5;
    const PR_GET_DUMPABLE: u64 = 3;
    const PR_GET_MDWE: u64 = 66;
    const REFUSED: i64 = -1;
    let bad_descriptor = u64::MAX;
    Setup::with(Version::V15).play(|stage| {
        ensure!(run(&mut stage.psql("select 1")?)?.success()? == "1");
        let pid = stage.pgusher.pid();
        let mut asked = Vec::new();
        for thread in threads(pid)? {
            let name = field(&thread, "Name")?.to_owned();
            let number = field(&thread, "Pid")?;
            let tracee = wait_until("the thread waits for work", || {
                if !Path::new(&format!("/proc/{pid}/task/{number}")).exists() {
                    return Ok(Seen::Holds(None));
                }
                match Tracee::stop(number.parse()?) {
                    Ok(tracee) => Ok(Seen::Holds(Some(tracee))),
                    // It was at work, or ended just now.
                    Err(error) => Ok(Seen::NotYet(format!("{name}: {error:#}"))),
                }
            })?;
            let Some(tracee) = tracee else {
                continue;
            };
            ensure!(
                tracee.call(libc::SYS_getpid, [0; 3])? == i64::from(pid),
                "{name}"
            );
            for (call, arguments) in [
                (libc::SYS_execve, [0; 3]),
                (libc::SYS_fork, [0; 3]),
                (libc::SYS_vfork, [0; 3]),
                (libc::SYS_clone, [0; 3]),
                (libc::SYS_ptrace, [0; 3]),
                (libc::SYS_unshare, [0; 3]),
                (libc::SYS_bpf, [BPF_PROG_LOAD, 0, 0]),
                (libc::SYS_setns, [bad_descriptor, 0, 0]),
            ] {
                let answer = tracee.call(call, arguments)?;
                ensure!(answer == REFUSED, "{name}, call {call}: {answer}");
            }
            // Neither a core dump nor anybody without CAP_SYS_PTRACE has its memory.
            ensure!(
                tracee.call(libc::SYS_prctl, [PR_GET_DUMPABLE, 0, 0])? == 0,
                "{name}"
            );
            // Before Linux 6.3 there is no such question.
            let denied = tracee.call(libc::SYS_prctl, [PR_GET_MDWE, 0, 0])?;
            ensure!(
                denied == 1 || denied == -i64::from(libc::EINVAL),
                "{name}: {denied}"
            );
            asked.push(name);
        }
        ensure!(asked.iter().any(|name| name == "porter"), "{asked:?}");
        ensure!(asked.len() > 2, "{asked:?}");
        // They have gone back to what they did.
        ensure!(run(&mut stage.psql("select 2")?)?.success()? == "2");
        Ok(())
    })
}

#[test]
fn a_privileged_listen_port_is_bound_before_the_privilege_goes() -> Result<()> {
    const PRIVILEGED: u16 = 997;
    Setup::with(Version::V15)
        .argument(format!("--listen-port={PRIVILEGED}"))
        .play(|stage| {
            let listeners = stage.pgusher.listeners()?;
            ensure!(
                listeners.iter().all(|address| address.port() == PRIVILEGED),
                "{listeners:?}"
            );
            ensure!(run(&mut stage.psql("select 1")?)?.success()? == "1");
            Ok(())
        })
}

/// The audit file is opened when the privileges are gone, as it is again after a rotation: what cannot be opened then is
/// told at start.
#[test]
fn an_audit_file_that_could_not_be_opened_again_is_refused_at_start() -> Result<()> {
    const NOBODY: u32 = 65534;
    let cluster = Cluster::shared(Version::V15)?;
    let (cgroup, directory) = (TestCgroup::create()?, TempDir::new()?);
    let foreign = directory.path().join("foreign");
    fs::create_dir(&foreign)?;
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o755))?;
    chown(&foreign, Some(NOBODY), Some(NOBODY))?;
    let sink = format!(
        "--audit-sink=file:{}",
        foreign.join("audit.jsonl").display()
    );
    let mut command = cgroup.command(binary()?)?;
    let arguments = pgusher_tests::pgusher::arguments(&cgroup, &[cluster.port], directory.path());
    let arguments = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--audit-sink"));
    let finished = run(command.args(arguments).arg(&sink))?;
    let error = finished.failure()?;
    ensure!(error.contains("Permission denied"), "{error}");
    ensure!(error.contains("belongs to its user"), "{error}");
    kernel::wait_until_nothing_attached(cgroup.path())
}
