//! The client's opening as a state machine: encryption requests in every order, direct TLS, and the packet that names
//! the session. Bytes in, steps out; whoever drives it owns the sockets.
//!
//! Two roles. *Relaying*, requests go to the server and its one-byte answers come back; what PostgreSQL would call a
//! violation is left for the server to judge. *Terminating*, pgusher answers in the server's place, and judges as
//! ProcessStartupPacket does (src/backend/tcop/backend_startup.c): each request once, nothing sent along with one
//! (CVE-2021-23214), no second encryption inside the first.

use super::error_response::{FatalError, SqlState};
use super::opening::{self, Opening, OpeningError, Packet};

/// "No encryption": the one-byte answer to SSLRequest and GSSENCRequest.
pub const NOT_SUPPORTED: u8 = b'N';
/// "Go ahead with TLS"
pub const TLS_ACCEPTED: u8 = b'S';
/// "Go ahead with GSSAPI encryption"
pub const GSS_ACCEPTED: u8 = b'G';

/// How a session is encrypted, as its client asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// Never asked for.
    #[default]
    None,
    /// Asked for, and the answer was no.
    Refused,
    /// TLS after SSLRequest, with the server.
    Tls,
    /// TLS from the first byte, with the server.
    DirectTls,
    /// GSSAPI encryption, with the server.
    Gss,
    /// TLS after SSLRequest, with pgusher.
    TlsTerminated,
    /// TLS from the first byte, with pgusher.
    DirectTlsTerminated,
}

impl Encryption {
    /// Whether client and server encrypt between themselves, so that nobody else can read what they say.
    pub fn is_with_the_server(self) -> bool {
        matches!(self, Self::Tls | Self::DirectTls | Self::Gss)
    }
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Read more from the client.
    Read,
    /// Send the request, so many bytes at the start of the buffer, to the server, and tell [`Negotiation::answered`]
    /// the one byte that comes back.
    Forward {
        /// Length of the request.
        bytes: usize,
    },
    /// Drop the request and send the client one byte.
    Answer {
        /// Length of the request.
        bytes: usize,
        /// The byte.
        answer: u8,
    },
    /// Drop the request and send [`TLS_ACCEPTED`], then begin TLS. What is left in the buffer, nothing unless the
    /// client began with TLS directly, belongs to TLS. [`Negotiation::next`] then gets what TLS carries.
    StartTls {
        /// Length of the request; 0 for direct TLS, which has none and gets no answer either.
        bytes: usize,
    },
    /// The packet at the start of the buffer is the last of the opening.
    Opened(Packet),
    /// What follows cannot be read: pass everything on as it is.
    Opaque,
    /// Tell the client, and close.
    Refuse(Violation),
}

/// What only a broken client, or somebody between it and us, does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Bytes came along with SSLRequest.
    DataAfterSslRequest,
    /// Bytes came along with GSSENCRequest.
    DataAfterGssRequest,
    /// A request came a second time, or inside the encryption it asks for.
    Repeated {
        /// The request's code.
        code: u32,
    },
}

impl Violation {
    /// The error as PostgreSQL words it.
    pub fn error(self) -> FatalError {
        const INTERFERENCE: &str = "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.";
        let unencrypted = |request: &str| {
            let message = format!("received unencrypted data after {request}");
            FatalError::new(SqlState::ProtocolViolation, message).with_detail(INTERFERENCE)
        };
        match self {
            Self::DataAfterSslRequest => unencrypted("SSL request"),
            Self::DataAfterGssRequest => unencrypted("GSSAPI encryption request"),
            Self::Repeated { code } => FatalError::new(
                SqlState::FeatureNotSupported,
                format!(
                    "unsupported frontend protocol {}.{}: encryption can be asked for once of each kind, and before it begins",
                    code >> 16,
                    code & 0xffff
                ),
            ),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Relaying,
    Terminating,
}

/// A negotiation under way.
#[derive(Debug)]
pub struct Negotiation {
    role: Role,
    encryption: Encryption,
    ssl_done: bool,
    gss_done: bool,
    /// The request the server is being asked.
    asking: Option<Opening>,
    /// Whether any packet has been seen: only the very first byte can be that of direct TLS.
    begun: bool,
    last: Option<Opening>,
}

impl Negotiation {
    /// For a client whose server answers.
    pub fn relaying() -> Self {
        Self::new(Role::Relaying)
    }

    /// For a client we answer.
    pub fn terminating() -> Self {
        Self::new(Role::Terminating)
    }

    /// For a client we answer and whose TLS with us is established already.
    pub fn inside_tls(encryption: Encryption) -> Self {
        Self {
            encryption,
            ssl_done: true,
            gss_done: true,
            begun: true,
            ..Self::terminating()
        }
    }

    fn new(role: Role) -> Self {
        Self {
            role,
            encryption: Encryption::None,
            ssl_done: false,
            gss_done: false,
            asking: None,
            begun: false,
            last: None,
        }
    }

    /// The last packet seen.
    pub fn last(&self) -> Option<&Opening> {
        self.last.as_ref()
    }

    /// How the session is encrypted so far.
    pub fn encryption(&self) -> Encryption {
        self.encryption
    }

    /// Looks at everything read from the client and not dropped since.
    ///
    /// # Errors
    /// [`OpeningError`] when the bytes cannot become a packet.
    pub fn next(&mut self, buffer: &[u8]) -> Result<Step, OpeningError> {
        let Some(packet) = opening::parse(buffer)? else {
            return Ok(Step::Read);
        };
        let follows = buffer.len() > packet.bytes;
        self.last = Some(packet.opening.clone());
        let step = match (self.role, &packet.opening) {
            (Role::Relaying, Opening::SslRequest | Opening::GssRequest) => {
                self.relay_request(&packet, follows)
            }
            (Role::Relaying, Opening::DirectTls) => {
                self.encryption = Encryption::DirectTls;
                Step::Opaque
            }
            (Role::Terminating, Opening::SslRequest) => self.answer_ssl(&packet, follows),
            (Role::Terminating, Opening::GssRequest) => self.answer_gss(&packet, follows),
            // Behind anything else the server takes this byte for a length word, and no such length is possible.
            (Role::Terminating, Opening::DirectTls) if self.begun => {
                return Err(OpeningError::Length);
            }
            (Role::Terminating, Opening::DirectTls) => {
                self.encryption = Encryption::DirectTlsTerminated;
                Step::StartTls { bytes: 0 }
            }
            (_, Opening::Cancel { .. } | Opening::Startup(_) | Opening::Other { .. }) => {
                Step::Opened(packet)
            }
        };
        self.begun = true;
        Ok(step)
    }

    /// A second request of a kind, and anything sent along with one, is the server's to answer.
    fn relay_request(&mut self, packet: &Packet, follows: bool) -> Step {
        let done = match packet.opening {
            Opening::SslRequest => &mut self.ssl_done,
            _ => &mut self.gss_done,
        };
        if std::mem::replace(done, true) || follows {
            return Step::Opaque;
        }
        self.asking = Some(packet.opening.clone());
        Step::Forward {
            bytes: packet.bytes,
        }
    }

    /// Takes the server's answer to a forwarded request; none if it closed instead. Returns whether what follows can
    /// still be read.
    pub fn answered(&mut self, answer: Option<u8>) -> bool {
        let asked = self.asking.take();
        self.encryption = match answer {
            Some(NOT_SUPPORTED) => Encryption::Refused,
            Some(TLS_ACCEPTED) => Encryption::Tls,
            Some(GSS_ACCEPTED) => Encryption::Gss,
            // An error without a length word (report_fork_failure_to_client); the rest follows it.
            _ => self.encryption,
        };
        asked.is_some() && answer == Some(NOT_SUPPORTED)
    }

    fn answer_ssl(&mut self, packet: &Packet, follows: bool) -> Step {
        if std::mem::replace(&mut self.ssl_done, true) {
            return repeated(packet);
        }
        if follows {
            return Step::Refuse(Violation::DataAfterSslRequest);
        }
        if self.encryption == Encryption::DirectTlsTerminated {
            // As PostgreSQL 17: the connection is encrypted already, so there is no other encryption to be had.
            return no(packet);
        }
        self.encryption = Encryption::TlsTerminated;
        // Either encryption excludes the other.
        self.gss_done = true;
        Step::StartTls {
            bytes: packet.bytes,
        }
    }

    fn answer_gss(&mut self, packet: &Packet, follows: bool) -> Step {
        if std::mem::replace(&mut self.gss_done, true) {
            return repeated(packet);
        }
        if follows {
            return Step::Refuse(Violation::DataAfterGssRequest);
        }
        if self.encryption == Encryption::None {
            self.encryption = Encryption::Refused;
        }
        no(packet)
    }
}

fn no(packet: &Packet) -> Step {
    Step::Answer {
        bytes: packet.bytes,
        answer: NOT_SUPPORTED,
    }
}

fn repeated(packet: &Packet) -> Step {
    let code = match packet.opening {
        Opening::SslRequest => opening::SSL_REQUEST,
        _ => opening::GSS_REQUEST,
    };
    Step::Refuse(Violation::Repeated { code })
}

#[cfg(test)]
mod tests;
