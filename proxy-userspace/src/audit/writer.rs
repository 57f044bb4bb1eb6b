//! The writer: one thread that takes records off the queue and gets them into the sink.
//!
//! Under `block` a failing sink is tried again until it takes the record, however long that is; under `drop` the
//! record is counted as lost and a gap record follows once the sink works again. A line that was written in part is
//! finished first in either case, so that no two records ever share a line.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::error;

use super::queue::{Audit, Counts};
use super::record::{Body, Record};
use super::sink::{Sink, SinkError};
use crate::config::{AuditConfig, OverflowPolicy};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How often a failing sink is tried for the records left at exit.
const LAST_ATTEMPTS: usize = 3;

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

/// Opens the sink and starts the writer. `reserved` is how many closing records may wait besides the queue's own.
///
/// # Errors
/// [`SinkError`] when the sink cannot be opened: no session may start then.
pub fn start(config: &AuditConfig, reserved: usize) -> Result<(Audit, Writer), SinkError> {
    let sink = Sink::open(&config.sink)?;
    let (sender, queue) = mpsc::channel(config.queue.get().saturating_add(reserved));
    let counts = Arc::new(Counts::default());
    let writing = Writing {
        sink,
        line: Vec::new(),
        policy: config.overflow,
        counts: Arc::clone(&counts),
        reported: 0,
        failing: false,
        gave_up: false,
    };
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
    fn of(error: &io::Error) -> Self {
        let is_too_long = error.raw_os_error() == Some(libc::EMSGSIZE);
        if is_too_long || error.kind() == io::ErrorKind::InvalidData {
            Self::OfTheRecord
        } else {
            Self::OfTheSink
        }
    }
}

struct Writing {
    sink: Sink,
    /// What is left of the line being written.
    line: Vec<u8>,
    policy: OverflowPolicy,
    counts: Arc<Counts>,
    /// How many lost records the trail already tells of.
    reported: u64,
    failing: bool,
    /// At exit the sink failed as often as it may.
    gave_up: bool,
}

impl Writing {
    fn run(mut self, mut queue: mpsc::Receiver<Record>) {
        while let Some(record) = queue.blocking_recv() {
            self.report_gap();
            self.write(&record, &queue);
        }
        self.report_gap();
        if self.finish_line().is_err() {
            error!("the last audit record is incomplete: the sink took only a part of it");
        }
    }

    /// Tells of records lost since the last time, before anything newer is written.
    fn report_gap(&mut self) {
        let lost = self.counts.dropped.load(Ordering::Relaxed);
        if lost > self.reported {
            let gap = Record::now(Body::Gap {
                dropped: lost - self.reported,
            });
            if self.write_once(&gap).is_none() {
                self.reported = lost;
            }
        }
    }

    fn write(&mut self, record: &Record, queue: &mpsc::Receiver<Record>) {
        let mut pause = FIRST_PAUSE;
        let mut attempts = 0;
        while let Some(failure) = self.write_once(record) {
            attempts += 1;
            // Nobody is left to wait for the sink once every session has ended: the exit must not hang on it.
            let is_over = queue.is_closed() && (attempts >= LAST_ATTEMPTS || self.gave_up);
            if failure == Failure::OfTheRecord || self.policy == OverflowPolicy::Drop || is_over {
                self.gave_up |= is_over;
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LAST_PAUSE);
        }
        self.counts.written.fetch_add(1, Ordering::Relaxed);
    }

    /// Tries to get one record into the sink; tells what failed, if the record, or all but a part of it, did not go.
    fn write_once(&mut self, record: &Record) -> Option<Failure> {
        let error = match self.try_write(record) {
            Ok(()) => {
                self.failing = false;
                return None;
            }
            Err(error) => error,
        };
        self.counts.failures.fetch_add(1, Ordering::Relaxed);
        if Failure::of(&error) == Failure::OfTheRecord {
            error!(%error, "the audit sink will never take this record; it is lost");
            return Some(Failure::OfTheRecord);
        }
        if !self.failing {
            error!(%error, "the audit sink fails; records {}", match self.policy {
                OverflowPolicy::Block => "wait for it, and new sessions with them",
                OverflowPolicy::Drop => "are lost until it works again",
            });
        }
        self.failing = true;
        Some(Failure::OfTheSink)
    }

    fn try_write(&mut self, record: &Record) -> io::Result<()> {
        self.finish_line()?;
        self.sink.refresh()?;
        let mut line = serde_json::to_vec(record)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        line.push(b'\n');
        let written = self.sink.write(&line)?;
        // From the first byte on the record is this line's, and only this line's rest may follow.
        self.line = line.split_off(written);
        if let Err(error) = self.finish_line() {
            error!(%error, "the audit sink took a part of a record; its rest goes first once it works again");
        }
        Ok(())
    }

    fn finish_line(&mut self) -> io::Result<()> {
        while !self.line.is_empty() {
            match self.sink.write(&self.line)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => drop(self.line.drain(..written)),
            }
        }
        Ok(())
    }
}
