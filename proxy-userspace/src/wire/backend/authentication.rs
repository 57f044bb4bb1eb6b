//! The steps of authentication: `AUTH_REQ_…` in src/include/libpq/protocol.h.

use crate::wire::build::{self, Unwritable};
use crate::wire::cursor::{Cursor, Malformed};

/// A step of authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// It is over.
    Ok,
    /// The password as it is.
    Cleartext,
    /// The password hashed with this salt.
    Md5([u8; 4]),
    /// GSSAPI begins.
    Gss,
    /// GSSAPI or SSPI goes on.
    GssContinue(&'a [u8]),
    /// SSPI begins.
    Sspi,
    /// SASL begins, with these mechanisms in the server's order.
    Sasl(Vec<&'a [u8]>),
    /// SASL goes on.
    SaslContinue(&'a [u8]),
    /// SASL's last words.
    SaslFinal(&'a [u8]),
    /// A code that no living server sends, and what follows it.
    Other(u32, &'a [u8]),
}

impl<'a> Authentication<'a> {
    pub(super) fn parse(cursor: &mut Cursor<'a>) -> Result<Self, Malformed> {
        Ok(match cursor.u32()? {
            0 => Self::Ok,
            3 => Self::Cleartext,
            5 => Self::Md5(cursor.u32()?.to_be_bytes()),
            7 => Self::Gss,
            8 => Self::GssContinue(cursor.take_rest()),
            9 => Self::Sspi,
            10 => Self::Sasl(mechanisms(cursor)?),
            11 => Self::SaslContinue(cursor.take_rest()),
            12 => Self::SaslFinal(cursor.take_rest()),
            code => Self::Other(code, cursor.take_rest()),
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        out.extend(self.code()?.to_be_bytes());
        match self {
            Self::Md5(salt) => out.extend(salt),
            Self::GssContinue(rest)
            | Self::SaslContinue(rest)
            | Self::SaslFinal(rest)
            | Self::Other(_, rest) => out.extend_from_slice(rest),
            Self::Sasl(mechanisms) => {
                for mechanism in mechanisms {
                    // The list ends with an empty one.
                    if mechanism.is_empty() {
                        return Err(Unwritable::Value);
                    }
                    build::c_string(out, mechanism)?;
                }
                out.push(0);
            }
            Self::Ok | Self::Cleartext | Self::Gss | Self::Sspi => {}
        }
        Ok(())
    }

    fn code(&self) -> Result<u32, Unwritable> {
        Ok(match self {
            Self::Ok => 0,
            Self::Cleartext => 3,
            Self::Md5(_) => 5,
            Self::Gss => 7,
            Self::GssContinue(_) => 8,
            Self::Sspi => 9,
            Self::Sasl(_) => 10,
            Self::SaslContinue(_) => 11,
            Self::SaslFinal(_) => 12,
            Self::Other(0 | 3 | 5 | 7..=12, _) => return Err(Unwritable::Value),
            Self::Other(code, _) => *code,
        })
    }
}

fn mechanisms<'a>(cursor: &mut Cursor<'a>) -> Result<Vec<&'a [u8]>, Malformed> {
    let mut mechanisms = Vec::new();
    loop {
        match cursor.c_string()? {
            b"" => return Ok(mechanisms),
            mechanism => mechanisms.push(mechanism),
        }
    }
}
