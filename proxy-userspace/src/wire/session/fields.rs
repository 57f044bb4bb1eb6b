//! The fields of a client's message: read from its body where that came in one piece, which nearly every one does, and
//! else put together from the pieces, each field up to its limit.

use super::Capture;
use super::event::Text;
use crate::wire::collect::{MAX_NAME_BYTES, Name, Prefix, TextCollector, keep_text, until_nul};
use crate::wire::frame::{FRONTEND_SMALL, Header};

/// What Bind and FunctionCall need before their values: two counts and 65,535 format codes.
const MAX_FORMATS_BYTES: usize = 2 + 2 * 65_535 + 2;
/// How many of a Parse's parameter types are kept.
pub(super) const MAX_PARAMETER_TYPES: usize = 256;
/// What is kept behind a Parse's text: a count and the first type OIDs.
const MAX_TYPES_BYTES: usize = 2 + 4 * MAX_PARAMETER_TYPES;

/// How much is kept of a message's fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    capture: Capture,
    /// Bytes of a text.
    text_bytes: usize,
    /// Whether a password message begins with the name of a mechanism.
    mechanism: bool,
}

impl Keep {
    /// What `capture` allows, and of a text no more than there is room for.
    pub(super) fn new(capture: Capture, room: usize, mechanism: bool) -> Self {
        Self {
            capture,
            text_bytes: capture.text_bytes.min(room),
            mechanism,
        }
    }

    /// How much is kept of what is neither name nor text.
    fn rest_bytes(&self, kind: u8) -> usize {
        match kind {
            b'Q' => 1,
            b'P' => MAX_TYPES_BYTES,
            b'F' | b'B' => {
                let values = self.capture.parameter_bytes.unwrap_or(0);
                MAX_FORMATS_BYTES.saturating_add(values)
            }
            b'D' | b'E' | b'C' => FRONTEND_SMALL as usize,
            _ => 0,
        }
    }
}

/// A text that has not been copied to where it stays.
#[derive(Debug)]
pub(super) enum TextSource<'a> {
    /// In one piece, and how much of it is kept.
    Whole(&'a [u8], usize),
    /// From its pieces.
    Collected(&'a mut TextCollector),
}

impl TextSource<'_> {
    /// Copies it.
    #[inline]
    pub(super) fn keep(self) -> Text {
        match self {
            Self::Whole(text, most) => keep_text(text, most),
            Self::Collected(collector) => collector.finish(),
        }
    }
}

/// A message's fields, as much of them as is kept.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    /// A Parse's statement, a Bind's portal, the mechanism a client chose; as the server looks it up.
    pub(super) first_name: &'a [u8],
    /// A Bind's statement.
    pub(super) second_name: &'a [u8],
    /// Of Query and Parse.
    pub(super) text: TextSource<'a>,
    /// Whether each name and text has its terminator; never of a password message that has none. What is behind one
    /// without is empty.
    pub(super) are_ended: bool,
    /// The beginning of what is behind them.
    pub(super) rest: &'a [u8],
    /// Bytes of all that is behind them.
    pub(super) rest_bytes: u64,
}

impl<'a> Fields<'a> {
    /// Reads a whole body.
    pub(super) fn of_body(kind: u8, body: &'a [u8], keep: Keep) -> Self {
        let mut fields = Self {
            first_name: &[],
            second_name: &[],
            text: TextSource::Whole(&[], 0),
            are_ended: true,
            rest: body,
            rest_bytes: 0,
        };
        match kind {
            b'Q' => fields.take_text(keep),
            b'P' => {
                fields.first_name = fields.take_name();
                fields.take_text(keep);
            }
            b'B' => {
                fields.first_name = fields.take_name();
                fields.second_name = fields.take_name();
            }
            b'p' => {
                fields.are_ended = keep.mechanism;
                if keep.mechanism {
                    fields.first_name = fields.take_name();
                }
                // Secrets follow the mechanism's name: they go nowhere.
                fields.rest = &[];
            }
            _ => {}
        }
        fields.rest_bytes = fields.rest.len() as u64;
        let most = keep.rest_bytes(kind);
        fields.rest = fields.rest.get(..most).unwrap_or(fields.rest);
        fields
    }

    fn take_name(&mut self) -> &'a [u8] {
        let name = self.take_string();
        name.get(..MAX_NAME_BYTES).unwrap_or(name)
    }

    fn take_text(&mut self, keep: Keep) {
        self.text = TextSource::Whole(self.take_string(), keep.text_bytes);
    }

    fn take_string(&mut self) -> &'a [u8] {
        let mut is_ended = false;
        let (string, rest) = until_nul(self.rest, &mut is_ended);
        self.are_ended &= is_ended;
        self.rest = rest;
        string
    }
}

/// Puts the fields of a message together that came in pieces. The collectors are used again for every message.
#[derive(Debug)]
pub(super) struct Pieces {
    kind: u8,
    keep: Keep,
    first_name: Name,
    second_name: Name,
    text: TextCollector,
    rest: Prefix,
}

impl Pieces {
    /// Holds nothing.
    pub(super) fn new(capture: Capture) -> Self {
        Self {
            kind: 0,
            keep: Keep::new(capture, 0, false),
            first_name: Name::default(),
            second_name: Name::default(),
            text: TextCollector::default(),
            rest: Prefix::default(),
        }
    }

    /// Begins a message.
    pub(super) fn begin(&mut self, header: Header, keep: Keep) {
        (self.kind, self.keep) = (header.kind, keep);
        match self.kind {
            b'Q' | b'P' => {
                self.first_name.begin(self.kind == b'P');
                self.text
                    .begin(keep.text_bytes, u64::from(header.body_bytes()));
            }
            b'B' => {
                self.first_name.begin(true);
                self.second_name.begin(true);
            }
            b'p' => self.first_name.begin(keep.mechanism),
            _ => {}
        }
        self.rest.clear();
    }

    /// Takes a piece that is not the last.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let most = self.keep.rest_bytes(self.kind);
        let rest = self.collect(bytes);
        self.rest.feed(rest, most);
    }

    /// Takes the last piece.
    pub(super) fn last<'a>(&'a mut self, bytes: &'a [u8]) -> Fields<'a> {
        let most = self.keep.rest_bytes(self.kind);
        let rest = self.collect(bytes);
        let (has_first, has_second, has_text) = match self.kind {
            b'Q' => (false, false, true),
            b'P' => (true, false, true),
            b'B' => (true, true, false),
            b'p' => (true, false, false),
            _ => (false, false, false),
        };
        let are_ended = (!has_first || self.first_name.is_ended())
            && (!has_second || self.second_name.is_ended())
            && (!has_text || self.text.is_ended());
        let text = if has_text {
            TextSource::Collected(&mut self.text)
        } else {
            TextSource::Whole(&[], 0)
        };
        let (rest, rest_bytes) = self.rest.last(rest, most);
        Fields {
            first_name: name_if(has_first, &self.first_name),
            second_name: name_if(has_second, &self.second_name),
            text,
            are_ended,
            rest,
            rest_bytes,
        }
    }

    /// Overwrites what is kept of a password message.
    pub(super) fn wipe(&mut self) {
        self.first_name.wipe();
    }

    /// Feeds the collectors in their order; gives back what is behind them.
    fn collect<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        match self.kind {
            b'Q' => self.text.feed(bytes),
            b'P' => match self.first_name.feed(bytes) {
                rest if self.first_name.is_ended() => self.text.feed(rest),
                rest => rest,
            },
            b'B' => match self.first_name.feed(bytes) {
                rest if self.first_name.is_ended() => self.second_name.feed(rest),
                rest => rest,
            },
            // Secrets follow the mechanism's name: they go nowhere.
            b'p' => {
                self.first_name.feed(bytes);
                &[]
            }
            _ => bytes,
        }
    }
}

fn name_if(is_there: bool, name: &Name) -> &[u8] {
    if is_there { name.as_bytes() } else { &[] }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTURE: Capture = Capture {
        text_bytes: 6,
        parameter_bytes: Some(4),
    };

    fn describe(fields: Fields<'_>) -> String {
        let text = fields.text.keep();
        let names = [fields.first_name, fields.second_name];
        let rest = (fields.rest, fields.rest_bytes);
        format!("{names:?} {text:?} {} {rest:?}", fields.are_ended)
    }

    /// A message that comes whole has the fields of one that comes in pieces, well-formed or not.
    #[test]
    fn a_body_has_the_same_fields_however_it_is_cut() {
        let long_name = [[b'n'; 70].as_slice(), b"\0s\0rest"].concat();
        let bodies: [&[u8]; 8] = [
            b"",
            b"\0",
            b"unended",
            b"text\0",
            b"a longer text\0\0",
            b"name\0a longer text\0\0\x01\0\0\0\x17",
            b"name\0unended",
            &long_name,
        ];
        for kind in *b"QPBpDECFXSHcf" {
            for body in bodies {
                for mechanism in [false, true] {
                    let keep = Keep::new(CAPTURE, usize::MAX, mechanism);
                    let whole = describe(Fields::of_body(kind, body, keep));
                    for size in 1..=body.len().max(1) {
                        let length = u32::try_from(body.len() + 4).unwrap();
                        let mut pieces = Pieces::new(CAPTURE);
                        pieces.begin(Header { kind, length }, keep);
                        let last = body.len().saturating_sub(1) / size * size;
                        body[..last]
                            .chunks(size)
                            .for_each(|piece| pieces.feed(piece));
                        let put_together = describe(pieces.last(&body[last..]));
                        assert_eq!(put_together, whole, "{} {body:?}", char::from(kind));
                    }
                }
            }
        }
    }
}
