//! Where it runs: units, containers and pods by cgroups that take root to make, and namespaces.
//!
//! pgusher runs in a cgroup namespace of its own here, whose root is the test's cgroup: what lies directly below is to
//! it what lies at the root of a host's hierarchy.

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::{Cluster, Version};
use pgusher_tests::kernel;
use pgusher_tests::pgusher::{Pgusher, arguments, binary};
use pgusher_tests::process::Running;
use pgusher_tests::programs::compiled;
use pgusher_tests::stage::Setup;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{PATIENT, identified, is_unknown};
use crate::expect::{fact_is, is_from};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const UID: &str = "6f1c1a34-5d2e-4c6b-9d2a-0b8f6f0f1e2d";
const UID_IN_SLICE: &str = "6f1c1a34_5d2e_4c6b_9d2a_0b8f6f0f1e2d";
const DELEGATED: &str = "user.slice/user-1000.slice/user@1000.service";

/// A host as far as cgroups go, with a pgusher.
struct Host {
    pgusher: Pgusher,
    cgroup: TestCgroup,
    cluster: &'static Cluster,
    _directory: TempDir,
}

impl Host {
    /// Lets `test` play on a host where the kubelet has logs of one pod.
    fn play(test: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let mut host = Self::start()?;
        test(&host)?;
        host.pgusher.signal(Signal::SIGTERM)?;
        let finished = host.pgusher.wait_for_end()?;
        ensure!(finished.status.success(), "{finished:?}");
        kernel::wait_until_nothing_attached(host.cgroup.path())
    }

    fn start() -> Result<Self> {
        let cluster = Cluster::shared(Version::V15)?;
        let cgroup = TestCgroup::create()?;
        let directory = TempDir::new()?;
        let logs = directory.path().join("pods");
        fs::create_dir_all(logs.join(format!("shop_api-7d9f_{UID}")))?;
        let config = directory.path().join("pgusher.toml");
        fs::write(
            &config,
            format!("[identity]\npod_logs = \"{}\"\n", logs.display()),
        )?;
        let root = directory.path().join("cgroup");
        fs::create_dir(&root)?;
        let script = r#"mount -t cgroup2 none "$0" && exec "$@" "--cgroup=$0""#;
        let mut command = cgroup.command("unshare")?;
        command.args(["--cgroup", "--mount", "sh", "-c", script]);
        command.arg(&root).arg(binary()?);
        let given = arguments(&cgroup, &[cluster.port], directory.path());
        command.args(
            given
                .iter()
                .filter(|argument| !argument.starts_with("--cgroup=")),
        );
        command.arg("--config").arg(&config).arg(PATIENT);
        let pgusher = Pgusher::start_command(&mut command, directory.path())?;
        Ok(Self {
            pgusher,
            cgroup,
            cluster,
            _directory: directory,
        })
    }

    /// Starts a client in the cgroup `below`.
    fn client(&self, below: &str) -> Result<Running> {
        let mut command = self.cgroup.command_below(below, compiled("disguise")?)?;
        let mut client = Running::start(command.args(["plain", &self.cluster.port.to_string()]))?;
        client.wait_for_value("connected")?;
        Ok(client)
    }

    fn identified(&self, client: &Running) -> Result<Value> {
        let pid = client.pid();
        let trail = &self.pgusher.trail;
        trail.wait_for(&format!("the beginning of {pid}'s session"), |record| {
            record["type"] == "session_start" && is_from(record, pid)
        })
    }

    /// The record of a client that connects from the cgroup `below`.
    fn record_from(&self, below: &str) -> Result<Value> {
        let client = self.client(below)?;
        let record = self.identified(&client)?;
        client.finish()?.success()?;
        fact_is(&record, "cgroup", "verified", format!("/{below}"))?;
        Ok(record)
    }
}

#[test]
fn units_containers_and_pods_are_known_by_their_cgroups() -> Result<()> {
    Host::play(|host| {
        let record = host.record_from("system.slice/nightly.service")?;
        fact_is(&record, "systemd_unit", "verified", "nightly.service")?;
        fact_is(&record, "systemd_slice", "verified", "system.slice")?;
        is_unknown(&record, "container")?;

        let record = host.record_from(&format!("system.slice/docker-{ID}.scope/init"))?;
        let docker = json!({"runtime": "docker", "id": ID});
        fact_is(&record, "container", "verified", docker)?;
        is_unknown(&record, "pod")?;

        let pod = json!({"uid": UID, "namespace": "shop", "name": "api-7d9f"});
        let slices = "kubepods.slice/kubepods-burstable.slice";
        let record = host.record_from(&format!(
            "{slices}/kubepods-burstable-pod{UID_IN_SLICE}.slice/cri-containerd-{ID}.scope"
        ))?;
        let containerd = json!({"runtime": "containerd", "id": ID});
        fact_is(&record, "container", "verified", containerd)?;
        fact_is(&record, "pod", "verified", pod.clone())?;

        let record = host.record_from(&format!("kubepods/besteffort/pod{UID}/{ID}"))?;
        let unknown = json!({"runtime": "unknown", "id": ID});
        fact_is(&record, "container", "verified", unknown)?;
        fact_is(&record, "pod", "verified", pod)
    })
}

#[test]
fn names_made_up_in_a_delegated_subtree_are_no_unit_no_container_and_no_pod() -> Result<()> {
    Host::play(|host| {
        let pretences = [
            format!("docker-{ID}.scope"),
            format!("system.slice/docker-{ID}.scope"),
            format!("docker/{ID}"),
            format!("kubepods.slice/kubepods-pod{UID_IN_SLICE}.slice/crio-{ID}.scope"),
            format!("kubepods/pod{UID}/{ID}"),
            "system.slice/postgresql.service".to_owned(),
        ];
        for pretence in pretences {
            let record = host.record_from(&format!("{DELEGATED}/{pretence}"))?;
            fact_is(&record, "systemd_unit", "verified", "user@1000.service")?;
            fact_is(&record, "systemd_slice", "verified", "user-1000.slice")?;
            is_unknown(&record, "container")?;
            is_unknown(&record, "pod")?;
        }
        Ok(())
    })
}

#[test]
fn a_process_moved_after_connect_is_late_in_its_new_place() -> Result<()> {
    Host::play(|host| {
        host.pgusher.signal(Signal::SIGSTOP)?;
        let client = host.client(DELEGATED)?;
        let container = format!("system.slice/docker-{ID}.scope");
        host.cgroup.take_in(&container, client.pid())?;
        host.pgusher.signal(Signal::SIGCONT)?;
        let record = host.identified(&client)?;
        client.finish()?.success()?;
        fact_is(&record, "cgroup", "late", format!("/{container}"))?;
        let docker = json!({"runtime": "docker", "id": ID});
        fact_is(&record, "container", "late", docker)
    })
}

#[test]
fn namespaces_that_are_not_pgushers_own_are_named() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let cases: [(&[&str], Value); 4] = [
            (&["--mount"], json!(["mnt"])),
            (&["--pid", "--fork"], json!(["pid"])),
            (
                &["--uts", "--ipc", "--cgroup"],
                json!(["uts", "ipc", "cgroup"]),
            ),
            (&["--user", "--map-root-user"], json!(["user"])),
        ];
        for (options, expected) in cases {
            let mut command = stage.cgroup.command("unshare")?;
            command.args(options).arg(compiled("disguise")?);
            let port = stage.cluster.port.to_string();
            let mut client = Running::start(command.args(["plain", &port]))?;
            let inner = client.wait_for_value("connected")?;
            let trail = &stage.pgusher.trail;
            let record = trail.wait_for("a session's beginning", |record| {
                record["type"] == "session_start"
                    && record["origin"]["other_namespaces"]["value"] == expected
            })?;
            let pid = &record["origin"]["pid"]["value"];
            ensure!(*pid != json!(1), "{inner} inside, {record}");
            client.finish()?.success()?;
        }
        Ok(())
    })
}

#[test]
fn a_process_like_pgusher_itself_is_in_no_other_namespace() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let dialled = stage.dial()?;
        let record = identified(stage, stage.dialer()?.pid())?;
        drop(dialled);
        fact_is(&record, "other_namespaces", "kernel", json!([]))?;
        let own = fs::metadata("/proc/self/ns/mnt").context("namespaces can be read")?;
        let inode = std::os::unix::fs::MetadataExt::ino(&own);
        let found = &record["origin"]["namespaces"];
        ensure!(
            found["grade"] == "kernel" && found["value"]["mnt"] == inode,
            "{record}"
        );
        Ok(())
    })
}
