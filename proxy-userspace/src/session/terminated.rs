//! Stages 3 to 5 where TLS ends at pgusher: the client's opening is answered here, and the server is spoken to on a
//! connection of its own.

use std::sync::Arc;

use tokio::time::{Instant, timeout};
use tracing::debug;

use super::arrival::Arrival;
use super::pace::Stage;
use super::refusal::Refusal;
use super::upstream::{ConnectError, Upstream, Wanted, connect};
use super::{Established, Stages, record_opening};
use crate::audit::SessionGuard;
use crate::audit::record::tls::ServerLeg;
use crate::config::ClientTls;
use crate::policy::TlsFacts;
use crate::startup::{self, ClientLeg, Opened};
use crate::tls::{SecureError, Termination};
use crate::wire::binding::Binding;
use crate::wire::opening::{Opening, Packet};

/// Leads a client to its server, with TLS of our own towards either.
pub(super) async fn establish(
    stages: &Stages,
    arrival: Arrival,
    termination: &Termination,
    guard: &mut SessionGuard,
) -> Result<Established, Refusal> {
    let Arrival {
        mut client,
        way,
        rule,
        who,
        deadline,
    } = arrival;
    // What a reload changes is for connections to come.
    let material = termination.material();
    client.certificates = Arc::clone(&material.certificates);
    guard.terminated(None);
    let opened = startup::open(client, deadline).await;
    let Opened { client, packet } = opened.map_err(|turned| {
        guard.encrypted(turned.encryption());
        Refusal::turned(turned)
    })?;
    record_opening(guard, &packet.opening, client.encryption());
    guard.terminated(client.tls.as_ref().map(|tls| tls.facts.clone()));

    let is_cancel = matches!(packet.opening, Opening::Cancel { .. });
    // A cancel request has no secret but its key, and libpq before 17 never encrypts it (PQcancel in fe-cancel.c).
    let admits_plain = termination.client_tls() == ClientTls::Prefer || is_cancel;
    if !client.leg.is_tls() && !admits_plain {
        return Err(Refusal::tls_required(client, &rule.name));
    }
    let Ok(slot) = stages.sessions.admit(&packet.opening) else {
        return Err(Refusal::too_many(client));
    };
    let permit = match who.decide(stages, (&packet, &client.buffer), facts(&client), guard) {
        Ok(permit) => permit,
        Err(denial) => return Err(Refusal::denied(client, &denial)),
    };

    let startup = matches!(packet.opening, Opening::Startup(_))
        .then(|| client.buffer.get(..packet.bytes))
        .flatten();
    let wanted = Wanted {
        tls: &material.server,
        name: client.tls.as_ref().and_then(|tls| tls.facts.sni.as_deref()),
        startup,
        clearance: permit.clearance(),
        way: &way,
        router: &stages.router,
    };
    let upstream = match reach(stages, &wanted).await {
        Ok(upstream) => upstream,
        Err(ConnectError::Dial(error)) => return Err(Refusal::unreachable(client, &error)),
        Err(ConnectError::Secure(error)) => {
            return Err(Refusal::insecure(client, who.server(), &error));
        }
    };
    guard.spoke_to_server(ServerLeg::under(
        material.server.mode,
        upstream.leg.tls_version(),
    ));
    debug!(session = %guard.id(), route = rule.name, "TLS ends here");
    let binding = (!is_cancel).then(|| binding(&client, &upstream)).flatten();
    let (client, startup_bytes) = started(client, &upstream, &packet, guard);
    Ok(Established {
        client,
        upstream: upstream.leg,
        from_server: upstream.from_server,
        rule,
        target: who.target(&permit, &packet.opening, guard),
        permit,
        readable: true,
        startup_bytes,
        binding,
        _slot: slot,
    })
}

fn facts(client: &ClientLeg) -> TlsFacts {
    let facts = client.tls.as_ref().map(|tls| &tls.facts);
    TlsFacts {
        encryption: client.encryption(),
        sni: facts.and_then(|facts| facts.sni.clone()),
        certificate: facts.and_then(|facts| facts.certificate.clone()),
        ..TlsFacts::default()
    }
}

/// Connects to the server, within limits.
async fn reach(stages: &Stages, wanted: &Wanted<'_>) -> Result<Upstream, ConnectError> {
    // Each dial has its own limit; the rest is the server's to answer in time.
    let patience = stages.limits.startup_timeout + stages.limits.dial_timeout;
    let since = Instant::now();
    let reached = timeout(patience, connect(wanted)).await;
    stages.pace.took(Stage::Dial, since.elapsed());
    reached.unwrap_or_else(|_| {
        let error = SecureError::Gone("it did not answer in time".to_owned());
        Err(ConnectError::Secure(error))
    })
}

/// Takes the startup packet out of the client's buffer if the server has it already. Returns how much of the buffer
/// is still startup packet.
fn started(
    mut client: ClientLeg,
    upstream: &Upstream,
    packet: &Packet,
    guard: &mut SessionGuard,
) -> (ClientLeg, usize) {
    if !upstream.started {
        return (client, packet.bytes);
    }
    let sent = client
        .buffer
        .split_to(packet.bytes.min(client.buffer.len()));
    guard.delivered((sent.len() as u64, 0));
    (client, 0)
}

/// What has to be watched of the login: nothing, unless the server can offer channel binding and the client would bind
/// to something else than the server's certificate.
fn binding(client: &ClientLeg, upstream: &Upstream) -> Option<Binding> {
    if !upstream.leg.is_tls() {
        return None;
    }
    match &client.tls {
        None => Some(Binding::stripping()),
        Some(tls) if upstream.shown.as_ref() == Some(&tls.shown) => None,
        Some(_) => Some(Binding::guarding()),
    }
}
