//! One direction of a relay: reads here, writes there, holds what there has not taken.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};

use super::{Observer, Side};
use crate::leg::Port;

/// How much is read at a time, and the most a direction holds. With 64 KiB a bulk transfer through the relay is level
/// with a direct one; with 8 KiB it is not.
pub(crate) const BUFFER_BYTES: usize = 64 * 1024;

/// How many reads and writes a direction may do before others on its thread get their turn: a megabyte.
const STEPS_IN_A_TURN: usize = 16;

thread_local! {
    /// Reads land here; only what the destination does not take at once is copied out. An idle session so holds no
    /// buffer at all.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER_BYTES]);
}

/// How a direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The source closed; everything it sent was delivered and the close passed on.
    Eof,
    /// The source failed; everything received from it was delivered.
    ReadFailed,
    /// The destination failed; what comes from the source is read and dropped, so that a source blocked on writing
    /// can go on to learn of it.
    WriteFailed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Copying,
    /// The source has ended; what is pending goes out first.
    Flushing(End),
    Ended(End),
}

/// One direction of a relay.
pub(super) struct Direction {
    /// Whose bytes it carries.
    source: Side,
    state: State,
    /// Bytes read and not taken by the destination; at most [`BUFFER_BYTES`] and what startup left over.
    pending: BytesMut,
    delivered: u64,
    /// How often something was read.
    reads: u64,
    /// The source has closed in an orderly way, whether or not that could be passed on.
    source_closed: bool,
    /// The source is known to have been reset, whatever reading it says.
    source_reset: bool,
    /// A write failed because the destination had been reset.
    destination_reset: bool,
    /// Nothing is read beyond the message that has begun.
    stops_at_boundary: bool,
    /// The destination takes nothing of what there is for it.
    is_stalled: bool,
}

impl Direction {
    /// Carries what `source` sends; `pending` goes before anything read.
    pub(super) fn new(source: Side, pending: BytesMut) -> Self {
        Self {
            source,
            state: State::Copying,
            // What the opening was read into is much larger than a session may keep.
            pending: if pending.is_empty() {
                BytesMut::new()
            } else {
                pending
            },
            delivered: 0,
            reads: 0,
            source_closed: false,
            source_reset: false,
            destination_reset: false,
            stops_at_boundary: false,
            is_stalled: false,
        }
    }

    /// How it ended, if it has.
    pub(super) fn end(&self) -> Option<End> {
        match self.state {
            State::Ended(end) => Some(end),
            State::Copying | State::Flushing(_) => None,
        }
    }

    /// Whether the source has closed in an orderly way.
    pub(super) fn source_closed(&self) -> bool {
        self.source_closed
    }

    /// Whether the destination was found reset. That finding consumes the socket's error: reading it will look like
    /// an orderly close, so the other direction has to be told.
    pub(super) fn destination_was_reset(&self) -> bool {
        self.destination_reset
    }

    /// Tells that the source was reset: its end of file is none.
    pub(super) fn source_was_reset(&mut self) {
        self.source_reset = true;
    }

    /// From now on nothing is read beyond the message that the source has begun.
    pub(super) fn stop_at_boundary(&mut self) {
        self.stops_at_boundary = true;
    }

    /// Whether everything read has been taken by the destination, and neither side has ended.
    pub(super) fn is_at_rest(&self) -> bool {
        self.state == State::Copying && self.pending.is_empty()
    }

    /// Whether something waits for a destination that takes nothing.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled && self.end().is_none()
    }

    /// How often something was read.
    pub(super) fn reads(&self) -> u64 {
        self.reads
    }

    /// Bytes the destination has taken.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Moves bytes until there is nothing to read, no room to write, or the direction has ended. `observer` sees
    /// every byte read once, before it is written.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Port<'_>,
        to: &mut Port<'_>,
        observer: &mut dyn Observer,
    ) {
        // Pending means a waker is registered.
        for _ in 0..STEPS_IN_A_TURN {
            if self.step(context, from, to, observer) != Poll::Ready(true) {
                return;
            }
        }
        // The sessions on the same thread have waited long enough.
        context.waker().wake_by_ref();
    }

    /// One step; ready with false when no further step can do anything.
    fn step(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Port<'_>,
        to: &mut Port<'_>,
        observer: &mut dyn Observer,
    ) -> Poll<bool> {
        match self.state {
            State::Copying if self.pending.is_empty() => self.copy(context, from, to, observer),
            State::Copying => self.flush(context, to),
            State::Flushing(_) if !self.pending.is_empty() => self.flush(context, to),
            State::Flushing(End::Eof) => self.shut_down(context, to),
            State::Flushing(end) => {
                // What TLS still holds of the source's last words.
                if let Err(error) = ready!(self.noted(to.poll_flush(context))) {
                    self.fail(&error);
                } else {
                    self.state = State::Ended(end);
                }
                Poll::Ready(true)
            }
            State::Ended(End::WriteFailed) => self.discard(context, from),
            State::Ended(_) => Poll::Ready(false),
        }
    }

    /// Reads once and writes what the destination takes at once.
    fn copy(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Port<'_>,
        to: &mut Port<'_>,
        observer: &mut dyn Observer,
    ) -> Poll<bool> {
        ready!(observer.poll_ready(self.source, context));
        if let Err(error) = ready!(self.noted(to.poll_flush(context))) {
            self.fail(&error);
            return Poll::Ready(true);
        }
        let most = if self.stops_at_boundary {
            observer
                .until_boundary()
                .unwrap_or_default()
                .min(BUFFER_BYTES)
        } else {
            BUFFER_BYTES
        };
        if most == 0 {
            return Poll::Ready(false);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let scratch = scratch.get_mut(..most).unwrap_or_default();
            match ready!(from.poll_read(context, scratch)) {
                Ok(0) if self.source_reset => self.state = State::Flushing(End::ReadFailed),
                Ok(0) => {
                    self.source_closed = true;
                    self.state = State::Flushing(End::Eof);
                }
                Ok(read) => {
                    let bytes = scratch.get(..read).unwrap_or_default();
                    self.reads += 1;
                    observer.sent(self.source, bytes);
                    self.forward(to, bytes);
                }
                Err(_) => self.state = State::Flushing(End::ReadFailed),
            }
            Poll::Ready(true)
        })
    }

    /// Passes the source's close on.
    fn shut_down(&mut self, context: &mut Context<'_>, to: &mut Port<'_>) -> Poll<bool> {
        self.state = match ready!(self.noted(to.poll_shutdown(context))) {
            Ok(()) => State::Ended(End::Eof),
            Err(_) => State::Ended(End::WriteFailed),
        };
        Poll::Ready(true)
    }

    /// Writes what the destination takes now; the rest becomes pending.
    fn forward(&mut self, to: &mut Port<'_>, bytes: &[u8]) {
        let written = match to.try_write(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return self.fail(&error),
        };
        self.delivered += written as u64;
        self.pending
            .extend_from_slice(bytes.get(written..).unwrap_or_default());
    }

    /// Writes pending bytes once.
    fn flush(&mut self, context: &mut Context<'_>, to: &mut Port<'_>) -> Poll<bool> {
        if let Err(error) = ready!(self.noted(to.poll_write_ready(context))) {
            self.fail(&error);
            return Poll::Ready(true);
        }
        match to.try_write(&self.pending) {
            Ok(written) => {
                self.delivered += written as u64;
                self.pending.advance(written);
                if self.pending.is_empty() {
                    self.pending = BytesMut::new();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.fail(&error),
        }
        Poll::Ready(true)
    }

    /// Notes whether the destination takes anything.
    fn noted<T>(&mut self, polled: Poll<T>) -> Poll<T> {
        self.is_stalled = polled.is_pending();
        polled
    }

    /// The destination is dead. A source that had failed as well stays the reason.
    fn fail(&mut self, error: &io::Error) {
        self.destination_reset |= error.kind() == io::ErrorKind::ConnectionReset;
        self.pending = BytesMut::new();
        self.state = match self.state {
            State::Flushing(End::ReadFailed) => State::Ended(End::ReadFailed),
            _ => State::Ended(End::WriteFailed),
        };
    }

    /// Reads and drops what the source still sends to a dead destination.
    fn discard(&mut self, context: &mut Context<'_>, from: &mut Port<'_>) -> Poll<bool> {
        if self.source_closed {
            return Poll::Ready(false);
        }
        let read = SCRATCH.with_borrow_mut(|scratch| from.poll_read(context, scratch));
        let read = ready!(read);
        self.source_closed = matches!(read, Ok(0)) && !self.source_reset;
        Poll::Ready(read.is_ok_and(|bytes| bytes > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_openings_buffer_is_not_kept_once_it_is_empty() {
        let mut opening = BytesMut::with_capacity(BUFFER_BYTES);
        opening.extend_from_slice(b"request");
        opening.advance(7);
        let direction = Direction::new(Side::Client, opening);
        assert_eq!(direction.pending.capacity(), 0);
    }
}
