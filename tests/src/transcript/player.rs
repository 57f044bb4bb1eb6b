//! Plays a case over a connection: sends what the client says, cut where it is told, and reads what the server must
//! answer, keeping every byte of it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use socket2::SockRef;

use super::administrator::Administrator;
use super::client::ClientItem;
use super::connection::Connection;
use super::credentials::Credentials;
use super::expectation::{self, Count, Expectation, What};
use super::fixture::{Case, Happening, Step};
use super::reply::{Reply, is_streamed, show};
use super::taken::{Kernel, Taken};
use crate::cluster::Cluster;
use crate::condition::{DEADLINE, Seen, wait_until};
use crate::dialer::Close;
use crate::stage::Stage;
use crate::wire::{self, CANCEL_REQUEST, Message};

/// Pause between two looks at whether pgusher has read something.
const LOOK_INTERVAL: Duration = Duration::from_micros(20);

/// Steps that a login takes: the startup packet and its answer.
pub(super) const LOGIN_STEPS: usize = 2;

/// The way to the server.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route<'a> {
    /// Past pgusher.
    Direct(&'a Cluster),
    /// Through pgusher, whose listener is there.
    Through(&'a Stage, SocketAddr),
}

impl Route<'_> {
    fn connect(&self) -> Result<TcpStream> {
        let stream = match self {
            Self::Direct(cluster) => cluster.connect()?,
            Self::Through(stage, _) => stage.dial()?,
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn cluster(&self) -> &Cluster {
        match self {
            Self::Direct(cluster) => cluster,
            Self::Through(stage, _) => stage.cluster,
        }
    }
}

/// What came of playing a case.
#[derive(Debug)]
pub(super) struct Played {
    /// What the server sent, to the login and behind it.
    pub(super) replies: Vec<Reply>,
    /// How the server ended the connection, where that was seen.
    pub(super) end: Option<Close>,
    /// How many of the replies belong to the login.
    pub(super) login: usize,
    /// How many bytes the client sent behind the login.
    pub(super) sent: usize,
}

/// A connection on which a case is played.
pub(super) struct Player<'a> {
    case: &'a Case,
    route: Route<'a>,
    administrator: &'a Administrator,
    /// Gone once the client has closed it.
    connection: Option<Connection>,
    kernel: Kernel,
    credentials: Credentials,
    /// Process id and secret.
    key: Vec<u8>,
    in_copy_both: bool,
    /// Bytes sent behind the login.
    sent: usize,
    /// Where these are cut.
    cuts: &'a [usize],
    replies: Vec<Reply>,
    end: Option<Close>,
}

/// Plays a case from connecting to the end, its bytes cut after each of `cuts`.
pub(super) fn play(
    case: &Case,
    route: Route<'_>,
    administrator: &Administrator,
    cuts: &[usize],
) -> Result<Played> {
    let mut player = Player::connect(case, route, administrator)?;
    player.cuts = cuts;
    let login = player.log_in()?;
    player.rest()?;
    player.finish()?;
    Ok(Played {
        replies: player.replies,
        end: player.end,
        login,
        sent: player.sent,
    })
}

impl<'a> Player<'a> {
    /// Connects.
    pub(super) fn connect(
        case: &'a Case,
        route: Route<'a>,
        administrator: &'a Administrator,
    ) -> Result<Self> {
        Ok(Self {
            case,
            route,
            administrator,
            connection: Some(Connection::new(route.connect()?)),
            kernel: Kernel::open()?,
            credentials: Credentials::default(),
            key: Vec::new(),
            in_copy_both: false,
            sent: 0,
            cuts: &[],
            replies: Vec::new(),
            end: None,
        })
    }

    /// Plays the login, if the case has one; returns how many replies there were.
    pub(super) fn log_in(&mut self) -> Result<usize> {
        if self.case.logs_in {
            self.steps(self.case.steps.get(..LOGIN_STEPS).unwrap_or_default())?;
            self.sent = 0;
        }
        Ok(self.replies.len())
    }

    /// Plays once more what comes behind the login, cut differently, and returns the replies to that.
    pub(super) fn again(&mut self, cuts: &'a [usize]) -> Result<Vec<Reply>> {
        self.replies.clear();
        (self.sent, self.cuts) = (0, cuts);
        self.rest()?;
        let replies = std::mem::take(&mut self.replies);
        // What a session remembers is undone, so that the next time finds it as the first one did.
        for sql in ["rollback", "discard all"] {
            let connection = self.connection()?;
            connection.send(&wire::query(sql)?)?;
            while connection.message()?.kind != b'Z' {}
        }
        Ok(replies)
    }

    fn rest(&mut self) -> Result<()> {
        let skipped = if self.case.logs_in { LOGIN_STEPS } else { 0 };
        self.steps(self.case.steps.get(skipped..).unwrap_or_default())
    }

    fn steps(&mut self, steps: &[Step]) -> Result<()> {
        let mut burst = Vec::new();
        for step in steps {
            self.step(step, &mut burst).with_context(|| {
                let file = self.case.place.split(':').next().unwrap_or_default();
                let last: Vec<String> = self.replies.iter().rev().take(3).map(show).collect();
                format!("{file}:{}, the last replies being {last:?}", step.line)
            })?;
        }
        self.send(&burst)
    }

    /// Plays one step; `burst` collects what is to be sent at once.
    fn step(&mut self, step: &Step, burst: &mut Vec<u8>) -> Result<()> {
        if let Happening::Client(item) = &step.what {
            match item {
                ClientItem::Bytes(bytes) => burst.extend(bytes),
                ClientItem::ShutDown | ClientItem::Close | ClientItem::Abort => {
                    self.send(&std::mem::take(burst))?;
                    self.end_sending(item)?;
                }
                computed => burst.extend(self.credentials.answer(computed)?),
            }
            return Ok(());
        }
        self.send(&std::mem::take(burst))?;
        match &step.what {
            Happening::Client(_) => Ok(()),
            Happening::Opening(bytes) => self.write(bytes).map(|_| ()),
            Happening::Server(only, expectations) => {
                let is_other = only.is_some_and(|only| only != self.route.cluster().version);
                if is_other {
                    return Ok(());
                }
                expectations.iter().try_for_each(|expectation| {
                    self.expect(expectation)
                        .with_context(|| format!("waiting for {expectation}"))
                })
            }
            Happening::Cancel => self.cancel(),
            Happening::Administrator(sql) => {
                self.administrator.run(&self.with_pid(sql)?).map(|_| ())
            }
            Happening::Until(sql, value) => {
                let sql = self.with_pid(sql)?;
                wait_until(&format!("`{sql}` is {value}"), || {
                    let found = self.administrator.run(&sql)?;
                    Ok(Seen::when(found.as_deref() == Some(value), || {
                        format!("{found:?}")
                    }))
                })
            }
        }
    }

    fn end_sending(&mut self, how: &ClientItem) -> Result<()> {
        if *how == ClientItem::ShutDown {
            return Ok(self.connection()?.stream().shutdown(Shutdown::Write)?);
        }
        let connection = self.connection.take();
        if let Some(connection) = connection.filter(|_| *how == ClientItem::Abort) {
            SockRef::from(connection.stream()).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    }

    fn connection(&mut self) -> Result<&mut Connection> {
        let connection = self.connection.as_mut();
        connection.context("the client has closed its socket")
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let begin = self.sent;
        let end = begin + bytes.len();
        let mut from = 0;
        let cuts = self.cuts.iter().filter(|cut| **cut > begin && **cut < end);
        for cut in cuts {
            let to = cut - begin;
            if !self.write(bytes.get(from..to).unwrap_or_default())? {
                return Ok(());
            }
            self.wait_until_taken()?;
            from = to;
        }
        self.sent = end;
        self.write(bytes.get(from..).unwrap_or_default())?;
        Ok(())
    }

    /// Writes, reading what the server sends meanwhile; false when the server has closed and need not read all.
    fn write(&mut self, bytes: &[u8]) -> Result<bool> {
        if bytes.is_empty() {
            return Ok(true);
        }
        let need_not_read = self.case.unread;
        match self.connection()?.send(bytes) {
            Ok(()) => Ok(true),
            Err(Errno::PIPE | Errno::CONNRESET) if need_not_read => Ok(false),
            Err(error) => Err(error).context("sending"),
        }
    }

    /// Waits until pgusher has read everything sent, so that what follows arrives as a segment of its own.
    fn wait_until_taken(&mut self) -> Result<()> {
        let Route::Through(_, listener) = self.route else {
            bail!("only what goes through pgusher is cut");
        };
        let connection = self
            .connection
            .as_mut()
            .context("the client has closed its socket")?;
        let (client, sent) = (connection.stream().local_addr()?, connection.sent());
        let begin = Instant::now();
        while self.kernel.taken(listener, client, sent)? == Taken::NotYet {
            ensure!(
                begin.elapsed() < DEADLINE,
                "pgusher does not read {sent} bytes"
            );
            connection.read_available()?;
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    fn expect(&mut self, expectation: &Expectation) -> Result<()> {
        match &expectation.what {
            What::Message(kind, detail) => {
                let detail = detail.as_deref();
                let times = match expectation.count {
                    Count::Exactly(times) => times,
                    Count::OneOrMore => 1,
                };
                for _ in 0..times {
                    self.expect_message(*kind, detail)?;
                }
                while expectation.count == Count::OneOrMore && self.connection()?.kind()? == *kind {
                    self.expect_message(*kind, detail)?;
                }
                Ok(())
            }
            What::Byte(byte) => self.expect_raw(&[*byte]),
            What::Raw(bytes) => self.expect_raw(bytes),
            What::Eof => self.expect_end(Close::Ended),
            What::Reset => self.expect_end(Close::Reset),
        }
    }

    fn expect_message(&mut self, kind: u8, detail: Option<&str>) -> Result<()> {
        let message = self.next_message(kind)?;
        let found = expectation::found(&message);
        ensure!(
            message.kind == kind
                && detail.is_none_or(|detail| expectation::holds(&message, detail)),
            "{}({}) came",
            char::from(message.kind),
            found.unwrap_or_else(|| message.body.escape_ascii().to_string())
        );
        Ok(())
    }

    /// The next message; the stream of a replication is passed over unless it is waited for.
    fn next_message(&mut self, wanted: u8) -> Result<Message> {
        loop {
            let message = self.connection()?.message()?;
            self.credentials.see(&message)?;
            match message.kind {
                b'K' => self.key.clone_from(&message.body),
                b'W' => self.in_copy_both = true,
                b'C' | b'E' => self.in_copy_both = false,
                _ => {}
            }
            self.replies.push(Reply::Message(message.clone()));
            if wanted == b'd' || !self.in_copy_both || !is_streamed(&message) {
                return Ok(message);
            }
        }
    }

    fn expect_raw(&mut self, expected: &[u8]) -> Result<()> {
        let found = self.connection()?.raw(expected.len())?;
        let text = found.escape_ascii().to_string();
        let is_right = found == expected;
        self.replies.push(Reply::Raw(found));
        ensure!(is_right, "{text} came");
        Ok(())
    }

    fn expect_end(&mut self, wanted: Close) -> Result<()> {
        while self.in_copy_both && self.connection()?.is_more()? {
            let message = self.connection()?.message()?;
            ensure!(is_streamed(&message), "{message:?} came");
        }
        let (rest, end) = self.connection()?.close()?;
        ensure!(rest.is_empty(), "{} came", rest.escape_ascii());
        // What is sent to a closed socket is answered with a reset.
        let is_either = self.case.unread && !self.cuts.is_empty();
        ensure!(end == wanted || is_either, "the server's end is {end:?}");
        self.end = Some(wanted);
        Ok(())
    }

    /// Ends a case that does not end itself: no more bytes must come, and the server must close.
    fn finish(&mut self) -> Result<()> {
        if let (None, Some(connection)) = (self.end, &self.connection) {
            connection.stream().shutdown(Shutdown::Write)?;
            self.expect_end(Close::Ended)
                .context("behind the last line")?;
        }
        Ok(())
    }

    fn cancel(&self) -> Result<()> {
        let mut stream = self.route.connect()?;
        stream.write_all(&wire::packet(CANCEL_REQUEST, &self.key)?)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        ensure!(
            answer.is_empty(),
            "a cancel request is answered with {answer:?}"
        );
        Ok(())
    }

    fn with_pid(&self, sql: &str) -> Result<String> {
        let pid = self.key.first_chunk::<4>().copied().map(u32::from_be_bytes);
        let pid = pid.map(|pid| pid.to_string());
        ensure!(
            pid.is_some() || !sql.contains("$pid"),
            "no backend is known yet"
        );
        Ok(sql.replace("$pid", &pid.unwrap_or_default()))
    }
}
