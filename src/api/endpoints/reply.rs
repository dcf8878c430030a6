//! Endpoints as they are asked for: one, a page of them by their Services' labels and in their Services'
//! pages, or a watch. Every answer warns that the kind is deprecated, as the reference server's do.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use serde_json::Value;

use crate::api::access::Identity;
use crate::api::endpoints::changes::{Origin, Scope, Sources, service_of};
use crate::api::endpoints::made::{cells, endpoints};
use crate::api::endpoints::watch::OfScope;
use crate::api::negotiation::{fits_kind, form};
use crate::api::query::{self, Query};
use crate::api::reply::{Form, META_VERSION, json_reply, list_of, partial, value_reply};
use crate::api::request::nameable;
use crate::api::table::{Include, of_rows, row};
use crate::api::table_columns::ENDPOINTS;
use crate::api::verbs::{Api, RecordPage};
use crate::api::warning_headers::warned;
use crate::api::watch_reply;
use crate::object::{ApiError, Key, Kind, Reason};
use crate::store::{Record, Store};

const DEPRECATED: &str =
    "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
pub(super) const KIND: &str = "Endpoints";
pub(super) const VERSION: &str = "v1";
/// What they are made of: who may read both may read them.
pub(super) const SOURCES: (Kind, Kind) = (Kind::Service, Kind::EndpointSlice);
/// Made between two turns of the runtime.
const AT_A_TURN: usize = 64;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    One(Key),
    /// Of a namespace, or all.
    All(Option<String>),
}

/// `None` where a path names something else.
pub(crate) fn wanted(path: &str) -> Option<Wanted> {
    let segments: Vec<String> =
        path.trim_matches('/').split('/').map(query::decoded_segment).collect();
    match segments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["api", "v1", "endpoints"] => Some(Wanted::All(None)),
        ["api", "v1", "namespaces", namespace, "endpoints"] => {
            Some(Wanted::All(Some((*namespace).to_owned())))
        }
        ["api", "v1", "namespaces", namespace, "endpoints", name] => {
            Some(Wanted::One(Key::new(*namespace, *name)))
        }
        _ => None,
    }
}

/// # Errors
/// `NotFound` without a Service of that name; what a list or a watch refuses.
pub(crate) async fn answer<S: Store>(
    api: &Api<S>,
    who: &Identity,
    wanted: Wanted,
    parts: &Parts,
) -> Result<Response, ApiError> {
    let form = form(&parts.headers)?;
    // Of the fields, a slice has no other selectable ones than Endpoints: name and namespace.
    let pairs = query::pairs(parts.uri.query().unwrap_or_default());
    let mut query = Query::parse(Kind::EndpointSlice, &pairs)?;
    let (namespace, name) = match wanted {
        Wanted::One(key) => {
            nameable(&key)?;
            query.selection.only(&key.name);
            (Some(key.namespace), Some(key.name))
        }
        Wanted::All(namespace) => (namespace, None),
    };
    let reply = if query.watch {
        let scope = Scope { namespace, selection: query.selection.clone() };
        let (api, who, include) = (api.clone(), who.clone(), query.include);
        let watched = OfScope { api: api.clone(), who, scope, form, include };
        watch_reply::watch(&api, watched, &query, form)?
    } else {
        fits_kind(&parts.headers, "core", KIND, name.is_none())?;
        match name {
            Some(name) => {
                let query = Query {
                    selection: query.selection,
                    include: query.include,
                    ..Query::default()
                };
                one(api, who, namespace.as_deref(), &name, &query, form)?
            }
            None => all(api, who, namespace.as_deref(), &query, form).await?,
        }
    };
    Ok(warned(reply, &[DEPRECATED.to_owned()]))
}

fn one<S: Store>(
    api: &Api<S>,
    who: &Identity,
    namespace: Option<&str>,
    name: &str,
    query: &Query,
    form: Form,
) -> Result<Response, ApiError> {
    let (page, slices) = page(api, who, namespace, query)?;
    let service = page.items.first().cloned().ok_or_else(|| {
        ApiError::new(Reason::NotFound, format!("endpoints \"{name}\" not found"))
    })?;
    // As every stored object that cannot be decoded is answered when it is asked for by name.
    api.typed::<Service>(&service)?;
    let mut made = of_page(api, &page, slices);
    let one = made.pop().ok_or_else(|| ApiError::internal("one Service has its endpoints"))?;
    Ok(json_reply(StatusCode::OK, in_form(&one, form, query.include, true, api.now())?))
}

async fn all<S: Store>(
    api: &Api<S>,
    who: &Identity,
    namespace: Option<&str>,
    query: &Query,
    form: Form,
) -> Result<Response, ApiError> {
    let (page, slices) = page(api, who, namespace, query)?;
    let meta = page.meta();
    let (mut rows, mut items) = (Vec::<Value>::new(), Vec::new());
    for (place, one) in of_page(api, &page, slices).into_iter().enumerate() {
        match form {
            Form::Table => rows.push(row(cells(&one, api.now()), &one, query.include)),
            Form::Json => items.push(text(&one)?),
            Form::Metadata => items.push(partial(&text(&one)?)?),
        }
        if place % AT_A_TURN == AT_A_TURN - 1 {
            tokio::task::yield_now().await;
        }
    }
    let (kind, version) = match form {
        Form::Table => {
            return Ok(value_reply(StatusCode::OK, &of_rows(&meta, ENDPOINTS, &rows, true)));
        }
        Form::Json => ("EndpointsList", VERSION),
        Form::Metadata => ("PartialObjectMetadataList", META_VERSION),
    };
    Ok(json_reply(StatusCode::OK, list_of(kind, version, &meta, items)))
}

/// A page of Services, and all slices that may be theirs, of one state.
fn page<S: Store>(
    api: &Api<S>,
    who: &Identity,
    namespace: Option<&str>,
    query: &Query,
) -> Result<(RecordPage, Vec<Arc<Record>>), ApiError> {
    let name = query.selection.only_name();
    let is_theirs = |slice: &Record| {
        service_of(&slice.key, &slice.header)
            .is_some_and(|service| name.is_none_or(|name| name == service.name))
    };
    api.list_beside(who, SOURCES, namespace, query, &is_theirs)
}

/// The Endpoints of a page, each of its revision; what cannot be decoded is left out.
fn of_page<S: Store>(api: &Api<S>, page: &RecordPage, slices: Vec<Arc<Record>>) -> Vec<Endpoints> {
    let sources = Sources::new(Scope::default(), page.items.clone(), slices);
    let revision = page.revision.to_string();
    let of_revision = |mut one: Endpoints| {
        one.metadata.resource_version = Some(revision.clone());
        one
    };
    sources.selected().filter_map(|origin| made(api, &origin)).map(of_revision).collect()
}

/// What a watch begins with: everything that its Endpoints may be made of, and its revision. Not by
/// labels: a Service that enters the selector later has its slices already.
pub(super) fn sources<S: Store>(
    api: &Api<S>,
    who: &Identity,
    scope: &Scope,
) -> Result<(u64, Sources), ApiError> {
    let mut query = Query::default();
    if let Some(name) = scope.selection.only_name() {
        query.selection.only(name);
    }
    let (page, slices) = page(api, who, scope.namespace.as_deref(), &query)?;
    Ok((page.revision, Sources::new(scope.clone(), page.items, slices)))
}

/// The Endpoints of an origin, without a revision; what cannot be decoded is logged and counted.
pub(super) fn made<S: Store>(api: &Api<S>, origin: &Origin) -> Option<Endpoints> {
    let service = api.typed::<Service>(&origin.service).ok()?;
    let slices = origin.slices.iter().filter_map(|slice| api.typed::<EndpointSlice>(slice).ok());
    Some(endpoints(&service, &slices.collect::<Vec<_>>()))
}

/// One of them in the form asked for; of a watch's Tables only the first has the columns.
pub(super) fn in_form(
    one: &Endpoints,
    form: Form,
    include: Include,
    columns: bool,
    now: Timestamp,
) -> Result<Bytes, ApiError> {
    match form {
        Form::Json => text(one),
        Form::Metadata => partial(&text(one)?),
        Form::Table => {
            let resource_version = one.metadata.resource_version.clone();
            let meta = ListMeta { resource_version, ..ListMeta::default() };
            let rows = [row(cells(one, now), one, include)];
            text(&of_rows(&meta, ENDPOINTS, &rows, columns))
        }
    }
}

fn text(value: &impl serde::Serialize) -> Result<Bytes, ApiError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| ApiError::internal(format!("Endpoints do not serialise: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_them() {
        let all = |namespace: Option<&str>| Some(Wanted::All(namespace.map(str::to_owned)));
        assert_eq!(
            wanted("/api/v1/namespaces/a/endpoints/web"),
            Some(Wanted::One(Key::new("a", "web")))
        );
        assert_eq!(wanted("/api/v1/namespaces/a/endpoints"), all(Some("a")));
        assert_eq!(wanted("/api/v1/endpoints"), all(None));
        for other in ["/apis/v1/namespaces/a/endpoints/web", "/api/v1/endpoints/web"] {
            assert_eq!(wanted(other), None, "{other}");
        }
    }
}
