//! Nothing that is served is half a kind: whatever discovery tells of a resource is answered, in every
//! form, whatever it does not tell of is refused as what it is, and who only reads changes nothing.

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, header};
use ballast::api::Identity;
use ballast::object::Cluster;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::api_http::{Answer, ask, get};
use crate::fixture::pod;
use crate::kubectl_world::World;

const VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// A connection changes hands: they have tests of their own.
const STREAMS: [&str; 3] = ["attach", "exec", "portforward"];
/// In both versions that there were.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// A resource of discovery, and one object of it.
struct Served {
    prefix: String,
    resource: Value,
    /// Null where none can be listed: the reviews.
    item: Value,
}

impl Served {
    fn name(&self) -> &str {
        self.resource["name"].as_str().expect("a name")
    }

    fn part(&self) -> Option<&str> {
        self.name().split_once('/').map(|(_, part)| part)
    }

    fn is_told(&self, verb: &str) -> bool {
        self.resource["verbs"].as_array().expect("verbs").contains(&json!(verb))
    }

    fn kind(&self) -> &str {
        self.resource["kind"].as_str().expect("a kind")
    }

    fn collection(&self) -> String {
        let plural = self.name().split('/').next().expect("a plural");
        match (self.resource["namespaced"].as_bool(), self.item["metadata"]["namespace"].as_str()) {
            (Some(true), Some(namespace)) => {
                format!("{}/namespaces/{namespace}/{plural}", self.prefix)
            }
            _ => format!("{}/{plural}", self.prefix),
        }
    }

    fn object(&self) -> String {
        // A pod is bound once: another one is there for that.
        let name = match self.part() {
            Some("binding") => "free",
            _ => self.item["metadata"]["name"].as_str().unwrap_or("none"),
        };
        let part = self.part().map(|part| format!("/{part}")).unwrap_or_default();
        format!("{}/{name}{part}", self.collection())
    }

    /// The item under a new name, without what is given once.
    fn fresh(&self) -> Value {
        let mut fresh = self.item.clone();
        for server in
            ["uid", "resourceVersion", "creationTimestamp", "generation", "ownerReferences"]
        {
            fresh["metadata"].as_object_mut().expect("metadata").remove(server);
        }
        fresh["metadata"]["name"] = json!("fresh");
        let fields = fresh.as_object_mut().expect("an object");
        fields.remove("status");
        if let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        fresh
    }
}

async fn discovered(router: &Router) -> Vec<Served> {
    let mut prefixes = vec!["/api/v1".to_owned()];
    for group in get(router, "/apis").await.json()["groups"].as_array().expect("groups") {
        for version in group["versions"].as_array().expect("versions") {
            prefixes.push(format!("/apis/{}", version["groupVersion"].as_str().expect("text")));
        }
    }
    let mut all = Vec::new();
    for prefix in prefixes {
        let list = get(router, &prefix).await.json();
        for resource in list["resources"].as_array().expect("resources") {
            let name = resource["name"].as_str().expect("a name");
            let plural = name.split('/').next().expect("a plural");
            let listed = get(router, &format!("{prefix}/{plural}")).await;
            let mut item = match listed.code.as_u16() {
                // The last: the first namespace is one that may not go.
                200 => listed.json()["items"].as_array_mut().and_then(Vec::pop).unwrap_or_default(),
                _ => Value::Null,
            };
            if name == "pods/log" {
                item = get(router, "/api/v1/namespaces/default/pods/free").await.json();
            }
            all.push(Served { prefix: prefix.clone(), resource: resource.clone(), item });
        }
    }
    all
}

/// The verb as somebody tries it.
async fn tried(router: &Router, served: &Served, verb: &str) -> Answer {
    let (collection, object) = (served.collection(), served.object());
    let whole = served.part().is_none();
    let json_type = ("content-type", "application/json");
    match verb {
        "get" => get(router, &object).await,
        "list" => get(router, &collection).await,
        "watch" => {
            let path = format!("{collection}?watch=1");
            let request = Request::get(&path).body(Body::empty()).expect("a request");
            let response = router.clone().oneshot(request).await.expect("infallible");
            let (parts, _) = response.into_parts();
            if !parts.status.is_success() {
                return get(router, &path).await;
            }
            // It goes on: its head is the answer.
            let body = axum::body::Bytes::new();
            Answer { code: parts.status, headers: parts.headers, body }
        }
        "create" if whole => {
            let body = match served.item.is_null() {
                true => {
                    json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}})
                }
                false => served.fresh(),
            };
            let path = format!("{collection}?dryRun=All");
            ask(router, Method::POST, &path, &[json_type], body.to_string()).await
        }
        "create" => {
            let body = json!({"metadata": {"name": "free"}, "target": {"name": "n1"}});
            let path = format!("{object}?dryRun=All");
            ask(router, Method::POST, &path, &[json_type], body.to_string()).await
        }
        "update" => {
            let body = match served.part() {
                Some("scale") => get(router, &object).await.json(),
                _ => served.item.clone(),
            };
            let path = format!("{object}?dryRun=All");
            ask(router, Method::PUT, &path, &[json_type], body.to_string()).await
        }
        "patch" => {
            let merge = [("content-type", "application/merge-patch+json")];
            ask(router, Method::PATCH, &format!("{object}?dryRun=All"), &merge, "{}").await
        }
        "delete" => {
            ask(router, Method::DELETE, &format!("{object}?dryRun=All"), &[], Body::empty()).await
        }
        _ => {
            let path = format!("{collection}?dryRun=All");
            ask(router, Method::DELETE, &path, &[], Body::empty()).await
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_discovery_tells_is_what_is_answered() {
    let world = World::new().await;
    world.fixture.admin().create(&pod("free")).await.expect("created");
    let router = world.fixture.api.router_as(Identity::Admin);
    let (mut faults, mut answered) = (Vec::new(), 0);
    for served in discovered(&router).await {
        let part = served.part();
        if part.is_some_and(|part| STREAMS.contains(&part)) {
            continue;
        }
        for verb in VERBS {
            // A part has neither a collection nor a watch.
            if part.is_some() && matches!(verb, "list" | "watch" | "deletecollection") {
                assert!(!served.is_told(verb), "{}", served.name());
                continue;
            }
            let answer = tried(&router, &served, verb).await;
            let code = answer.code.as_u16();
            let is_right = match served.is_told(verb) {
                true => matches!(code, 200 | 201),
                // Without a GET there is no object either.
                false => code == 405 || (!served.is_told("get") && code == 404),
            };
            if !is_right {
                let body = String::from_utf8_lossy(&answer.body).into_owned();
                faults.push(format!("{verb} {} {}: {code} {body}", served.prefix, served.name()));
            }
            if code == 405 {
                assert_eq!(answer.json()["reason"], "MethodNotAllowed", "{}", served.name());
            }
            answered += 1;
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(answered > 200, "only {answered} were tried");
    drop(router);
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_has_every_form() {
    let world = World::new().await;
    let router = world.fixture.api.router_as(Identity::Admin);
    let form =
        |name: &str, version: &str| format!("application/json;as={name};g=meta.k8s.io;v={version}");
    let mut seen = 0;
    for served in discovered(&router).await {
        let name = served.name().to_owned();
        if !served.is_told("get") || served.part().is_some_and(|part| part != "scale") {
            continue;
        }
        let mut paths = vec![(served.object(), "PartialObjectMetadata", 1)];
        if served.is_told("list") {
            let all = get(&router, &served.collection()).await.json();
            assert_eq!(all["kind"], format!("{}List", served.kind()), "{name}");
            let count = all["items"].as_array().expect("items").len();
            paths.push((served.collection(), "PartialObjectMetadataList", count));
        }
        for ((path, metadata, count), version) in
            paths.iter().flat_map(|path| VERSIONS.map(|version| (path, version)))
        {
            let asked = async |form: String| {
                let accept = [(header::ACCEPT.as_str(), form.as_str())];
                ask(&router, Method::GET, path, &accept, Body::empty()).await
            };
            let wanted = json!(format!("meta.k8s.io/{version}"));
            let table = asked(form("Table", version)).await.json();
            assert_eq!(
                (&table["kind"], &table["apiVersion"]),
                (&json!("Table"), &wanted),
                "{path}"
            );
            let columns = table["columnDefinitions"].as_array().expect("columns").len();
            assert!(columns >= 3, "{path}: {table}");
            let rows = table["rows"].as_array().expect("rows");
            assert_eq!(rows.len(), *count, "{path}");
            for row in rows {
                assert_eq!(row["cells"].as_array().map(Vec::len), Some(columns), "{path}");
                assert_eq!(row["object"]["apiVersion"], wanted, "{path}");
                assert_eq!(row["object"]["kind"], "PartialObjectMetadata", "{path}");
            }
            let cut = asked(form(metadata, version)).await.json();
            assert_eq!((&cut["kind"], &cut["apiVersion"]), (&json!(metadata), &wanted), "{path}");
            let one = cut["items"].get(0).unwrap_or(&cut);
            assert!(one["metadata"]["name"].is_string() && one.get("spec").is_none(), "{path}");
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} were asked");
    // What is of the other shape, or of no version that there was, is not acceptable.
    let maps = "/api/v1/namespaces/default/configmaps";
    let one = format!("{maps}/a");
    for (path, accept) in [
        (maps, form("PartialObjectMetadata", "v1")),
        (&one, form("PartialObjectMetadataList", "v1")),
        (maps, form("Table", "v2")),
        (maps, "application/json;as=Table".to_owned()),
    ] {
        let accept = [(header::ACCEPT.as_str(), accept.as_str())];
        let answer = ask(&router, Method::GET, path, &accept, Body::empty()).await;
        assert_eq!(answer.code, 406, "{path} {accept:?}");
        assert_eq!(answer.json()["reason"], "NotAcceptable");
    }
    // A watch, too: every line is of the version that was asked for.
    for (name, kind) in [("Table", "Table"), ("PartialObjectMetadata", "PartialObjectMetadata")] {
        let accept = form(name, "v1beta1");
        let path = format!("{maps}?watch=1&timeoutSeconds=1");
        let accept = [(header::ACCEPT.as_str(), accept.as_str())];
        let answer = ask(&router, Method::GET, &path, &accept, Body::empty()).await;
        let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let events: Vec<Value> =
            lines.map(|line| serde_json::from_slice(line).expect("an event")).collect();
        assert_eq!(events.len(), 5);
        for event in events {
            assert_eq!(event["object"]["kind"], kind);
            assert_eq!(event["object"]["apiVersion"], "meta.k8s.io/v1beta1");
        }
    }
    drop(router);
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_only_reads_changes_nothing_of_any_kind() {
    let world = World::new().await;
    let router = world.fixture.api.router();
    let before = get(&router, "/api/v1/pods?limit=1").await.json();
    for served in discovered(&router).await {
        let writes = [
            (Method::POST, served.collection()),
            (Method::PUT, served.object()),
            (Method::PATCH, served.object()),
            (Method::DELETE, served.object()),
            (Method::DELETE, served.collection()),
        ];
        let is_stored = served.is_told("update") || served.is_told("watch");
        for (method, path) in writes.into_iter().filter(|_| is_stored && served.part().is_none()) {
            let answer = ask(&router, method.clone(), &path, &[], "{}").await;
            let status = answer.json();
            // Namespaces go one by one, whoever asks.
            let one_by_one = method == Method::DELETE && path == "/api/v1/namespaces";
            let wanted = if one_by_one { "MethodNotAllowed" } else { "Forbidden" };
            assert_eq!(status["reason"], wanted, "{method} {path}: {status}");
        }
    }
    assert_eq!(get(&router, "/api/v1/pods?limit=1").await.json(), before);
    drop(router);
    world.fixture.end().await;
}
