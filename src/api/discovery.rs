//! Pure: what a client is told there is: groups, versions, resources, in the legacy form and the
//! aggregated one (`apidiscovery.k8s.io` v2 and v2beta1), and just enough OpenAPI for kubectl to
//! find that the server validates.
//!
//! kubectl up to 1.29 understands v2beta1 only and breaks on v2; the form follows the Accept header.

use serde_json::{Map, Value, json};

use crate::object::Kind;
use crate::object::kind::KindRow;

const JSON: &str = "application/json";
const AGGREGATED_V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_V2BETA1: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
const WRITES_AND_READS: [&str; 7] = ["create", "delete", "get", "list", "patch", "update", "watch"];
const PART_VERBS: [&str; 3] = ["get", "patch", "update"];
/// The Kubernetes version whose semantics are followed, as `kubectl version` prints it.
const KUBERNETES_MINOR: &str = "36";

/// One resource or subresource.
struct Resource {
    /// `pods`, `pods/log`
    name: String,
    row: &'static KindRow,
    /// Group, version and kind of the body, where it is not the resource's own.
    body: Option<(&'static str, &'static str, &'static str)>,
    verbs: Vec<&'static str>,
}

/// The content type and body for a path; `None` where there is nothing of that name.
pub fn answer(path: &str, accept: &str) -> Option<(&'static str, Value)> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["version"] => Some((JSON, version())),
        ["api" | "apis"] => Some(roots(parts[0] == "api", accept)),
        ["api", "v1"] => Some((JSON, resource_list("", "v1")?)),
        ["apis", group] => Some((JSON, group_document(group)?)),
        ["apis", group, version] => Some((JSON, resource_list(group, version)?)),
        ["openapi", "v3"] => Some((JSON, openapi_index())),
        ["openapi", "v3", "api", "v1"] => Some((JSON, openapi_document("", "v1")?)),
        ["openapi", "v3", "apis", group, version] => {
            Some((JSON, openapi_document(group, version)?))
        }
        _ => None,
    }
}

/// What `kubectl version` and client libraries read.
fn version() -> Value {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    json!({
        "major": "1", "minor": KUBERNETES_MINOR,
        "emulationMajor": "1", "emulationMinor": KUBERNETES_MINOR,
        "minCompatibilityMajor": "1", "minCompatibilityMinor": KUBERNETES_MINOR,
        "gitVersion": format!("v1.{KUBERNETES_MINOR}.0+ballast-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("linux/{architecture}"),
    })
}

/// Named groups with their versions, in table order.
fn groups() -> Vec<(&'static str, &'static str)> {
    let mut groups: Vec<(&str, &str)> = Vec::new();
    for row in Kind::all().map(Kind::row).filter(|row| !row.group.is_empty()) {
        if !groups.contains(&(row.group, row.version)) {
            groups.push((row.group, row.version));
        }
    }
    groups
}

fn resources(group: &str, version: &str) -> Vec<Resource> {
    let mut all = Vec::new();
    for kind in
        Kind::all().filter(|kind| kind.row().group == group && kind.row().version == version)
    {
        let row = kind.row();
        let mut add = |part: &str, body, verbs: &[&'static str]| {
            let name = if part.is_empty() {
                row.plural.to_owned()
            } else {
                format!("{}/{part}", row.plural)
            };
            all.push(Resource { name, row, body, verbs: verbs.to_vec() });
        };
        add("", None, &WRITES_AND_READS);
        match kind {
            Kind::Pod => {
                add("binding", Some(("", "", "Binding")), &["create"]);
                add("log", None, &["get"]);
            }
            Kind::Namespace => add("finalize", None, &["update"]),
            _ => {}
        }
        if row.has_scale {
            add("scale", Some(("autoscaling", "v1", "Scale")), &PART_VERBS);
        }
        if row.has_status {
            add("status", None, &PART_VERBS);
        }
    }
    all
}

fn roots(core: bool, accept: &str) -> (&'static str, Value) {
    // The first form that the client names and we have wins, as clients list them by preference.
    for media in accept
        .split(',')
        .map(|media| media.replace(' ', ""))
        .filter(|media| media.contains("as=APIGroupDiscoveryList"))
    {
        if media.contains("v=v2beta1") {
            return (AGGREGATED_V2BETA1, aggregated(core, "v2beta1"));
        }
        if media.contains("v=v2") {
            return (AGGREGATED_V2, aggregated(core, "v2"));
        }
    }
    if core {
        return (
            JSON,
            json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }),
        );
    }
    let all: Vec<Value> =
        groups().into_iter().map(|(group, version)| group_body(group, version)).collect();
    (JSON, json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": all }))
}

fn group_body(group: &str, version: &str) -> Value {
    let version = json!({ "groupVersion": format!("{group}/{version}"), "version": version });
    json!({ "name": group, "versions": [version], "preferredVersion": version })
}

fn group_document(group: &str) -> Option<Value> {
    let (_, version) = groups().into_iter().find(|(name, _)| *name == group)?;
    let mut body = group_body(group, version);
    body["kind"] = json!("APIGroup");
    body["apiVersion"] = json!("v1");
    Some(body)
}

fn resource_list(group: &str, version: &str) -> Option<Value> {
    let all = resources(group, version);
    if all.is_empty() {
        return None;
    }
    let entry = |resource: Resource| {
        let whole = !resource.name.contains('/');
        let mut body = Map::new();
        body.insert("name".into(), json!(resource.name));
        body.insert("singularName".into(), json!(if whole { resource.row.singular } else { "" }));
        body.insert("namespaced".into(), json!(resource.row.namespaced));
        if let Some((group, version, _)) = resource.body.filter(|(group, ..)| !group.is_empty()) {
            body.insert("group".into(), json!(group));
            body.insert("version".into(), json!(version));
        }
        body.insert(
            "kind".into(),
            json!(resource.body.map_or(resource.row.name, |(_, _, kind)| kind)),
        );
        body.insert("verbs".into(), json!(resource.verbs));
        if whole && !resource.row.short_names.is_empty() {
            body.insert("shortNames".into(), json!(resource.row.short_names));
        }
        if whole && !resource.row.categories.is_empty() {
            body.insert("categories".into(), json!(resource.row.categories));
        }
        Value::Object(body)
    };
    let group_version =
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(
        json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": all.into_iter().map(entry).collect::<Vec<_>>() }),
    )
}

fn aggregated(core: bool, form: &str) -> Value {
    let wanted: Vec<(&str, &str)> = if core { vec![("", "v1")] } else { groups() };
    let items: Vec<Value> = wanted.into_iter().map(|(group, version)| {
        let metadata = if group.is_empty() { json!({}) } else { json!({ "name": group }) };
        json!({ "metadata": metadata, "versions": [{ "version": version, "resources": aggregated_resources(group, version), "freshness": "Current" }] })
    }).collect();
    json!({ "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{form}"), "metadata": {}, "items": items })
}

fn aggregated_resources(group: &str, version: &str) -> Vec<Value> {
    let response_kind = |resource: &Resource| {
        // Empty group and version mean those of the list, as the reference server writes them.
        let (group, version, kind) = resource.body.unwrap_or(("", "", resource.row.name));
        json!({ "group": group, "version": version, "kind": kind })
    };
    let all = resources(group, version);
    let (whole, parts): (Vec<Resource>, Vec<Resource>) =
        all.into_iter().partition(|resource| !resource.name.contains('/'));
    whole.iter().map(|resource| {
        let own_parts: Vec<Value> = parts.iter().filter_map(|part| {
            let (plural, name) = part.name.split_once('/')?;
            (plural == resource.name).then(|| json!({ "subresource": name, "responseKind": response_kind(part), "verbs": part.verbs }))
        }).collect();
        let mut body = json!({
            "resource": resource.name, "responseKind": response_kind(resource), "scope": if resource.row.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": resource.row.singular, "verbs": resource.verbs,
        });
        for (field, words) in [("shortNames", resource.row.short_names), ("categories", resource.row.categories)] {
            if !words.is_empty() {
                body[field] = json!(words);
            }
        }
        if !own_parts.is_empty() {
            body["subresources"] = json!(own_parts);
        }
        body
    }).collect()
}

fn openapi_index() -> Value {
    let mut paths = Map::new();
    paths.insert("api/v1".into(), json!({ "serverRelativeURL": "/openapi/v3/api/v1" }));
    for (group, version) in groups() {
        paths.insert(
            format!("apis/{group}/{version}"),
            json!({ "serverRelativeURL": format!("/openapi/v3/apis/{group}/{version}") }),
        );
    }
    json!({ "paths": paths })
}

/// One PATCH a kind with a `fieldValidation` parameter: kubectl reads it as "the server validates".
fn openapi_document(group: &str, version: &str) -> Option<Value> {
    let mut paths = Map::new();
    for row in Kind::all().map(Kind::row).filter(|row| row.group == group && row.version == version)
    {
        let prefix = if group.is_empty() {
            format!("/api/{version}")
        } else {
            format!("/apis/{group}/{version}")
        };
        let path = if row.namespaced {
            format!("{prefix}/namespaces/{{namespace}}/{}/{{name}}", row.plural)
        } else {
            format!("{prefix}/{}/{{name}}", row.plural)
        };
        let gvk = json!({ "group": group, "version": version, "kind": row.name });
        paths.insert(path, json!({ "patch": {
            "x-kubernetes-group-version-kind": gvk,
            "parameters": [{ "name": "fieldValidation", "in": "query", "schema": { "type": "string" } }],
        } }));
    }
    if paths.is_empty() {
        return None;
    }
    Some(
        json!({ "openapi": "3.0.0", "info": { "title": "Ballast", "version": env!("CARGO_PKG_VERSION") }, "paths": paths, "components": { "schemas": {} } }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_follows_what_the_client_can_read() {
        let old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        let new = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(
            answer("/apis", old).expect("served").1["apiVersion"],
            "apidiscovery.k8s.io/v2beta1"
        );
        assert_eq!(answer("/apis", new).expect("served").1["apiVersion"], "apidiscovery.k8s.io/v2");
        assert_eq!(answer("/apis", "application/json").expect("served").1["kind"], "APIGroupList");
        assert_eq!(answer("/apis/nope/v1", ""), None);
    }
}
