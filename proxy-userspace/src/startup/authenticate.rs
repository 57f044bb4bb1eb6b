//! The login of a session whose server is on TLS with us, watched for a channel binding that cannot succeed
//! ([`crate::wire::binding`]). Once that is settled, the relay takes over.

use std::future::poll_fn;
use std::io;

use bytes::BytesMut;

use crate::leg::Leg;
use crate::relay::{Legs, Observer, Side};
use crate::wire::binding::{Binding, Doomed};

/// How much is read at a time; a login's messages are short.
const READ_BYTES: usize = 8 * 1024;

/// Why a login went no further.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// The client chose what cannot succeed; neither side has been told.
    #[error("channel binding cannot survive TLS termination")]
    Doomed(Doomed),
    /// A connection failed.
    #[error("the connection failed during authentication: {1}")]
    Failed(Side, io::Error),
}

impl From<Doomed> for AuthenticationError {
    fn from(doomed: Doomed) -> Self {
        Self::Doomed(doomed)
    }
}

/// Carries the login until nothing is left to watch, or one side ends in order, which the relay will meet again.
/// `startup_bytes` of [`Legs::from_client`] are the startup packet. `passed` counts what was delivered: to the server,
/// to the client.
///
/// # Errors
/// [`AuthenticationError`]
///
/// # Cancel safety
/// Not cancel safe: what was read may not have been written.
pub async fn authenticate(
    legs: &mut Legs,
    startup_bytes: usize,
    mut binding: Binding,
    observer: &mut dyn Observer,
    passed: &mut (u64, u64),
) -> Result<(), AuthenticationError> {
    let mut to_server = legs.from_client.split_to(startup_bytes);
    let mut to_client = BytesMut::new();
    binding.client_sent(&legs.from_client.split());
    binding.server_sent(&legs.from_server.split(), &mut to_client);
    loop {
        binding.release(&mut to_server)?;
        passed.0 += write(&mut legs.upstream, &mut to_server, Side::Server).await?;
        passed.1 += write(&mut legs.client, &mut to_client, Side::Client).await?;
        if binding.is_done() {
            return Ok(());
        }
        // A sink that cannot keep up holds up the login too.
        poll_fn(|context| observer.poll_ready(Side::Server, context)).await;
        poll_fn(|context| observer.poll_ready(Side::Client, context)).await;
        match read(legs, binding.wants_client()).await? {
            // The end is still there to be met.
            (_, bytes) if bytes.is_empty() => break,
            (Side::Client, bytes) => {
                observer.sent(Side::Client, &bytes);
                binding.client_sent(&bytes);
            }
            (Side::Server, bytes) => {
                observer.sent(Side::Server, &bytes);
                binding.server_sent(&bytes, &mut to_client);
            }
        }
    }
    binding.give_up(&mut legs.from_client, &mut legs.from_server);
    Ok(())
}

async fn write(
    leg: &mut Leg,
    bytes: &mut BytesMut,
    side: Side,
) -> Result<u64, AuthenticationError> {
    let bytes = bytes.split();
    leg.write_all(&bytes)
        .await
        .map_err(|error| AuthenticationError::Failed(side, error))?;
    Ok(bytes.len() as u64)
}

/// Reads from whichever side says something; nothing is its orderly end.
async fn read(
    legs: &mut Legs,
    wants_client: bool,
) -> Result<(Side, BytesMut), AuthenticationError> {
    let (mut client, mut server) = (BytesMut::new(), BytesMut::new());
    let (read, side) = tokio::select! {
        read = legs.upstream.read_buf(&mut server, READ_BYTES) => (read, Side::Server),
        read = legs.client.read_buf(&mut client, READ_BYTES), if wants_client => (read, Side::Client),
    };
    read.map_err(|error| AuthenticationError::Failed(side, error))?;
    Ok((side, if side == Side::Server { server } else { client }))
}
