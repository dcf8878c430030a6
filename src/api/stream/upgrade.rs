//! From a request to a connection of one's own: the 101, and the task that has the connection then.

use std::future::Future;
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::ObjectReference;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::api::access::Part;
use crate::api::gate::Session;
use crate::api::verbs::Api;
use crate::object::{ApiError, Reason};
use crate::store::Store;

/// For a stream to say why it ends, after the credential's or the daemon's end. Shorter than a
/// listener's stop time: nobody waits for it.
const FAREWELL: Duration = Duration::from_secs(3);
/// From the 101 to the connection: it has only to be written.
const SWITCH_TIME: Duration = Duration::from_secs(10);

/// The client's connection, after the 101.
pub(crate) type Connection = TokioIo<Upgraded>;

/// A request that may become a stream.
pub(crate) struct Upgrade {
    connection: OnUpgrade,
    session: Session,
}

/// What a stream is to its pod: the Event about it.
pub(crate) struct Use {
    pub part: Part,
    pub about: ObjectReference,
    /// `ran ["sh"] in container web`
    pub what: String,
}

/// Why a stream ends that nobody asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The credential was revoked, or ran out.
    Credential,
    Daemon,
}

/// When that is. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    credential: CancellationToken,
    daemon: CancellationToken,
}

impl Ending {
    /// One that does not come.
    #[cfg(test)]
    pub fn never() -> Self {
        Self { credential: CancellationToken::new(), daemon: CancellationToken::new() }
    }

    /// Resolves at the end; cancel safe, and it stays resolved.
    pub async fn come(&self) -> End {
        tokio::select! {
            biased;
            // Cancel safe, both: a cancelled token stays cancelled.
            () = self.credential.cancelled() => End::Credential,
            () = self.daemon.cancelled() => End::Daemon,
        }
    }
}

impl End {
    /// For whoever is at the other end.
    pub fn error(self) -> ApiError {
        match self {
            Self::Credential => {
                ApiError::new(Reason::Unauthorized, "the credential was revoked or has run out")
            }
            Self::Daemon => ApiError::new(
                Reason::ServiceUnavailable,
                "the daemon is stopping: try again when it is back, containers run on",
            ),
        }
    }
}

impl Upgrade {
    /// # Errors
    /// `BadRequest` for a request that asks for no upgrade, in the reference server's words.
    pub fn of(parts: &Parts) -> Result<Self, ApiError> {
        let asks = parts.headers.contains_key(header::UPGRADE);
        let connection = parts.extensions.get::<OnUpgrade>().filter(|_| asks);
        match (connection, parts.extensions.get::<Session>()) {
            (Some(connection), Some(session)) => {
                Ok(Self { connection: connection.clone(), session: session.clone() })
            }
            _ => Err(ApiError::bad_request("Upgrade request required")),
        }
    }

    /// Answers 101 with a protocol and the headers that it wants. `run` has the connection as soon as
    /// it is there, in a task of its own; some seconds after the [`Ending`] it is dropped where it
    /// has not ended by itself.
    pub fn switch<S: Store, F: Future<Output = ()> + Send>(
        self,
        api: &Api<S>,
        used: Use,
        protocol: &'static str,
        headers: &[(header::HeaderName, HeaderValue)],
        run: impl FnOnce(Connection, Ending) -> F + Send + 'static,
    ) -> Response {
        let Self { connection, session } = self;
        let stop = api.tasks().stop().clone();
        let ending = Ending { credential: session.ended.clone(), daemon: stop };
        let noting = api.clone();
        api.tasks().spawn_short("stream", async move {
            // Refused by the gate after all, or the client is gone.
            let Ok(Ok(upgraded)) = tokio::time::timeout(SWITCH_TIME, connection).await else {
                return debug!(from = %session.from, "no stream began");
            };
            noting.note_use(&session, used.part, used.about, &used.what);
            drop(noting);
            let too_late = async {
                ending.come().await;
                tokio::time::sleep(FAREWELL).await;
            };
            tokio::select! {
                biased;
                // Dropped with its connection, which ends everything that hangs on it.
                () = run(TokioIo::new(upgraded), ending.clone()) => {}
                // Cancel safe: it holds nothing.
                () = too_late => debug!(from = %session.from, "a stream did not end in time"),
            }
            drop(session);
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let answered = response.headers_mut();
        answered.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        answered.insert(header::UPGRADE, HeaderValue::from_static(protocol));
        for (name, value) in headers {
            answered.insert(name, value.clone());
        }
        response
    }
}
