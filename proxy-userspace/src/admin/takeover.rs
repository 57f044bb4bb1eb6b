//! How a takeover begins: a request at the admin socket whose connection becomes a [`Channel`].

use std::path::Path;
use std::sync::Weak;

use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::net::UnixStream;
use tracing::warn;

use super::client::{ANSWER_LIMIT, connect};
use super::{ClientError, Observed, TAKEOVER_PATH, still};
use crate::succession::{Channel, NoPlace};

/// What the connection becomes (RFC 9110, section 7.8).
const PROTOCOL: &str = "pgusher-takeover";

/// The longest explanation taken.
const MAX_REFUSAL_BYTES: usize = 4096;

/// Answers the request; the running instance gets the channel.
pub(super) async fn begin(
    State(observed): State<Weak<Observed>>,
    mut request: Request,
) -> Response {
    let observed = match still(&observed) {
        Ok(observed) => observed,
        Err(over) => return over.into_response(),
    };
    let asked = request.headers().get(UPGRADE);
    if asked.is_none_or(|protocol| protocol != PROTOCOL) {
        let text = "a takeover is an upgrade to pgusher-takeover";
        return (StatusCode::UPGRADE_REQUIRED, text).into_response();
    }
    let place = match observed.candidates().reserve() {
        Ok(place) => place,
        Err(error @ NoPlace::UnderWay) => {
            return (StatusCode::CONFLICT, error.to_string()).into_response();
        }
        // Whoever asks may wait for that.
        Err(error @ NoPlace::Over) => return (StatusCode::GONE, error.to_string()).into_response(),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade
            .await
            .map(auto::upgrade::downcast::<TokioIo<UnixStream>>)
        {
            Ok(Ok(parts)) => {
                place.take(Channel::new(parts.io.into_inner(), &parts.read_buf));
            }
            Ok(Err(_)) => warn!("a takeover came over something else than the admin socket"),
            Err(error) => warn!(%error, "a takeover was begun and given up"),
        }
    });
    let protocol = HeaderValue::from_static(PROTOCOL);
    let connection = HeaderValue::from_static("upgrade");
    let headers = [(UPGRADE, protocol), (CONNECTION, connection)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Asks the instance at `socket` to be taken over.
///
/// # Errors
/// [`ClientError`]; [`ClientError::NotRunning`] if there is none.
pub async fn request_takeover(socket: &Path) -> Result<Channel, ClientError> {
    let answer = tokio::time::timeout(ANSWER_LIMIT, upgrade(socket));
    let silent = |_| ClientError::Silent(socket.to_path_buf());
    answer.await.map_err(silent)?
}

async fn upgrade(socket: &Path) -> Result<Channel, ClientError> {
    let transport = |error: hyper::Error| ClientError::Transport(error.into());
    let (mut sender, connection) = connect(socket).await?;
    let connection = tokio::spawn(connection.with_upgrades());
    let request = hyper::Request::post(TAKEOVER_PATH)
        .header(hyper::header::HOST, "pgusher")
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, PROTOCOL)
        .body(Empty::<Bytes>::new())
        .map_err(|error| ClientError::Transport(error.into()))?;
    let response = sender.send_request(request).await.map_err(transport)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect();
        let text = body.await.map(|body| body.to_bytes()).unwrap_or_default();
        return Err(ClientError::Refused {
            status,
            text: String::from_utf8_lossy(&text).into_owned(),
        });
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(transport)?;
    // It has nothing left to do.
    drop(connection);
    let parts = upgraded
        .downcast::<TokioIo<UnixStream>>()
        .map_err(|_| ClientError::Transport("the connection is no unix socket".into()))?;
    Ok(Channel::new(parts.io.into_inner(), &parts.read_buf))
}
