//! `cargo xtask demo`: what pgusher does, in half a minute.
//!
//! Owns the story: which clients run, and how their records are told. What runs is `playground`'s.

mod record;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::playground::{Lane, Place, Playground, build_then_become_root};
use crate::{interrupt, process};

const ADDRESS_QUERY: &str =
    "select current_user, inet_server_addr() as server, inet_server_port() as port";
/// A user that every Debian system has and that owns nothing.
const ANOTHER_USER: [&str; 6] = [
    "--reuid",
    "nobody",
    "--regid",
    "nogroup",
    "--clear-groups",
    "--",
];

/// A client of the story.
struct Scene {
    headline: &'static str,
    client: Command,
    /// Whether the server is supposed to let it in.
    succeeds: bool,
}

/// Runs the demo, as root in the end; `binary` is set when this is the half that is root.
///
/// # Errors
///
/// When something does not start, a client behaves unexpectedly, or a connection left no record.
pub(crate) fn show(binary: Option<PathBuf>) -> Result<()> {
    let binary = build_then_become_root(binary)?;
    let playground = Playground::open(binary, Place::SameHost)?;
    let mut lane = playground.intercepted("proxied", &[])?;
    introduce(&playground, &lane);
    let scenes = scenes(&lane);
    for scene in &scenes {
        play(&lane, scene)?;
    }
    let sessions: Vec<Value> = lane
        .finish()?
        .into_iter()
        .filter(|record| record.get("type").and_then(Value::as_str) == Some("session"))
        .collect();
    ensure!(
        sessions.len() >= scenes.len(),
        "{} clients left {} session records: some were not intercepted",
        scenes.len(),
        sessions.len()
    );
    tell(&sessions)
}

fn introduce(playground: &Playground, lane: &Lane) {
    println!(
        "\nA throwaway PostgreSQL 15 serves 127.0.0.1 port {}.",
        playground.server.address().port()
    );
    println!(
        "pgusher intercepts connects to that port from one cgroup: {}.",
        lane.cgroup().display()
    );
    println!(
        "The clients below run in that cgroup. They dial the database's own address and know of no proxy."
    );
}

fn scenes(lane: &Lane) -> [Scene; 3] {
    let mut psql = lane.client("psql");
    psql.args(["-c", ADDRESS_QUERY]);
    let mut intruder = lane.client("psql");
    intruder
        .env("PGPASSWORD", "guessed")
        .args(["-c", "select 1"]);
    let mut pgbench = lane.client("pgbench");
    pgbench.args(["--initialize", "--quiet", "--init-steps=dtg"]);
    [
        Scene {
            headline: "psql asks the server where it is",
            client: psql,
            succeeds: true,
        },
        Scene {
            headline: "psql guesses a password",
            client: intruder,
            succeeds: false,
        },
        Scene {
            headline: "pgbench, as another user, fills its tables through COPY",
            client: as_another_user(&pgbench),
            succeeds: true,
        },
    ]
}

/// Returns the client as a user of another name, whom the audit trail will tell apart.
fn as_another_user(client: &Command) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(ANOTHER_USER)
        .arg(client.get_program())
        .args(client.get_args())
        .envs(
            client
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    command
}

fn play(lane: &Lane, scene: &Scene) -> Result<()> {
    println!("\n== {}", scene.headline);
    println!("  $ {}", command_line(&scene.client));
    let line = process::display(&scene.client);
    let status = lane
        .send(&scene.client)
        .current_dir("/")
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    interrupt::check()?;
    ensure!(
        status.success() == scene.succeeds,
        "`{line}` ended with {status}, which is not what should happen here"
    );
    Ok(())
}

/// Shows program and arguments; the environment only repeats what the introduction says.
fn command_line(client: &Command) -> String {
    let mut shown = Command::new(client.get_program());
    shown.args(client.get_args());
    process::display(&shown)
}

fn tell(sessions: &[Value]) -> Result<()> {
    println!("\n== what pgusher wrote into its audit trail");
    for session in sessions {
        println!("\n{}", record::describe(session));
    }
    if let Some(first) = sessions.first() {
        let text = serde_json::to_string_pretty(first).context("cannot print a record")?;
        println!("\n== the first of these records in full\n\n{text}");
    }
    Ok(())
}
