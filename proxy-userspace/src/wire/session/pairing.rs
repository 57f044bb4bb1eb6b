//! Which messages the server's answers belong to, where more than one reading fits what has been seen.
//!
//! There is one [`Machine`] nearly always. When a COPY IN has failed behind a Sync, nobody can tell from the wire
//! whether the server had read that Sync (CopyGetData ignores it, and everything up to the next one is then skipped) or
//! had not (it is answered, and what follows is run). ReadyForQuery comes in either case. From there on both readings
//! are followed, each by a machine of its own, until answers come that only one of them explains. What a reading tells
//! waits until then.

use std::time::Instant;

use super::event::{Event, ServerError, Verdict, Violation};
use super::held::Out;
use super::machine::Machine;
use super::request::Sent;
use super::server::Reply;

/// Readings followed at once: two COPYs that fail behind each other.
const MAX_READINGS: usize = 4;
/// Events that wait in a reading at most.
const MAX_TOLD: usize = 128;
/// Bytes of texts and values in them at most. Readings share those of the same message.
const MAX_TOLD_BYTES: usize = 1024 * 1024;

/// What every reading takes.
type Take<'a> = &'a mut dyn FnMut(&mut Machine, Out<'_>) -> Result<(), Violation>;

/// The machine, or one for each reading.
#[derive(Debug, Default)]
pub(super) struct Pairing {
    /// What is followed while there is no doubt.
    certain: Machine,
    /// While there is: two at least.
    readings: Vec<Reading>,
}

/// One way to understand what has been seen.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    machine: Machine,
    told: Told,
}

/// What a reading has told, in order.
#[derive(Clone, Debug, Default)]
struct Told {
    events: Vec<Event>,
    kept_bytes: usize,
}

impl Told {
    fn push(&mut self, event: Event) {
        if let Event::Finished(finished) = &event {
            self.kept_bytes += finished.subject.kept_bytes();
        }
        self.events.push(event);
    }
}

impl Reading {
    /// A reading that parts from the others here, in which `skip` tells of what was skipped.
    pub(super) fn begin(mut machine: Machine, skip: impl FnOnce(&mut Machine, Out<'_>)) -> Self {
        let mut told = Told::default();
        skip(&mut machine, &mut |event| told.push(event));
        Self { machine, told }
    }

    fn of(machine: Machine) -> Self {
        Self::begin(machine, |_, _| {})
    }

    /// `other`, which parts from this reading here, with all that this one has told so far.
    fn and_then(&self, other: Self) -> Self {
        let mut told = self.told.clone();
        other
            .told
            .events
            .into_iter()
            .for_each(|event| told.push(event));
        Self {
            machine: other.machine,
            told,
        }
    }

    fn is_too_long(&self) -> bool {
        self.told.events.len() > MAX_TOLD || self.told.kept_bytes > MAX_TOLD_BYTES
    }

    /// What was skipped in this reading may have been run after all: neither is claimed.
    fn doubt_what_was_skipped(&mut self) {
        for event in &mut self.told.events {
            if let Event::Finished(finished) = event
                && finished.outcome.verdict == Verdict::NotRun
            {
                finished.outcome.verdict = Verdict::Unanswered;
                finished.ready = None;
                finished.transaction = None;
            }
        }
    }
}

impl Pairing {
    /// How much may be kept of the client's next text.
    #[inline]
    pub(super) fn room(&self) -> usize {
        let readings = self.readings.iter().map(|reading| reading.machine.room());
        readings.min().unwrap_or_else(|| self.certain.room())
    }

    /// Whether so much is without an answer that the client should not be read on.
    pub(super) fn is_full(&self) -> bool {
        let mut readings = self.readings.iter();
        self.certain.is_full() || readings.any(|reading| reading.machine.is_full())
    }

    /// As [`Machine::sent`].
    pub(super) fn sent(&mut self, sent: Sent, now: Instant, out: Out<'_>) -> Result<(), Violation> {
        if self.readings.is_empty() {
            return self.certain.sent(sent, now, out);
        }
        self.each(out, &mut |machine, out| {
            machine.sent(sent.clone(), now, out)
        })
    }

    /// As [`Machine::copy_data`].
    pub(super) fn copy_data(&mut self, bytes: u64, out: Out<'_>) -> Result<(), Violation> {
        if self.readings.is_empty() {
            return self.certain.copy_data(bytes);
        }
        self.each(out, &mut |machine, _| machine.copy_data(bytes))
    }

    /// As [`Machine::replied`].
    #[inline]
    pub(super) fn replied(
        &mut self,
        reply: &Reply<'_>,
        now: Instant,
        out: Out<'_>,
    ) -> Result<(), Violation> {
        if !self.readings.is_empty() {
            return self.each(out, &mut |machine, out| machine.replied(reply, now, out));
        }
        self.certain.replied(reply, now, out)?;
        if let Some(other) = self.certain.other_reading() {
            let machine = std::mem::take(&mut self.certain);
            self.readings = vec![Reading::of(machine), *other];
        }
        Ok(())
    }

    /// As [`Machine::error`].
    pub(super) fn error(
        &mut self,
        error: ServerError,
        now: Instant,
        out: Out<'_>,
    ) -> Result<(), Violation> {
        if self.readings.is_empty() {
            return self.certain.error(error, now, out);
        }
        self.each(out, &mut |machine, out| {
            machine.error(error.clone(), now, out)
        })
    }

    /// As [`Machine::rows`].
    pub(super) fn rows(&mut self, rows: u64, out: Out<'_>) -> Result<(), Violation> {
        if self.readings.is_empty() {
            return self.certain.rows(rows);
        }
        self.each(out, &mut |machine, _| machine.rows(rows))
    }

    /// As [`Machine::server_data`].
    pub(super) fn server_data(&mut self, bytes: u64, out: Out<'_>) -> Result<(), Violation> {
        if self.readings.is_empty() {
            return self.certain.server_data(bytes);
        }
        self.each(out, &mut |machine, _| machine.server_data(bytes))
    }

    /// As [`Machine::tell`].
    pub(super) fn tell(&mut self, event: Event, out: Out<'_>) {
        if self.readings.is_empty() {
            return self.certain.tell(event, out);
        }
        for reading in &mut self.readings {
            let told = &mut reading.told;
            reading
                .machine
                .tell(event.clone(), &mut |event| told.push(event));
        }
    }

    /// As [`Machine::end`].
    pub(super) fn end(&mut self, now: Instant, out: Out<'_>) -> Option<Violation> {
        self.guess(out);
        self.certain.end(now, out)
    }

    /// Lets every reading take something, and drops those that it refutes.
    #[cold]
    fn each(&mut self, out: Out<'_>, take: Take<'_>) -> Result<(), Violation> {
        let mut refuted = Vec::new();
        let mut begun = Vec::new();
        for mut reading in std::mem::take(&mut self.readings) {
            let Reading { machine, told, .. } = &mut reading;
            match take(machine, &mut |event| told.push(event)) {
                Ok(()) => {
                    begun.extend(
                        machine
                            .other_reading()
                            .map(|other| reading.and_then(*other)),
                    );
                    self.readings.push(reading);
                }
                Err(violation) => refuted.push((reading, violation)),
            }
        }
        self.readings.append(&mut begun);
        if self.readings.is_empty() {
            // Nothing explains it.
            let (readings, violations): (Vec<_>, Vec<_>) = refuted.into_iter().unzip();
            self.readings = readings;
            self.guess(out);
            return violations
                .first()
                .map_or(Ok(()), |violation| Err(*violation));
        }
        if let [_] = self.readings.as_slice() {
            self.settle(out);
            return Ok(());
        }
        self.bound(out)
    }

    /// Ends a doubt that takes too long to resolve.
    ///
    /// # Errors
    /// When the client is to blame, which never waits until it has all its answers.
    fn bound(&mut self, out: Out<'_>) -> Result<(), Violation> {
        let is_too_long = self.readings.iter().any(Reading::is_too_long);
        if self.readings.len() <= MAX_READINGS && !is_too_long {
            return Ok(());
        }
        self.guess(out);
        if self.certain.pending() == 0 {
            Ok(())
        } else {
            Err(Violation::TooManyPending)
        }
    }

    /// Settles for the reading that leaves the fewest messages without an answer: a client that waits for its answers
    /// has had all of them in that one.
    fn guess(&mut self, out: Out<'_>) {
        let pending = |reading: &Reading| reading.machine.pending();
        if let Some(fewest) = self.readings.iter().map(pending).min() {
            self.readings.retain(|reading| pending(reading) == fewest);
            self.readings.truncate(1);
            self.readings
                .iter_mut()
                .for_each(Reading::doubt_what_was_skipped);
            self.settle(out);
        }
    }

    /// One reading is left.
    fn settle(&mut self, out: Out<'_>) {
        if let Some(reading) = self.readings.pop() {
            self.certain = reading.machine;
            reading.told.events.into_iter().for_each(out);
        }
    }
}
