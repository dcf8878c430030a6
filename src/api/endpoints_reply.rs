//! The legacy `Endpoints` of the Services, made of their EndpointSlices when they are asked for: kubectl
//! up to 1.30 describes a Service with them and would print `<none>` for one that works, and people
//! still type `kubectl get endpoints`. They can be got and listed, by their Services' labels and in
//! their Services' pages, and discovery says no more: nothing is stored, so that nobody watches or
//! writes one. Every answer warns that the kind is deprecated, as the reference server's do.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use serde_json::{Value, json};

use crate::api::access::Identity;
use crate::api::negotiation::form;
use crate::api::query::{self, Query};
use crate::api::reply::{Form, META_VERSION, json_reply, list_of, partial, value_reply};
use crate::api::table::{Include, of_rows, row};
use crate::api::table_cells::{age, first, name};
use crate::api::table_columns::ENDPOINTS;
use crate::api::verbs::Api;
use crate::api::warning_headers::warned;
use crate::object::{ApiError, Key, Kind, Reason};
use crate::store::{Record, Store};

const DEPRECATED: &str =
    "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    One(Key),
    /// Of a namespace, or all.
    All(Option<String>),
}

/// `None` where a path names something else.
pub(crate) fn wanted(path: &str) -> Option<Wanted> {
    let segments: Vec<String> = path.trim_matches('/').split('/').map(query::decoded).collect();
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
/// `NotFound` without a Service of that name; `MethodNotAllowed` for a watch; what a list of Services
/// or slices refuses.
pub(crate) fn answer<S: Store>(
    api: &Api<S>,
    who: &Identity,
    wanted: &Wanted,
    parts: &Parts,
) -> Result<Response, ApiError> {
    let form = form(&parts.headers)?;
    // Of the fields, a slice has no other selectable ones than Endpoints: name and namespace.
    let pairs = query::pairs(parts.uri.query().unwrap_or_default());
    let query = Query::parse(Kind::EndpointSlice, &pairs)?;
    if query.watch {
        return Err(ApiError::new(
            Reason::MethodNotAllowed,
            "watch is not supported on resources of kind \"endpoints\"",
        ));
    }
    let reply = match wanted {
        Wanted::One(key) => one(api, who, key, form, query.include)?,
        Wanted::All(namespace) => all(api, who, namespace.as_deref(), &query, form)?,
    };
    Ok(warned(reply, &[DEPRECATED.to_owned()]))
}

fn one<S: Store>(
    api: &Api<S>,
    who: &Identity,
    key: &Key,
    form: Form,
    include: Include,
) -> Result<Response, ApiError> {
    let record = api.get(who, Kind::Service, key).map_err(|error| match error.reason {
        Reason::NotFound => {
            ApiError::new(Reason::NotFound, format!("endpoints \"{}\" not found", key.name))
        }
        _ => error,
    })?;
    let selector = format!("kubernetes.io/service-name={}", key.name);
    let slices = slices(api, who, Some(&key.namespace), vec![("labelSelector".into(), selector)])?;
    let mut made = of_services(api, std::slice::from_ref(&record), &slices)?;
    let one = made.pop().ok_or_else(|| ApiError::internal("one Service has its endpoints"))?;
    Ok(match form {
        Form::Json => value_reply(StatusCode::OK, &one),
        Form::Metadata => json_reply(StatusCode::OK, partial(&text(&one)?)?),
        Form::Table => {
            let rows = vec![row(cells(&one, api), &one, include)];
            value_reply(StatusCode::OK, &of_rows(&ListMeta::default(), ENDPOINTS, &rows, true))
        }
    })
}

fn all<S: Store>(
    api: &Api<S>,
    who: &Identity,
    namespace: Option<&str>,
    query: &Query,
    form: Form,
) -> Result<Response, ApiError> {
    let page = api.list(who, Kind::Service, namespace, query)?;
    let slices = slices(api, who, namespace, Vec::new())?;
    let made = of_services(api, &page.items, &slices)?;
    let meta = page.meta();
    let (kind, version, items) = match form {
        Form::Table => {
            let rows: Vec<Value> =
                made.iter().map(|one| row(cells(one, api), one, query.include)).collect();
            return Ok(value_reply(StatusCode::OK, &of_rows(&meta, ENDPOINTS, &rows, true)));
        }
        Form::Json => {
            let items = made.iter().map(text).collect::<Result<Vec<_>, _>>()?;
            ("EndpointsList", "v1", items)
        }
        Form::Metadata => {
            let items = made.iter().map(|one| partial(&text(one)?)).collect::<Result<Vec<_>, _>>();
            ("PartialObjectMetadataList", META_VERSION, items?)
        }
    };
    Ok(json_reply(StatusCode::OK, list_of(kind, version, &meta, items)))
}

/// The slices as they are now. A page of Services may be older: endpoints are of the moment.
fn slices<S: Store>(
    api: &Api<S>,
    who: &Identity,
    namespace: Option<&str>,
    pairs: Vec<(String, String)>,
) -> Result<Vec<Arc<EndpointSlice>>, ApiError> {
    let query = Query::parse(Kind::EndpointSlice, &pairs)?;
    let page = api.list(who, Kind::EndpointSlice, namespace, &query)?;
    Ok(api.all_shown::<EndpointSlice>(who, &page.items))
}

/// The endpoints of each Service.
fn of_services<S: Store>(
    api: &Api<S>,
    services: &[Arc<Record>],
    slices: &[Arc<EndpointSlice>],
) -> Result<Vec<Endpoints>, ApiError> {
    let mut by_service: BTreeMap<(&str, &str), Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in slices {
        let meta = &slice.metadata;
        let labels = meta.labels.as_ref();
        let service = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
        if let (Some(namespace), Some(service)) = (&meta.namespace, service) {
            by_service.entry((namespace, service)).or_default().push(slice.clone());
        }
    }
    let made = services.iter().map(|record| {
        let own = by_service.get(&(record.key.namespace.as_str(), record.key.name.as_str()));
        let service = api.typed::<Service>(record)?;
        Ok(endpoints(&service, own.map_or(&[], Vec::as_slice)))
    });
    made.collect()
}

fn text(one: &Endpoints) -> Result<Bytes, ApiError> {
    serde_json::to_vec(one)
        .map(Bytes::from)
        .map_err(|error| ApiError::internal(format!("Endpoints do not serialise: {error}")))
}

fn cells<S: Store>(one: &Endpoints, api: &Api<S>) -> Vec<Value> {
    let subsets = one.subsets.iter().flatten();
    let ready: Vec<String> = subsets
        .flat_map(|subset| {
            let addresses = subset.addresses.iter().flatten();
            let at = move |port: Option<i32>| {
                addresses.clone().map(move |address| match port {
                    Some(port) => format!("{}:{port}", address.ip),
                    None => address.ip.clone(),
                })
            };
            match &subset.ports {
                // A headless Service may have no port.
                None => at(None).collect::<Vec<_>>(),
                Some(ports) => ports.iter().flat_map(|port| at(Some(port.port))).collect(),
            }
        })
        .collect();
    // Subsets of addresses that are not ready yet alone: an empty cell, as the reference has it.
    let told = if one.subsets.is_none() { "<none>".to_owned() } else { first(&ready) };
    vec![name(&one.metadata), json!(told), age(&one.metadata, api.now())]
}

/// One subset for all slices of the same ports.
fn endpoints(service: &Service, slices: &[Arc<EndpointSlice>]) -> Endpoints {
    let meta = &service.metadata;
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
        let ports: Vec<EndpointPort> = slice.ports.iter().flatten().filter_map(port).collect();
        let ports = (!ports.is_empty()).then_some(ports);
        let place = subsets.iter().position(|subset| subset.ports == ports).unwrap_or_else(|| {
            subsets.push(EndpointSubset { ports, ..EndpointSubset::default() });
            subsets.len() - 1
        });
        let subset = &mut subsets[place];
        for endpoint in slice.endpoints.iter().flatten() {
            // Absent means ready, in the words of the slice's own documentation.
            let conditions = endpoint.conditions.as_ref();
            let is_ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            let list =
                if is_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            list.get_or_insert_default().extend(address(endpoint));
        }
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    for list in subsets.iter_mut().flat_map(|subset| {
        [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten()
    }) {
        list.sort_by_key(|address| address.ip.parse::<IpAddr>().ok());
    }
    Endpoints {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            labels: meta.labels.clone(),
            creation_timestamp: meta.creation_timestamp.clone(),
            ..ObjectMeta::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

fn port(port: &k8s_openapi::api::discovery::v1::EndpointPort) -> Option<EndpointPort> {
    Some(EndpointPort {
        app_protocol: port.app_protocol.clone(),
        name: port.name.clone().filter(|name| !name.is_empty()),
        port: port.port?,
        protocol: port.protocol.clone(),
    })
}

/// The first address: the others of one endpoint are the same to every client.
fn address(endpoint: &Endpoint) -> Option<EndpointAddress> {
    Some(EndpointAddress {
        hostname: endpoint.hostname.clone(),
        ip: endpoint.addresses.first()?.clone(),
        node_name: endpoint.node_name.clone(),
        target_ref: endpoint.target_ref.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(value: Value) -> Arc<EndpointSlice> {
        Arc::new(serde_json::from_value(value).expect("a slice"))
    }

    #[test]
    fn slices_of_the_same_ports_are_one_subset() {
        let of = |port: i32, endpoints: Value| {
            slice(json!({"addressType": "IPv4", "metadata": {"name": "s"},
                "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
                "endpoints": endpoints}))
        };
        let ready =
            |ip: &str, ready: bool| json!({"addresses": [ip], "conditions": {"ready": ready}});
        let slices = [
            of(80, json!([ready("10.0.0.1", true), ready("10.0.0.2", false)])),
            of(80, json!([{"addresses": ["10.0.0.3"]}])),
            of(81, json!([ready("10.0.0.4", true)])),
            of(82, json!([])),
        ];
        let mut service = Service::default();
        service.metadata.name = Some("web".to_owned());
        let subsets = endpoints(&service, &slices).subsets.expect("subsets");
        let ips = |list: &Option<Vec<EndpointAddress>>| -> Vec<String> {
            list.iter().flatten().map(|address| address.ip.clone()).collect()
        };
        assert_eq!(subsets.len(), 2);
        assert_eq!(ips(&subsets[0].addresses), ["10.0.0.1", "10.0.0.3"]);
        assert_eq!(ips(&subsets[0].not_ready_addresses), ["10.0.0.2"]);
        assert_eq!(subsets[1].ports.as_ref().expect("ports")[0].port, 81);
        assert_eq!(endpoints(&service, &[]).subsets, None);
    }

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
