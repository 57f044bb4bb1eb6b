//! The client's messages behind its startup packet, with their fields. (The packets before it: [`super::opening`].)
//!
//! Parsing is as strict as the server: what it would refuse with 08P01 is an error here. Building gives back what
//! parsing takes. Bodies of password messages are not taken apart: they are secrets.
//!
//! Formats: protocol documentation, "Message Formats"; exec_bind_message and others in src/backend/tcop/postgres.c.

use super::build::{self, Unwritable};
use super::cursor::{Cursor, Malformed};

/// A message of the client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frontend<'a> {
    /// Makes a portal.
    Bind(Bind<'a>),
    /// Drops a statement or portal.
    Close(Named<'a>),
    /// A piece of COPY data.
    CopyData(&'a [u8]),
    /// The end of COPY data.
    CopyDone,
    /// COPY data cannot go on, with the reason.
    CopyFail(&'a [u8]),
    /// Asks what a statement or portal takes and gives.
    Describe(Named<'a>),
    /// Runs a portal.
    Execute {
        /// Its name.
        portal: &'a [u8],
        /// The most rows; 0 and below is all.
        max_rows: i32,
    },
    /// Asks for what has been answered so far.
    Flush,
    /// Calls a function by its OID.
    FunctionCall(FunctionCall<'a>),
    /// Makes a statement.
    Parse(Parse<'a>),
    /// An answer to authentication: PasswordMessage, SASLInitialResponse, SASLResponse or GSSResponse.
    Password(&'a [u8]),
    /// Runs a text.
    Query(&'a [u8]),
    /// Ends a batch.
    Sync,
    /// Ends the session.
    Terminate,
}

/// Bind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal it makes.
    pub portal: &'a [u8],
    /// The statement it is made of.
    pub statement: &'a [u8],
    /// None for all text, one for all values, or one for each.
    pub formats: Vec<i16>,
    /// The values.
    pub values: Vec<Option<&'a [u8]>>,
    /// The same for the columns of the result.
    pub result_formats: Vec<i16>,
}

/// Parse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement it makes.
    pub statement: &'a [u8],
    /// Its text.
    pub text: &'a [u8],
    /// Types of the first parameters; 0 is unspecified.
    pub types: Vec<u32>,
}

/// FunctionCall.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionCall<'a> {
    /// The function's OID.
    pub function: u32,
    /// None for all text, one for all arguments, or one for each.
    pub formats: Vec<i16>,
    /// The arguments.
    pub arguments: Vec<Option<&'a [u8]>>,
    /// The format of the result.
    pub result_format: i16,
}

/// What Describe and Close name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// A statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

impl<'a> Frontend<'a> {
    /// Reads a message's body.
    ///
    /// # Errors
    /// When the server would refuse it, or does not know the type.
    pub fn parse(kind: u8, body: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(body);
        let message = match kind {
            b'B' => Self::Bind(Bind::read(&mut cursor)?),
            b'C' => Self::Close(Named::read(&mut cursor)?),
            b'D' => Self::Describe(Named::read(&mut cursor)?),
            b'E' => Self::Execute {
                portal: cursor.c_string()?,
                max_rows: cursor.i32()?,
            },
            b'F' => Self::FunctionCall(FunctionCall::read(&mut cursor)?),
            b'H' => Self::Flush,
            b'P' => Self::Parse(Parse::read(&mut cursor)?),
            b'Q' => Self::Query(cursor.c_string()?),
            b'S' => Self::Sync,
            // The server does not look whether these end where their bodies do.
            b'X' => return Ok(Self::Terminate),
            b'c' => return Ok(Self::CopyDone),
            b'd' => return Ok(Self::CopyData(body)),
            b'p' => return Ok(Self::Password(body)),
            b'f' => return cursor.c_string().map(Self::CopyFail),
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
        build::message(out, self.kind(), |out| match self {
            Self::Bind(bind) => bind.write(out),
            Self::Close(named) | Self::Describe(named) => named.write(out),
            Self::CopyData(bytes) | Self::Password(bytes) => {
                out.extend_from_slice(bytes);
                Ok(())
            }
            Self::CopyFail(text) | Self::Query(text) => build::c_string(out, text),
            Self::Execute { portal, max_rows } => {
                build::c_string(out, portal)?;
                out.extend(max_rows.to_be_bytes());
                Ok(())
            }
            Self::FunctionCall(call) => call.write(out),
            Self::Parse(parse) => parse.write(out),
            Self::CopyDone | Self::Flush | Self::Sync | Self::Terminate => Ok(()),
        })
    }

    /// The type byte.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Bind(_) => b'B',
            Self::Close(_) => b'C',
            Self::CopyData(_) => b'd',
            Self::CopyDone => b'c',
            Self::CopyFail(_) => b'f',
            Self::Describe(_) => b'D',
            Self::Execute { .. } => b'E',
            Self::Flush => b'H',
            Self::FunctionCall(_) => b'F',
            Self::Parse(_) => b'P',
            Self::Password(_) => b'p',
            Self::Query(_) => b'Q',
            Self::Sync => b'S',
            Self::Terminate => b'X',
        }
    }
}

impl<'a> Bind<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Malformed> {
        let bind = Self {
            portal: cursor.c_string()?,
            statement: cursor.c_string()?,
            formats: cursor.formats()?,
            values: cursor.values()?,
            result_formats: cursor.formats()?,
        };
        check_formats(&bind.formats, &bind.values)?;
        Ok(bind)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        check_formats(&self.formats, &self.values).map_err(|_| Unwritable::Value)?;
        build::c_string(out, self.portal)?;
        build::c_string(out, self.statement)?;
        build::formats(out, &self.formats)?;
        build::values(out, &self.values)?;
        build::formats(out, &self.result_formats)
    }
}

impl<'a> Parse<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Malformed> {
        Ok(Self {
            statement: cursor.c_string()?,
            text: cursor.c_string()?,
            types: cursor.oids()?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        build::c_string(out, self.statement)?;
        build::c_string(out, self.text)?;
        build::count(out, self.types.len())?;
        out.extend(self.types.iter().flat_map(|oid| oid.to_be_bytes()));
        Ok(())
    }
}

impl<'a> FunctionCall<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Malformed> {
        let call = Self {
            function: cursor.u32()?,
            formats: cursor.formats()?,
            arguments: cursor.values()?,
            result_format: cursor.i16()?,
        };
        check_formats(&call.formats, &call.arguments)?;
        Ok(call)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        check_formats(&self.formats, &self.arguments).map_err(|_| Unwritable::Value)?;
        out.extend(self.function.to_be_bytes());
        build::formats(out, &self.formats)?;
        build::values(out, &self.arguments)?;
        out.extend(self.result_format.to_be_bytes());
        Ok(())
    }
}

impl<'a> Named<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Malformed> {
        match cursor.byte()? {
            b'S' => cursor.c_string().map(Self::Statement),
            b'P' => cursor.c_string().map(Self::Portal),
            _ => Err(Malformed::Value),
        }
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        let (kind, name) = match self {
            Self::Statement(name) => (b'S', name),
            Self::Portal(name) => (b'P', name),
        };
        out.push(kind);
        build::c_string(out, name)
    }
}

/// "bind message has %d parameter formats but %d parameters"
fn check_formats(formats: &[i16], values: &[Option<&[u8]>]) -> Result<(), Malformed> {
    if formats.len() > 1 && formats.len() != values.len() {
        return Err(Malformed::Value);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
