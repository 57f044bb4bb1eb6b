//! The errors pgusher itself tells a client, as ErrorResponse messages.
//!
//! Only what is listed here can ever reach a client: a SQLSTATE and a text written for people.

use std::borrow::Cow;

/// Fields of ErrorResponse (protocol documentation, "Error and Notice Message Fields").
const SEVERITY: u8 = b'S';
const SEVERITY_UNLOCALISED: u8 = b'V';
const SQLSTATE: u8 = b'C';
const MESSAGE: u8 = b'M';
const DETAIL: u8 = b'D';
const HINT: u8 = b'H';

/// Far below the 30,000 bytes beyond which libpq does not take an error before authentication for one (fe-connect.c).
const MAX_MESSAGE_BYTES: usize = 8000;

/// SQLSTATEs pgusher answers with (src/backend/utils/errcodes.txt).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlState {
    /// 08P01 protocol_violation
    ProtocolViolation,
    /// 08006 connection_failure
    ConnectionFailure,
    /// 0A000 feature_not_supported
    FeatureNotSupported,
    /// 28000 invalid_authorization_specification
    InvalidAuthorization,
    /// 53000 insufficient_resources
    InsufficientResources,
    /// 53300 too_many_connections
    TooManyConnections,
    /// 57P01 admin_shutdown
    AdminShutdown,
    /// 57P03 cannot_connect_now: libpq goes on to its next host.
    CannotConnectNow,
}

impl SqlState {
    /// The five characters.
    pub const fn code(self) -> &'static str {
        match self {
            Self::ProtocolViolation => "08P01",
            Self::ConnectionFailure => "08006",
            Self::FeatureNotSupported => "0A000",
            Self::InvalidAuthorization => "28000",
            Self::InsufficientResources => "53000",
            Self::TooManyConnections => "53300",
            Self::AdminShutdown => "57P01",
            Self::CannotConnectNow => "57P03",
        }
    }
}

/// A fatal error of pgusher's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FatalError {
    sqlstate: SqlState,
    message: String,
    detail: Option<Cow<'static, str>>,
    hint: Option<Cow<'static, str>>,
}

impl FatalError {
    /// Makes an error; `message` must be safe for the client to read.
    pub fn new(sqlstate: SqlState, message: String) -> Self {
        Self {
            sqlstate,
            message,
            detail: None,
            hint: None,
        }
    }

    /// Adds what more there is to know; safe for the client to read, as the message.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Its SQLSTATE.
    pub fn sqlstate(&self) -> SqlState {
        self.sqlstate
    }

    /// The message on the wire: `E`, length, fields, terminator.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let mut field = |code: u8, text: &str| {
            body.push(code);
            body.extend(
                text.bytes()
                    .filter(|byte| *byte != 0)
                    .take(MAX_MESSAGE_BYTES),
            );
            body.push(0);
        };
        field(SEVERITY, "FATAL");
        field(SEVERITY_UNLOCALISED, "FATAL");
        field(SQLSTATE, self.sqlstate.code());
        field(MESSAGE, &self.message);
        if let Some(detail) = &self.detail {
            field(DETAIL, detail);
        }
        if let Some(hint) = &self.hint {
            field(HINT, hint);
        }
        body.push(0);
        let length = u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX);
        let mut message = vec![b'E'];
        message.extend(length.to_be_bytes());
        message.extend(body);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_has_every_field_a_client_looks_for() {
        let error = FatalError::new(SqlState::CannotConnectNow, "no\0way".to_owned())
            .with_detail("why")
            .with_hint("wait");
        let expected = b"E\0\0\0\x2cSFATAL\0VFATAL\0C57P03\0Mnoway\0Dwhy\0Hwait\0\0";
        assert_eq!(error.encode(), expected);
    }

    #[test]
    fn a_long_message_stays_below_what_libpq_takes() {
        let long = || "x".repeat(100_000);
        let error = FatalError::new(SqlState::ProtocolViolation, long())
            .with_detail(long())
            .with_hint(long());
        assert!(error.encode().len() < 30_000);
    }
}
