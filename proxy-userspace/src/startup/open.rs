//! The opening of a client we answer ourselves: TLS with it where it asks for TLS, up to the packet that names what it
//! wants.

use bytes::Buf as _;
use tokio::time::Instant;

use super::{ClientLeg, ClientTlsState, Encryption, StartupError, within};
use crate::audit::record::tls;
use crate::leg::{HandshakeError, Leg};
use crate::tls::{Admitted, admit};
use crate::wire::negotiation::{Step, TLS_ACCEPTED, Violation};
use crate::wire::opening::{MAX_PACKET_BYTES, Packet};

/// A client that has said what it wants.
pub struct Opened {
    /// The client; the packet is at the start of its buffer.
    pub client: ClientLeg,
    /// The packet.
    pub packet: Packet,
}

/// A client that has not.
pub enum Turned {
    /// Its opening failed; it may still be told.
    Startup(ClientLeg, StartupError),
    /// It broke the rules, and has not been told.
    Violation(ClientLeg, Violation),
    /// TLS with it, begun in this way, failed; an alert has told it.
    Handshake(HandshakeError, Encryption),
    /// TLS with it, begun in this way, took too long.
    HandshakeTimedOut(Encryption),
    /// It began with TLS and did not say that PostgreSQL is spoken inside, as PostgreSQL demands of it
    /// (`ProcessSSLStartup` in src/backend/tcop/backend_startup.c). It has been closed.
    NoProtocol,
}

impl Turned {
    /// How the client is encrypted with us, or was about to be.
    pub fn encryption(&self) -> Encryption {
        match self {
            Self::Startup(client, _) | Self::Violation(client, _) => client.encryption(),
            Self::Handshake(_, encryption) | Self::HandshakeTimedOut(encryption) => *encryption,
            Self::NoProtocol => Encryption::DirectTlsTerminated,
        }
    }
}

/// Answers a client until it has said what it wants.
///
/// # Errors
/// [`Turned`]
///
/// # Cancel safety
/// Not cancel safe; the connection is of no further use.
pub async fn open(mut client: ClientLeg, deadline: Instant) -> Result<Opened, Turned> {
    loop {
        let step = match client.negotiation.next(&client.buffer) {
            Ok(step) => step,
            Err(error) => return Err(Turned::Startup(client, error.into())),
        };
        let done = match step {
            Step::Read => client.read(deadline).await,
            Step::Answer { bytes, answer } => {
                client.buffer.advance(bytes);
                write(&mut client, answer, deadline).await
            }
            Step::StartTls { bytes: 0 } => {
                client = begin_tls(client, deadline).await?;
                Ok(())
            }
            Step::StartTls { bytes } => {
                client.buffer.advance(bytes);
                match write(&mut client, TLS_ACCEPTED, deadline).await {
                    Ok(()) => {
                        client = begin_tls(client, deadline).await?;
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            Step::Opened(packet) => return Ok(Opened { client, packet }),
            Step::Refuse(violation) => return Err(Turned::Violation(client, violation)),
            // Steps of a negotiation in which the server answers.
            Step::Forward { .. } | Step::Opaque => Err(StartupError::Closed),
        };
        if let Err(error) = done {
            return Err(Turned::Startup(client, error));
        }
    }
}

async fn write(client: &mut ClientLeg, answer: u8, deadline: Instant) -> Result<(), StartupError> {
    within(deadline, client.leg.write_all(&[answer]))
        .await?
        .map_err(StartupError::Client)
}

async fn begin_tls(client: ClientLeg, deadline: Instant) -> Result<ClientLeg, Turned> {
    let ClientLeg {
        leg,
        mut buffer,
        certificates,
        address,
        negotiation,
        ..
    } = client;
    let handshake = admit(leg.into_stream(), buffer.split(), &certificates, address);
    let admitted = match within(deadline, handshake).await {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(error)) => return Err(Turned::Handshake(error, negotiation.encryption())),
        Err(_) => return Err(Turned::HandshakeTimedOut(negotiation.encryption())),
    };
    let Admitted {
        leg,
        server_name,
        agreed_protocol,
        shown,
        certificate,
    } = admitted;
    if negotiation.encryption() == Encryption::DirectTlsTerminated && !agreed_protocol {
        Leg::finish(leg, MAX_PACKET_BYTES).await;
        return Err(Turned::NoProtocol);
    }
    let facts = tls::ClientLeg {
        version: leg.tls_version(),
        alpn: agreed_protocol.then_some("postgresql"),
        sni: server_name,
        certificate,
    };
    Ok(ClientLeg {
        leg,
        buffer,
        certificates,
        address,
        tls: Some(ClientTlsState { shown, facts }),
        negotiation,
    })
}
