//! Whose request it is, and from where: what the gate puts into a request's extensions for
//! everything behind it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::api::access::Identity;
use crate::api::gate::connections::Busy;

/// One request's. A stream that outlives its answer (an upgraded connection) keeps a clone until it
/// ends: so it keeps the connection's place and counts as one of its identity's open streams.
#[derive(Clone, Debug)]
pub struct Session {
    pub who: Identity,
    pub from: SocketAddr,
    /// Cancelled when the credential is revoked or runs out: what is open ends then.
    pub ended: CancellationToken,
    pub(crate) held: Arc<Held>,
}

/// What a request has of the listener.
#[derive(Debug)]
pub(crate) struct Held {
    pub _busy: Busy,
    pub stream: OnceLock<OwnedSemaphorePermit>,
}

impl Session {
    pub(crate) fn new(
        who: Identity,
        from: SocketAddr,
        ended: CancellationToken,
        busy: Busy,
    ) -> Self {
        let held = Arc::new(Held { _busy: busy, stream: OnceLock::new() });
        Self { who, from, ended, held }
    }
}
