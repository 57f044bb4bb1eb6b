//! The unit that is shipped: systemd takes it, and pgusher does its work inside its fences.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pgusher_tests::bpf_fs;
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::{Cluster, Version};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::kernel;
use pgusher_tests::netns::{Link, NetNs};
use pgusher_tests::pgusher::{binary, detach, trail::Trail};
use pgusher_tests::process::{Finished, Running, run};
use pgusher_tests::programs::compiled;
use tempfile::TempDir;

use crate::expect::ended_in_order;

const UNIT: &str = "pgusher@1.service";
/// The instance that an upgrade starts.
const NEXT: &str = "pgusher@2.service";
/// What pgusher says on its standard error, in the manager's home.
const LOG: &str = "pgusher.log";
/// Where a manager of root's own keeps runtime directories.
const RUNTIME: &str = "/run/user/0";

/// The unit with other words for its program and arguments.
fn unit(command: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/pgusher@.service");
    let text = fs::read_to_string(path)?;
    let start =
        "ExecStart=/usr/local/bin/pgusher run --takeover --config /etc/pgusher/pgusher.toml\n";
    ensure!(text.contains(start), "{text}");
    Ok(text.replace(start, &format!("ExecStart={command}\n")))
}

#[test]
fn the_unit_has_no_mistake_that_systemd_could_find() -> Result<()> {
    let directory = TempDir::new()?;
    let path = directory.path().join("pgusher@.service");
    fs::write(&path, unit(&format!("{} run", binary()?.display()))?)?;
    let finished = run(Command::new("systemd-analyze").arg("verify").arg(&path))?;
    finished.success()?;
    ensure!(finished.stderr.is_empty(), "{finished:?}");
    Ok(())
}

/// A systemd for root's own services, which needs no reboot: it takes the same units as the host's, and puts up the same
/// fences. What it needs of a host that was booted by systemd it finds in a mount namespace of its own.
struct Manager {
    process: Running,
    home: TempDir,
}

/// `$0` is the manager's home.
const START: &str = r"
set -e
if [ $(stat -f -c %T /sys/fs/cgroup) != cgroup2fs ]; then
    umount -R -l /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup
fi
mount -t tmpfs none /run
mkdir -p /run/systemd/system /run/user/0 /run/systemd/inaccessible/dir
cd /run/systemd/inaccessible
touch reg sock
mkfifo fifo
mknod chr c 0 0
mknod blk b 0 0
chmod 0 *
export HOME=$0 XDG_RUNTIME_DIR=/run/user/0 SYSTEMD_UNIT_PATH=$0:/usr/lib/systemd/user
exec /lib/systemd/systemd --user --log-target=console
";

impl Manager {
    /// Starts it inside `cgroup`, with this unit.
    fn start(cgroup: &TestCgroup, unit: &str, home: TempDir) -> Result<Self> {
        // There is no journal.
        let log = home.path().join(LOG);
        let unit = format!(
            "{unit}\n[Service]\nStandardError=append:{}\n",
            log.display()
        );
        fs::write(home.path().join("pgusher@.service"), unit)?;
        let mut command = cgroup.command_below("manager", "unshare")?;
        command.args(["--mount", "--propagation=private", "sh", "-c", START]);
        let process = Running::start(command.arg(home.path()))?;
        let mut manager = Self { process, home };
        wait_until("systemd answers", || {
            let runs = manager.process.is_running()?;
            ensure!(runs, "systemd ended: {}", manager.process.stderr()?);
            let socket = manager.inside("systemd/private");
            if !socket.exists() {
                return Ok(Seen::NotYet("no socket".to_owned()));
            }
            let shown = manager.systemctl(&["show", "--property=Version"])?;
            Ok(Seen::when(shown.status.success(), || shown.stderr.clone()))
        })?;
        Ok(manager)
    }

    /// A path in its runtime directory, as the test sees it.
    fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{RUNTIME}/{path}", self.process.pid()))
    }

    fn systemctl(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.process.pid()));
        command.args(["--", "systemctl", "--user", "--no-pager"]);
        run(command.args(arguments).env("XDG_RUNTIME_DIR", RUNTIME))
    }

    /// Does something to a unit; a failure has what systemd and pgusher said.
    fn tell(&self, verb: &str, unit: &str) -> Result<()> {
        let done = self.systemctl(&[verb, unit])?;
        let status = self.systemctl(&["status", "--full", unit])?.stdout;
        let log = fs::read_to_string(self.home.path().join(LOG)).unwrap_or_default();
        let log = format!("{log}{}", self.process.stderr()?);
        done.success()
            .map(drop)
            .with_context(|| format!("{status}\n{log}"))
    }

    /// What systemd says of a unit: whether it is active, and how it ended last.
    fn state(&self, unit: &str) -> Result<String> {
        let shown = self.systemctl(&["show", "--property=ActiveState,Result", "--value", unit])?;
        let words: Vec<&str> = shown.success()?.split_whitespace().collect();
        Ok(words.join(" "))
    }
}

/// Where the unit's instances write their records: as systemd.exec(5) has it for managers of users.
fn audit_file(home: &TempDir) -> PathBuf {
    home.path().join(".config/log/pgusher/audit.jsonl")
}

/// Writes the settings file, with `more` in it, and returns the unit's command.
fn installed(cgroup: &TestCgroup, cluster: &Cluster, home: &TempDir, more: &str) -> Result<String> {
    let settings = format!(
        "port = [{}]\ncgroup = \"/sys/fs/cgroup{}\"\naudit_sink = \"file:{}\"\nadmin_socket = \"{RUNTIME}/pgusher/pgusher.sock\"\n{more}",
        cluster.port,
        cgroup.name()?,
        audit_file(home).display()
    );
    let file = home.path().join("pgusher.toml");
    fs::write(&file, settings)?;
    let binary = binary()?;
    Ok(format!(
        "{} run --takeover --config {}",
        binary.display(),
        file.display()
    ))
}

#[test]
fn an_upgrade_is_the_start_of_another_instance_and_the_first_ends_by_itself() -> Result<()> {
    bpf_fs::ensure_mounted()?;
    let cluster = Cluster::shared(Version::V15)?;
    let (cgroup, home) = (TestCgroup::create()?, TempDir::new()?);
    let trail = Trail::at(audit_file(&home));
    let start = installed(&cgroup, cluster, &home, "when_down = \"closed\"\n")?;
    let manager = Manager::start(&cgroup, &unit(&start)?, home)?;
    manager.tell("start", UNIT)?;

    let connection = format!(
        "host=127.0.0.1 port={} user=app_trust dbname=postgres sslmode=disable gssencmode=disable",
        cluster.port
    );
    let mut client = cgroup.command(compiled("hammer")?)?;
    let mut hammer = Running::start(client.args([&connection, "200", "4"]))?;
    hammer.wait_for_value("ready")?;
    manager.tell("start", NEXT)?;
    // It has sessions.
    ensure!(
        manager.state(UNIT)? == "success active",
        "{}",
        manager.state(UNIT)?
    );
    let finished = hammer.finish()?;
    let number = |key| -> Result<usize> { Ok(finished.value(key)?.parse()?) };
    ensure!(
        number("failed")? == 0 && number("broken")? == 0,
        "{finished:?}"
    );
    trail.wait_for_sessions(number("connects")? + 4)?;
    wait_until("the first instance has ended", || {
        let state = manager.state(UNIT)?;
        Ok(Seen::when(state == "success inactive", || state.clone()))
    })?;

    ensure!(manager.state(NEXT)? == "success active");
    ensure!(bpf_fs::generations(cgroup.path())?.len() == 1);
    manager.tell("stop", NEXT)?;
    ensure!(!kernel::attached(cgroup.path())?.is_empty());
    detach(cgroup.path())?.success()?;
    kernel::wait_until_nothing_attached(cgroup.path())
}

#[test]
fn the_unit_starts_and_pgusher_works_inside_its_fences() -> Result<()> {
    let cluster = Cluster::shared_elsewhere()?;
    let client = NetNs::create()?;
    let link = Link::between(&client, cluster.namespace()?)?;
    let (cgroup, home) = (TestCgroup::create()?, TempDir::new()?);
    let audit = audit_file(&home);
    let start = installed(&cgroup, cluster, &home, "")?;
    let manager = Manager::start(&cgroup, &unit(&start)?, home)?;
    // Only when pgusher has said that it is ready.
    manager.tell("start", UNIT)?;

    let mut command = client.command(&cgroup, compiled("connect")?)?;
    command.args(["blocking", &link.server[0], &cluster.port.to_string()]);
    ensure!(run(&mut command)?.value("answer")? == "42");
    let record = Trail::at(audit).only_session()?;
    ended_in_order(&record)?;
    // Its mounts are its own now, and everybody else's are not foreign for that.
    let others = record.pointer("/origin/other_namespaces/value");
    ensure!(others == Some(&serde_json::json!(["net"])), "{record}");
    let exe = record.pointer("/origin/exe/grade");
    ensure!(exe.is_some_and(|grade| *grade == "verified"), "{record}");

    let pid = manager.systemctl(&["show", "--property=MainPID", "--value", UNIT])?;
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", pid.success()?))?;
    let is_root = |line: &&str| line.split(' ').nth(1) == Some("/");
    let root = mounts.lines().rfind(is_root).context("there is a root")?;
    let options = root.split(' ').nth(3).context("options")?;
    ensure!(options.split(',').any(|option| option == "ro"), "{root}");

    ensure!(manager.inside("pgusher/pgusher.sock").exists());
    manager.tell("reload", UNIT)?;
    manager.tell("stop", UNIT)?;
    // The other instance of an upgrade is still there.
    ensure!(manager.inside("pgusher").exists(), "the directory went");
    ensure!(manager.home.path().exists());
    kernel::wait_until_nothing_attached(cgroup.path())
}
