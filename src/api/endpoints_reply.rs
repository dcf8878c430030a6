//! The legacy `Endpoints` of one Service, made of its EndpointSlices when it is asked for: kubectl up
//! to 1.30 describes a Service with it and would print `<none>` for one that works. It stands in no
//! discovery document: nobody lists, watches or writes it.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::access::Identity;
use crate::api::query::{self, Query};
use crate::api::reply::value_reply;
use crate::api::verbs::Api;
use crate::object::{ApiError, Key, Kind, Reason};
use crate::store::Store;

/// The Service whose endpoints a path names.
pub(crate) fn wanted(path: &str) -> Option<Key> {
    let segments: Vec<String> = path.trim_matches('/').split('/').map(query::decoded).collect();
    match segments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["api", "v1", "namespaces", namespace, "endpoints", name] => {
            Some(Key::new(*namespace, *name))
        }
        _ => None,
    }
}

/// # Errors
/// `NotFound` without a Service of that name; what a list of the slices refuses.
pub(crate) fn answer<S: Store>(
    api: &Api<S>,
    who: &Identity,
    key: &Key,
) -> Result<Response, ApiError> {
    let record = api.get(who, Kind::Service, key).map_err(|error| match error.reason {
        Reason::NotFound => {
            ApiError::new(Reason::NotFound, format!("endpoints \"{}\" not found", key.name))
        }
        _ => error,
    })?;
    let service = api.typed::<Service>(&record)?;
    let selector = format!("kubernetes.io/service-name={}", key.name);
    let query = Query::parse(Kind::EndpointSlice, &[("labelSelector".to_owned(), selector)])?;
    let page = api.list(who, Kind::EndpointSlice, Some(&key.namespace), &query)?;
    let slices = api.all_shown::<EndpointSlice>(who, &page.items);
    Ok(value_reply(StatusCode::OK, &endpoints(&service, &slices)))
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
    fn one_path_names_them() {
        assert_eq!(wanted("/api/v1/namespaces/a/endpoints/web"), Some(Key::new("a", "web")));
        for other in [
            "/api/v1/endpoints",
            "/api/v1/namespaces/a/endpoints",
            "/apis/v1/namespaces/a/endpoints/web",
        ] {
            assert_eq!(wanted(other), None, "{other}");
        }
    }
}
