//! How a server asks a client to authenticate itself.

/// `AUTH_REQ_OK` (src/include/libpq/protocol.h)
pub(super) const OK: u32 = 0;
/// `AUTH_REQ_SASL`
pub(super) const SASL: u32 = 10;

/// A method of authentication, as far as the wire shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Nothing was asked for: `trust`, `peer`, `ident`, a client certificate.
    None,
    /// The password as it is: `password`, and `ldap`, `pam`, `radius`, `bsd`, which look the same.
    Password,
    /// `md5`
    Md5,
    /// GSSAPI
    Gss,
    /// SSPI
    Sspi,
    /// SASL, and the client has not chosen a mechanism.
    Sasl,
    /// `SCRAM-SHA-256`
    ScramSha256,
    /// `SCRAM-SHA-256-PLUS`: bound to the TLS connection.
    ScramSha256Plus,
    /// `OAUTHBEARER`
    OauthBearer,
    /// Something else.
    Other,
}

impl Method {
    /// What records call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Password => "password",
            Self::Md5 => "md5",
            Self::Gss => "gss",
            Self::Sspi => "sspi",
            Self::Sasl => "sasl",
            Self::ScramSha256 => "scram_sha_256",
            Self::ScramSha256Plus => "scram_sha_256_plus",
            Self::OauthBearer => "oauthbearer",
            Self::Other => "other",
        }
    }

    /// The method an Authentication message asks for; `None` for one that continues what was asked before.
    pub(super) fn of_request(code: u32) -> Option<Self> {
        match code {
            OK => Some(Self::None),
            3 => Some(Self::Password),
            5 => Some(Self::Md5),
            7 => Some(Self::Gss),
            9 => Some(Self::Sspi),
            SASL => Some(Self::Sasl),
            // GSSContinue, SASLContinue, SASLFinal
            8 | 11 | 12 => None,
            _ => Some(Self::Other),
        }
    }

    /// The method a SASL mechanism's name stands for.
    pub(super) fn of_mechanism(name: &[u8]) -> Self {
        match name {
            b"SCRAM-SHA-256" => Self::ScramSha256,
            b"SCRAM-SHA-256-PLUS" => Self::ScramSha256Plus,
            b"OAUTHBEARER" => Self::OauthBearer,
            _ => Self::Other,
        }
    }
}
