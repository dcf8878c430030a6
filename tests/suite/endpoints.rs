//! The legacy Endpoints: read in every form, watched like any other kind, and followed through cuts and a
//! history that is forgotten by clients that hold nothing else.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{Method, Request, StatusCode, header};
use ballast::api::Identity;
use ballast::cli::GrantedRole;
use ballast::object::{Cluster, DeleteOptions, Key, Patch};
use ballast::store::Store;
use base64::Engine;
use futures::StreamExt;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PostParams;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::access::Secured;
use crate::api_http::{Answer, TABLE, ask, get};
use crate::fixture::{Fixture, PATIENCE, config, object};

const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
/// Behind a path that ends with `?` or `&`.
const FROM_NOW: &str = "watch=1&resourceVersionMatch=NotOlderThan&sendInitialEvents=false";

fn service(name: &str, app: Option<&str>) -> Service {
    let labels = app.map_or_else(|| json!({}), |app| json!({"app": app}));
    object(json!({"metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"ports": [{"name": "http", "port": 80}]}}))
}

fn slice(name: &str, service: &str, addresses: &[&str]) -> EndpointSlice {
    let endpoints: Vec<Value> =
        addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    object(json!({"addressType": "IPv4", "metadata": {"name": name, "namespace": "default",
        "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints}))
}

fn addresses(addresses: &[&str]) -> Patch {
    let endpoints: Vec<Value> =
        addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    Patch::Merge(json!({"endpoints": endpoints}))
}

fn key(name: &str) -> Key {
    Key::new("default", name)
}

/// Two Services of one address each.
async fn two(fixture: &Fixture) {
    let admin = fixture.admin();
    for (name, app, address) in [("web", Some("web"), "10.0.0.1"), ("db", None, "10.0.0.2")] {
        admin.create(&service(name, app)).await.expect("created");
        let slice = slice(&format!("{name}-1"), name, &[address]);
        admin.create(&slice).await.expect("created");
    }
}

/// A watch that is open.
struct Watching(BodyDataStream);

impl Watching {
    async fn open(router: &Router, path: &str, accept: &str) -> Self {
        let request = Request::get(path).header(header::ACCEPT, accept).body(Body::empty());
        let answer = router.clone().oneshot(request.expect("a request")).await.expect("infallible");
        assert_eq!(answer.status(), 200, "{path}");
        let warning = answer.headers().get("warning").and_then(|value| value.to_str().ok());
        assert!(warning.is_some_and(|text| text.contains("EndpointSlice")), "{warning:?}");
        Self(answer.into_body().into_data_stream())
    }

    async fn json(router: &Router, path: &str) -> Self {
        Self::open(router, path, "application/json").await
    }

    /// `None` where it ends.
    async fn line(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a line or the end");
        Some(serde_json::from_slice(&line?.expect("a line")).expect("an event"))
    }

    /// `MODIFIED web 10.0.0.1,10.0.0.3`
    async fn told(&mut self) -> String {
        let event = self.line().await.expect("it goes on");
        let (kind, object) = (event["type"].as_str().expect("a type"), &event["object"]);
        format!("{kind} {} {}", name(object), ips(object).join(","))
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("a name")
}

fn revision(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str().expect("a revision");
    text.parse().expect("a number")
}

fn ips(object: &Value) -> Vec<&str> {
    let subsets = object["subsets"].as_array().into_iter().flatten();
    let all = subsets.flat_map(|subset| subset["addresses"].as_array().into_iter().flatten());
    all.map(|address| address["ip"].as_str().expect("text")).collect()
}

fn lines(answer: &Answer) -> Vec<Value> {
    let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("an event")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_becomes_of_services_and_slices() {
    let fixture = Fixture::new();
    two(&fixture).await;
    let (admin, router) = (fixture.admin(), fixture.api.router());
    let mut all = Watching::json(&router, "/api/v1/endpoints?watch=1").await;
    assert_eq!(all.told().await, "ADDED db 10.0.0.2");
    assert_eq!(all.told().await, "ADDED web 10.0.0.1");
    let mut one = Watching::json(&router, "/api/v1/namespaces/default/endpoints/web?watch=1").await;
    assert_eq!(one.told().await, "ADDED web 10.0.0.1");
    let path = "/api/v1/namespaces/default/endpoints?fieldSelector=metadata.name%3Dweb&watch=1";
    let mut named = Watching::json(&router, path).await;
    assert_eq!(named.told().await, "ADDED web 10.0.0.1");
    let mut labelled = Watching::json(&router, "/api/v1/endpoints?watch=1&labelSelector=app").await;
    assert_eq!(labelled.told().await, "ADDED web 10.0.0.1");
    let elsewhere = format!("/api/v1/namespaces/kube-system/endpoints?timeoutSeconds=2&{FROM_NOW}");
    let mut elsewhere = Watching::json(&router, &elsewhere).await;

    // A change that makes no other Endpoints is none; the next one is its own revision's.
    let annotated = Patch::Merge(json!({"metadata": {"annotations": {"a": "b"}}}));
    admin.patch::<Service>(&key("web"), &annotated).await.expect("patched");
    admin.patch::<EndpointSlice>(&key("web-1"), &annotated).await.expect("patched");
    let more = addresses(&["10.0.0.1", "10.0.0.3"]);
    let written = admin.patch::<EndpointSlice>(&key("web-1"), &more).await.expect("patched");
    let event = all.line().await.expect("it goes on");
    assert_eq!(
        (&event["type"], ips(&event["object"])),
        (&json!("MODIFIED"), vec!["10.0.0.1", "10.0.0.3"])
    );
    assert_eq!(
        event["object"]["metadata"]["resourceVersion"],
        json!(written.metadata.resource_version)
    );
    assert_eq!(event["object"]["kind"], "Endpoints");
    for watch in [&mut one, &mut named, &mut labelled] {
        assert_eq!(watch.told().await, "MODIFIED web 10.0.0.1,10.0.0.3");
    }
    // Out of the selector, and into it again.
    let label = |value: Value| Patch::Merge(json!({"metadata": {"labels": {"app": value}}}));
    admin.patch::<Service>(&key("web"), &label(Value::Null)).await.expect("patched");
    assert_eq!(labelled.told().await, "DELETED web 10.0.0.1,10.0.0.3");
    assert_eq!(all.told().await, "MODIFIED web 10.0.0.1,10.0.0.3");
    let only = addresses(&["10.0.0.3"]);
    admin.patch::<EndpointSlice>(&key("web-1"), &only).await.expect("patched");
    admin.patch::<Service>(&key("db"), &label(json!("db"))).await.expect("patched");
    assert_eq!(labelled.told().await, "ADDED db 10.0.0.2");
    admin.patch::<Service>(&key("web"), &label(json!("web"))).await.expect("patched");
    assert_eq!(labelled.told().await, "ADDED web 10.0.0.3");
    // A second slice, one that goes to another Service, and the end of each.
    admin.create(&slice("web-2", "web", &["10.0.0.4"])).await.expect("created");
    assert_eq!(labelled.told().await, "MODIFIED web 10.0.0.3,10.0.0.4");
    let moved = Patch::Merge(json!({"metadata": {"labels": {"kubernetes.io/service-name": "db"}}}));
    admin.patch::<EndpointSlice>(&key("web-2"), &moved).await.expect("patched");
    assert_eq!(labelled.told().await, "MODIFIED db 10.0.0.2,10.0.0.4");
    assert_eq!(labelled.told().await, "MODIFIED web 10.0.0.3");
    let options = DeleteOptions::default();
    admin.delete::<EndpointSlice>(&key("web-1"), &options).await.expect("deleted");
    assert_eq!(labelled.told().await, "MODIFIED web ");
    admin.delete::<Service>(&key("web"), &options).await.expect("deleted");
    assert_eq!(labelled.told().await, "DELETED web ");
    admin.delete::<Service>(&key("db"), &options).await.expect("deleted");
    assert_eq!(labelled.told().await, "DELETED db 10.0.0.2,10.0.0.4");
    // All of it again, in order, to who watches everything.
    let mut last = 0;
    while let Some(event) = all.line().await {
        let revision = revision(&event["object"]);
        assert!(revision >= last, "{event}");
        last = revision;
        if (event["type"].as_str(), name(&event["object"])) == (Some("DELETED"), "db") {
            break;
        }
    }
    assert_eq!(elsewhere.line().await, None, "nothing happened there");
    fixture.tasks.stop().cancel();
    assert_eq!(all.line().await, None, "a stop ends it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_has_every_form() {
    let fixture = Fixture::new();
    two(&fixture).await;
    let (admin, router) = (fixture.admin(), fixture.api.router());
    let path = "/api/v1/namespaces/default/endpoints?watch=1";
    let mut table = Watching::open(&router, path, TABLE.1).await;
    let mut metadata = Watching::open(&router, path, METADATA).await;
    let whole = Watching::open(&router, &format!("{path}&includeObject=Object"), TABLE.1).await;
    let (mut rows, mut whole) = (Vec::new(), whole);
    for _ in 0..2 {
        rows.push(table.line().await.expect("a row"));
        assert_eq!(metadata.line().await.expect("one")["object"]["kind"], "PartialObjectMetadata");
        let row = &whole.line().await.expect("a row")["object"]["rows"][0];
        assert_eq!(row["object"]["kind"], "Endpoints");
    }
    let more = addresses(&["10.0.0.1", "10.0.0.3"]);
    let written = admin.patch::<EndpointSlice>(&key("web-1"), &more).await.expect("patched");
    rows.push(table.line().await.expect("a row"));
    let columns = |event: &Value| event["object"]["columnDefinitions"].is_array();
    assert_eq!(rows.iter().map(columns).collect::<Vec<_>>(), [true, false, false]);
    let row = &rows[2]["object"]["rows"][0];
    assert_eq!(row["cells"][1], "10.0.0.1:8080,10.0.0.3:8080");
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(
        rows[2]["object"]["metadata"]["resourceVersion"],
        json!(written.metadata.resource_version)
    );
    let changed = metadata.line().await.expect("one");
    assert_eq!((&changed["type"], name(&changed["object"])), (&json!("MODIFIED"), "web"));
    assert_eq!(changed["object"].get("subsets"), None);

    // Where the state ends, and how far the watch has come.
    let streamed =
        "resourceVersionMatch=NotOlderThan&sendInitialEvents=true&allowWatchBookmarks=true";
    for accept in ["application/json", TABLE.1, METADATA] {
        let path = format!("{path}&timeoutSeconds=1&{streamed}");
        let answer = ask(&router, Method::GET, &path, &[("accept", accept)], Body::empty()).await;
        let events = lines(&answer);
        let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
        assert_eq!(kinds[..3], ["ADDED", "ADDED", "BOOKMARK"], "{accept}");
        let end = &events[2]["object"];
        let end = if accept == TABLE.1 { &end["rows"][0]["object"] } else { end };
        assert_eq!(end["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        assert_eq!(revision(end), fixture.store.revision());
        let wanted =
            if accept == "application/json" { "Endpoints" } else { "PartialObjectMetadata" };
        assert_eq!(end["kind"], wanted);
    }
    // A bookmark before the end of one that had nothing else to say.
    admin.create(&config("other", "1")).await.expect("created");
    let since = fixture.store.revision() - 1;
    let path = format!("{path}&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={since}");
    let events = lines(&get(&router, &path).await);
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds, ["BOOKMARK"]);
    assert!(revision(&events[0]["object"]) >= since);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_where_another_one_ended() {
    let fixture = Fixture::new();
    let (admin, router) = (fixture.admin(), fixture.api.router());
    two(&fixture).await;
    let list = get(&router, "/api/v1/endpoints").await.json();
    let since = revision(&list);
    for item in list["items"].as_array().expect("items") {
        assert_eq!(revision(item), since, "each is of the list's revision");
        assert!(item["metadata"]["uid"].is_string());
    }
    let resumed = |since: u64| format!("/api/v1/endpoints?watch=1&resourceVersion={since}");
    let mut quiet = Watching::json(&router, &format!("{}&timeoutSeconds=1", resumed(since))).await;
    assert_eq!(quiet.line().await, None, "nothing happened since the list");

    let options = DeleteOptions::default();
    admin.patch::<EndpointSlice>(&key("web-1"), &addresses(&["10.0.0.5"])).await.expect("patched");
    admin.delete::<Service>(&key("db"), &options).await.expect("deleted");
    admin.create(&service("db", None)).await.expect("created");
    let last = admin
        .patch::<EndpointSlice>(&key("web-1"), &addresses(&["10.0.0.6"]))
        .await
        .expect("patched");
    let mut watch = Watching::json(&router, &resumed(since)).await;
    assert_eq!(watch.told().await, "DELETED db ");
    assert_eq!(watch.told().await, "ADDED db 10.0.0.2");
    let event = watch.line().await.expect("it goes on");
    assert_eq!((&event["type"], ips(&event["object"])), (&json!("MODIFIED"), vec!["10.0.0.6"]));
    assert_eq!(
        event["object"]["metadata"]["resourceVersion"],
        json!(last.metadata.resource_version)
    );
    // And lives on.
    admin.patch::<EndpointSlice>(&key("web-1"), &addresses(&["10.0.0.7"])).await.expect("patched");
    assert_eq!(watch.told().await, "MODIFIED web 10.0.0.7");
    // Of what is not there yet, and of what is forgotten, the words are every kind's.
    let newest = fixture.store.revision();
    for kind in ["endpoints", "services"] {
        let future = get(&router, &format!("/api/v1/{kind}?watch=1&resourceVersion=999999")).await;
        assert_eq!(future.code, StatusCode::GATEWAY_TIMEOUT);
    }
    let path = format!("{}&timeoutSeconds=1", resumed(newest));
    assert!(lines(&get(&router, &path).await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forgotten_is_gone_and_a_token_goes_on() {
    let fixture = Fixture::keeping(4);
    let (admin, router) = (fixture.admin(), fixture.api.router());
    two(&fixture).await;
    admin.create(&config("m", "0")).await.expect("created");
    for value in 1..200 {
        admin.update(&config("m", &value.to_string())).await.expect("updated");
    }
    let gone = |kind: &str| format!("/api/v1/{kind}?watch=1&resourceVersion=2&timeoutSeconds=1");
    let (ours, theirs) =
        (get(&router, &gone("endpoints")).await, get(&router, &gone("services")).await);
    assert_eq!((ours.code, theirs.code), (StatusCode::GONE, StatusCode::GONE));
    assert_eq!(ours.json(), theirs.json(), "the same Status");

    let token = |json: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
    let stale = token("{\"v\":\"meta.k8s.io/v1\",\"rv\":2,\"start\":\"default/db\\u0000\"}");
    let page = |kind: &str, token: &str| format!("/api/v1/{kind}?limit=1&continue={token}");
    let expired = get(&router, &page("endpoints", &stale)).await;
    assert_eq!(expired.code, StatusCode::GONE);
    assert_eq!(expired.json(), get(&router, &page("services", &stale)).await.json());
    let body = expired.json();
    let fresh = body["metadata"]["continue"].as_str().expect("a fresh token");
    let rest = get(&router, &page("endpoints", fresh)).await;
    assert_eq!(rest.code, StatusCode::OK);
    let rest = rest.json();
    assert_eq!(
        rest["items"].as_array().expect("items").iter().map(name).collect::<Vec<_>>(),
        ["web"]
    );

    // Pages are of one revision, slices and all.
    let first = get(&router, "/api/v1/endpoints?limit=1").await.json();
    admin.patch::<EndpointSlice>(&key("web-1"), &addresses(&["10.0.0.9"])).await.expect("patched");
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = get(&router, &page("endpoints", token)).await.json();
    assert_eq!(revision(&second), revision(&first));
    assert_eq!(ips(&second["items"][0]), ["10.0.0.1"]);
    let now = get(&router, "/api/v1/namespaces/default/endpoints/web").await.json();
    assert_eq!(ips(&now), ["10.0.0.9"]);
    assert_eq!(revision(&now), fixture.store.revision());
}

/// What a client holds that lists and watches, as client-go's reflector does.
struct Informer {
    query: &'static str,
    known: BTreeMap<String, Value>,
    /// Where it goes on; `None` before a list, and after a 410.
    since: Option<u64>,
    lists: usize,
    resumes: usize,
}

impl Informer {
    /// Lists where it must, and takes up to so many events; whether it has come to a revision.
    async fn live(&mut self, router: &Router, events: usize, upto: Option<u64>) {
        let since = match self.since {
            Some(since) => since,
            None => {
                let list = get(router, &format!("/api/v1/endpoints?{}", self.query)).await.json();
                let items = list["items"].as_array().expect("items").iter();
                self.known = items.map(|item| (name(item).to_owned(), item.clone())).collect();
                self.lists += 1;
                revision(&list)
            }
        };
        self.since = Some(since);
        let path = format!("/api/v1/endpoints?watch=1&resourceVersion={since}&{}", self.query);
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let answer = router.clone().oneshot(request).await.expect("infallible");
        if answer.status() == StatusCode::GONE {
            self.since = None;
            return;
        }
        assert_eq!(answer.status(), 200);
        self.resumes += 1;
        let mut watch = Watching(answer.into_body().into_data_stream());
        for _ in 0..events {
            if upto.is_some_and(|upto| self.since.is_some_and(|since| since >= upto)) {
                return;
            }
            let event = watch.line().await.expect("it goes on");
            if event["type"] == "ERROR" {
                assert_eq!(event["object"]["code"], 410);
                self.since = None;
                return;
            }
            let object = &event["object"];
            assert!(self.since <= Some(revision(object)), "{event}");
            self.since = Some(revision(object));
            match event["type"].as_str() {
                Some("DELETED") => drop(self.known.remove(name(object))),
                _ => drop(self.known.insert(name(object).to_owned(), object.clone())),
            }
        }
    }
}

/// Addresses and labels by name.
fn told(object: &Value) -> (Vec<&str>, &Value) {
    (ips(object), &object["metadata"]["labels"])
}

/// Clients that are cut anywhere and go on where they were, over a history so short that some of them
/// come too late, know in the end what a list says.
#[tokio::test(flavor = "multi_thread")]
async fn informers_that_are_cut_know_everything_in_the_end() {
    const QUERIES: [&str; 4] = [
        "",
        "labelSelector=app%3Da",
        "labelSelector=app%21%3Db",
        "fieldSelector=metadata.name%3Ds1",
    ];
    let fixture = Fixture::keeping(60);
    let (admin, router) = (fixture.admin(), fixture.api.router());
    let mut chance = StdRng::seed_from_u64(11);
    let mut informers: Vec<Informer> = QUERIES
        .iter()
        .chain(&QUERIES)
        .map(|query| Informer { query, known: BTreeMap::new(), since: None, lists: 0, resumes: 0 })
        .collect();
    let options = DeleteOptions::default();
    for round in 0..150 {
        for _ in 0..chance.random_range(0..6) {
            let name = format!("s{}", chance.random_range(0..3));
            let part = format!("e{}", chance.random_range(0..4));
            let app = [None, Some("a"), Some("b")][chance.random_range(0..3)];
            let address = format!("10.0.0.{}", chance.random_range(1..4));
            // What is refused (it is there already, or not) is none of this test's matter.
            match chance.random_range(0..8) {
                0 => drop(admin.create(&service(&name, app)).await),
                1 => drop(admin.delete::<Service>(&key(&name), &options).await),
                2 | 3 => {
                    let change = Patch::Merge(json!({"metadata": {"labels": {"app": app}}}));
                    drop(admin.patch::<Service>(&key(&name), &change).await);
                }
                4 => drop(admin.create(&slice(&part, &name, &[&address])).await),
                5 => drop(admin.delete::<EndpointSlice>(&key(&part), &options).await),
                6 => {
                    let label = json!({"kubernetes.io/service-name": name});
                    let change = Patch::Merge(json!({"metadata": {"labels": label}}));
                    drop(admin.patch::<EndpointSlice>(&key(&part), &change).await);
                }
                _ => {
                    let change = addresses(&[&address]);
                    drop(admin.patch::<EndpointSlice>(&key(&part), &change).await);
                }
            }
        }
        // Each is away for a while, some of them for longer than is remembered.
        let which = chance.random_range(0..informers.len());
        if round % 2 == 0 && (which > 1 || round % 40 == 0) {
            let informer = &mut informers[which];
            let events = chance.random_range(1..4);
            let live = informer.live(&router, events, None);
            // Where nothing more is to come the cut is by time.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(20), live).await;
        }
    }
    // The last thing that happens is told to everybody.
    let mut last = BTreeMap::new();
    for name in ["s0", "s1", "s2"] {
        drop(admin.delete::<Service>(&key(name), &options).await);
        admin.create(&service(name, Some("a"))).await.expect("created");
        let slice = slice(&format!("last-{name}"), name, &["10.0.0.9"]);
        let made = admin.create(&slice).await.expect("created");
        let revision = made.metadata.resource_version.as_deref().expect("a revision");
        last.insert(name, revision.parse::<u64>().expect("a number"));
    }
    for informer in &mut informers {
        let list = get(&router, &format!("/api/v1/endpoints?{}", informer.query)).await.json();
        let wanted: BTreeMap<_, _> = list["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|item| (name(item).to_owned(), told(item)))
            .collect();
        let upto = last[if informer.query.contains("s1") { "s1" } else { "s2" }];
        while informer.since.is_none_or(|since| since < upto) {
            informer.live(&router, usize::MAX, Some(upto)).await;
        }
        let known: BTreeMap<_, _> =
            informer.known.iter().map(|(name, item)| (name.clone(), told(item))).collect();
        assert_eq!(known, wanted, "{}", informer.query);
    }
    let (lists, resumes) = informers
        .iter()
        .fold((0, 0), |(lists, resumes), one| (lists + one.lists, resumes + one.resumes));
    println!("{lists} lists, {resumes} resumes");
    assert!(lists > informers.len() && resumes > lists + 20, "{lists} lists, {resumes} resumes");
}

/// What a role may, as it is told and as it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_is_what_is_said() {
    let served = Secured::start(true).await;
    served.fixture.admin().create(&service("web", None)).await.expect("created");
    for role in [GrantedRole::Viewer, GrantedRole::Operator, GrantedRole::Node] {
        let client = served.client(role, &format!("a-{role:?}").to_lowercase()).await;
        let reviews: kube::Api<SelfSubjectAccessReview> = kube::Api::all(client.clone());
        let all = "/api/v1/namespaces/default/endpoints";
        for (verb, method, path, allowed) in [
            ("get", Method::GET, format!("{all}/web"), true),
            ("list", Method::GET, all.to_owned(), true),
            ("watch", Method::GET, format!("{all}?watch=1&timeoutSeconds=1"), true),
            ("create", Method::POST, all.to_owned(), false),
            ("update", Method::PUT, format!("{all}/web"), false),
            ("patch", Method::PATCH, format!("{all}/web"), false),
            ("delete", Method::DELETE, format!("{all}/web"), false),
            ("deletecollection", Method::DELETE, all.to_owned(), false),
            ("get/status", Method::GET, format!("{all}/web/status"), false),
        ] {
            let (word, part) = verb.split_once('/').unwrap_or((verb, ""));
            let asked = json!({"metadata": {}, "spec": {"resourceAttributes": {"verb": word,
                "resource": "endpoints", "subresource": part, "namespace": "default"}}});
            let review = reviews.create(&PostParams::default(), &object(asked)).await;
            let said = review.expect("answered").status.expect("a status").allowed;
            let request = Request::builder().method(method).uri(path).body(b"{}".to_vec());
            let done = client.request_text(request.expect("a request")).await;
            assert_eq!(said, allowed, "{role:?} {verb}");
            assert_eq!(done.is_ok(), allowed, "{role:?} {verb}: {done:?}");
        }
    }
    served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_one_and_the_refusal_is_clear() {
    let fixture = Fixture::new();
    two(&fixture).await;
    let admin = fixture.api.router_as(Identity::Admin);
    let reader = fixture.api.router();
    let (all, one) =
        ("/api/v1/namespaces/default/endpoints", "/api/v1/namespaces/default/endpoints/web");
    for (method, path) in [
        (Method::POST, all),
        (Method::PUT, one),
        (Method::PATCH, one),
        (Method::DELETE, one),
        (Method::DELETE, all),
    ] {
        let refused = ask(&admin, method.clone(), path, &[], "{}").await;
        assert_eq!(refused.code, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        assert_eq!(refused.json()["reason"], "MethodNotAllowed");
        let refused = ask(&reader, method.clone(), path, &[], "{}").await;
        assert_eq!(refused.code, StatusCode::FORBIDDEN, "{method} {path}");
    }
    let none = get(&reader, "/api/v1/namespaces/default/endpoints/nope").await;
    assert_eq!(none.json()["message"], "endpoints \"nope\" not found");
}
