//! The session after its startup packet, as both sides' bytes tell it: which message is under way, what PostgreSQL made
//! of it, and what state that leaves.
//!
//! Sans-IO: chunks of either side and the time go in, [`Event`]s come out, in the order things happened. Messages are
//! read by their headers; of a body only what an event carries is kept, up to the limits in [`Capture`], so a message
//! of a gigabyte passes in constant memory. Nothing is assumed of either peer: what breaks the protocol is an
//! [`Event::Violation`], after which the machine stops looking. docs/protocol.md has the rules and the limits.
//!
//! The client's bytes are read by [`client`], the server's by [`server`]; [`machine`] pairs them, and [`pairing`] follows
//! two ways to do so while nobody can tell which is right.
//!
//! Rules: protocol documentation, "Message Flow"; src/backend/tcop/postgres.c (PostgresMain, SocketBackend).

mod answer;
mod client;
pub mod event;
mod fields;
mod held;
mod machine;
mod named;
mod pairing;
mod queue;
mod request;
mod server;
mod tags;
mod values;

pub use event::{
    Copied, CopyDirection, Event, Finished, Outcome, Parameters, Prepared, ServerError, Setting,
    Subject, Target, Text, TransactionStatus, Value, Verdict, Violation,
};
pub use tags::{Tag, Tags, affected_rows};

pub(super) use server::error_sqlstate;

use std::time::Instant;

use crate::wire::login::{LoginOutcome, LoginWatch};
use client::ClientReader;
use pairing::Pairing;
use request::Sent;
use server::{Reply, ServerReader};

/// How much of bodies is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Bytes of one SQL text; what is longer keeps its full length and hash.
    pub text_bytes: usize,
    /// Bytes of one Bind's or FunctionCall's values, their length words included; `None` keeps no value at all.
    pub parameter_bytes: Option<usize>,
}

/// Follows one session.
#[derive(Debug)]
pub struct Session {
    login: LoginWatch,
    client: ClientReader,
    server: ServerReader,
    machine: Pairing,
    /// The client broke the protocol: what it sends is not looked at any more, what it sent before is still answered.
    client_is_over: bool,
    /// How it did so, if that was during the login: the server's answer to the login comes first.
    broken_login: Option<Sent>,
    /// Nothing is looked at any more.
    is_over: bool,
}

impl Session {
    /// Starts behind the startup packet.
    pub fn new(capture: Capture) -> Self {
        Self {
            login: LoginWatch::new(),
            client: ClientReader::new(capture),
            server: ServerReader::default(),
            machine: Pairing::default(),
            client_is_over: false,
            broken_login: None,
            is_over: false,
        }
    }

    /// How the login went.
    pub fn login(&self) -> &LoginWatch {
        &self.login
    }

    /// Whether the client is so far ahead of the server's answers that it should not be read until there are some.
    /// Who reads on nevertheless gets [`Violation::TooManyPending`] after 64 KiB at the earliest.
    pub fn is_full(&self) -> bool {
        self.machine.is_full() && !self.client_is_over && !self.is_over
    }

    /// Takes the next bytes the client sent, cut anywhere.
    pub fn client_sent(&mut self, mut bytes: &[u8], now: Instant, events: &mut dyn FnMut(Event)) {
        // What a client still sends to a server that has rejected it, nobody reads.
        let is_rejected = matches!(self.login.outcome(), LoginOutcome::Rejected { .. });
        while !is_rejected && !self.client_is_over && !self.is_over {
            let run = self.client.copy_data(&mut bytes);
            let copied = match run.messages {
                0 => Ok(()),
                _ => self.machine.copy_data(run.body_bytes, events),
            };
            if let Err(violation) = copied {
                return self.stop(violation, now, events);
            }
            let room = self.machine.room();
            let Some(sent) = self.client.next(&mut bytes, now, room, &mut self.login) else {
                return;
            };
            self.client_is_over = matches!(sent, Sent::Broken(_));
            if self.client_is_over && !self.login.is_done() {
                self.broken_login = Some(sent);
            } else if let Err(violation) = self.machine.sent(sent, now, events) {
                self.stop(violation, now, events);
            }
        }
    }

    /// Takes the next bytes the server sent, cut anywhere.
    pub fn server_sent(&mut self, mut bytes: &[u8], now: Instant, events: &mut dyn FnMut(Event)) {
        while !self.is_over {
            if let Err(violation) = self.take_runs(&mut bytes, events) {
                return self.stop(violation, now, events);
            }
            let taken = match self.server.next(&mut bytes) {
                None => return,
                Some(Err(violation)) => Err(violation),
                Some(Ok(reply)) => {
                    let login = &mut self.login;
                    take_reply(login, &mut self.machine, &reply, now, events)
                }
            };
            if let Err(violation) = taken {
                self.stop(violation, now, events);
            } else if self.broken_login.is_some() {
                self.break_behind_login(now, events);
            }
        }
    }

    /// Once the login has been answered, what the client broke behind it has its turn.
    #[cold]
    fn break_behind_login(&mut self, now: Instant, events: &mut dyn FnMut(Event)) {
        if self.login.is_done()
            && let Some(sent) = self.broken_login.take()
            && let Err(violation) = self.machine.sent(sent, now, events)
        {
            self.stop(violation, now, events);
        }
    }

    /// Tells what is still without an outcome, when no more bytes will come.
    pub fn end(&mut self, now: Instant, events: &mut dyn FnMut(Event)) {
        if !self.is_over {
            self.is_over = true;
            let broken = self.broken_login.take();
            let broken = broken.and_then(|sent| self.machine.sent(sent, now, events).err());
            if let Some(violation) = self.machine.end(now, events).or(broken) {
                events(Event::Violation(violation));
            }
        }
    }

    /// What most of a session's bytes are, as fast as they can be skipped.
    fn take_runs(
        &mut self,
        bytes: &mut &[u8],
        events: &mut dyn FnMut(Event),
    ) -> Result<(), Violation> {
        if !self.login.is_done() {
            return Ok(());
        }
        let kind = bytes.first().copied().unwrap_or(0);
        if !matches!(kind, b'D' | b'd') {
            return Ok(());
        }
        let run = self.server.run(kind, bytes);
        match kind {
            _ if run.messages == 0 => Ok(()),
            b'D' => self.machine.rows(run.messages, events),
            _ => self.machine.server_data(run.body_bytes, events),
        }
    }

    fn stop(&mut self, violation: Violation, now: Instant, events: &mut dyn FnMut(Event)) {
        self.is_over = true;
        self.login.is_not_understood();
        self.machine.end(now, events);
        events(Event::Violation(violation));
    }
}

/// Takes a message of the server's: the login's until that is decided, then an answer.
fn take_reply(
    login: &mut LoginWatch,
    machine: &mut Pairing,
    reply: &Reply<'_>,
    now: Instant,
    events: &mut dyn FnMut(Event),
) -> Result<(), Violation> {
    if reply.kind == b'S' {
        let setting = Box::new(server::setting(reply.body));
        machine.tell(Event::Setting(setting), events);
        return Ok(());
    }
    if !login.is_done() {
        return login
            .server_message(reply.kind, reply.body, reply.length)
            .map_err(|_| Violation::BackendOutOfTurn(reply.kind));
    }
    match reply.kind {
        b'E' => machine.error(server::server_error(reply.body), now, events),
        _ => machine.replied(reply, now, events),
    }
}

#[cfg(test)]
mod tests;
