use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use super::super::executable;
use super::*;

/// A shell that does what it is told.
struct Shell {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Shell {
    fn start() -> Self {
        let mut child = Command::new("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn say(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// What it, or what it has become, writes next.
    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn numbers(held: &Held) -> Vec<u32> {
    held.lock().keys().copied().collect()
}

#[test]
fn a_process_is_held_from_one_look_to_the_next_and_then_let_go() {
    let held = Held::default();
    let own = std::process::id();
    let first = held.pin(own).unwrap();
    let began = Instant::now();
    let again = held.pin(own).unwrap();
    assert!(first.shares_hold_with(&again));
    held.let_go(began);
    assert_eq!(numbers(&held), [own]);
    held.let_go(Instant::now());
    assert_eq!(numbers(&held), [0_u32; 0]);
}

#[test]
fn what_a_held_process_has_become_is_seen() {
    let held = Held::default();
    let mut shell = Shell::start();
    shell.say("echo ready");
    assert_eq!(shell.answer(), "ready");
    let before = held.pin(shell.pid()).unwrap();
    let program = executable::link(shell.pid());
    shell.say("exec yes became");
    assert_eq!(shell.answer(), "became");
    let after = held.pin(shell.pid()).unwrap();
    assert!(before.shares_hold_with(&after));
    assert_eq!((before.comm(), after.comm()), (&b"sh"[..], &b"yes"[..]));
    assert_ne!(executable::link(shell.pid()), program);
}

#[test]
fn a_held_process_whose_parent_has_exited_has_another() {
    let held = Held::default();
    let mut shell = Shell::start();
    shell.say("sleep 600 >&2 & echo $!");
    let orphan: u32 = shell.answer().parse().unwrap();
    let parent = |held| held_parent(held, orphan);
    // Once each is held when it is asked about, and once more when all are.
    assert_eq!(parent(&held), Some(shell.pid()));
    assert_eq!(parent(&held), Some(shell.pid()));
    let gone = shell.pid();
    shell.end();
    assert!(held.pin(gone).is_none());
    let foster = parent(&held);
    assert!(foster.is_some_and(|foster| foster != gone), "{foster:?}");
    let orphan = nix::unistd::Pid::from_raw(i32::try_from(orphan).unwrap());
    nix::sys::signal::kill(orphan, nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn held_parent(held: &Held, pid: u32) -> Option<u32> {
    let process = held.pin(pid).unwrap();
    process.parent(held).map(|parent| parent.pid())
}

#[test]
fn a_number_that_is_another_processs_by_now_is_pinned_anew() {
    let held = Held::default();
    let mut dead = Shell::start();
    let hold = Arc::new(Hold::open(dead.pid()).unwrap());
    dead.end();
    // As if the number had been given away.
    let other = Shell::start();
    let last_used = Instant::now();
    held.lock().insert(other.pid(), Entry { hold, last_used });
    let found = held.pin(other.pid()).unwrap();
    assert_eq!(found.pid(), other.pid());
    assert!(found.is_alive());
}

#[test]
fn a_process_that_has_exited_is_held_no_longer() {
    let held = Held::default();
    let mut shell = Shell::start();
    assert!(held.pin(shell.pid()).is_some());
    let gone = shell.pid();
    shell.end();
    assert!(held.pin(gone).is_none());
    assert_eq!(numbers(&held), [0_u32; 0]);
}

#[test]
fn who_is_asked_about_least_makes_way() {
    let held = Held::default();
    let hold = Arc::new(Hold::open(std::process::id()).unwrap());
    let begun = Instant::now();
    let made_up = 1_000_000_000..;
    for (age, number) in (0..MAX_HELD as u64).zip(made_up) {
        let last_used = begun.checked_sub(Duration::from_secs(age)).unwrap();
        let hold = Arc::clone(&hold);
        held.lock().insert(number, Entry { hold, last_used });
    }
    let oldest = 1_000_000_000 + u32::try_from(MAX_HELD).unwrap() - 1;
    assert!(numbers(&held).contains(&oldest));
    held.pin(std::process::id()).unwrap();
    let now = numbers(&held);
    assert_eq!(now.len(), MAX_HELD);
    assert!(!now.contains(&oldest) && now.contains(&std::process::id()));
}
