//! Pure: what a client is told there is: groups, versions, resources, in the legacy form and the
//! aggregated one (`apidiscovery.k8s.io` v2 and v2beta1).
//!
//! kubectl up to 1.29 understands v2beta1 only and breaks on v2; the form follows the Accept header.

use serde_json::{Map, Value, json};

use crate::object::Kind;

const JSON: &str = "application/json";
const AGGREGATED_V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_V2BETA1: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
const WRITES_AND_READS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Namespaces go one by one, as in the reference server.
pub const NOT_AT_ONCE: Kind = Kind::Namespace;
/// What `kubectl top` asks.
pub const METRICS_GROUP: &str = "metrics.k8s.io";
pub const METRICS_VERSION: &str = "v1beta1";
const PART_VERBS: [&str; 3] = ["get", "patch", "update"];
/// The Kubernetes version whose semantics are followed, as `kubectl version` prints it.
const KUBERNETES_MINOR: &str = "36";

/// One resource or subresource.
pub struct Resource {
    /// `pods`, `pods/log`
    pub name: String,
    /// What it does, as the legacy form names the verbs.
    pub verbs: Vec<&'static str>,
    singular: &'static str,
    pub kind: &'static str,
    /// Group and version of the body, where they are not the resource's own.
    body: Option<(&'static str, &'static str)>,
    pub namespaced: bool,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
}

/// A resource that is answered and never stored.
#[derive(Debug)]
pub struct Unstored {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    pub short_names: &'static [&'static str],
    pub verbs: &'static [&'static str],
    /// The stored kinds that it is made of: who may not read those may not read it.
    pub made_of: &'static [Kind],
}

const fn review(group: &'static str, plural: &'static str, kind: &'static str) -> Unstored {
    // The singular is the plural without its s.
    let (singular, _) = plural.split_at(plural.len() - 1);
    let verbs = &["create"];
    let (version, namespaced, short_names, made_of) = ("v1", false, &[], &[]);
    Unstored { group, version, plural, singular, kind, namespaced, short_names, verbs, made_of }
}

/// Without a singular, as metrics-server has it: `node` stays the stored kind's.
const fn measured(
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    made_of: &'static [Kind],
) -> Unstored {
    let (group, version, verbs) = (METRICS_GROUP, METRICS_VERSION, &["get", "list"]);
    let (singular, short_names) = ("", &[]);
    Unstored { group, version, plural, singular, kind, namespaced, short_names, verbs, made_of }
}

/// What is served beside the table of kinds.
pub const UNSTORED: [Unstored; 6] = [
    // Made of EndpointSlices when they are asked for.
    Unstored {
        group: "",
        version: "v1",
        plural: "endpoints",
        singular: "endpoints",
        kind: "Endpoints",
        namespaced: true,
        short_names: &["ep"],
        verbs: &["get", "list", "watch"],
        made_of: &[Kind::Service, Kind::EndpointSlice],
    },
    review("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
    review("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    review("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    measured("nodes", "NodeMetrics", false, &[Kind::Node]),
    measured("pods", "PodMetrics", true, &[Kind::Pod]),
];

/// The content type and body for a path; `None` where there is nothing of that name.
pub fn answer(path: &str, accept: &str) -> Option<(&'static str, Value)> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["version"] => Some((JSON, version())),
        ["api" | "apis"] => Some(roots(parts[0] == "api", accept)),
        ["api", "v1"] => Some((JSON, resource_list("", "v1")?)),
        ["apis", group] => Some((JSON, group_document(group)?)),
        ["apis", group, version] => Some((JSON, resource_list(group, version)?)),
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
    let mut groups = group_versions();
    groups.retain(|(group, _)| !group.is_empty());
    groups
}

/// Every group with its version, in table order; the core group's name is empty.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut groups: Vec<(&str, &str)> = Vec::new();
    let stored = Kind::all().map(|kind| (kind.row().group, kind.row().version));
    for group in stored.chain(UNSTORED.iter().map(|one| (one.group, one.version))) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

/// What is served in one version of a group, by name.
pub fn resources(group: &str, version: &str) -> Vec<Resource> {
    let mut all = Vec::new();
    for kind in
        Kind::all().filter(|kind| kind.row().group == group && kind.row().version == version)
    {
        let row = kind.row();
        let whole = Resource {
            name: row.plural.to_owned(),
            verbs: WRITES_AND_READS
                .into_iter()
                .filter(|verb| kind != NOT_AT_ONCE || *verb != "deletecollection")
                .collect(),
            singular: row.singular,
            kind: row.name,
            body: None,
            namespaced: row.namespaced,
            short_names: row.short_names,
            categories: row.categories,
        };
        let part = |name: &str, kind, body, verbs: &[&'static str]| Resource {
            name: format!("{}/{name}", row.plural),
            verbs: verbs.to_vec(),
            singular: "",
            kind,
            body,
            namespaced: row.namespaced,
            short_names: &[],
            categories: &[],
        };
        all.push(whole);
        match kind {
            Kind::Pod => {
                all.push(part("binding", "Binding", None, &["create"]));
                all.push(part("ephemeralcontainers", row.name, None, &PART_VERBS));
                all.push(part("log", row.name, None, &["get"]));
            }
            Kind::Namespace => all.push(part("finalize", row.name, None, &["update"])),
            _ => {}
        }
        if row.has_scale {
            all.push(part("scale", "Scale", Some(("autoscaling", "v1")), &PART_VERBS));
        }
        if row.has_status {
            all.push(part("status", row.name, None, &PART_VERBS));
        }
    }
    for one in UNSTORED.iter().filter(|one| one.group == group && one.version == version) {
        all.push(Resource {
            name: one.plural.to_owned(),
            verbs: one.verbs.to_vec(),
            singular: one.singular,
            kind: one.kind,
            body: None,
            namespaced: one.namespaced,
            short_names: one.short_names,
            categories: &[],
        });
    }
    // In this order `kubectl get all` prints: Deployments before their ReplicaSets.
    all.sort_by(|one, other| one.name.cmp(&other.name));
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
        let mut body = Map::new();
        body.insert("name".into(), json!(resource.name));
        body.insert("singularName".into(), json!(resource.singular));
        body.insert("namespaced".into(), json!(resource.namespaced));
        if let Some((group, version)) = resource.body {
            body.insert("group".into(), json!(group));
            body.insert("version".into(), json!(version));
        }
        body.insert("kind".into(), json!(resource.kind));
        body.insert("verbs".into(), json!(resource.verbs));
        if !resource.short_names.is_empty() {
            body.insert("shortNames".into(), json!(resource.short_names));
        }
        if !resource.categories.is_empty() {
            body.insert("categories".into(), json!(resource.categories));
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
        let (group, version) = resource.body.unwrap_or(("", ""));
        json!({ "group": group, "version": version, "kind": resource.kind })
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
            "resource": resource.name, "responseKind": response_kind(resource), "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": resource.singular, "verbs": resource.verbs,
        });
        for (field, words) in [("shortNames", resource.short_names), ("categories", resource.categories)] {
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
