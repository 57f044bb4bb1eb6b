//! Standard output of the commands that answer and end.

use std::fmt;
use std::io::{self, Write as _};

/// Whoever was to read the output has closed it, such as `head`: there is nobody left to tell anything.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output")]
pub(crate) struct Unread;

/// Prints a line.
///
/// # Errors
/// [`Unread`], or the operating system's reason.
pub(crate) fn tell(line: impl fmt::Display) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Unread.into()),
        written => Ok(written?),
    }
}
