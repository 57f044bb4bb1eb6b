//! The server's messages, with their fields.
//!
//! Formats: protocol documentation, "Message Formats" and "Error and Notice Message Fields", of protocol 3.0 and 3.2.
//! The one-byte answers to SSLRequest and GSSENCRequest are no messages ([`super::opening`]).

mod authentication;
mod rows;

use super::build::{self, Unwritable};
use super::cursor::{Cursor, Malformed};

pub use authentication::Authentication;
pub use rows::{Column, CopyFormat};

/// A message of the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend<'a> {
    /// A step of authentication.
    Authentication(Authentication<'a>),
    /// What cancels this session's queries: 4 bytes of key in protocol 3.0, up to 256 in 3.2.
    BackendKeyData {
        /// The server process.
        pid: u32,
        /// The key.
        key: &'a [u8],
    },
    /// Answers Bind.
    BindComplete,
    /// Answers Close.
    CloseComplete,
    /// A statement is done, with its tag.
    CommandComplete(&'a [u8]),
    /// COPY both ways begins.
    CopyBoth(CopyFormat),
    /// A piece of COPY data.
    CopyData(&'a [u8]),
    /// The end of COPY data.
    CopyDone,
    /// COPY from the client begins.
    CopyIn(CopyFormat),
    /// COPY to the client begins.
    CopyOut(CopyFormat),
    /// A row.
    DataRow(Vec<Option<&'a [u8]>>),
    /// An empty text was run.
    EmptyQuery,
    /// An error, as field codes and texts in the order sent.
    Error(Vec<(u8, &'a [u8])>),
    /// A function's result.
    FunctionCallResponse(Option<&'a [u8]>),
    /// The server speaks another minor version, or does not know options.
    NegotiateProtocolVersion {
        /// The version it will speak; some servers send the minor version alone.
        version: u32,
        /// The options it does not know.
        unknown: Vec<&'a [u8]>,
    },
    /// A statement or portal gives no rows.
    NoData,
    /// A notice, as field codes and texts in the order sent.
    Notice(Vec<(u8, &'a [u8])>),
    /// What a channel that was listened to has been told.
    Notification {
        /// Who told.
        pid: u32,
        /// The channel.
        channel: &'a [u8],
        /// The text.
        payload: &'a [u8],
    },
    /// The types of a statement's parameters.
    ParameterDescription(Vec<u32>),
    /// A setting's value.
    ParameterStatus {
        /// Its name.
        name: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// Answers Parse.
    ParseComplete,
    /// A portal has more rows than were asked for.
    PortalSuspended,
    /// The server waits for the client, in this state: `I`, `T` or `E`.
    ReadyForQuery(u8),
    /// The columns of the rows to come.
    RowDescription(Vec<Column<'a>>),
}

impl<'a> Backend<'a> {
    /// Reads a message's body.
    ///
    /// # Errors
    /// When it is not of its type's format, or no message has the type.
    pub fn parse(kind: u8, body: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(body);
        let message = match kind {
            b'1' => Self::ParseComplete,
            b'2' => Self::BindComplete,
            b'3' => Self::CloseComplete,
            b'A' => Self::Notification {
                pid: cursor.u32()?,
                channel: cursor.c_string()?,
                payload: cursor.c_string()?,
            },
            b'C' => Self::CommandComplete(cursor.c_string()?),
            b'D' => Self::DataRow(cursor.values()?),
            b'E' => Self::Error(fields(&mut cursor)?),
            b'G' => Self::CopyIn(CopyFormat::parse(&mut cursor)?),
            b'H' => Self::CopyOut(CopyFormat::parse(&mut cursor)?),
            b'I' => Self::EmptyQuery,
            b'K' => Self::BackendKeyData {
                pid: cursor.u32()?,
                key: cursor.take_rest(),
            },
            b'N' => Self::Notice(fields(&mut cursor)?),
            b'R' => Self::Authentication(Authentication::parse(&mut cursor)?),
            b'S' => Self::ParameterStatus {
                name: cursor.c_string()?,
                value: cursor.c_string()?,
            },
            b'T' => Self::RowDescription(cursor.list(Column::parse)?),
            b'V' => Self::FunctionCallResponse(cursor.value()?),
            b'W' => Self::CopyBoth(CopyFormat::parse(&mut cursor)?),
            b'Z' => match cursor.byte()? {
                status @ (b'I' | b'T' | b'E') => Self::ReadyForQuery(status),
                _ => return Err(Malformed::Value),
            },
            b'c' => Self::CopyDone,
            b'd' => Self::CopyData(cursor.take_rest()),
            b'n' => Self::NoData,
            b's' => Self::PortalSuspended,
            b't' => Self::ParameterDescription(cursor.oids()?),
            b'v' => negotiation(&mut cursor)?,
            _ => return Err(Malformed::Type),
        };
        cursor.end()?;
        Ok(message)
    }

    /// Appends the message.
    ///
    /// # Errors
    /// When a field cannot be written; `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        build::message(out, self.kind(), |out| self.write(out))
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        match self {
            Self::Authentication(step) => return step.write(out),
            Self::BackendKeyData { pid, key } => {
                out.extend(pid.to_be_bytes());
                out.extend_from_slice(key);
            }
            Self::CommandComplete(tag) => build::c_string(out, tag)?,
            Self::CopyBoth(format) | Self::CopyIn(format) | Self::CopyOut(format) => {
                format.write(out)?;
            }
            Self::CopyData(bytes) => out.extend_from_slice(bytes),
            Self::DataRow(values) => build::values(out, values)?,
            Self::Error(fields) | Self::Notice(fields) => write_fields(out, fields)?,
            Self::FunctionCallResponse(value) => build::value(out, *value)?,
            Self::NegotiateProtocolVersion { version, unknown } => {
                out.extend(version.to_be_bytes());
                let count = u32::try_from(unknown.len()).map_err(|_| Unwritable::Count)?;
                out.extend(count.to_be_bytes());
                for name in unknown {
                    build::c_string(out, name)?;
                }
            }
            Self::Notification {
                pid,
                channel,
                payload,
            } => {
                out.extend(pid.to_be_bytes());
                build::c_string(out, channel)?;
                build::c_string(out, payload)?;
            }
            Self::ParameterDescription(types) => {
                build::count(out, types.len())?;
                out.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
            }
            Self::ParameterStatus { name, value } => {
                build::c_string(out, name)?;
                build::c_string(out, value)?;
            }
            Self::ReadyForQuery(status @ (b'I' | b'T' | b'E')) => out.push(*status),
            Self::ReadyForQuery(_) => return Err(Unwritable::Value),
            Self::RowDescription(columns) => {
                build::count(out, columns.len())?;
                for column in columns {
                    column.write(out)?;
                }
            }
            Self::BindComplete
            | Self::CloseComplete
            | Self::CopyDone
            | Self::EmptyQuery
            | Self::NoData
            | Self::ParseComplete
            | Self::PortalSuspended => {}
        }
        Ok(())
    }

    /// The type byte.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Authentication(_) => b'R',
            Self::BackendKeyData { .. } => b'K',
            Self::BindComplete => b'2',
            Self::CloseComplete => b'3',
            Self::CommandComplete(_) => b'C',
            Self::CopyBoth(_) => b'W',
            Self::CopyData(_) => b'd',
            Self::CopyDone => b'c',
            Self::CopyIn(_) => b'G',
            Self::CopyOut(_) => b'H',
            Self::DataRow(_) => b'D',
            Self::EmptyQuery => b'I',
            Self::Error(_) => b'E',
            Self::FunctionCallResponse(_) => b'V',
            Self::NegotiateProtocolVersion { .. } => b'v',
            Self::NoData => b'n',
            Self::Notice(_) => b'N',
            Self::Notification { .. } => b'A',
            Self::ParameterDescription(_) => b't',
            Self::ParameterStatus { .. } => b'S',
            Self::ParseComplete => b'1',
            Self::PortalSuspended => b's',
            Self::ReadyForQuery(_) => b'Z',
            Self::RowDescription(_) => b'T',
        }
    }
}

/// Field codes and texts up to the terminator.
fn fields<'a>(cursor: &mut Cursor<'a>) -> Result<Vec<(u8, &'a [u8])>, Malformed> {
    let mut fields = Vec::new();
    loop {
        match cursor.byte()? {
            0 => return Ok(fields),
            code => fields.push((code, cursor.c_string()?)),
        }
    }
}

fn write_fields(out: &mut Vec<u8>, fields: &[(u8, &[u8])]) -> Result<(), Unwritable> {
    for (code, text) in fields {
        if *code == 0 {
            return Err(Unwritable::Value);
        }
        out.push(*code);
        build::c_string(out, text)?;
    }
    out.push(0);
    Ok(())
}

fn negotiation<'a>(cursor: &mut Cursor<'a>) -> Result<Backend<'a>, Malformed> {
    let version = cursor.u32()?;
    let count = u32::try_from(cursor.i32()?).map_err(|_| Malformed::Value)?;
    // An element is at least its terminator, so a count that lies ends with the body.
    let unknown = (0..count)
        .map(|_| cursor.c_string())
        .collect::<Result<_, _>>()?;
    Ok(Backend::NegotiateProtocolVersion { version, unknown })
}

#[cfg(test)]
mod tests;
