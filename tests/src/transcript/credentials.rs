//! Answers to the requests of the server that depend on what it sent: md5 and SCRAM.

use anyhow::{Context, Result, ensure};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use super::client::ClientItem;
use crate::wire::{Message, message};

/// Codes of authentication messages (documentation, "Message Formats").
const MD5: u32 = 5;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// The client's side of a login.
#[derive(Default)]
pub(super) struct Credentials {
    /// The last authentication request: its code and what follows.
    request: Option<(u32, Vec<u8>)>,
    scram: Option<ScramSha256>,
}

impl Credentials {
    /// Takes note of an authentication request; the server's proof of SCRAM is checked.
    pub(super) fn see(&mut self, message: &Message) -> Result<()> {
        if message.kind != b'R' {
            return Ok(());
        }
        let (code, body) = message.body.split_first_chunk::<4>().context("no code")?;
        let code = u32::from_be_bytes(*code);
        if let Some(scram) = self.scram.as_mut().filter(|_| code == SASL_FINAL) {
            scram.finish(body).context("the server's signature")?;
        }
        self.request = Some((code, body.to_vec()));
        Ok(())
    }

    /// The bytes of a computed answer.
    pub(super) fn answer(&mut self, item: &ClientItem) -> Result<Vec<u8>> {
        match item {
            ClientItem::Md5 { user, password } => {
                let salt = self.requested(MD5)?.first_chunk::<4>().copied();
                let hash = md5_hash(user, password, salt.context("an md5 salt has 4 bytes")?);
                message(b'p', format!("{hash}\0").as_bytes())
            }
            ClientItem::ScramFirst(password) => {
                let scram = ScramSha256::new(password, ChannelBinding::unsupported());
                let first = scram.message().to_vec();
                self.scram = Some(scram);
                let length = u32::try_from(first.len())?.to_be_bytes();
                message(b'p', &[b"SCRAM-SHA-256\0", &length[..], &first].concat())
            }
            ClientItem::ScramFinal => {
                let challenge = self.requested(SASL_CONTINUE)?.to_vec();
                let scram = self.scram.as_mut().context("SCRAM has not begun")?;
                scram.update(&challenge)?;
                message(b'p', scram.message())
            }
            other => anyhow::bail!("{other:?} is not computed"),
        }
    }

    fn requested(&self, wanted: u32) -> Result<&[u8]> {
        let (code, body) = self.request.as_ref().context("the server asked nothing")?;
        ensure!(*code == wanted, "the server asked for {code}, not {wanted}");
        Ok(body)
    }
}
