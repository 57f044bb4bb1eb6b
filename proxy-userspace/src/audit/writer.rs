//! The writer: one thread that takes records off the queue and gets them into the sink.
//!
//! What is queued goes out together, in one write where the sink takes it. When the sink fails, a record under `block`
//! is tried again until it is taken, however long that is, and keeps those queued around it; records under `drop` are
//! counted as lost, and a gap record follows once the sink works again. A line that was written in part is finished
//! first in either case, so that no two records ever share a line; or written anew, where its file is gone.

mod batch;

use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::error;

use super::queue::{Audit, Counts, Queued};
use super::record::{Body, Record};
use super::sink::{Sink, SinkError};
use crate::config::{AuditConfig, OverflowPolicy};
use batch::Batch;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How long a failing sink is tried for the records left at exit, all together: what ends pgusher waits no longer than
/// `WRITER_LIMIT` (app.rs), and a write may take its time too.
const LAST_ATTEMPTS: Duration = Duration::from_secs(5);
/// No record is added to a batch of this size, in bytes of JSON: beyond it larger writes are no faster.
const BATCH_BYTES: usize = 256 * 1024;

/// A datagram of this size can be sent once there is memory for it. One of several MiB never can, whatever the buffer, and the
/// kernel has the same word for both, ENOBUFS (`unix_dgram_sendmsg`: what pages do not hold has to be one piece).
const CERTAIN_DATAGRAM_BYTES: usize = 1 << 20;

/// How long the writer leaves the queue alone behind a batch that was not full: statements come one by one, and waking
/// up for each costs the sessions more than the record does.
const LINGER: Duration = Duration::from_millis(1);

/// The running writer; it ends when every [`Audit`] is gone and the queue is empty.
pub struct Writer {
    thread: JoinHandle<()>,
}

impl Writer {
    /// Waits until everything queued is in the sink, or lost for good.
    pub fn join(self) {
        if self.thread.join().is_err() {
            error!("the audit writer failed; the last records may be missing");
        }
    }
}

/// Opens the sink and starts the writer. `reserved` is how many closing records may wait besides the queue's own, `journal` a
/// socket from [`journal_socket`](super::journal_socket), should the sink want one.
///
/// # Errors
/// [`SinkError`] when the sink cannot be opened: no session may start then.
pub fn start(
    config: &AuditConfig,
    reserved: usize,
    journal: Option<UnixDatagram>,
) -> Result<(Audit, Writer), SinkError> {
    let sink = Sink::open(&config.sink, journal)?;
    let (sender, queue) = mpsc::channel(config.queue.get().saturating_add(reserved));
    let counts = Arc::new(Counts::default());
    let writing = Writing::new(sink, Arc::clone(&counts));
    let thread = std::thread::Builder::new().name("audit-writer".to_owned());
    let thread = thread
        .spawn(move || writing.run(queue))
        .map_err(SinkError::thread)?;
    Ok((
        Audit::new(sender, config.overflow, counts),
        Writer { thread },
    ))
}

/// What a failed attempt says about the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// It may work later.
    OfTheSink,
    /// It will not: trying again would hold up every record behind it.
    OfTheRecord,
}

impl Failure {
    /// Of an attempt to write a line of so many bytes.
    fn of(error: &io::Error, line_bytes: usize) -> Self {
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) => Self::OfTheRecord,
            // A socket that has no buffer for a short one may have it later.
            Some(libc::ENOBUFS) if line_bytes > CERTAIN_DATAGRAM_BYTES => Self::OfTheRecord,
            _ => Self::OfTheSink,
        }
    }
}

struct Writing {
    sink: Sink,
    batch: Batch,
    counts: Arc<Counts>,
    /// How many lost records the trail already tells of.
    reported: u64,
    /// How many it tells of once the gap record at the start of the batch is in the sink.
    gap: Option<u64>,
    failing: bool,
    /// Until when a sink may fail, once there is nobody left to wait for it.
    last_attempt: Option<Instant>,
}

impl Writing {
    fn new(sink: Sink, counts: Arc<Counts>) -> Self {
        Self {
            sink,
            batch: Batch::default(),
            counts,
            reported: 0,
            gap: None,
            failing: false,
            last_attempt: None,
        }
    }

    fn run(mut self, mut queue: mpsc::Receiver<Queued>) {
        while let Some(first) = queue.blocking_recv() {
            self.begin_batch();
            self.add(first);
            while self.batch.len() < BATCH_BYTES {
                match queue.try_recv() {
                    Ok(next) => self.add(next),
                    Err(_) => break,
                }
            }
            let is_full = self.batch.len() >= BATCH_BYTES;
            self.write(&queue);
            if !is_full && !queue.is_closed() {
                std::thread::sleep(LINGER);
            }
        }
        self.begin_batch();
        self.write(&queue);
        if self.batch.is_inside_a_line() {
            error!("the last audit record is incomplete: the sink took only a part of it");
        }
    }

    /// Begins with what is left of a line, and with records lost since the last time, before anything newer.
    fn begin_batch(&mut self) {
        self.batch.forget_taken(2 * BATCH_BYTES);
        let lost = self.counts.dropped.load(Ordering::Relaxed);
        if lost > self.reported {
            self.gap = Some(lost);
            let gap = Record::now(Body::Gap {
                dropped: lost - self.reported,
            });
            let queued = Queued::new(gap, OverflowPolicy::Drop, None, &self.counts);
            self.add(queued);
        }
    }

    fn add(&mut self, queued: Queued) {
        if let Err(refused) = self.batch.push(queued) {
            let (queued, error) = *refused;
            error!(%error, "an audit record cannot be written; it is lost");
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
            self.counts.lose(&queued.record);
        }
    }

    /// Gets the batch into the sink, or gives up what of it may be lost.
    fn write(&mut self, queue: &mpsc::Receiver<Queued>) {
        let mut pause = FIRST_PAUSE;
        while let Err((error, progress)) = self.try_write() {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
            if Failure::of(&error, self.batch.next_line_bytes()) == Failure::OfTheRecord {
                error!(%error, "the audit sink will never take this record; it is lost");
                self.gap = None;
                self.batch.lose_one(&self.counts);
                continue;
            }
            self.note_failure(&error);
            if progress {
                pause = FIRST_PAUSE;
            }
            // Nobody is left to wait for the sink once every session has ended: the exit must not hang on it.
            let is_over = queue.is_closed() && self.is_last_attempt_over();
            if self.batch.policy() == OverflowPolicy::Drop || is_over {
                self.gap = None;
                self.batch.lose_waiting(&self.counts);
                return;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LAST_PAUSE);
        }
        self.failing = false;
    }

    fn is_last_attempt_over(&mut self) -> bool {
        let now = Instant::now();
        now >= *self.last_attempt.get_or_insert(now + LAST_ATTEMPTS)
    }

    fn note_failure(&mut self, error: &io::Error) {
        if !self.failing && self.batch.is_inside_a_line() {
            error!(%error, "the audit sink took a part of a record; its rest goes first once it works again");
        } else if !self.failing {
            error!(%error, "the audit sink fails; records {}", match self.batch.policy() {
                OverflowPolicy::Block => "wait for it, and what they would record with them",
                OverflowPolicy::Drop => "are lost until it works again",
            });
        }
        self.failing = true;
    }

    /// Writes until the batch is in the sink or the sink fails; then tells whether it took anything before.
    fn try_write(&mut self) -> Result<(), (io::Error, bool)> {
        let mut progress = false;
        let mut is_fresh = false;
        while !self.batch.next().is_empty() {
            // A line is finished where it was begun, if that can be; the next one may go to another file.
            if !is_fresh && !self.batch.is_inside_a_line() {
                self.sink.refresh().map_err(|error| (error, progress))?;
                is_fresh = true;
            }
            match self.sink.write(self.batch.next()) {
                Ok(0) => return Err((io::ErrorKind::WriteZero.into(), progress)),
                Ok(taken) => self.took(taken),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody makes room for a file that is not there any more.
                Err(_) if self.batch.is_inside_a_line() && self.has_moved_on() => {
                    self.batch.begin_line_again();
                }
                Err(error) => return Err((error, progress)),
            }
            progress = true;
        }
        Ok(())
    }

    /// Whether the sink is another file than before, now that it has been looked for.
    fn has_moved_on(&mut self) -> bool {
        // What keeps it from being opened is met again by the next attempt.
        self.sink.refresh().unwrap_or(false)
    }

    fn took(&mut self, bytes: usize) {
        let mut begun = self.batch.advance(bytes);
        if let Some(lost) = self.gap.take_if(|_| begun > 0) {
            self.reported = lost;
            begun -= 1;
        }
        self.counts.written.fetch_add(begun, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
