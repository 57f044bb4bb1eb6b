//! A client of the stand-in: `cargo xtask sessions`, hidden, so that it can be put into a lane's cgroup.
//!
//! Opens sessions and either keeps them or goes through one after another. A session has logged in and had one query answered:
//! before that, pgbouncer in session mode holds no connection for it.

use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::playground::IDLE_NAME;

/// What is said when all sessions are open.
pub(super) const HOLDING: &str = "holding";
/// Of anything that is waited for; a loaded machine does not take as long.
const PATIENCE: Duration = Duration::from_secs(60);
/// An answer of the stand-in is a few hundred bytes.
const ANSWER_LIMIT: usize = 8 * 1024;
/// Protocol version 3.0
const VERSION: [u8; 4] = [0, 3, 0, 0];
const QUERY: &[u8] = b"Q\0\0\0\x0dselect 1\0";
const TERMINATE: &[u8] = b"X\0\0\0\x04";
/// ReadyForQuery, outside of a transaction
const READY: &[u8] = b"Z\0\0\0\x05I";

/// What to do with sessions.
#[derive(Subcommand)]
pub(crate) enum Errand {
    /// Open so many and keep them until the input ends
    Hold { address: SocketAddrV4, count: u32 },
    /// Open and close them for so many seconds, so many at a time, and print how many there were
    Churn {
        address: SocketAddrV4,
        clients: u32,
        seconds: u32,
    },
}

/// Returns the command that holds sessions, to be sent along a lane.
pub(super) fn held(address: SocketAddrV4, count: u32) -> Result<Command> {
    let mut command = this_program()?;
    command.args(["hold", &address.to_string(), &count.to_string()]);
    Ok(command)
}

/// Returns the command that opens and closes sessions, to be sent along a lane.
pub(super) fn one_after_another(
    address: SocketAddrV4,
    clients: u32,
    seconds: u32,
) -> Result<Command> {
    let mut command = this_program()?;
    let numbers = [clients, seconds].map(|number| number.to_string());
    command.args(["churn", &address.to_string()]).args(numbers);
    Ok(command)
}

fn this_program() -> Result<Command> {
    let file = std::env::current_exe().context("cannot find this program's file")?;
    let mut command = Command::new(file);
    command.arg("sessions");
    Ok(command)
}

/// Does the errand.
///
/// # Errors
///
/// When a session cannot be had.
pub(crate) fn run(errand: &Errand) -> Result<()> {
    match *errand {
        Errand::Hold { address, count } => hold(address, count),
        Errand::Churn {
            address,
            clients,
            seconds,
        } => {
            println!("{}", churn(address, clients, seconds)?);
            Ok(())
        }
    }
}

fn hold(address: SocketAddrV4, count: u32) -> Result<()> {
    let mut sessions = Vec::new();
    for number in 1..=count {
        let session = open(address).with_context(|| format!("session {number}"))?;
        sessions.push(session);
    }
    println!("{HOLDING}");
    io::stdout().flush().context("cannot write")?;
    io::copy(&mut io::stdin(), &mut io::sink()).context("cannot read the input")?;
    for session in &mut sessions {
        // Whether the other side still listens is of no interest any more.
        session.write_all(TERMINATE).ok();
    }
    Ok(())
}

fn churn(address: SocketAddrV4, clients: u32, seconds: u32) -> Result<u32> {
    let deadline = Instant::now() + Duration::from_secs(seconds.into());
    let workers: Vec<_> = (0..clients)
        .map(|_| thread::spawn(move || until(deadline, address)))
        .collect();
    let mut total = 0_u32;
    for worker in workers {
        let Ok(opened) = worker.join() else {
            bail!("a thread died");
        };
        total = total.saturating_add(opened?);
    }
    Ok(total)
}

fn until(deadline: Instant, address: SocketAddrV4) -> Result<u32> {
    let mut opened = 0;
    while Instant::now() < deadline {
        let mut session = open(address)?;
        session.write_all(TERMINATE).context("cannot say goodbye")?;
        // The server closes first: its port, not one of the client's few, is what lingers.
        io::copy(&mut session, &mut io::sink()).context("the end does not come")?;
        opened += 1;
    }
    Ok(opened)
}

fn open(address: SocketAddrV4) -> Result<TcpStream> {
    let mut stream =
        TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&startup()).context("cannot log in")?;
    wait_until_ready(&mut stream)?;
    stream.write_all(QUERY).context("cannot send a query")?;
    wait_until_ready(&mut stream)?;
    Ok(stream)
}

fn startup() -> Vec<u8> {
    let mut body = VERSION.to_vec();
    for word in ["user", IDLE_NAME, "database", IDLE_NAME, ""] {
        body.extend_from_slice(word.as_bytes());
        body.push(0);
    }
    let length = u32::try_from(4 + body.len()).unwrap_or(u32::MAX);
    [length.to_be_bytes().as_slice(), &body].concat()
}

/// Reads what is answered up to its end.
fn wait_until_ready(stream: &mut impl Read) -> Result<()> {
    let mut answer = Vec::new();
    let mut bytes = [0; 1024];
    while !answer.ends_with(READY) {
        let length = stream.read(&mut bytes).context("no answer")?;
        answer.extend_from_slice(bytes.get(..length).unwrap_or_default());
        if length == 0 || answer.len() > ANSWER_LIMIT || answer.first() == Some(&b'E') {
            bail!("no session: {}", String::from_utf8_lossy(&answer));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_startup_packet_counts_itself_and_ends_with_an_empty_name() {
        let packet = startup();
        assert_eq!(packet[..8], [0, 0, 0, 33, 0, 3, 0, 0]);
        assert_eq!(packet.len(), 33);
        assert!(packet.ends_with(b"database\0idle\0\0"));
    }

    #[test]
    fn an_answer_ends_with_ready_for_query_however_it_is_cut() {
        let whole = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
        let mut cut = whole[..12].chain(&whole[12..]);
        wait_until_ready(&mut cut).unwrap();
        let refused = wait_until_ready(&mut b"E\0\0\0\x20no such luck".as_slice()).unwrap_err();
        assert!(refused.to_string().contains("no such luck"), "{refused}");
        assert!(wait_until_ready(&mut [].as_slice()).is_err());
    }
}
