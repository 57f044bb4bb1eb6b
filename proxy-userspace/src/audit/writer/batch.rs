//! Records that are written together: as lines, one behind the other, and how far the sink has taken them.

use std::collections::VecDeque;

use crate::audit::queue::{Counts, Queued};
use crate::config::OverflowPolicy;

/// A record and where in the batch its line is.
struct Line {
    queued: Queued,
    start: usize,
    end: usize,
}

/// Lines on their way into the sink.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// How many of `bytes` the sink has taken.
    taken: usize,
    /// Where the line begins that the sink began last.
    begun: usize,
    /// The lines that the sink has not begun, in order.
    waiting: VecDeque<Line>,
}

impl Batch {
    /// Adds a record's line.
    ///
    /// # Errors
    /// When it cannot be serialised, which no later attempt would change; the record comes back.
    pub(super) fn push(&mut self, queued: Queued) -> Result<(), Box<(Queued, serde_json::Error)>> {
        let start = self.bytes.len();
        if let Err(error) = serde_json::to_writer(&mut self.bytes, &queued.record) {
            self.bytes.truncate(start);
            return Err(Box::new((queued, error)));
        }
        self.bytes.push(b'\n');
        let end = self.bytes.len();
        self.waiting.push_back(Line { queued, start, end });
        Ok(())
    }

    /// The size of all lines together.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What the sink gets next: the rest of a line it has begun, by itself, or all lines that follow.
    pub(super) fn next(&self) -> &[u8] {
        let end = if self.is_inside_a_line() {
            self.next_line()
        } else {
            self.bytes.len()
        };
        self.bytes.get(self.taken..end).unwrap_or_default()
    }

    /// Whether the sink has taken a line in part, whose rest has to come before anything else.
    pub(super) fn is_inside_a_line(&self) -> bool {
        self.taken < self.next_line()
    }

    /// The size of the first line that the sink has not begun; 0 if there is none.
    pub(super) fn next_line_bytes(&self) -> usize {
        let first = self.waiting.front();
        first.map_or(0, |line| line.end - line.start)
    }

    /// Where the first line begins that the sink has not begun.
    fn next_line(&self) -> usize {
        let first = self.waiting.front();
        first.map_or(self.bytes.len(), |line| line.start)
    }

    /// The sink took so many bytes more. Tells how many lines it began with them: from its first byte on a record is
    /// its line's, and only this line's rest may follow.
    pub(super) fn advance(&mut self, count: usize) -> u64 {
        let mut begun = 0;
        self.taken = self.taken.saturating_add(count).min(self.bytes.len());
        while let Some(line) = self.waiting.pop_front_if(|line| line.start < self.taken) {
            self.begun = line.start;
            begun += 1;
        }
        begun
    }

    /// The sink is another one: the line that it has taken in part comes again from its first byte on.
    pub(super) fn begin_line_again(&mut self) {
        if self.is_inside_a_line() {
            self.taken = self.begun;
        }
    }

    /// What a failing sink means for what waits: one record that may not be lost keeps the others.
    pub(super) fn policy(&self) -> OverflowPolicy {
        let mut waiting = self.waiting.iter();
        if waiting.any(|line| line.queued.policy == OverflowPolicy::Block) {
            OverflowPolicy::Block
        } else {
            OverflowPolicy::Drop
        }
    }

    /// Gives up the first line that has not been begun, and counts it as lost.
    pub(super) fn lose_one(&mut self, counts: &Counts) {
        if let Some(line) = self.waiting.pop_front() {
            counts.lose(&line.queued.record);
            self.bytes.drain(line.start..line.end);
            let length = line.end - line.start;
            for later in &mut self.waiting {
                later.start -= length;
                later.end -= length;
            }
        }
    }

    /// Gives up every line that has not been begun, and counts them as lost. The rest of a begun one stays.
    pub(super) fn lose_waiting(&mut self, counts: &Counts) {
        self.bytes.truncate(self.next_line());
        for line in self.waiting.drain(..) {
            counts.lose(&line.queued.record);
        }
    }

    /// Forgets the lines that the sink has taken whole; of the memory, no more than `keep` bytes are kept.
    pub(super) fn forget_taken(&mut self, keep: usize) {
        let gone = if self.is_inside_a_line() {
            self.begun
        } else {
            self.taken
        };
        self.bytes.drain(..gone);
        for line in &mut self.waiting {
            line.start -= gone;
            line.end -= gone;
        }
        self.taken -= gone;
        self.begun = 0;
        self.bytes.shrink_to(keep);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::audit::record::{Body, Record};
    use crate::config::OverflowPolicy::{Block, Drop};
    fn batch(policies: &[OverflowPolicy]) -> Batch {
        let mut batch = Batch::default();
        for policy in policies {
            let record = Record::now(Body::Coverage(Box::default()));
            let pushed = batch.push(Queued::new(record, *policy, None, &Arc::default()));
            assert!(pushed.is_ok());
        }
        batch
    }

    fn newlines(bytes: &[u8]) -> usize {
        bytes.iter().filter(|byte| **byte == b'\n').count()
    }

    #[test]
    fn the_rest_of_a_begun_line_goes_alone_and_before_the_others() {
        let mut batch = batch(&[Block, Block, Block]);
        let whole = batch.next().to_vec();
        assert_eq!(newlines(&whole), 3);
        let first_line = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        assert_eq!(batch.next_line_bytes(), first_line);
        assert_eq!(batch.advance(first_line), 1);
        assert!(!batch.is_inside_a_line());
        assert_eq!(batch.advance(1), 1);
        assert!(batch.is_inside_a_line());
        let rest = batch.next().to_vec();
        assert!(whole[first_line + 1..].starts_with(&rest));
        assert_eq!(newlines(&rest), 1);
        assert_eq!(batch.advance(rest.len()), 0);
        let last = batch.next().to_vec();
        assert_eq!([&whole[..=first_line], &rest, &last].concat(), whole);
        assert_eq!(batch.advance(last.len()), 1);
        assert!(batch.next().is_empty());
        assert_eq!(batch.next_line_bytes(), 0);
    }

    #[test]
    fn what_is_lost_is_counted_and_leaves_the_rest_of_a_line() {
        let counts = Counts::default();
        let mut batch = batch(&[Drop, Drop, Drop]);
        batch.advance(5);
        batch.lose_waiting(&counts);
        assert_eq!(counts.dropped.load(Ordering::Relaxed), 2);
        assert!(batch.is_inside_a_line());
        assert_eq!(newlines(batch.next()), 1);
        batch.forget_taken(0);
        let rest = batch.next().to_vec();
        let record = Record::now(Body::Coverage(Box::default()));
        assert!(
            batch
                .push(Queued::new(record, Drop, None, &Arc::default()))
                .is_ok()
        );
        assert_eq!(batch.next(), rest);
        assert_eq!(batch.advance(rest.len()), 0);
        assert_eq!(newlines(batch.next()), 1);
    }

    #[test]
    fn a_begun_line_can_come_again_whole_but_is_counted_once() {
        let mut batch = batch(&[Block, Drop]);
        let whole = batch.next().to_vec();
        let first = batch.next_line_bytes();
        assert_eq!(batch.advance(first + 3), 2);
        batch.forget_taken(0);
        assert_eq!(batch.next(), &whole[first + 3..]);
        batch.begin_line_again();
        assert!(batch.is_inside_a_line());
        assert_eq!(batch.next(), &whole[first..]);
        assert_eq!(batch.advance(whole.len() - first), 0);
        batch.begin_line_again();
        assert!(batch.next().is_empty());
    }

    #[test]
    fn a_record_that_no_sink_takes_is_lost_alone() {
        let counts = Counts::default();
        let mut batch = batch(&[Block, Block, Block]);
        let length = batch.len();
        let first = batch.next().iter().position(|byte| *byte == b'\n').unwrap() + 1;
        batch.advance(first);
        batch.lose_one(&counts);
        assert_eq!(counts.dropped.load(Ordering::Relaxed), 1);
        assert_eq!(newlines(batch.next()), 1);
        assert!(batch.len() < length);
        let last = batch.next().len();
        assert_eq!(batch.advance(last), 1);
        assert!(batch.next().is_empty());
    }

    #[test]
    fn one_record_that_may_not_be_lost_keeps_the_others() {
        assert_eq!(batch(&[Drop, Block]).policy(), Block);
        assert_eq!(batch(&[Drop, Drop]).policy(), Drop);
        let mut begun = batch(&[Block, Drop]);
        begun.advance(1);
        assert_eq!(begun.policy(), Drop);
    }
}
