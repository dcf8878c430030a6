//! What is mutated: requests that kubectl made, objects and patches that a real API server answered,
//! and beside them one of each directive, operator and parameter that those happen not to have.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::object::Kind;

fn golden(below: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(below)
}

fn texts(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(golden(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    let read = |path: &PathBuf| fs::read_to_string(path).expect("UTF-8");
    paths.iter().map(read).collect()
}

fn values(folder: &str) -> Vec<Value> {
    texts(folder).iter().map(|text| serde_json::from_str(text).expect("JSON")).collect()
}

/// Every path with its query that kubectl asked for, once, and every bad one that was recorded.
pub fn urls() -> Vec<String> {
    let mut urls: Vec<String> = texts("kubectl-requests")
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            words.next()?;
            words.next().filter(|url| url.starts_with('/')).map(str::to_owned)
        })
        .collect();
    let recorded = values("objects").into_iter().flat_map(|file| match file {
        Value::Array(rows) => rows,
        one => vec![one],
    });
    urls.extend(recorded.filter_map(|row| row["path"].as_str().map(str::to_owned)));
    urls.extend(URLS.map(str::to_owned));
    urls.sort();
    urls.dedup();
    urls
}

const URLS: [&str; 14] = [
    "/api/v1/pods?watch=1&resourceVersion=1&allowWatchBookmarks=true&timeoutSeconds=1",
    "/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1",
    "/api/v1/pods?limit=1&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6Mywic3RhcnQiOiJkZWZhdWx0L3dlYlx1MDAwMCJ9",
    "/api/v1/pods?resourceVersion=1&resourceVersionMatch=Exact",
    "/api/v1/namespaces/default/configmaps/g?includeObject=Metadata&timeout=1m0.5s",
    "/api/v1/namespaces/default/configmaps?fieldManager=t1&dryRun=All&fieldValidation=Strict",
    "/api/v1/namespaces/default/configmaps/g?gracePeriodSeconds=0&propagationPolicy=Foreground",
    "/api/v1/namespaces/default/pods/web/log?tailLines=5&sinceSeconds=10&follow=false&limitBytes=9",
    "/api/v1/namespaces/default/pods/web/log?sinceTime=2026-11-21T11%3A35%3A13Z&container=c",
    "/apis/apps/v1/namespaces/default/deployments/web/scale",
    "/api/v1/namespaces/default/status",
    "/apis/ballast.dev/v1alpha1/sources/web%2F1",
    "/openapi/v3/api/v1?hash=00",
    "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/web",
];

pub const QUERY_WORDS: &[&str] = &[
    "&limit=",
    "&continue=",
    "&resourceVersion=",
    "&resourceVersionMatch=Exact",
    "&watch=true",
    "&sendInitialEvents=true",
    "&timeoutSeconds=",
    "&timeout=",
    "&labelSelector=",
    "&dryRun=All",
    "&fieldSelector=metadata.name%3Dg",
    "&fieldManager=",
    "&fieldValidation=",
    "&force=true",
    "&gracePeriodSeconds=",
    "&propagationPolicy=Orphan",
    "/namespaces/default",
    "/pods",
    "/status",
    "/scale",
    "/log",
    "/apis/apps/v1",
    "/api/v1",
];

/// Every golden request of a kind that is served.
pub fn objects() -> Vec<Value> {
    let files = values("defaults").into_iter().chain(values("rejections"));
    files.map(|mut file| file["request"].take()).filter(|one| kind_of(one).is_some()).collect()
}

pub fn kind_of(object: &Value) -> Option<Kind> {
    Kind::of_manifest(object["apiVersion"].as_str()?, object["kind"].as_str()?)
}

/// Method, URL, content type and body of every write that was recorded, and one apply, strategic
/// merge and delete of each sort.
pub fn writes() -> Vec<(String, String, String, String)> {
    let text = fs::read_to_string(golden("objects/writes.json")).expect("there");
    let rows: Value = serde_json::from_str(&text).expect("JSON");
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut writes: Vec<_> = rows
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            let body = match &row["request"] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            (word(&row["method"]), word(&row["path"]), word(&row["contentType"]), body)
        })
        .collect();
    for object in objects() {
        let kind = kind_of(&object).expect("filtered").row();
        let group =
            if kind.group.is_empty() { "api".to_owned() } else { format!("apis/{}", kind.group) };
        let namespace = if kind.namespaced { "namespaces/default/" } else { "" };
        let path = format!("/{group}/{}/{namespace}{}", kind.version, kind.plural);
        let name = object["metadata"]["name"].as_str().unwrap_or("g");
        let (json, apply) = ("application/json", "application/apply-patch+yaml");
        let body = object.to_string();
        writes.push(("POST".into(), path.clone(), json.into(), body.clone()));
        let applied = format!("{path}/{name}?fieldManager=fuzz&force=true");
        writes.push(("PATCH".into(), applied, apply.into(), body));
    }
    for (kind, patch) in strategic() {
        let path = match kind {
            Kind::Pod => "/api/v1/namespaces/default/pods/web",
            _ => "/apis/apps/v1/namespaces/default/deployments/web",
        };
        let content = "application/strategic-merge-patch+json";
        writes.push(("PATCH".into(), path.into(), content.into(), patch.to_string()));
    }
    writes
}

/// Strategic merge patches with every directive.
pub fn strategic() -> Vec<(Kind, Value)> {
    let container = |fields: Value| json!({"spec": {"containers": [fields]}});
    let pods = [
        container(json!({"name": "web", "image": "i:2", "env": [{"name": "A", "value": "1"}]})),
        container(json!({"name": "web", "$patch": "delete"})),
        container(json!({"name": "web", "$patch": "replace", "image": "i:3"})),
        container(json!({"name": "web", "ports": [{"containerPort": 80, "protocol": "TCP"}]})),
        json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "b", "image": "i:1"}]}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "web"}],
            "containers": [{"name": "b", "image": "i:1"}]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/a"], "finalizers": ["x/b"]}}),
        json!({"metadata": {"labels": {"a": null, "b": "1"}, "$retainKeys": ["labels", "name"]}}),
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"],
            "emptyDir": {}}], "tolerations": [{"key": "a", "operator": "Exists"}]}}),
    ];
    let deployment = json!({"spec": {"replicas": 3, "strategy": {"$retainKeys": ["type"],
        "type": "Recreate"}, "template": {"spec": {"containers": [{"name": "web", "image": "i:9"}]}}}});
    let pods = pods.into_iter().map(|patch| (Kind::Pod, patch));
    pods.chain([(Kind::Deployment, deployment)]).collect()
}

pub const OBJECT_WORDS: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "name",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "managedFields",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "generateName",
    "containers",
    "initContainers",
    "env",
    "ports",
    "containerPort",
    "protocol",
    "image",
    "volumes",
    "volumeMounts",
    "resources",
    "limits",
    "requests",
    "template",
    "selector",
    "matchLabels",
    "matchExpressions",
    "replicas",
    "data",
    "binaryData",
    "stringData",
    "immutable",
    "type",
    "clusterIP",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "op",
    "path",
    "from",
    "value",
    "a",
    "kind",
    "apiVersion",
    "tolerations",
    "conditions",
];

/// JSON patches against the golden objects.
pub fn json_patches() -> Vec<Value> {
    vec![
        json!([{"op": "test", "path": "/metadata/name", "value": "web"},
            {"op": "add", "path": "/metadata/labels", "value": {"a": "1"}},
            {"op": "replace", "path": "/metadata/labels/a", "value": "2"}]),
        json!([{"op": "copy", "from": "/spec", "path": "/spec/copy"},
            {"op": "move", "from": "/spec/copy", "path": "/status"},
            {"op": "remove", "path": "/status"}]),
        json!([{"op": "add", "path": "/spec/containers/-", "value": {"name": "b", "image": "i"}},
            {"op": "add", "path": "/spec/containers/0", "value": {"name": "c"}},
            {"op": "remove", "path": "/spec/containers/1"}]),
        json!([{"op": "add", "path": "/metadata/annotations", "value": {"a/b~c": "x"}},
            {"op": "replace", "path": "/metadata/annotations/a~1b~0c", "value": null}]),
        json!([{"op": "add", "path": "", "value": {"kind": "Pod"}}]),
    ]
}

/// Label selectors.
pub fn label_selectors() -> Vec<String> {
    let rows = [
        "",
        "app=web",
        "app==web,tier",
        "app!=web",
        "app in (a, web),!gone",
        "app notin (a,b)",
        "size>3,size<9",
        "example.com/part in (x)",
        "a in (,b)",
        "in=1",
        "notin,in",
        "a=",
        "a in (a,a,b)",
        "!example.com/a-b_c.d",
        "x>-5",
        "a.b/c=1,d",
        "app=web,app=web",
    ];
    rows.map(str::to_owned).into()
}

pub const SELECTOR_WORDS: &[&str] =
    &["app", "a.b/c", " in ", "notin", "exists", ">", "<", "==", "\t", "9223372036854775807"];

/// Field selectors of pods.
pub fn field_selectors() -> Vec<String> {
    let rows = [
        "",
        "metadata.name=web",
        "spec.nodeName=n1,status.phase!=Failed",
        "metadata.name==a\\,b",
        "status.phase!=Running,status.phase!=Pending",
        "metadata.namespace=default",
        "spec.restartPolicy=Always,metadata.name=a\\=b\\\\c",
        "status.podIP=10.42.0.3",
    ];
    rows.map(str::to_owned).into()
}
