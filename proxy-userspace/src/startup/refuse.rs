//! What a client is told that cannot have a session, and how it is closed.

use tokio::time::Instant;

use super::{ClientLeg, Encryption, Opened, StartupError, Turned, open, within};
use crate::leg::Leg;
use crate::wire::error_response::{FatalError, SqlState};
use crate::wire::opening::{MAX_PACKET_BYTES, Opening, OpeningError};

/// Tells a client why it cannot have a session, and closes.
///
/// The reason is the answer to its startup packet, inside TLS if it asked for TLS: an error in place of the answer to
/// its request would hide the reason, and a no would end the matter for a client that insists.
///
/// A client that does not take the answer is closed all the same. Returns the packet that named what it wanted, if one
/// came, and how the client was or was to be encrypted, for the record.
///
/// # Cancel safety
/// Not cancel safe; the connection is of no further use anyway.
pub async fn refuse(
    client: ClientLeg,
    error: &FatalError,
    deadline: Instant,
) -> (Option<Opening>, Encryption) {
    let turned = match open(client, deadline).await {
        Ok(Opened { client, packet }) => {
            let encryption = client.encryption();
            match packet.opening {
                // It expects no answer.
                Opening::Cancel { .. } => client.leg.finish(MAX_PACKET_BYTES).await,
                _ => tell(client.leg, error, deadline).await,
            }
            return (Some(packet.opening), encryption);
        }
        Err(turned) => turned,
    };
    let encryption = turned.encryption();
    match turned {
        Turned::Violation(client, violation) => {
            tell(client.leg, &violation.error(), deadline).await;
        }
        Turned::Startup(client, StartupError::Malformed(error)) => {
            refuse_malformed(client, error, deadline).await;
        }
        _ => {}
    }
    (None, encryption)
}

/// Tells a client that sent something else than an opening packet; as PostgreSQL, only where it can read it.
pub async fn refuse_malformed(client: ClientLeg, error: OpeningError, deadline: Instant) {
    if error == OpeningError::Layout {
        let fatal = FatalError::new(SqlState::ProtocolViolation, error.to_string());
        tell(client.leg, &fatal, deadline).await;
    } else {
        client.leg.finish(MAX_PACKET_BYTES).await;
    }
}

/// Sends a last message and closes so that it arrives.
pub async fn tell(mut leg: Leg, error: &FatalError, deadline: Instant) {
    // A client that does not take the answer is closed all the same.
    let _ = within(deadline, leg.write_all(&error.encode())).await;
    leg.finish(MAX_PACKET_BYTES).await;
}
