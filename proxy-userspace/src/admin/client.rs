//! Asks a running instance.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{RELOAD_PATH, STATUS_PATH, Status};
use crate::policy::Reloaded;

/// The largest answer taken.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// How long an instance may take to answer; it reads a large policy again in less.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error(
        "no pgusher answers at {path}: {source}; is it running, and was it given another --admin-socket?"
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// What listens there does not speak HTTP as we do.
    #[error("the admin socket's answer cannot be read: {0}")]
    Transport(Box<dyn std::error::Error + Send + Sync>),
    /// It accepts and does not answer.
    #[error("the pgusher at {0} does not answer: it is stopped, or hangs")]
    Silent(PathBuf),
    /// The instance refused.
    #[error("{text} ({status})")]
    Refused {
        /// HTTP's code.
        status: StatusCode,
        /// Its explanation.
        text: String,
    },
}

impl ClientError {
    /// Whether the instance is about to end.
    pub fn is_of_one_that_ends(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::GONE)
    }
}

/// Asks the instance at `socket` for its status.
///
/// # Errors
/// [`ClientError`]
pub async fn fetch_status(socket: &Path) -> Result<Status, ClientError> {
    ask(socket, Method::GET, STATUS_PATH).await
}

/// Asks the instance at `socket` to read its policies again.
///
/// # Errors
/// [`ClientError`]; [`ClientError::Refused`] has the policies' mistakes.
pub async fn request_policy_reload(socket: &Path) -> Result<Reloaded, ClientError> {
    ask(socket, Method::POST, RELOAD_PATH).await
}

/// Connects to the instance at `socket`.
pub(super) async fn connect(
    socket: &Path,
) -> Result<
    (
        http1::SendRequest<Empty<Bytes>>,
        http1::Connection<TokioIo<UnixStream>, Empty<Bytes>>,
    ),
    ClientError,
> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|source| ClientError::NotRunning {
        path: socket.to_path_buf(),
        source,
    })?;
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    shaken.map_err(|error| ClientError::Transport(error.into()))
}

async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
) -> Result<T, ClientError> {
    let answer = tokio::time::timeout(ANSWER_LIMIT, exchange(socket, method, path));
    let silent = |_| ClientError::Silent(socket.to_path_buf());
    answer.await.map_err(silent)?
}

async fn exchange<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
) -> Result<T, ClientError> {
    let transport = |error: Box<dyn std::error::Error + Send + Sync>| ClientError::Transport(error);
    let (mut sender, connection) = connect(socket).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "pgusher")
        .body(Empty::<Bytes>::new())
        .map_err(|error| transport(error.into()))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await?
            .to_bytes();
        Ok((status, body))
    };
    let answer = tokio::select! {
        answer = exchange => answer,
        closed = connection => Err(match closed {
            Ok(()) => "the connection was closed".into(),
            Err(error) => error.into(),
        }),
    };
    match answer.map_err(transport)? {
        (StatusCode::OK, body) => {
            serde_json::from_slice(&body).map_err(|error| transport(error.into()))
        }
        (status, body) => Err(ClientError::Refused {
            status,
            text: String::from_utf8_lossy(&body).into_owned(),
        }),
    }
}
