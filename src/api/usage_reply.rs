//! `metrics.k8s.io/v1beta1`, which `kubectl top` reads: what the node agent measured, joined with the
//! stored pods and nodes, so that names, labels and selectors mean what they mean everywhere.

use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use serde_json::{Value, json};

use crate::api::access::Identity;
use crate::api::discovery::{METRICS_GROUP as GROUP, METRICS_VERSION as VERSION};
use crate::api::negotiation::{fits, form};
use crate::api::query::{self, Query};
use crate::api::reply::{Form, META_VERSION, value_reply};
use crate::api::routes::method_not_allowed;
use crate::api::table::{Include, of_rows};
use crate::api::table_columns::MEASURED;
use crate::api::verbs::Api;
use crate::api::watch_reply::partial_meta;
use crate::object::ports::{Usage, UsageReport};
use crate::object::quantity::Quantity;
use crate::object::{ApiError, Key, Kind, Reason};
use crate::store::{Record, Store};

/// What a path of the group names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    kind: Kind,
    namespace: Option<String>,
    name: Option<String>,
}

/// `None` outside the group, or for what it does not have.
pub(crate) fn wanted(path: &str) -> Option<Wanted> {
    let segments: Vec<String> =
        path.trim_matches('/').split('/').map(query::decoded_segment).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let ["apis", GROUP, VERSION, rest @ ..] = segments.as_slice() else { return None };
    let (kind, namespace, name) = match rest {
        ["nodes"] => (Kind::Node, None, None),
        ["nodes", name] => (Kind::Node, None, Some(*name)),
        ["pods"] => (Kind::Pod, None, None),
        ["namespaces", namespace, "pods"] => (Kind::Pod, Some(*namespace), None),
        ["namespaces", namespace, "pods", name] => (Kind::Pod, Some(*namespace), Some(*name)),
        _ => return None,
    };
    Some(Wanted { kind, namespace: namespace.map(str::to_owned), name: name.map(str::to_owned) })
}

/// # Errors
/// `ServiceUnavailable` where no node agent runs in this process, `NotFound` for an object that is not
/// there or is not measured, and those of a list's query.
pub(crate) async fn answer<S: Store>(
    api: &Api<S>,
    who: &Identity,
    wanted: Wanted,
    parts: &Parts,
) -> Result<Response, ApiError> {
    let Wanted { kind, namespace, name } = wanted;
    let form = form(&parts.headers)?;
    let pairs = query::pairs(parts.uri.query().unwrap_or_default());
    let mut query = Query::parse(kind, &pairs)?;
    // Whole, as metrics-server answers: of a measurement there is no next page.
    (query.limit, query.continued) = (0, None);
    if query.watch {
        return Err(method_not_allowed());
    }
    let records = match &name {
        Some(name) => {
            let key = Key::new(namespace.clone().unwrap_or_default(), name.clone());
            vec![api.get(who, kind, &key)?]
        }
        None => {
            fits(&parts.headers, kind, true)?;
            api.list(who, kind, namespace.as_deref(), &query)?.items
        }
    };
    let usages = api.usages().ok_or_else(|| {
        ApiError::new(Reason::ServiceUnavailable, "no node agent runs here, ask again soon")
    })?;
    let report = usages.usage().await?;
    let mut items: Vec<Value> =
        records.iter().filter_map(|record| metrics(record, &report)).collect();
    if let (Some(name), true) = (&name, items.is_empty()) {
        return Err(ApiError::new(
            Reason::NotFound,
            format!("{}.{GROUP} \"{name}\" is not measured: it does not run", kind.row().plural),
        ));
    }
    let body = match form {
        Form::Table => {
            let rows: Vec<Value> = items.iter().map(|item| row(item, query.include)).collect();
            of_rows(&ListMeta::default(), MEASURED, &rows, true)
        }
        Form::Json if name.is_some() => items.remove(0),
        Form::Metadata if name.is_some() => partial_meta(&items[0]["metadata"]),
        Form::Json => {
            let list = if kind == Kind::Node { "NodeMetricsList" } else { "PodMetricsList" };
            json!({"kind": list, "apiVersion": format!("{GROUP}/{VERSION}"),
                "metadata": {}, "items": items})
        }
        Form::Metadata => {
            let items: Vec<Value> =
                items.iter().map(|item| partial_meta(&item["metadata"])).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": META_VERSION,
                "metadata": {}, "items": items})
        }
    };
    Ok(value_reply(StatusCode::OK, &body))
}

/// A measurement's row: a pod uses what its containers use.
fn row(item: &Value, include: Include) -> Value {
    let each = match item["containers"].as_array() {
        Some(containers) => containers.iter().map(|container| &container["usage"]).collect(),
        None => vec![&item["usage"]],
    };
    let amount = |name: &str| {
        let amounts = each.iter().filter_map(|usage| usage[name].as_str());
        let amounts = amounts.filter_map(|text| Quantity::parse(text).ok());
        // In the format of the first, as quantities are added.
        amounts.reduce(|sum, one| sum + one).unwrap_or(Quantity::ZERO).to_string()
    };
    let object = match include {
        Include::None => Value::Null,
        Include::Object => item.clone(),
        Include::Metadata => partial_meta(&item["metadata"]),
    };
    let window = item["window"].as_str().unwrap_or_default();
    json!({"cells": [item["metadata"]["name"], amount("cpu"), amount("memory"), window],
        "object": object})
}

fn metrics(record: &Record, report: &UsageReport) -> Option<Value> {
    let mut body = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": {
            "name": record.key.name,
            "creationTimestamp": report.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "labels": record.header.labels,
        },
        "timestamp": report.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "window": format!("{:.3}s", report.window_seconds),
    });
    if record.kind == Kind::Node {
        let usage = report.node_usage.filter(|_| report.node == record.key.name)?;
        body["kind"] = json!("NodeMetrics");
        body["usage"] = written(usage);
        return Some(body);
    }
    let pod = report.pods.iter().find(|usage| usage.pod == record.key)?;
    let containers = pod.containers.iter();
    let containers =
        containers.map(|(name, usage)| json!({"name": name, "usage": written(*usage)}));
    body["kind"] = json!("PodMetrics");
    body["metadata"]["namespace"] = json!(record.key.namespace);
    body["containers"] = containers.collect();
    Some(body)
}

/// In metrics-server's units.
fn written(usage: Usage) -> Value {
    json!({
        "cpu": format!("{}n", usage.cpu_nanocores),
        "memory": format!("{}Ki", usage.memory_bytes / 1024),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_is_measured() {
        let at = |below: &str| wanted(&format!("/apis/metrics.k8s.io/v1beta1/{below}"));
        let pod = at("namespaces/shop/pods/web").expect("a pod");
        assert_eq!((pod.kind, pod.name.as_deref()), (Kind::Pod, Some("web")));
        assert_eq!(pod.namespace.as_deref(), Some("shop"));
        assert_eq!(at("nodes").expect("nodes").kind, Kind::Node);
        assert_eq!(at("pods").expect("pods").namespace, None);
        for nothing in ["", "services", "nodes/a/b", "namespaces/shop/nodes"] {
            assert_eq!(at(nothing), None, "{nothing}");
        }
        assert_eq!(wanted("/apis/metrics.k8s.io/v1/nodes"), None);
    }
}
