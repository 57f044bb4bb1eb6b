//! Where in its stream of messages a server is: how many bytes until one ends.
//!
//! A message of our own can only stand between two of the server's.

use super::frame::{BACKEND_LARGEST, Framer, Piece};

/// The position in a server's stream of messages.
#[derive(Debug, Default)]
pub struct Boundary {
    framer: Framer,
    /// The stream turned out to be something else.
    is_lost: bool,
}

impl Boundary {
    /// Starts at a message's first byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// The server sent these bytes, cut anywhere.
    pub fn sent(&mut self, mut bytes: &[u8]) {
        while !self.is_lost {
            // Rows are what there is most of.
            self.framer.run(b'D', &mut bytes);
            match self.framer.next(&mut bytes) {
                Some(Piece::Header(header)) => self.is_lost = !header.fits(BACKEND_LARGEST),
                Some(Piece::Body { .. }) => {}
                None => return,
            }
        }
    }

    /// How many bytes at least belong to the message that was begun: 0 between two of them. `None` where nobody knows.
    pub fn distance(&self) -> Option<usize> {
        (!self.is_lost).then(|| self.framer.wants())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reading no more than the distance, as the relay does, ends at the end of a message wherever it began.
    #[test]
    fn reading_the_distance_ends_between_two_messages() {
        let message = b"D\0\0\0\x0eten bytes!Z\0\0\0\x05I";
        for start in 0..message.len() {
            let (first, mut rest) = message.split_at(start);
            let mut boundary = Boundary::new();
            boundary.sent(first);
            while let Some(distance @ 1..) = boundary.distance() {
                let (now, later) = rest.split_at(distance);
                boundary.sent(now);
                rest = later;
            }
            let ends = [0, 15, 21];
            assert!(ends.contains(&(message.len() - rest.len())), "{start}");
        }
    }

    #[test]
    fn what_is_no_message_has_no_boundary() {
        let mut boundary = Boundary::new();
        boundary.sent(b"HTTP/1.1 400 Bad Request");
        assert_eq!(boundary.distance(), None);
    }
}
