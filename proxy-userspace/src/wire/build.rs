//! Writes messages: the counterpart of [`super::cursor`].

use super::frame::FRONTEND_LARGE;

/// Why something cannot be written as a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// A string with a NUL in it would end there.
    #[error("a string holds a NUL")]
    Nul,
    /// More elements than a count can say.
    #[error("too many elements in a list")]
    Count,
    /// Longer than a message may be.
    #[error("the message is too long")]
    Length,
    /// The reserved value of a field whose other values mean something else.
    #[error("a field has a value that it cannot have")]
    Value,
}

/// Appends one message: type, length, and what `body` writes.
///
/// # Errors
/// What `body` says, or a length out of range; `out` is then as it was.
pub fn message(
    out: &mut Vec<u8>,
    kind: u8,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), Unwritable>,
) -> Result<(), Unwritable> {
    let before = out.len();
    out.extend([kind, 0, 0, 0, 0]);
    let written = body(out).and_then(|()| {
        let length = u32::try_from(out.len() - before - 1).map_err(|_| Unwritable::Length)?;
        let place = out.get_mut(before + 1..before + 5);
        match place {
            Some(place) if length <= FRONTEND_LARGE => place.copy_from_slice(&length.to_be_bytes()),
            _ => return Err(Unwritable::Length),
        }
        Ok(())
    });
    if written.is_err() {
        out.truncate(before);
    }
    written
}

/// Appends a string and its terminator.
///
/// # Errors
/// When it holds a NUL.
pub fn c_string(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Unwritable> {
    if text.contains(&0) {
        return Err(Unwritable::Nul);
    }
    out.extend_from_slice(text);
    out.push(0);
    Ok(())
}

/// Appends the two bytes that count a list.
///
/// # Errors
/// When it has more than 65,535 elements.
pub fn count(out: &mut Vec<u8>, count: usize) -> Result<(), Unwritable> {
    let count = u16::try_from(count).map_err(|_| Unwritable::Count)?;
    out.extend(count.to_be_bytes());
    Ok(())
}

/// Appends a count and format codes.
///
/// # Errors
/// When there are more than 65,535.
pub fn formats(out: &mut Vec<u8>, formats: &[i16]) -> Result<(), Unwritable> {
    count(out, formats.len())?;
    out.extend(formats.iter().flat_map(|format| format.to_be_bytes()));
    Ok(())
}

/// Appends a value with its length before it.
///
/// # Errors
/// When it is longer than a length word can say.
pub fn value(out: &mut Vec<u8>, value: Option<&[u8]>) -> Result<(), Unwritable> {
    let Some(value) = value else {
        out.extend((-1_i32).to_be_bytes());
        return Ok(());
    };
    let length = i32::try_from(value.len()).map_err(|_| Unwritable::Length)?;
    out.extend(length.to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

/// Appends a count and values.
///
/// # Errors
/// When there are more than 65,535, or one is too long.
pub fn values(out: &mut Vec<u8>, values: &[Option<&[u8]>]) -> Result<(), Unwritable> {
    count(out, values.len())?;
    values.iter().try_for_each(|one| value(out, *one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_cannot_be_written_leaves_nothing_behind() {
        let mut out = b"before".to_vec();
        assert_eq!(
            message(&mut out, b'Q', |out| c_string(out, b"a\0b")),
            Err(Unwritable::Nul)
        );
        assert_eq!(
            message(&mut out, b'B', |out| count(out, 65_536)),
            Err(Unwritable::Count)
        );
        assert_eq!(out, b"before");
        assert_eq!(message(&mut out, b'Q', |out| c_string(out, b"a")), Ok(()));
        assert_eq!(out, b"beforeQ\0\0\0\x06a\0");
    }
}
