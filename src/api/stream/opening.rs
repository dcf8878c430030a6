//! Whether a stream is opened: who may, which pod, which container. The checks are the reference
//! server's, in its order and words; what its kubelet checks is asked of the node, after the 101.

use std::sync::Arc;

use axum::http::Method;
use axum::http::request::Parts;
use axum::response::Response;
use k8s_openapi::api::core::v1::Pod;

use crate::api::access::{Identity, Part, Verb};
use crate::api::query;
use crate::api::routes::method_not_allowed;
use crate::api::stream::{port_forward, remote_command};
use crate::api::verbs::Api;
use crate::object::streams::Streams;
use crate::object::{ApiError, Key, Kind, Reason};
use crate::store::Store;

/// A request for a stream that its sender may open.
pub(crate) struct Call<'a, S: Store> {
    pub api: &'a Api<S>,
    pub part: Part,
    pub key: Key,
    pub pod: Arc<Pod>,
    pub pairs: Vec<(String, String)>,
    pub parts: &'a Parts,
    pub streams: Arc<dyn Streams>,
}

/// A GET (WebSocket) or a POST (SPDY) of a pod's `exec`, `attach` or `portforward`.
///
/// # Errors
/// `Forbidden` for everybody but an operator; `NotFound` for a pod that is not there; what the
/// protocol of the part says.
pub(crate) async fn open<S: Store>(
    api: &Api<S>,
    who: &Identity,
    key: &Key,
    part: Part,
    parts: &Parts,
) -> Result<Response, ApiError> {
    who.may(Verb::Create, Kind::Pod, part, key)?;
    if !matches!(parts.method, Method::GET | Method::POST) {
        return Err(method_not_allowed());
    }
    let record = api.get(who, Kind::Pod, key)?;
    let pod = api.typed::<Pod>(&record)?;
    let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_some();
    if !bound {
        let words = format!("pod {} does not have a host assigned", key.name);
        return Err(ApiError::bad_request(words));
    }
    let streams = api.streams().ok_or_else(|| {
        ApiError::new(Reason::ServiceUnavailable, "no node agent runs here, ask again soon")
    })?;
    let pairs = query::pairs(parts.uri.query().unwrap_or_default());
    let call = Call { api, part, key: key.clone(), pod, pairs, parts, streams };
    match part {
        Part::PortForward => port_forward::open(call).await,
        _ => remote_command::open(call).await,
    }
}
