//! Pure: OpenAPI, which `kubectl explain` prints and validation asks for: what every field of every
//! served kind is, in versions 3 (a document a group) and 2 (one document, for kubectl up to 1.28).
//!
//! The schemas are those of the very types that requests are decoded into, so that the two cannot
//! differ. Imprecise: the strategies of lists (`x-kubernetes-patch-merge-key`) are not told, and so
//! no PATCH is said to take a strategic merge; kubectl then uses the strategies it was built with.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use k8s_openapi::api::core::v1::Endpoints;

use crate::api::discovery::{self, Resource};
use crate::object::Kind;
use crate::with_kind;

const REFERENCE: &str = "#/components/schemas/";
const REFERENCE_V2: &str = "#/definitions/";
const GROUP_VERSION_KIND: &str = "x-kubernetes-group-version-kind";
/// Definitions of Kubernetes' own types begin so; ours have bare names where they are made.
const KUBERNETES: &str = "io.k8s.";
const OURS: &str = "dev.ballast.v1alpha1.";
/// The reference server's words, for the fields that every kind begins with.
const ROOT_FIELDS: [(&str, &str); 3] = [
    (
        "apiVersion",
        "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
    ),
    (
        "kind",
        "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
    ),
    (
        "metadata",
        "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
    ),
];

/// Where the document of each group and version stands: `api/v1`, `apis/apps/v1`.
pub fn places() -> Vec<String> {
    let mut places = Vec::new();
    for (group, version) in groups_of(Kind::all()) {
        let place = prefix(group, version).trim_start_matches('/').to_owned();
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// The document of version 3 for one of the [`places`].
pub fn version_3(place: &str) -> Value {
    let mut groups = groups_of(Kind::all());
    groups.retain(|(group, version)| prefix(group, version).trim_start_matches('/') == place);
    let definitions = definitions(&groups);
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths(&groups, &definitions, Form::Three),
        "components": {"schemas": definitions.into_iter().map(|(_, name, schema)| (name, schema)).collect::<Map<_, _>>()},
    })
}

/// The one document of version 2.
pub fn version_2() -> Value {
    let groups = groups_of(Kind::all());
    let definitions = definitions(&groups);
    let paths = paths(&groups, &definitions, Form::Two);
    let schemas = definitions.into_iter().map(|(_, name, mut schema)| {
        lower(&mut schema);
        (name, schema)
    });
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths,
        "definitions": schemas.collect::<Map<_, _>>(),
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Three,
    Two,
}

fn info() -> Value {
    json!({"title": "Ballast", "version": env!("CARGO_PKG_VERSION")})
}

/// A group and its version.
type Group = (&'static str, &'static str);

/// Group, version and name of a kind.
type Root = (&'static str, &'static str, &'static str);

/// The groups of kinds, in their order.
fn groups_of(kinds: impl Iterator<Item = Kind>) -> Vec<Group> {
    let mut groups = Vec::new();
    for group in kinds.map(|kind| (kind.row().group, kind.row().version)) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

/// `/api/v1`, `/apis/apps/v1`
fn prefix(group: &str, version: &str) -> String {
    match group {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    }
}

fn group_version_kind((group, version, kind): Root) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// A schema's kind where it is one's root, its name, and itself.
type Definition = (Option<Root>, String, Value);

/// Every schema that the kinds of some groups reach, by name.
fn definitions(groups: &[Group]) -> Vec<Definition> {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let mut roots = Vec::new();
    for kind in Kind::all() {
        let row = kind.row();
        if groups.contains(&(row.group, row.version)) {
            let name = with_kind!(kind, K => root::<K>(&mut generator));
            roots.push(((row.group, row.version, row.name), name));
        }
    }
    // The one kind that is explained and not stored.
    if groups.contains(&("", "v1")) {
        roots.push((("", "v1", "Endpoints"), root::<Endpoints>(&mut generator)));
    }
    let mut all: Vec<Definition> = generator
        .take_definitions(true)
        .into_iter()
        .map(|(name, mut schema)| {
            tidy(&mut schema);
            let name = qualified(&name);
            let kind = roots.iter().find(|(_, root)| *root == name).map(|(kind, _)| *kind);
            if let Some(kind) = kind {
                schema[GROUP_VERSION_KIND] = json!([group_version_kind(kind)]);
                describe_root(&mut schema);
            }
            (kind, name, schema)
        })
        .collect();
    all.sort_by(|a, b| a.1.cmp(&b.1));
    all
}

fn root<K: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> String {
    generator.subschema_for::<K>();
    qualified(&K::schema_name())
}

fn qualified(name: &str) -> String {
    if name.starts_with(KUBERNETES) { name.to_owned() } else { format!("{OURS}{name}") }
}

fn describe_root(schema: &mut Value) {
    for (name, text) in ROOT_FIELDS {
        let field = &mut schema["properties"][name];
        if field.is_object() && field.get("description").is_none() {
            field["description"] = json!(text);
        }
    }
}

/// Brings a generated schema into the forms that Kubernetes' own documents have: references by full
/// names, no `nullable`, enumerations as one list, integers of the two known widths.
fn tidy(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for word in ["nullable", "title", "$schema", "default"] {
        map.remove(word);
    }
    if let Some(Value::String(reference)) = map.get_mut("$ref") {
        let name = reference.rsplit('/').next().unwrap_or_default();
        *reference = format!("{REFERENCE}{}", qualified(name));
    }
    if map.remove("x-kubernetes-int-or-string").is_some() {
        map.insert("format".into(), json!("int-or-string"));
        map.insert("oneOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
        return;
    }
    if map.get("format").is_some_and(|format| format == "uint32" || format == "uint64") {
        map.insert("format".into(), json!("int64"));
    }
    if let Some(Value::Array(options)) = map.remove("oneOf").or_else(|| map.remove("anyOf")) {
        choose(map, options);
    }
    within(map, tidy);
}

/// Does the same to every schema inside one: those of its fields, values, items and parts.
fn within(schema: &mut Map<String, Value>, change: fn(&mut Value)) {
    if let Some(Value::Object(fields)) = schema.get_mut("properties") {
        fields.values_mut().for_each(change);
    }
    for word in ["additionalProperties", "items"] {
        if let Some(inner) = schema.get_mut(word) {
            change(inner);
        }
    }
    if let Some(Value::Array(parts)) = schema.get_mut("allOf") {
        parts.iter_mut().for_each(change);
    }
}

/// One of several: an enumeration, or one schema that may also be absent.
fn choose(map: &mut Map<String, Value>, options: Vec<Value>) {
    let words: Vec<Value> = options
        .iter()
        .filter_map(|option| option["enum"].as_array())
        .flatten()
        .filter(|word| word.is_string())
        .cloned()
        .collect();
    if !words.is_empty() {
        let said = map.get("description").and_then(Value::as_str).unwrap_or_default();
        let mut text = said.to_owned();
        for option in &options {
            if let (Some(word), Some(means)) =
                (option["enum"][0].as_str(), option["description"].as_str())
            {
                text.push_str(&format!("\n\n* {word}: {means}"));
            }
        }
        if !text.is_empty() {
            map.insert("description".into(), json!(text.trim_start()));
        }
        map.insert("type".into(), json!("string"));
        map.insert("enum".into(), Value::Array(words));
    } else if let Some(schema) = options.into_iter().find(|option| option.get("enum").is_none()) {
        map.insert("allOf".into(), json!([schema]));
    }
}

/// From version 3 to version 2: one reference in place of a list of one, and no alternatives.
fn lower(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    if let Some(Value::Array(one)) = map.get("allOf")
        && let [one] = one.as_slice()
        && let Some(reference) = one["$ref"].as_str()
    {
        let reference = reference.replace(REFERENCE, REFERENCE_V2);
        map.remove("allOf");
        map.insert("$ref".into(), json!(reference));
    } else if let Some(Value::String(reference)) = map.get_mut("$ref") {
        *reference = reference.replace(REFERENCE, REFERENCE_V2);
    }
    if map.get("format").is_some_and(|format| format == "int-or-string") {
        map.remove("oneOf");
        map.insert("type".into(), json!("string"));
    }
    within(map, lower);
}

/// A collection and an object a kind, with every verb of discovery and no other: where `explain` finds
/// a kind by its resource, and where clients read that the server validates fields and knows dry runs.
fn paths(groups: &[Group], definitions: &[Definition], form: Form) -> Map<String, Value> {
    let mut paths = Map::new();
    for (group, version) in groups {
        for resource in discovery::resources(group, version) {
            let root = (*group, *version, resource.kind);
            let found = definitions.iter().find(|(of, ..)| *of == Some(root));
            // Subresources have none; neither has what is only created, a review.
            if let (Some((_, schema, _)), false) = (found, resource.name.contains('/')) {
                let operation = |action: &str| operation(root, action, schema, form);
                paths.extend(paths_of(&prefix(group, version), &resource, operation));
            }
        }
    }
    paths
}

/// Of a collection: method, verb, and the name that the action has here.
const OF_ALL: [(&str, &str, &str); 3] = [
    ("get", "list", "list"),
    ("post", "create", "post"),
    ("delete", "deletecollection", "deletecollection"),
];
/// Of an object.
const OF_ONE: [(&str, &str, &str); 4] = [
    ("get", "get", "get"),
    ("put", "update", "put"),
    ("patch", "patch", "patch"),
    ("delete", "delete", "delete"),
];

fn paths_of(
    prefix: &str,
    resource: &Resource,
    operation: impl Fn(&str) -> Value,
) -> Vec<(String, Value)> {
    let verbs = |all: &[(&str, &str, &str)]| -> Value {
        let served = all.iter().filter(|(_, verb, _)| resource.verbs.contains(verb));
        let made = served.map(|(method, _, action)| ((*method).to_owned(), operation(action)));
        Value::Object(made.collect())
    };
    let collection = format!("{prefix}/{}", resource.name);
    let of_namespace = format!("{prefix}/namespaces/{{namespace}}/{}", resource.name);
    let own = if resource.namespaced { &of_namespace } else { &collection };
    let mut paths =
        vec![(own.clone(), verbs(&OF_ALL)), (format!("{own}/{{name}}"), verbs(&OF_ONE))];
    if resource.namespaced {
        paths.push((collection, verbs(&OF_ALL[..1])));
    }
    paths
}

/// The parameters of each write, as the reference server tells them.
fn parameters(action: &str) -> &'static [&'static str] {
    match action {
        "post" | "put" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" | "deletecollection" => {
            &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"]
        }
        _ => &[],
    }
}

fn operation(root: Root, action: &str, name: &str, form: Form) -> Value {
    let response = match (action, form) {
        // The list's own schema would say no more than that it is a list; a delete answers a Status
        // or the object.
        ("list" | "delete" | "deletecollection", _) => json!({"description": "OK"}),
        (_, Form::Three) => {
            let schema = json!({"$ref": format!("{REFERENCE}{name}")});
            json!({"description": "OK", "content": {"application/json": {"schema": schema}}})
        }
        (_, Form::Two) => {
            json!({"description": "OK", "schema": {"$ref": format!("{REFERENCE_V2}{name}")}})
        }
    };
    let mut responses = json!({"200": response});
    if action == "post" {
        responses["201"] = response;
    }
    let mut operation = json!({
        "x-kubernetes-action": action,
        GROUP_VERSION_KIND: group_version_kind(root),
        "responses": responses,
    });
    let parameter = |name: &&str| {
        let kind = match *name {
            "force" | "orphanDependents" => "boolean",
            "gracePeriodSeconds" => "integer",
            _ => "string",
        };
        match form {
            Form::Three => json!({"name": name, "in": "query", "schema": {"type": kind}}),
            Form::Two => json!({"name": name, "in": "query", "type": kind}),
        }
    };
    let parameters: Vec<Value> = parameters(action).iter().map(parameter).collect();
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    operation
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.insert(reference);
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let mut documents: Vec<(Value, &str)> =
            places().iter().map(|place| (version_3(place), REFERENCE)).collect();
        documents.push((version_2(), REFERENCE_V2));
        for (document, begins) in &documents {
            let mut all = BTreeSet::new();
            references(document, &mut all);
            assert!(!all.is_empty());
            for reference in all {
                let name = reference.strip_prefix(begins).unwrap_or_else(|| panic!("{reference}"));
                let schemas = match *begins {
                    REFERENCE => &document["components"]["schemas"],
                    _ => &document["definitions"],
                };
                assert!(schemas[name].is_object(), "{reference}");
            }
        }
    }

    #[test]
    fn every_served_kind_is_explained_and_nothing_else() {
        let document = version_2();
        let mut explained = Vec::new();
        for schema in document["definitions"].as_object().expect("definitions").values() {
            for of in schema[GROUP_VERSION_KIND].as_array().into_iter().flatten() {
                explained.push(of.clone());
                for (name, field) in schema["properties"].as_object().expect("fields") {
                    let text = field["description"].as_str().unwrap_or_default();
                    assert!(!text.is_empty(), "{of}: {name}");
                }
            }
        }
        let stored = Kind::all().map(Kind::row).map(|row| (row.group, row.version, row.name));
        let served: Vec<Value> =
            stored.chain([("", "v1", "Endpoints")]).map(group_version_kind).collect();
        assert_eq!(explained.len(), served.len());
        assert!(served.iter().all(|kind| explained.contains(kind)), "{explained:?}");
    }

    #[test]
    fn every_write_tells_that_fields_are_validated_and_dry_runs_known() {
        let document = version_3("apis/apps/v1");
        let object = "/apis/apps/v1/namespaces/{namespace}/deployments";
        let named = |path: &str, method: &str| -> Vec<String> {
            let operation = &document["paths"][path][method];
            let all = operation["parameters"].as_array().into_iter().flatten();
            all.map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
        };
        let each = format!("{object}/{{name}}");
        for (path, method) in [(object, "post"), (&each, "put"), (&each, "patch")] {
            let told = named(path, method);
            for wanted in ["dryRun", "fieldManager", "fieldValidation"] {
                assert!(told.iter().any(|name| name == wanted), "{method} {path}: {wanted}");
            }
        }
        assert!(named(&each, "delete").contains(&"propagationPolicy".to_owned()));
        assert!(named(object, "delete").contains(&"dryRun".to_owned()));
        let all = &document["paths"]["/apis/apps/v1/deployments"];
        assert_eq!(all.as_object().expect("one").keys().collect::<Vec<_>>(), ["get"]);
        let one_by_one = &version_3("api/v1")["paths"]["/api/v1/namespaces"];
        assert_eq!(one_by_one["delete"], Value::Null);
    }

    #[test]
    fn what_is_only_read_says_no_write() {
        let paths = version_2()["paths"].take();
        for path in [
            "/api/v1/endpoints",
            "/api/v1/namespaces/{namespace}/endpoints",
            "/api/v1/namespaces/{namespace}/endpoints/{name}",
        ] {
            let methods = paths[path].as_object().unwrap_or_else(|| panic!("{path}"));
            assert_eq!(methods.keys().collect::<Vec<_>>(), ["get"], "{path}");
        }
    }

    #[test]
    fn our_own_fields_are_in_kubernetes_forms() {
        let document = version_3("apis/ballast.dev/v1alpha1");
        let schemas = &document["components"]["schemas"];
        let drift = &schemas["dev.ballast.v1alpha1.DriftSpec"]["properties"];
        assert_eq!(
            drift["layer"]["allOf"][0]["$ref"],
            "#/components/schemas/dev.ballast.v1alpha1.Layer"
        );
        assert_eq!(
            schemas["dev.ballast.v1alpha1.Layer"]["enum"],
            json!(["object", "container", "network"])
        );
        assert_eq!(
            drift["origin"]["allOf"][0]["$ref"],
            "#/components/schemas/dev.ballast.v1alpha1.Origin"
        );
        assert_eq!(drift["wanted"]["type"], "string");
        let text = document.to_string();
        assert!(!text.contains("nullable") && !text.contains("anyOf") && !text.contains("uint32"));
    }
}
