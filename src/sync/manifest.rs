//! Pure: from a file to manifests, with every problem at its place. Nothing is guessed: an unknown
//! kind or field is refused by name, and so is what only a cluster may write (status, uid, owner
//! references) and what no tool has rendered yet (templates, encrypted Secrets).
//!
//! Values of Secrets never stand in a message.

use std::sync::Arc;

use serde_json::Value;

use crate::object::decode::{self, DecodeFaultKind};
use crate::object::quantity::Quantity;
use crate::object::source::{Problem, SOURCE_ANNOTATION};
use crate::object::{Key, Kind};
use crate::sync::document::{self, Document};
use crate::sync::position::{Place, Positions};
use crate::sync::source::{SourceFile, printable};
use crate::sync::{spelling, type_fault};
use crate::with_kind;

/// One object that a commit wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub kind: Kind,
    /// As written; `render` fills in the namespace.
    pub key: Key,
    /// As decoded: no defaults filled in.
    pub value: Arc<Value>,
    pub file: Arc<str>,
    pub positions: Arc<Positions>,
}

impl Manifest {
    /// `Deployment web/frontend`
    pub fn title(&self) -> String {
        format!("{} {}", self.kind, self.key)
    }

    /// Where the manifest begins.
    pub fn line(&self) -> u32 {
        self.positions.start().line
    }

    /// A problem of one of its fields, at the field's value or the nearest place around it.
    pub fn problem(&self, field: &str, message: impl Into<String>) -> Problem {
        self.problem_at(self.positions.value(field), field, message.into(), "")
    }

    fn problem_at(&self, place: Place, field: &str, message: String, hint: &str) -> Problem {
        Problem {
            file: self.file.to_string(),
            line: place.line,
            column: place.column,
            field: field.to_owned(),
            object: self.title(),
            message,
            hint: hint.to_owned(),
        }
    }

    fn hinted(&self, field: &str, message: impl Into<String>, hint: &str) -> Problem {
        self.problem_at(self.positions.key(field), field, message.into(), hint)
    }
}

/// Everything one file says, beside everything wrong with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    pub manifests: Vec<Manifest>,
    pub problems: Vec<Problem>,
}

/// Reads one file. Its problems hide no other file's.
pub fn parse(file: &SourceFile) -> Parsed {
    let read = document::read(&file.path, &file.bytes);
    let mut parsed = Parsed::default();
    for fault in read.faults {
        parsed.problems.push(Problem {
            file: file.path.to_string(),
            line: fault.place.line,
            column: fault.place.column,
            message: fault.message,
            hint: fault.hint,
            ..Problem::default()
        });
    }
    for document in read.documents {
        parse_document(file, document, &mut parsed);
    }
    parsed
}

fn parse_document(file: &SourceFile, document: Document, parsed: &mut Parsed) {
    let Document { value, positions } = document;
    let problem = |field: &str, message: String, hint: &str| {
        let place = positions.value(field);
        Problem {
            file: file.path.to_string(),
            line: place.line,
            column: place.column,
            field: field.to_owned(),
            message,
            hint: hint.to_owned(),
            ..Problem::default()
        }
    };
    let Some(object) = value.as_object() else {
        let message = format!("the document is {}, not an object", kind_of(&value));
        parsed.problems.push(problem("", message, "an object has apiVersion, kind and metadata"));
        return;
    };
    let word = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (word("apiVersion"), word("kind"));
    if api_version.is_empty() || kind.is_empty() {
        let hint = if object.contains_key("services") {
            "this looks like a Compose file: Ballast reads Kubernetes manifests"
        } else {
            "keep files that are no manifests outside the path, or give them another ending"
        };
        for (field, text) in [("apiVersion", api_version), ("kind", kind)] {
            if text.is_empty() {
                parsed.problems.push(problem(field, format!("{field} is missing"), hint));
            }
        }
        return;
    }
    if let (true, Some(items)) = (kind.ends_with("List"), object.get("items")) {
        let Some(items) = items.as_array() else {
            parsed.problems.push(problem("items", "items is no list".to_owned(), ""));
            return;
        };
        for (index, item) in items.iter().enumerate() {
            let below = positions.below(&format!("items[{index}]"));
            let document = Document { value: item.clone(), positions: below };
            parse_document(file, document, parsed);
        }
        return;
    }
    match served_kind(api_version, kind) {
        Ok(kind) => {
            let manifest = Manifest {
                kind,
                key: key_of(&value),
                value: Arc::new(value),
                file: file.path.clone(),
                positions: Arc::new(positions),
            };
            check(manifest, parsed);
        }
        Err((field, message, hint)) => parsed.problems.push(problem(field, message, &hint)),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn key_of(value: &Value) -> Key {
    let word =
        |field: &str| value["metadata"][field].as_str().map(str::to_owned).unwrap_or_default();
    Key { namespace: word("namespace"), name: word("name") }
}

/// The kinds that people write; the others are written by the cluster itself.
fn is_written_by_people(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Namespace
            | Kind::ConfigMap
            | Kind::Secret
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::Pod
            | Kind::ReplicaSet
            | Kind::Deployment
            | Kind::PersistentVolume
            | Kind::PersistentVolumeClaim
            | Kind::StorageClass
    )
}

/// The kind, or the field at fault with message and hint.
fn served_kind(api_version: &str, kind: &str) -> Result<Kind, (&'static str, String, String)> {
    let known = || Kind::all().filter(|kind| is_written_by_people(*kind));
    if let Some(kind) = Kind::of_manifest(api_version, kind) {
        if is_written_by_people(kind) {
            return Ok(kind);
        }
        let message = format!("{kind} objects are written by Ballast itself, not by a commit");
        return Err(("kind", message, "remove the document".to_owned()));
    }
    if let Some(same) = known().find(|known| known.row().name == kind) {
        let message = format!("{kind} is not served as {}", printable(api_version));
        return Err(("apiVersion", message, format!("write apiVersion: {}", same.api_version())));
    }
    let message = format!(
        "this version of Ballast does not run {} ({})",
        printable(kind),
        printable(api_version)
    );
    let names: Vec<&str> = known().map(|kind| kind.row().name).collect();
    let hint = match spelling::nearest(kind, names.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None if kind == "Kustomization" => {
            "render it first (kustomize build) and commit the result".to_owned()
        }
        None => format!("it runs {}", names.join(", ")),
    };
    Err(("kind", message, hint))
}

/// What only a cluster writes, with the reason beside it.
const WRITTEN_BY_THE_CLUSTER: &[(&str, &str)] = &[
    ("uid", "the cluster gives every object its own"),
    ("resourceVersion", "the cluster counts versions itself"),
    ("generation", "the cluster counts generations itself"),
    ("creationTimestamp", "the cluster notes the time itself"),
    ("deletionTimestamp", "an object is deleted by removing it from the commit"),
    ("deletionGracePeriodSeconds", "an object is deleted by removing it from the commit"),
    ("ownerReferences", "owners are set by controllers; a committed object is owned by its commit"),
    ("finalizers", "a finalizer that nobody removes would keep the object for ever"),
    ("managedFields", "Ballast knows the owner of a field by the commit"),
    ("selfLink", "Kubernetes removed it"),
];

/// `kubectl get -o yaml` shows them; a commit that names one would fight with its writer for ever, and
/// could have a node remove what it never made. How a name begins, whose it is, and when it is written.
const OF_CONTROLLERS: &[(&str, &str)] = &[
    (
        "deployment.kubernetes.io/",
        "the Deployment controller writes this annotation at every rollout",
    ),
    ("pv.kubernetes.io/", "the volume controller writes this annotation when it binds"),
    ("volume.kubernetes.io/", "the scheduler and the volume controller write this annotation"),
    ("volume.beta.kubernetes.io/", "Kubernetes left it for fields of the spec"),
];

fn check(manifest: Manifest, parsed: &mut Parsed) {
    let before = parsed.problems.len();
    let problems = &mut parsed.problems;
    if is_encrypted(&manifest.value) {
        problems.push(manifest.hinted(
            "sops",
            "the document is still encrypted (SOPS)",
            "Ballast does not decrypt: commit it decrypted to a private repository, or keep it outside the path",
        ));
        return;
    }
    names(&manifest, problems);
    cluster_fields(&manifest, problems);
    unrendered("", &manifest.value, &mut |path, what| {
        problems.push(manifest.problem_at(
            manifest.positions.value(path),
            path,
            format!("{what} is not rendered"),
            "render templates and variables before committing: Ballast reads plain manifests",
        ));
    });
    strict(&manifest, problems);
    quantities("", &manifest.value, &mut |path, message| {
        problems.push(manifest.problem(path, message));
    });
    if problems.len() == before {
        parsed.manifests.push(manifest);
    }
}

fn is_encrypted(value: &Value) -> bool {
    let sealed = |value: &Value| {
        value.as_object().is_some_and(|map| {
            map.values().any(|value| value.as_str().is_some_and(|text| text.starts_with("ENC[")))
        })
    };
    value.get("sops").is_some_and(Value::is_object)
        || sealed(&value["data"])
        || sealed(&value["stringData"])
}

fn names(manifest: &Manifest, problems: &mut Vec<Problem>) {
    let meta = &manifest.value["metadata"];
    if meta.get("generateName").is_some() {
        problems.push(manifest.hinted(
            "metadata.generateName",
            "generateName would make a new object at every commit",
            "write metadata.name",
        ));
    } else if manifest.key.name.is_empty() {
        problems.push(manifest.problem("metadata.name", "metadata.name is missing"));
    }
    if !manifest.kind.row().namespaced && !manifest.key.namespace.is_empty() {
        problems.push(manifest.hinted(
            "metadata.namespace",
            format!("a {} belongs to no namespace", manifest.kind),
            "remove metadata.namespace",
        ));
    }
}

fn cluster_fields(manifest: &Manifest, problems: &mut Vec<Problem>) {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(|value| {
            value.is_null()
                || value == &Value::Array(vec![])
                || value.as_object().is_some_and(serde_json::Map::is_empty)
        }),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    // `kubectl create --dry-run -o yaml` writes `creationTimestamp: null` and `status: {}`: harmless.
    if manifest.value.get("status").is_some_and(|status| !empty(status)) {
        problems.push(manifest.hinted(
            "status",
            "status is written by the cluster, not by a commit",
            "remove the block",
        ));
    }
    for (field, why) in WRITTEN_BY_THE_CLUSTER {
        if manifest.value["metadata"].get(field).is_some_and(|value| !empty(value)) {
            let path = format!("metadata.{field}");
            problems.push(manifest.hinted(
                &path,
                format!("{path} cannot be committed: {why}"),
                "remove the field",
            ));
        }
    }
    if manifest.value["metadata"]["annotations"].get(SOURCE_ANNOTATION).is_some() {
        let path = format!("metadata.annotations.{SOURCE_ANNOTATION}");
        problems.push(manifest.hinted(
            &path,
            "Ballast writes this annotation itself",
            "remove the annotation",
        ));
    }
    let annotations = manifest.value["metadata"]["annotations"].as_object();
    for name in annotations.into_iter().flat_map(|map| map.keys()) {
        let Some((_, whose)) = OF_CONTROLLERS.iter().find(|(begin, _)| name.starts_with(begin))
        else {
            continue;
        };
        problems.push(manifest.hinted(
            &format!("metadata.annotations.{name}"),
            *whose,
            "remove the annotation",
        ));
    }
}

/// Finds `{{ x }}` and `${X}` where they can only be a mistake: names, namespaces, images, keys of
/// selectors. Elsewhere (scripts, ConfigMaps, arguments) they are somebody's text.
fn unrendered(path: &str, value: &Value, found: &mut impl FnMut(&str, &str)) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if matches!(name.as_str(), "data" | "stringData" | "binaryData" | "annotations") {
                    continue;
                }
                let exposed = matches!(name.as_str(), "name" | "namespace" | "image")
                    || path.ends_with("abels")
                    || path.ends_with("elector");
                match value.as_str() {
                    Some(text) if exposed && text.contains("{{") => {
                        found(&inner, "the template {{ … }}")
                    }
                    Some(text) if exposed && text.contains("${") => {
                        found(&inner, "the variable ${…}")
                    }
                    Some(_) => {}
                    None => unrendered(&inner, value, found),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                unrendered(&format!("{path}[{index}]"), item, found);
            }
        }
        _ => {}
    }
}

/// Amounts that are none. Their type is a text, so decoding cannot tell, and the API's own sentence
/// names no field.
fn quantities(path: &str, value: &Value, found: &mut impl FnMut(&str, String)) {
    match value {
        Value::Object(map) => {
            let amounts =
                [".limits", ".requests", ".capacity"].iter().any(|end| path.ends_with(end));
            for (name, value) in map.iter().filter(|(name, _)| *name != "metadata") {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match value.as_str() {
                    Some(text) if amounts || name == "sizeLimit" => {
                        if let Err(grammar) = Quantity::parse(text) {
                            found(&inner, format!("{:?}: {grammar}", printable(text)));
                        }
                    }
                    Some(_) => {}
                    None => quantities(&inner, value, found),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                quantities(&format!("{path}[{index}]"), item, found);
            }
        }
        _ => {}
    }
}

/// Decodes into the kind's type: unknown fields and wrong types.
fn strict(manifest: &Manifest, problems: &mut Vec<Problem>) {
    with_kind!(manifest.kind, K => {
        let unknown = |path: &str| {
            let last = path.rsplit('.').next().unwrap_or_default();
            let hint = match spelling::suggest::<K>(path) {
                Some(near) => format!("did you mean {near}?"),
                None => "remove it, or check where it belongs".to_owned(),
            };
            let message = format!("unknown field {:?}", printable(last));
            manifest.problem_at(manifest.positions.key(path), path, message, &hint)
        };
        match decode::decode::<K>(&manifest.value) {
            Ok(decoded) => problems.extend(decoded.unknown.iter().map(|path| unknown(path))),
            Err(faults) => for fault in faults {
                problems.push(match &fault.what {
                    DecodeFaultKind::UnknownField => unknown(&fault.path),
                    DecodeFaultKind::WrongType(sentence) => {
                        let (message, hint) = wrong_type(manifest.kind, &fault.path, sentence);
                        let place = manifest.positions.value(&fault.path);
                        manifest.problem_at(place, &fault.path, message, hint)
                    }
                });
            },
        }
    });
}

fn wrong_type(kind: Kind, path: &str, sentence: &str) -> (String, &'static str) {
    if kind == Kind::Secret && !path.starts_with("metadata") {
        let hint = if path.starts_with("data") {
            "values of data are base64; plain text belongs into stringData"
        } else {
            "quote the value"
        };
        return ("the value has the wrong form (values of Secrets are not shown)".to_owned(), hint);
    }
    type_fault::explain(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Parsed {
        parse(&SourceFile {
            path: "web.yaml".into(),
            blob: String::new(),
            bytes: text.as_bytes().into(),
        })
    }

    /// `line:column field message (hint)` of every problem.
    fn problems(text: &str) -> Vec<String> {
        let show = |problem: Problem| {
            let Problem { line, column, field, message, hint, .. } = problem;
            format!("{line}:{column} {field}: {message} ({hint})")
        };
        parsed(text).problems.into_iter().map(show).collect()
    }

    #[test]
    fn a_list_is_its_items() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: b}\n";
        let parsed = parsed(text);
        assert_eq!(parsed.problems, vec![]);
        let found: Vec<(String, u32)> =
            parsed.manifests.iter().map(|manifest| (manifest.title(), manifest.line())).collect();
        assert_eq!(found, [("ConfigMap a".into(), 4), ("Namespace b".into(), 7)]);
    }

    #[test]
    fn every_problem_stands_at_its_place() {
        let rows: &[(&str, &[&str])] = &[
            (
                "just text",
                &[
                    "1:1 : the document is a text, not an object (an object has apiVersion, kind and metadata)",
                ],
            ),
            (
                "kind: Pod\n",
                &[
                    "1:1 apiVersion: apiVersion is missing (keep files that are no manifests outside the path, or give them another ending)",
                ],
            ),
            (
                "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: a}\n",
                &[
                    "2:7 kind: this version of Ballast does not run StatefulSet (apps/v1) (it runs Namespace, Pod, ConfigMap, Secret, Service, ReplicaSet, Deployment, EndpointSlice, PersistentVolume, PersistentVolumeClaim, StorageClass)",
                ],
            ),
            (
                "apiVersion: apps/v1\nkind: Deploymnet\n",
                &[
                    "2:7 kind: this version of Ballast does not run Deploymnet (apps/v1) (did you mean Deployment?)",
                ],
            ),
            (
                "apiVersion: extensions/v1beta1\nkind: Deployment\n",
                &[
                    "1:13 apiVersion: Deployment is not served as extensions/v1beta1 (write apiVersion: apps/v1)",
                ],
            ),
            (
                "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n",
                &[
                    "2:7 kind: Node objects are written by Ballast itself, not by a commit (remove the document)",
                ],
            ),
            (
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {}\n",
                &["3:1 metadata.name: metadata.name is missing ()"],
            ),
            (
                "apiVersion: v1\nkind: Pod\nmetadata:\n  generateName: a-\n",
                &[
                    "4:3 metadata.generateName: generateName would make a new object at every commit (write metadata.name)",
                ],
            ),
            (
                "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  namespace: b\n",
                &[
                    "5:3 metadata.namespace: a Namespace belongs to no namespace (remove metadata.namespace)",
                ],
            ),
            (
                "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  uid: x\n  resourceVersion: '1'\n  finalizers: [x]\n  ownerReferences: [{apiVersion: v1, kind: Pod, name: a, uid: b}]\n",
                &[
                    "5:3 metadata.uid: metadata.uid cannot be committed: the cluster gives every object its own (remove the field)",
                    "6:3 metadata.resourceVersion: metadata.resourceVersion cannot be committed: the cluster counts versions itself (remove the field)",
                    "8:3 metadata.ownerReferences: metadata.ownerReferences cannot be committed: owners are set by controllers; a committed object is owned by its commit (remove the field)",
                    "7:3 metadata.finalizers: metadata.finalizers cannot be committed: a finalizer that nobody removes would keep the object for ever (remove the field)",
                ],
            ),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {phase: Running}\n",
                &[
                    "4:1 status: status is written by the cluster, not by a commit (remove the block)",
                ],
            ),
            (
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  replicas: 'two'\n",
                &[
                    "5:13 spec.replicas: the text \"two\" stands where a whole number is expected (write digits)",
                ],
            ),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n    imagee: b\n    image: c:${TAG}\n",
                &[
                    "8:12 spec.containers[0].image: the variable ${…} is not rendered (render templates and variables before committing: Ballast reads plain manifests)",
                    "7:5 spec.containers[0].imagee: unknown field \"imagee\" (did you mean image?)",
                ],
            ),
            (
                "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata:\n  key: 'not base64!'\n",
                &[
                    "5:8 data.key: the value has the wrong form (values of Secrets are not shown) (values of data are base64; plain text belongs into stringData)",
                ],
            ),
            (
                "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData:\n  key: ENC[AES256_GCM,data:x]\nsops: {mac: x}\n",
                &[
                    "6:1 sops: the document is still encrypted (SOPS) (Ballast does not decrypt: commit it decrypted to a private repository, or keep it outside the path)",
                ],
            ),
            (
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: 5}\n",
                &["4:11 data.a: the number 5 stands where text is expected (quote the value)"],
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(&problems(text), expected, "{text}");
        }
    }

    #[test]
    fn what_kubectl_writes_by_itself_is_harmless() {
        let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  creationTimestamp: null\n  name: a\nspec:\n  selector: {matchLabels: {app: a}}\n  strategy: {}\n  template:\n    metadata: {creationTimestamp: null, labels: {app: a}}\n    spec: {containers: [{name: a, image: b, resources: {}}]}\nstatus: {}\n";
        assert_eq!(problems(text), Vec::<String>::new());
    }

    #[test]
    fn templates_in_texts_are_somebodys_texts() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  conf: '{{ .Values.x }} ${HOME}'\n";
        assert_eq!(problems(text), Vec::<String>::new());
    }
}
