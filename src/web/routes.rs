//! The dashboard's one route.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Node, Pod, Service};

use crate::clock::Clock;
use crate::object::drift::Drift;
use crate::object::source::Source;
use crate::object::{ApiError, Cluster, Pool, Scope};
use crate::web::facts::{Observed, PodSeen, facts};
use crate::web::page;

/// Nothing but our own inline style: no script, no frame, no form, no foreign origin.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

#[derive(Clone)]
struct Dashboard<C> {
    cluster: C,
    clock: Clock,
}

/// `GET /`, to be merged into the served router. `cluster` is a reader.
pub fn router<C: Cluster>(cluster: C, clock: Clock) -> Router {
    Router::new().route("/", get(index::<C>)).with_state(Dashboard { cluster, clock })
}

async fn index<C: Cluster>(State(dashboard): State<Dashboard<C>>) -> Response {
    let now = dashboard.clock.now();
    let (code, body) = match observe(&dashboard.cluster, now).await {
        Ok(observed) => (StatusCode::OK, page::page(&facts(&observed, now))),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, page::failure(&error.to_string())),
    };
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (code, headers, body.into_string()).into_response()
}

async fn observe<C: Cluster>(cluster: &C, now: Timestamp) -> Result<Observed, ApiError> {
    let (all, mut labels) = (Scope::all(), Pool::default());
    let seen = |pod: &Arc<Pod>| PodSeen::of(pod, &mut labels, now);
    Ok(Observed {
        sources: cluster.list::<Source>(&all).await?.items,
        deployments: cluster.list::<Deployment>(&all).await?.items,
        replica_sets: cluster.list::<ReplicaSet>(&all).await?.items,
        pods: cluster.list_keeping(&all, seen).await?,
        services: cluster.list::<Service>(&all).await?.items,
        nodes: cluster.list::<Node>(&all).await?.items,
        drifts: cluster.list::<Drift>(&all).await?.items,
    })
}
