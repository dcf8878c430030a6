//! Collections of kinds that Kubernetes has and this version does not run, where kubectl asks for them
//! without having looked whether they are served: `kubectl cluster-info dump` lists the
//! ReplicationControllers and DaemonSets of every namespace, and gives up at the first 404, with half a
//! dump. There are none and nobody can make one, so that their lists are answered, and are empty.
//! Discovery names neither of them; everything else of them is not found.

use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;

use crate::api::negotiation::form;
use crate::api::query::{decoded, pairs};
use crate::api::reply::{Form, META_VERSION, json_reply, list_of, value_reply};
use crate::api::table::of_rows;
use crate::api::verbs::Api;
use crate::object::ApiError;
use crate::store::Store;

/// A kind of which there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Absent {
    list: &'static str,
    version: &'static str,
}

/// The kind whose collection a path names.
pub(crate) fn wanted(path: &str) -> Option<Absent> {
    let segments: Vec<String> = path.trim_matches('/').split('/').map(decoded).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, rest) = match segments.as_slice() {
        ["api", "v1", rest @ ..] => ("", rest),
        ["apis", "apps", "v1", rest @ ..] => ("apps", rest),
        _ => return None,
    };
    let ([plural] | ["namespaces", _, plural]) = rest else { return None };
    match (group, *plural) {
        ("", "replicationcontrollers") => {
            Some(Absent { list: "ReplicationControllerList", version: "v1" })
        }
        ("apps", "daemonsets") => Some(Absent { list: "DaemonSetList", version: "apps/v1" }),
        _ => None,
    }
}

/// Its list; `None` for a watch, which nothing could ever end.
///
/// # Errors
/// `NotAcceptable`.
pub(crate) fn answer<S: Store>(
    api: &Api<S>,
    absent: Absent,
    parts: &Parts,
) -> Result<Option<Response>, ApiError> {
    let query = pairs(parts.uri.query().unwrap_or_default());
    if query.iter().any(|(name, value)| name == "watch" && value != "false" && value != "0") {
        return Ok(None);
    }
    let revision = api.store().revision().to_string();
    let meta = ListMeta { resource_version: Some(revision), ..ListMeta::default() };
    Ok(Some(match form(&parts.headers)? {
        Form::Table => value_reply(StatusCode::OK, &of_rows(&meta, &[], &[], true)),
        Form::Json => {
            json_reply(StatusCode::OK, list_of(absent.list, absent.version, &meta, Vec::new()))
        }
        Form::Metadata => {
            let body = list_of("PartialObjectMetadataList", META_VERSION, &meta, Vec::new());
            json_reply(StatusCode::OK, body)
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_alone_are_answered() {
        for path in ["/apis/apps/v1/daemonsets", "/apis/apps/v1/namespaces/a/daemonsets"] {
            assert_eq!(wanted(path).map(|absent| absent.list), Some("DaemonSetList"), "{path}");
        }
        let controllers = wanted("/api/v1/namespaces/a/replicationcontrollers").expect("one");
        assert_eq!((controllers.list, controllers.version), ("ReplicationControllerList", "v1"));
        for path in [
            "/apis/apps/v1/namespaces/a/daemonsets/x",
            "/apis/apps/v1/statefulsets",
            "/api/v1/daemonsets",
            "/apis/batch/v1/daemonsets",
        ] {
            assert_eq!(wanted(path), None, "{path}");
        }
    }
}
