//! The outer skin: a real `kube::Client` and plain requests over the router and over a socket.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use ballast::api::remote::Remote;
use ballast::api::server::{Limits, Surface, bind, serve};
use ballast::api::{IdSource, Identity};
use ballast::clock::Clock;
use ballast::object::ports::{BoxFuture, LogQuery, Logs, WakeSync};
use ballast::object::{
    ApiError, Change, Cluster, DeleteOptions, Key, Kind, Note, Object, Patch as OwnPatch, Reason,
    Scope,
};
use base64::Engine;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::BodyExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, Secret};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::watcher;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::fixture::{Fixture, config, deployment, object, pod};

/// One answer, whole.
pub struct Answer {
    pub code: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&self.body)))
    }
}

pub async fn ask(
    router: &Router,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body.into()).expect("a request");
    let response = router.clone().oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    Answer { code: parts.status, headers: parts.headers, body }
}

pub async fn get(router: &Router, path: &str) -> Answer {
    ask(router, Method::GET, path, &[], Body::empty()).await
}

pub const TABLE: (&str, &str) =
    ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");

fn client(fixture: &Fixture) -> kube::Client {
    kube::Client::new(fixture.api.router_as(Identity::Admin), "default")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_others_uses_every_verb() {
    let fixture = Fixture::new();
    let maps: Api<ConfigMap> = Api::namespaced(client(&fixture), "default");
    let post = PostParams::default();
    let made = maps.create(&post, &config("m", "1")).await.expect("created");
    assert!(made.metadata.uid.is_some());
    assert_eq!(maps.get("m").await.expect("there").data, made.data);
    assert!(maps.get_opt("none").await.expect("answers").is_none());
    let mut next = made.clone();
    next.data.as_mut().unwrap().insert("b".into(), "2".into());
    maps.replace("m", &post, &next).await.expect("replaced");
    let stale = maps.replace("m", &post, &next).await;
    assert!(matches!(stale, Err(kube::Error::Api(status)) if status.code == 409));
    for patch in
        [Patch::Merge(json!({"data": {"c": "3"}})), Patch::Strategic(json!({"data": {"d": "4"}}))]
    {
        maps.patch("m", &PatchParams::default(), &patch).await.expect("patched");
    }
    let metadata = maps.get_metadata("m").await.expect("metadata alone");
    assert_eq!(metadata.metadata.name.as_deref(), Some("m"));
    assert_eq!(maps.list_metadata(&ListParams::default()).await.expect("listed").items.len(), 1);
    assert_eq!(maps.get("m").await.unwrap().data.unwrap().len(), 4);

    let deployments: Api<Deployment> = Api::namespaced(client(&fixture), "default");
    deployments.create(&post, &object(deployment("web", "i:1"))).await.expect("created");
    let scale = deployments.get_scale("web").await.expect("scales");
    assert_eq!(scale.spec.unwrap().replicas, Some(1));
    let wanted = Patch::Merge(json!({"spec": {"replicas": 4}}));
    deployments.patch_scale("web", &PatchParams::default(), &wanted).await.expect("scaled");
    assert_eq!(deployments.get("web").await.unwrap().spec.unwrap().replicas, Some(4));
    let status = Patch::Merge(json!({"status": {"replicas": 2}, "spec": {"replicas": 9}}));
    let after =
        deployments.patch_status("web", &PatchParams::default(), &status).await.expect("patched");
    assert_eq!(after.status.unwrap().replicas, Some(2));
    assert_eq!(after.spec.unwrap().replicas, Some(4), "a status write leaves the spec");

    let pods: Api<Pod> = Api::namespaced(client(&fixture), "default");
    pods.create(&post, &pod("p")).await.expect("created");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n1"}});
    let _: Value = pods.create_subresource("binding", "p", &post, &binding).await.expect("bound");
    let on_node = ListParams::default().fields("spec.nodeName=n1").labels("app in (web)");
    assert_eq!(pods.list(&on_node).await.expect("listed").items.len(), 1);
    let gone = pods.delete("p", &DeleteParams::default()).await.expect("accepted");
    assert!(gone.left().is_some_and(|pod| pod.metadata.deletion_timestamp.is_some()));
    let gone = pods.delete("p", &DeleteParams::default().grace_period(0)).await.expect("gone");
    assert!(gone.is_right());
    maps.delete_collection(&DeleteParams::default(), &ListParams::default()).await.expect("gone");
    assert!(maps.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_page_at_one_revision() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    for index in 0..7 {
        admin.create(&config(&format!("m{index}"), "1")).await.expect("created");
    }
    let maps: Api<ConfigMap> = Api::all(client(&fixture));
    let first = maps.list(&ListParams::default().limit(3)).await.expect("listed");
    assert_eq!(first.metadata.remaining_item_count, Some(4));
    admin.create(&config("m9", "late")).await.expect("created");
    let token = first.metadata.continue_.clone().expect("there is more");
    let next = ListParams::default().limit(3).continue_token(&token);
    let second = maps.list(&next).await.expect("listed");
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    let token = second.metadata.continue_.clone().expect("there is more");
    let last =
        maps.list(&ListParams::default().limit(3).continue_token(&token)).await.expect("listed");
    assert_eq!(last.items.len(), 1, "what came later is not in this list");
    assert!(last.metadata.continue_.as_deref().unwrap_or_default().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_resume_without_gap_and_transition_by_selector() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    admin.create(&config("m", "1")).await.expect("created");
    let maps: Api<ConfigMap> = Api::namespaced(client(&fixture), "default");
    let list = maps.list(&ListParams::default()).await.expect("listed");
    let version = list.metadata.resource_version.expect("a revision");
    for value in ["2", "3", "4"] {
        admin.update(&config("m", value)).await.expect("updated");
    }
    admin
        .delete::<ConfigMap>(&Key::new("default", "m"), &DeleteOptions::default())
        .await
        .expect("gone");
    let events: Vec<WatchEvent<ConfigMap>> = maps
        .watch(&WatchParams::default(), &version)
        .await
        .expect("watches")
        .take(4)
        .try_collect()
        .await
        .expect("events");
    let text = |map: &ConfigMap| map.data.as_ref().unwrap()["a"].clone();
    let mut revisions = Vec::new();
    for (event, wanted) in events.iter().zip(["2", "3", "4", "4"]) {
        match event {
            WatchEvent::Modified(map) => assert_eq!(text(map), wanted),
            WatchEvent::Deleted(map) => assert_eq!(text(map), "4"),
            other => panic!("{other:?}"),
        }
        if let WatchEvent::Modified(map) | WatchEvent::Deleted(map) = event {
            revisions.push(map.metadata.resource_version.clone().unwrap().parse::<u64>().unwrap());
        }
    }
    assert!(revisions.windows(2).all(|pair| pair[0] < pair[1]), "{revisions:?}");
    assert!(matches!(events[3], WatchEvent::Deleted(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtimes_watcher_streams_its_list() {
    let fixture = Fixture::new();
    fixture.admin().create(&config("m", "1")).await.expect("created");
    let maps: Api<ConfigMap> = Api::all(client(&fixture));
    for settings in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut events = Box::pin(watcher(maps.clone(), settings));
        let mut seen = Vec::new();
        while let Some(event) = events.next().await {
            match event.expect("no error") {
                watcher::Event::Init => seen.push("init"),
                watcher::Event::InitApply(_) => seen.push("apply"),
                watcher::Event::InitDone => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, ["init", "apply"]);
    }
}

fn lines(body: &[u8]) -> Vec<Value> {
    body.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("a JSON line"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bookmarks_tables_and_the_end_of_a_watch() {
    let fixture = Fixture::new();
    fixture.admin().create(&config("m", "1")).await.expect("created");
    let router = fixture.api.router();
    let path = "/api/v1/configmaps?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let events = lines(&get(&router, path).await.body);
    assert_eq!(events[0]["type"], "ADDED");
    assert_eq!(events[1]["type"], "BOOKMARK");
    assert_eq!(events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert!(serde_json::to_string(&events[0]).is_ok());
    let raw = get(&router, path).await.body;
    assert!(raw.starts_with(b"{\"type\":\"ADDED\",\"object\":"), "`type` comes first");

    let path = "/api/v1/configmaps?watch=true&timeoutSeconds=1";
    let answer = ask(&router, Method::GET, path, &[TABLE], Body::empty()).await;
    let events = lines(&answer.body);
    let table = &events[0]["object"];
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"][0], "m");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");

    // One object is watched as its collection, narrowed to its name.
    fixture.admin().create(&config("other", "1")).await.expect("created");
    let path = "/api/v1/namespaces/default/configmaps/m?watch=true&timeoutSeconds=1";
    assert_eq!(lines(&get(&router, path).await.body).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_that_are_gone_or_not_yet_there() {
    let fixture = Fixture::keeping(4);
    let admin = fixture.admin();
    admin.create(&config("m", "0")).await.expect("created");
    for value in 1..200 {
        admin.update(&config("m", &value.to_string())).await.expect("updated");
    }
    let router = fixture.api.router();
    let old =
        get(&router, "/api/v1/configmaps?watch=true&resourceVersion=2&timeoutSeconds=1").await;
    assert_eq!(old.code, StatusCode::GONE, "{:?}", old.body);
    assert_eq!(old.json()["reason"], "Expired");
    for path in [
        "/api/v1/configmaps?resourceVersion=999999",
        "/api/v1/configmaps?watch=1&resourceVersion=999999",
    ] {
        let future = get(&router, path).await;
        assert_eq!(future.code, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(future.json()["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        assert_eq!(future.headers[header::RETRY_AFTER], "1");
    }
    // The token that comes with an expired one goes on in whatever is newest by then.
    admin.create(&config("n", "0")).await.expect("created");
    let token = |json: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
    let stale = token("{\"v\":\"meta.k8s.io/v1\",\"rv\":2,\"start\":\"default/m\\u0000\"}");
    let expired = get(&router, &format!("/api/v1/configmaps?limit=1&continue={stale}")).await;
    assert_eq!(expired.code, StatusCode::GONE);
    let body = expired.json();
    let fresh = body["metadata"]["continue"].as_str().expect("a fresh token").to_owned();
    admin.create(&config("o", "0")).await.expect("created");
    let rest = get(&router, &format!("/api/v1/configmaps?continue={fresh}")).await;
    assert_eq!(rest.code, StatusCode::OK, "{:?}", rest.body);
    let json = rest.json();
    let names = json["items"].as_array().expect("items").iter();
    let names: Vec<&str> = names.map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["n", "o"]);
}

/// A body that fails the test when it is read.
fn unread() -> Body {
    Body::from_stream(futures::stream::poll_fn(
        |_| -> std::task::Poll<Option<Result<Bytes, std::io::Error>>> {
            panic!("the body is read")
        },
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_sent_to_git_before_a_body_is_read() {
    let fixture = Fixture::new();
    let source: ballast::object::source::Source = object(json!({
        "kind": "Source", "apiVersion": "ballast.dev/v1alpha1", "metadata": {"name": "web"},
        "spec": {"url": "https://example.com/web.git", "branch": "main", "path": ".", "pollSeconds": 60}}));
    fixture.admin().create(&source).await.expect("created");
    fixture.admin().create(&config("m", "1")).await.expect("created");
    let router = fixture.api.router();
    let one = "/api/v1/namespaces/default/configmaps/m";
    for (method, path) in [
        (Method::POST, "/api/v1/namespaces/default/configmaps"),
        (Method::PUT, one),
        (Method::PATCH, one),
        (Method::PATCH, "/apis/apps/v1/namespaces/default/deployments/x/scale"),
        (Method::POST, "/api/v1/namespaces/default/pods/x/binding"),
        (Method::PUT, "/api/v1/namespaces/default/finalize"),
    ] {
        let answer =
            ask(&router, method.clone(), path, &[("content-type", "application/json")], unread())
                .await;
        assert_eq!(answer.code, StatusCode::FORBIDDEN, "{method} {path}");
        let status = answer.json();
        assert_eq!(status["reason"], "Forbidden");
        assert_eq!(
            status["message"],
            "this cluster changes through Git: commit to web (https://example.com/web.git, branch main)"
        );
    }
    assert_eq!(get(&router, one).await.json()["data"]["a"], "1");
    assert_eq!(get(&router, "/apis/nope/v1/x").await.body, "404 page not found\n");
    assert_eq!(get(&router, "/api/v1/nopes").await.json()["reason"], "NotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reply_of_any_form_has_a_secrets_value() {
    let fixture = Fixture::new();
    let secret: Secret = object(json!({"metadata": {"name": "s", "namespace": "default",
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "hunter2-value"}},
        "stringData": {"password": "hunter2-value"}}));
    fixture.admin().create(&secret).await.expect("created");
    let router = fixture.api.router();
    let one = "/api/v1/namespaces/default/secrets/s";
    let forms = [
        ("accept", "application/json"),
        TABLE,
        ("accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"),
        ("accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
        ("accept", "application/vnd.kubernetes.protobuf"),
    ];
    let mut replies = Vec::new();
    for form in forms {
        for path in [
            one,
            "/api/v1/secrets",
            "/api/v1/secrets?includeObject=Object",
            "/api/v1/namespaces/default/secrets/s?includeObject=Object",
            "/api/v1/secrets?watch=true&timeoutSeconds=1&includeObject=Object",
            "/api/v1/secrets?fieldSelector=metadata.name%3Ds",
        ] {
            let answer = ask(&router, Method::GET, path, &[form], Body::empty()).await;
            // Metadata of one object is not served for many, nor the other way round.
            if !(form.1.contains("Partial") && answer.code == StatusCode::NOT_ACCEPTABLE) {
                assert_eq!(answer.code, StatusCode::OK, "{path}");
            }
            replies.push((format!("{form:?} {path}"), answer.body));
        }
    }
    // Identities that write other things: what a write answers is hashed too.
    let controllers = fixture.api.router_as(Identity::Controllers);
    for patch in [
        json!([{"op": "copy", "from": "/data/password", "path": "/metadata/labels"}]),
        json!([{"op": "copy", "from": "/data/password", "path": "/type"}]),
        json!([{"op": "test", "path": "/data/password", "value": "aHVudGVyMi12YWx1ZQ=="}]),
        json!([{"op": "copy", "from": "/data/password", "path": "/metadata/annotations/x"}]),
        json!([{"op": "add", "path": "/data/more", "value": "eA=="}]),
    ] {
        let kind = ("content-type", "application/json-patch+json");
        let answer = ask(&controllers, Method::PATCH, one, &[kind], patch.to_string()).await;
        assert_eq!(answer.code, StatusCode::FORBIDDEN, "{patch}");
        replies.push((patch.to_string(), answer.body));
    }
    let merge = ("content-type", "application/merge-patch+json");
    let owners = json!({"metadata": {"ownerReferences": null, "labels": {"a": "b"}}}).to_string();
    let answer = ask(&controllers, Method::PATCH, one, &[merge], owners).await;
    assert_eq!(answer.code, StatusCode::OK, "metadata is theirs to change");
    replies.push(("metadata".to_owned(), answer.body));
    let held = fixture.admin().get::<Secret>(&Key::new("default", "s")).await.expect("there");
    assert_eq!(
        held.data.as_ref().expect("values")["password"].0,
        b"hunter2-value",
        "nothing was overwritten"
    );
    for (what, body) in &replies {
        let text = String::from_utf8_lossy(body);
        assert!(
            !text.contains("hunter2-value") && !text.contains("aHVudGVyMi12YWx1ZQ"),
            "{what}: {text}"
        );
    }
    let shown = get(&router, one).await.json();
    let value = base64::engine::general_purpose::STANDARD
        .decode(shown["data"]["password"].as_str().expect("the key stays"))
        .expect("base64");
    assert!(value.starts_with(b"hmac-sha256:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_health_drift_and_bad_requests() {
    let fixture = Fixture::new();
    let router = fixture.api.router();
    let accept = (
        "accept",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
    );
    for path in ["/api", "/apis"] {
        let answer = ask(&router, Method::GET, path, &[accept], Body::empty()).await;
        assert_eq!(answer.code, StatusCode::OK);
        assert_eq!(answer.json()["kind"], "APIGroupDiscoveryList");
        assert_eq!(
            answer.headers[header::CONTENT_TYPE],
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        );
    }
    let resources = get(&router, "/api/v1").await.json();
    let named = |name: &str| {
        resources["resources"].as_array().unwrap().iter().any(|resource| resource["name"] == name)
    };
    assert!(named("pods") && named("pods/log") && named("nodes"));
    assert_eq!(get(&router, "/version").await.json()["major"], "1");
    assert_eq!(get(&router, "/openapi/v3").await.code, StatusCode::OK);
    assert_eq!(get(&router, "/openapi/v2").await.code, StatusCode::OK);
    assert_eq!(get(&router, "/healthz").await.body, "ok");
    assert_eq!(get(&router, "/readyz").await.code, StatusCode::OK);
    fixture.api.beats().expect("sync", jiff::SignedDuration::from_secs(60));
    assert_eq!(get(&router, "/readyz").await.code, StatusCode::SERVICE_UNAVAILABLE);
    fixture.api.beats().beat()("sync");
    assert_eq!(get(&router, "/readyz").await.code, StatusCode::OK);
    assert_eq!(get(&router, "/metrics").await.code, StatusCode::SERVICE_UNAVAILABLE);
    fixture.api.set_registry(Arc::new(prometheus_client::registry::Registry::default()));
    assert!(String::from_utf8_lossy(&get(&router, "/metrics").await.body).ends_with("# EOF\n"));
    let drift = get(&router, "/api/v1/drift").await.json();
    assert_eq!(drift, json!({"open": [], "closed": [], "facts": []}));
    // What a plan made elsewhere is judged by.
    let configuration = get(&router, "/api/v1/configuration").await.json();
    let wanted = json!({"serviceCidr": "10.97.0.0/16", "nodePorts": "30000-32767", "allow": {}});
    assert_eq!(configuration, wanted);
    let path = "/api/v1/configuration";
    let written = ask(&router, Method::PUT, path, &[], Body::from("{}")).await;
    assert_eq!(
        (written.code, &written.json()["reason"]),
        (StatusCode::FORBIDDEN, &json!("Forbidden"))
    );
    let written =
        ask(&fixture.api.router_as(Identity::Admin), Method::POST, path, &[], Body::empty()).await;
    assert_eq!(written.code, StatusCode::METHOD_NOT_ALLOWED);
    let other = Fixture::ranging("10.60.0.0/16", 31_000..=31_010);
    let configuration = get(&other.api.router(), path).await.json();
    assert_eq!(
        configuration,
        json!({"serviceCidr": "10.60.0.0/16", "nodePorts": "31000-31010", "allow": {}})
    );
    assert_eq!(
        ask(&router, Method::GET, "/api/v1/pods", &[("accept", "image/png")], Body::empty())
            .await
            .code,
        StatusCode::NOT_ACCEPTABLE
    );

    let admin = fixture.api.router_as(Identity::Admin);
    let maps = "/api/v1/namespaces/default/configmaps";
    let json = ("content-type", "application/json");
    for (kind, body, code) in [
        (json, "{{{".to_owned(), 400),
        (json, String::new(), 400),
        (json, "[]".to_owned(), 400),
        (json, "null".to_owned(), 400),
        (("content-type", "application/vnd.kubernetes.protobuf"), "k8s\0".to_owned(), 415),
        (json, format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 << 20)), 413),
        (json, "[".repeat(100_000), 400),
        (json, r#"{"metadata":{"name":"x","namespace":"other"}}"#.to_owned(), 400),
        (json, r#"{"metadata":{"name":7}}"#.to_owned(), 400),
    ] {
        let answer = ask(&admin, Method::POST, maps, &[kind], body.clone()).await;
        assert_eq!(answer.code.as_u16(), code, "{} {:?}", &body[..body.len().min(60)], answer.body);
        assert_eq!(answer.json()["kind"], "Status");
    }
}

/// Remembers who was woken.
struct Woken(Mutex<Vec<String>>);

impl WakeSync for Woken {
    fn wake(&self, source: &str) -> bool {
        self.0.lock().expect("no panic").push(source.to_owned());
        source == "web"
    }
}

pub fn signed(secret: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret).expect("any length");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_wakes_and_believes_nothing() {
    const HEADER: &str = "x-hub-signature-256";
    let fixture = Fixture::new();
    let woken = Arc::new(Woken(Mutex::default()));
    let count = || woken.0.lock().expect("no panic").len();
    let router = fixture.api.webhook_router::<()>();
    // It may be public: nothing else is there.
    for path in ["/", "/api", "/api/v1/pods", "/api/v1/drift", "/healthz", "/metrics", "/webhook"] {
        assert_eq!(get(&router, path).await.code, StatusCode::NOT_FOUND, "{path}");
    }
    let hook = "/webhook/web";
    let sign = |body: &[u8]| signed(b"a secret", body);
    // Off until a secret is set, and an empty one is none.
    let good = sign(b"{}");
    assert_eq!(
        ask(&router, Method::POST, hook, &[(HEADER, &good)], "{}").await.code,
        StatusCode::NOT_FOUND
    );
    assert!(fixture.api.set_webhook_secret("web", b"").is_err());
    fixture.api.set_webhook_secret("web", b"a secret").expect("set");
    fixture.api.set_webhook_secret("gone", b"a secret").expect("set");
    assert_eq!(
        ask(&router, Method::POST, hook, &[(HEADER, &good)], "{}").await.code,
        StatusCode::SERVICE_UNAVAILABLE
    );
    fixture.api.set_wake(woken.clone());

    let accepted = ask(&router, Method::POST, hook, &[(HEADER, &good)], "{}").await;
    assert_eq!(accepted.code, StatusCode::ACCEPTED);
    assert!(accepted.json()["id"].as_str().is_some_and(|id| id.len() > 10));
    assert_eq!(count(), 1);
    // A replay is another wake-up; the sync coalesces.
    assert_eq!(
        ask(&router, Method::POST, hook, &[(HEADER, &good)], "{}").await.code,
        StatusCode::ACCEPTED
    );
    assert_eq!(
        ask(&router, Method::POST, "/webhook/gone", &[(HEADER, &good)], "{}").await.code,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        ask(&router, Method::GET, hook, &[], Body::empty()).await.code,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(
        ask(&router, Method::POST, "/webhook/unknown", &[(HEADER, &good)], "{}").await.code,
        StatusCode::NOT_FOUND
    );

    let before = count();
    let upper = good.to_uppercase();
    let (other, reencoded) = (signed(b"another secret", b"{}"), sign(b"{ }"));
    for headers in [
        vec![],
        vec![(HEADER, "")],
        vec![(HEADER, "sha256=")],
        vec![(HEADER, &good[..40])],
        vec![(HEADER, upper.as_str())],
        vec![("x-hub-signature", "sha1=da39a3ee5e6b4b0d3255bfef95601890afd80709")],
        vec![(HEADER, good.as_str()), (HEADER, good.as_str())],
        vec![(HEADER, other.as_str())],
        vec![(HEADER, reencoded.as_str())],
        vec![("x-gitlab-token", "a secret")],
    ] {
        let answer = ask(&router, Method::POST, hook, &headers, "{}").await;
        assert_eq!(answer.code, StatusCode::UNAUTHORIZED, "{headers:?}");
    }
    assert_eq!(count(), before, "nobody is woken by what is not signed");

    // Whatever the body says, it is only hashed.
    for body in [
        "".to_owned(),
        "null".into(),
        "[]".into(),
        "{".repeat(10_000),
        r#"{"ref":1}"#.into(),
        r#"{"repository":null,"commits":null}"#.into(),
        "NaN".into(),
        r#"{"deleted":true}"#.into(),
        r#"{"ref":"refs/heads/refs/heads/x"}"#.into(),
        r#"{"repository":{"url":"(a+)+$"}}"#.into(),
        "payload=%7B%7D".into(),
        "\u{1f}\u{8b}\u{8}".into(),
        "x".repeat(1024 * 1024),
    ] {
        let signature = sign(body.as_bytes());
        let kind = ("content-type", "application/x-www-form-urlencoded");
        let headers = [(HEADER, signature.as_str()), kind, ("x-gogs-signature", "x")];
        let answer = ask(&router, Method::POST, hook, &headers, body).await;
        assert_eq!(answer.code, StatusCode::ACCEPTED);
    }
    let large = "x".repeat(1024 * 1024 + 1);
    let signature = sign(large.as_bytes());
    let answer = ask(&router, Method::POST, hook, &[(HEADER, &signature)], large.clone()).await;
    assert_eq!(answer.code, StatusCode::PAYLOAD_TOO_LARGE);
    // An announced length is refused before a byte is read; an unannounced one while it streams.
    let announced = [(HEADER, signature.as_str()), ("content-length", "1000000000")];
    assert_eq!(
        ask(&router, Method::POST, hook, &announced, unread()).await.code,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let endless = Body::from_stream(futures::stream::repeat_with(|| {
        Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 65536]))
    }));
    assert_eq!(
        ask(&router, Method::POST, hook, &[(HEADER, &signature)], endless).await.code,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_eq!(
        ask(&router, Method::POST, hook, &[], unread()).await.code,
        StatusCode::UNAUTHORIZED
    );
}

/// Two lines of a log.
pub struct TwoLines;

impl Logs for TwoLines {
    fn logs(
        &self,
        pod: Key,
        query: LogQuery,
    ) -> BoxFuture<Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError>> {
        Box::pin(async move {
            let text = format!("{} {}\n", pod, query.container.unwrap_or_default());
            let lines = [Ok(Bytes::from(text)), Ok(Bytes::from("second\n"))];
            Ok(futures::stream::iter(lines).boxed())
        })
    }
}

/// A container that says one line and lives on.
struct Endless;

impl Logs for Endless {
    fn logs(
        &self,
        _pod: Key,
        _query: LogQuery,
    ) -> BoxFuture<Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError>> {
        Box::pin(async move {
            let line = futures::stream::iter([Ok(Bytes::from("first\n"))]);
            Ok(line.chain(futures::stream::pending()).boxed())
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_may_ask_for_more_time_than_a_clock_has() {
    let fixture = Fixture::new();
    let router = fixture.api.router();
    let asked = format!("/api/v1/pods?watch=true&timeoutSeconds={}", i64::MAX);
    let request = Request::get(asked).body(Body::empty()).expect("a request");
    let response = router.oneshot(request).await.expect("infallible");
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_streamed_as_text() {
    let fixture = Fixture::new();
    fixture.admin().create(&pod("p")).await.expect("created");
    let router = fixture.api.router();
    let path = "/api/v1/namespaces/default/pods/p/log?tailLines=5";
    assert_eq!(get(&router, path).await.code, StatusCode::SERVICE_UNAVAILABLE);
    fixture.api.set_logs(Arc::new(TwoLines));
    let answer = get(&router, path).await;
    assert_eq!(answer.body, "default/p c\nsecond\n");
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/plain");
    assert_eq!(
        get(&router, "/api/v1/namespaces/default/pods/p/log?container=x").await.code,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        get(&router, "/api/v1/namespaces/default/pods/none/log").await.code,
        StatusCode::NOT_FOUND
    );
}

async fn raw(address: std::net::SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    // A refused request may be answered and closed before all of it is sent.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
        .await
        .expect("the server closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_bounds_what_a_stranger_costs() {
    let fixture = Fixture::new();
    let stop = fixture.tasks.stop().clone();
    let listener = bind("127.0.0.1:0".parse().unwrap(), Surface::Everything).await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let limits =
        Limits { header_time: Duration::from_millis(300), ..Limits::new(Surface::Everything) };
    let server = tokio::spawn(serve(listener, fixture.api.router(), limits, fixture.tasks.clone()));
    let asking =
        |host: &str| format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    assert!(raw(address, asking("127.0.0.1:7440").as_bytes()).await.starts_with("HTTP/1.1 200"));
    for host in ["evil.example", "169.254.169.254", ""] {
        let answer = raw(address, asking(host).as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 403") || answer.starts_with("HTTP/1.1 400"),
            "{host}: {answer}"
        );
    }
    let both = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert!(!raw(address, both.as_bytes()).await.starts_with("HTTP/1.1 200"));
    let long =
        format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    assert!(!raw(address, long.as_bytes()).await.starts_with("HTTP/1.1 200"));
    // Half a head, and then silence: the server hangs up by itself.
    assert!(!raw(address, b"GET /healthz HTTP/1.1\r\nHost: loc").await.starts_with("HTTP/1.1 200"));
    assert!(!raw(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.starts_with("HTTP/1.1 200"));

    // What is open does not hold up a stop: a watch, however long it was to be, and a log.
    fixture.admin().create(&pod("p")).await.expect("created");
    fixture.api.set_logs(Arc::new(Endless));
    let mut open = Vec::new();
    for path in [
        "/api/v1/pods?watch=true",
        "/api/v1/pods?watch=true&timeoutSeconds=9223372036854775807",
        "/api/v1/namespaces/default/pods/p/log?follow=true",
    ] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.expect("it begins");
        assert_eq!(&head, b"HTTP/1.1 200", "{path}");
        open.push(stream);
    }
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), server).await.expect("stops").expect("no panic");
    for mut stream in open {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("it ends in order");
        assert!(rest.ends_with(b"0\r\n\r\n"), "cut off");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_remote_skin_speaks_as_the_local_one() {
    let fixture = Fixture::new();
    let remote = Remote::new(client(&fixture), Clock::wall(), IdSource::random(), &fixture.tasks);
    let mut changes = Box::pin(remote.watch::<Pod>(Scope::namespace("default")));
    assert!(matches!(changes.next().await, Some(Change::Reset(pods)) if pods.is_empty()));
    let made = remote.create(&pod("p")).await.expect("created");
    assert!(
        matches!(changes.next().await, Some(Change::Applied(seen)) if seen.uid() == made.uid())
    );
    let key = made.key();
    assert_eq!(remote.create(&pod("p")).await.unwrap_err().reason, Reason::AlreadyExists);
    remote.bind(&key, made.uid(), "n1").await.expect("bound");
    assert!(remote.bind(&key, made.uid(), "n2").await.unwrap_err().is_conflict());
    let patch = OwnPatch::Merge(json!({"status": {"phase": "Running"}}));
    let running = remote.patch_status::<Pod>(&key, &patch).await.expect("patched");
    let again = remote.update_status(&*running).await.expect("the same");
    assert_eq!(again.metadata.resource_version, running.metadata.resource_version);
    let listing = remote.list::<Pod>(&Scope::fields("status.phase=Running")).await.expect("listed");
    assert_eq!(listing.items.len(), 1);
    let bad = remote.list::<Pod>(&Scope::fields("spec.nope=1")).await.unwrap_err();
    assert_eq!(bad.message, "field label not supported: spec.nope");
    remote.create::<Deployment>(&object(deployment("web", "i:1"))).await.expect("created");
    let web = Key::new("default", "web");
    remote.scale::<Deployment>(&web, 3, None).await.expect("scaled");
    assert!(remote.scale::<Deployment>(&web, 3, Some("1")).await.unwrap_err().is_conflict());
    remote.note(Note::normal(&*made, "test", "Tested", "it was tested"));
    let mut events = Box::pin(remote.watch::<Event>(Scope::fields("reason=Tested")));
    loop {
        if matches!(events.next().await, Some(Change::Reset(all)) if all.is_empty()) {
            continue;
        }
        break;
    }
    let end = DeleteOptions {
        uid: Some(made.uid().into()),
        grace_seconds: Some(0),
        ..DeleteOptions::default()
    };
    remote.delete::<Pod>(&key, &end).await.expect("gone");
    assert!(remote.get::<Pod>(&key).await.unwrap_err().is_not_found());
    loop {
        if matches!(changes.next().await, Some(Change::Deleted(pod)) if pod.uid() == made.uid()) {
            break;
        }
    }
    assert_eq!(Kind::of_manifest("v1", "Pod"), Some(Kind::Pod));
}
