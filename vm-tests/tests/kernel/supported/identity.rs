//! Who connected, each fact compared with what /proc says of a process that is still there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::sys::stat::{major, minor};
use pgusher_tests::cgroup;
use pgusher_tests::cluster::Version;
use pgusher_tests::stage::Setup;
use pgusher_tests::wire;
use serde_json::{Value, json};
use vm_tests::facts;

/// What every supported kernel gives of each fact: a kernel that cannot is to be named here, with the reason.
const GRADES: [(&str, &str); 20] = [
    ("pid", "kernel"),
    ("start_time_ns", "kernel"),
    ("parent_pid", "kernel"),
    ("uid", "kernel"),
    ("gid", "kernel"),
    ("euid", "kernel"),
    ("egid", "kernel"),
    ("groups", "kernel"),
    ("login_uid", "kernel"),
    ("comm", "kernel"),
    ("exe", "verified"),
    ("exe_device", "kernel"),
    ("exe_inode", "kernel"),
    ("cmdline", "late"),
    ("cgroup_id", "kernel"),
    ("cgroup", "verified"),
    ("netns_cookie", "kernel"),
    ("capabilities", "kernel"),
    ("seccomp", "kernel"),
    ("namespaces", "kernel"),
];

#[test]
fn every_fact_is_graded_as_on_every_other_kernel_and_is_what_proc_says() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        // Whoever the dialer is a child of logged in: us. The kernel takes a login once for each process.
        fs::write("/proc/thread-self/loginuid", "4711")?;
        let pid = stage.dialer()?.pid();
        let mut client = stage.dial()?;
        wire::log_in(&mut client, "postgres")?;
        let record = stage
            .pgusher
            .trail
            .wait_for("the beginning of the session", |record| {
                record["type"] == "session_start" && record["origin"]["pid"]["value"] == pid
            })?;
        let origin = &record["origin"];
        for (name, grade) in GRADES {
            let found = &origin[name]["grade"];
            ensure!(found == grade, "{name} is {found} in {record}");
            facts::tell(&format!("identity: {name}"), grade)?;
        }
        for (name, truth) in truths(pid)? {
            let found = &origin[name]["value"];
            ensure!(
                *found == truth,
                "{name} is {found} and not {truth} in {record}"
            );
        }
        let started = origin["start_time_ns"]["value"]
            .as_u64()
            .context("a time")?;
        let ticks = started / NANOSECONDS_PER_TICK;
        ensure!(ticks == start_ticks(pid)?, "{ticks} ticks in {record}");
        Ok(())
    })
}

/// /proc counts hundredths of a second on every kernel (USER_HZ).
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// What /proc says of a process, as records have it.
fn truths(pid: u32) -> Result<Vec<(&'static str, Value)>> {
    let folder = Path::new("/proc").join(pid.to_string());
    let read = |name: &str| -> Result<String> {
        let path = folder.join(name);
        Ok(fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .trim_end()
            .to_owned())
    };
    let status = read("status")?;
    let ids = |key: &str| -> Result<Vec<u32>> {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let words = line
            .with_context(|| format!("no {key}"))?
            .split_whitespace();
        words.map(|word| Ok(word.parse()?)).collect()
    };
    let id = |key: &str, number: usize| -> Result<u32> {
        let ids = ids(key)?;
        ids.get(number)
            .copied()
            .with_context(|| format!("no {key}"))
    };
    let executable = fs::metadata(folder.join("exe"))?;
    let device = executable.dev();
    let path = read("cgroup")?;
    let path = path.strip_prefix("0::").context("version 2 only")?;
    let directory = cgroup::root()?.join(path.trim_start_matches('/'));
    let command_line = read("cmdline")?;
    let arguments: Vec<&str> = command_line.trim_end_matches('\0').split('\0').collect();
    Ok(vec![
        ("parent_pid", json!(id("PPid:", 0)?)),
        ("uid", json!(id("Uid:", 0)?)),
        ("euid", json!(id("Uid:", 1)?)),
        ("gid", json!(id("Gid:", 0)?)),
        ("egid", json!(id("Gid:", 1)?)),
        ("groups", json!(ids("Groups:")?)),
        ("login_uid", json!(read("loginuid")?.parse::<u32>()?)),
        ("comm", json!(read("comm")?)),
        ("exe", json!(fs::read_link(folder.join("exe"))?)),
        (
            "exe_device",
            json!(format!("{}:{}", major(device), minor(device))),
        ),
        ("exe_inode", json!(executable.ino())),
        ("cmdline", json!(arguments)),
        ("cgroup", json!(path)),
        ("cgroup_id", json!(fs::metadata(directory)?.ino())),
        ("seccomp", json!("disabled")),
        ("namespaces", namespaces(&folder)?),
    ])
}

/// Every namespace by its number.
fn namespaces(process: &Path) -> Result<Value> {
    let mut all = serde_json::Map::new();
    for kind in ["pid", "mnt", "user", "net", "uts", "ipc", "cgroup"] {
        let number = fs::metadata(process.join("ns").join(kind))?.ino();
        all.insert(kind.to_owned(), json!(number));
    }
    Ok(Value::Object(all))
}

/// The start of a process in hundredths of a second since boot: field 22 of proc_pid_stat(5).
fn start_ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, behind_name) = stat.rsplit_once(')').context("no name")?;
    let ticks = behind_name.split_whitespace().nth(19);
    Ok(ticks.context("no start time")?.parse()?)
}
