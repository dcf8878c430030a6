//! Answers that a real API server gave, compared with ours: bad queries, Tables, writes.

use axum::Router;
use axum::body::Body;
use axum::http::Method;
use ballast::api::Identity;
use ballast::clock::Clock;
use ballast::object::{Key, Kind};
use ballast::store::{Draft, Expect, Header, Store, Transaction, Write};
use serde_json::{Value, json};

use crate::api_http::{TABLE, ask, get};
use crate::fixture::Fixture;
use crate::golden;

/// Puts a recorded object into the store as it is, uid and times included.
async fn put(fixture: &Fixture, kind: Kind, mut object: Value) {
    object["apiVersion"] = json!(kind.api_version());
    object["kind"] = json!(kind.row().name);
    let meta = object["metadata"].clone();
    let text = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
    let key = Key { namespace: text("namespace"), name: text("name") };
    object["metadata"]["resourceVersion"] = json!("@here@");
    let text = object.to_string();
    let revision_at = text.find("@here@").expect("just written");
    let draft = Draft { json: text.replace("@here@", "").into_bytes(), revision_at };
    let uid = meta["uid"].as_str().unwrap_or_default().to_owned();
    let labels = meta["labels"].as_object().into_iter().flatten();
    let labels =
        labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    let header = Header { uid, labels: labels.collect(), ..Header::default() };
    let write = Write::Put { kind, key, expect: Expect::Absent, draft, header };
    fixture.store.transact(Transaction { writes: vec![write] }).await.expect("stored");
}

async fn admin_router() -> (Fixture, Router) {
    // The Tables were recorded at this time; ages are told from it.
    let fixture = Fixture::at(Clock::tokio("2026-11-21T11:35:13Z".parse().expect("a time")));
    let router = fixture.api.router_as(Identity::Admin);
    (fixture, router)
}

/// Answers to requests that are wrong.
const REFUSALS: [&str; 8] = [
    "badcontinue",
    "badfield",
    "badlimit",
    "badrv",
    "badselector",
    "futurerv",
    "nopath",
    "notfound",
];

/// Objects and lists of them, with the kind of each.
const OBJECTS: [(&str, Kind); 5] = [
    ("deployment-available", Kind::Deployment),
    ("events", Kind::Event),
    ("node", Kind::Node),
    ("pod-running", Kind::Pod),
    ("replicaset", Kind::ReplicaSet),
];

#[test]
fn every_recorded_object_is_compared() {
    // The scale is compared beside the objects; the writes have a test of their own.
    let here = OBJECTS.map(|(file, _)| file).into_iter().chain(REFUSALS).chain(["scale", "writes"]);
    let mut here: Vec<String> = here.map(|file| format!("{file}.json")).collect();
    here.sort();
    assert_eq!(golden::names("objects"), here);
}

#[tokio::test(start_paused = true)]
async fn a_recorded_scale_is_served_as_it_was() {
    let (fixture, router) = admin_router().await;
    let deployment = golden::value("objects/deployment-available.json")["body"].take();
    put(&fixture, Kind::Deployment, deployment).await;
    let wanted = golden::value("objects/scale.json");
    let answer = get(&router, wanted["path"].as_str().expect("a path")).await;
    assert_eq!(json!(answer.code.as_u16()), wanted["code"]);
    for part in ["kind", "apiVersion", "spec", "status"] {
        assert_eq!(answer.json()[part], wanted["body"][part], "{part}");
    }
}

#[tokio::test]
async fn bad_queries_are_refused_in_the_references_words() {
    let (_fixture, router) = admin_router().await;
    for file in REFUSALS {
        let wanted = golden::value(&format!("objects/{file}.json"));
        let answer = get(&router, wanted["path"].as_str().expect("a path")).await;
        assert_eq!(json!(answer.code.as_u16()), wanted["code"], "{file}");
        if wanted["body"].is_string() {
            assert_eq!(json!(String::from_utf8_lossy(&answer.body)), wanted["body"], "{file}");
            continue;
        }
        let (mut body, mut expected) = (answer.json(), wanted["body"].clone());
        if file == "futurerv" {
            // The current revision is ours.
            for status in [&mut body, &mut expected] {
                let message = status["message"].as_str().expect("a message");
                status["message"] = json!(message.split(", current").next());
            }
        }
        assert_eq!(body, expected, "{file}");
    }
}

/// Tables of kinds that this version does not serve.
const TABLES_LEFT_OUT: [(&str, &str); 10] = [
    ("cronjobs", "comes with the kind"),
    ("daemonsets", "comes with the kind"),
    ("endpoints", "no kind of its own: see the test below"),
    ("horizontalpodautoscalers", "comes with the kind"),
    ("ingresses", "comes with the kind"),
    ("jobs", "comes with the kind"),
    ("networkpolicies", "comes with the kind"),
    ("poddisruptionbudgets", "comes with the kind"),
    ("serviceaccounts", "there are no service accounts and no tokens"),
    ("statefulsets", "comes with the kind"),
];

/// Rows whose object was not recorded beside its Table: kind, how the name begins, and why.
const ROWS_LEFT_OUT: [(&str, &str, &str); 4] = [
    ("configmaps", "", "certificates of a real cluster; the columns are compared"),
    ("leases", "", "of a real cluster's servers; the columns are compared"),
    ("namespaces", "", "the columns are compared"),
    ("pods", "web-7f4cc58bfd-fjczd", "the list of pods was recorded with limit=1"),
];

#[tokio::test(start_paused = true)]
async fn tables_are_kubectls() {
    let (fixture, router) = admin_router().await;
    let proxy = golden::value("proxy/services.json");
    let items = |list: &Value| list["items"].as_array().cloned().unwrap_or_default();
    for service in items(&proxy["services"]) {
        put(&fixture, Kind::Service, service).await;
    }
    for slice in items(&proxy["endpointslices"]) {
        put(&fixture, Kind::EndpointSlice, slice).await;
    }
    for (file, kind) in OBJECTS {
        for object in one_or_all(&golden::value(&format!("objects/{file}.json"))["body"]) {
            put(&fixture, kind, object).await;
        }
    }
    let mut compared = 0;
    for file in golden::names("tables") {
        let plural = file.trim_end_matches(".json");
        if TABLES_LEFT_OUT.iter().any(|(left_out, _)| *left_out == plural) {
            continue;
        }
        let kind = golden::served(plural).unwrap_or_else(|| panic!("{file}: nobody compares it"));
        let row = kind.row();
        let wanted = golden::value(&format!("tables/{}.json", row.plural));
        let path = if row.group.is_empty() {
            format!("/api/v1/{}?limit=500", row.plural)
        } else {
            format!("/apis/{}/{}/{}?limit=500", row.group, row.version, row.plural)
        };
        let table = ask(&router, Method::GET, &path, &[TABLE], Body::empty()).await.json();
        assert_eq!(table["columnDefinitions"], wanted["columnDefinitions"], "{kind}");
        let name_of = |row: &Value| row["object"]["metadata"]["name"].clone();
        for expected in wanted["rows"].as_array().into_iter().flatten() {
            let rows = table["rows"].as_array().expect("rows");
            let name = name_of(expected);
            let Some(found) = rows.iter().find(|row| name_of(row) == name) else {
                let left_out = ROWS_LEFT_OUT.iter().any(|(kind, part, _)| {
                    *kind == plural && name.as_str().is_some_and(|name| name.starts_with(part))
                });
                assert!(left_out, "{plural}: no row {name}, and nobody says why");
                continue;
            };
            let (mut ours, mut theirs) = (found["cells"].clone(), expected["cells"].clone());
            level_ages(&mut ours, &mut theirs, &table, kind);
            assert_eq!(ours, theirs, "{kind}");
            assert_eq!(found["object"]["kind"], "PartialObjectMetadata");
            compared += 1;
        }
    }
    assert!(compared >= 15, "only {compared} rows were compared");
}

/// The legacy Endpoints, of the Services and slices that they were recorded beside.
#[tokio::test(start_paused = true)]
async fn the_table_of_endpoints_is_kubectls() {
    let (fixture, router) = admin_router().await;
    let proxy = golden::value("proxy/services.json");
    for (list, kind) in [("services", Kind::Service), ("endpointslices", Kind::EndpointSlice)] {
        for object in proxy[list]["items"].as_array().into_iter().flatten() {
            put(&fixture, kind, object.clone()).await;
        }
    }
    let wanted = golden::value("tables/endpoints.json");
    let list = |path: &'static str, headers| {
        let router = router.clone();
        async move { ask(&router, Method::GET, path, headers, Body::empty()).await }
    };
    let table = list("/api/v1/namespaces/default/endpoints", &[TABLE][..]).await.json();
    assert_eq!(table["columnDefinitions"], wanted["columnDefinitions"]);
    let cell = |row: &Value, index: usize| row["cells"][index].as_str().map(str::to_owned);
    let mut compared = 0;
    for theirs in wanted["rows"].as_array().expect("rows") {
        let rows = table["rows"].as_array().expect("rows");
        let Some(ours) = rows.iter().find(|row| cell(row, 0) == cell(theirs, 0)) else {
            assert_eq!(theirs["cells"][0], "kubernetes", "the reference server's own Service");
            continue;
        };
        // In which order a Service's ports are told follows from hashes there.
        let level = |row: &Value| {
            let text = cell(row, 1).expect("endpoints");
            match text.split_once(" + ") {
                Some((_, more)) => vec![more.to_owned()],
                None => text.split(',').map(str::to_owned).collect(),
            }
        };
        assert_eq!(level(ours), level(theirs), "{}", theirs["cells"][0]);
        compared += 1;
    }
    assert!(compared >= 5, "only {compared} rows were compared");
    // In pages, and by label.
    let whole = list("/api/v1/endpoints", &[]).await;
    let warned = whole.headers.get("warning").and_then(|value| value.to_str().ok());
    assert!(warned.is_some_and(|text| text.contains("EndpointSlice")), "{warned:?}");
    let (whole, page) = (whole.json(), list("/api/v1/endpoints?limit=2", &[]).await.json());
    assert_eq!(page["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(page["items"][1], whole["items"][1]);
    assert!(page["metadata"]["continue"].is_string(), "{page}");
    let none = list("/api/v1/endpoints?labelSelector=app%3Dnone", &[]).await.json();
    assert_eq!(none["items"], json!([]));
}

fn one_or_all(body: &Value) -> Vec<Value> {
    body["items"].as_array().cloned().unwrap_or_else(|| vec![body.clone()])
}

/// The Tables were recorded one after the other and the objects a few minutes later: ages are equal
/// when they are seconds apart, and a slice's endpoints are compared elsewhere.
fn level_ages(ours: &mut Value, theirs: &mut Value, table: &Value, kind: Kind) {
    let columns = table["columnDefinitions"].as_array().expect("columns");
    for (index, column) in columns.iter().enumerate() {
        let name = column["name"].as_str().expect("a name");
        if kind == Kind::EndpointSlice && name == "Endpoints" {
            (ours[index], theirs[index]) = (Value::Null, Value::Null);
        }
        if !matches!(name, "Age" | "Last Seen" | "First Seen") {
            continue;
        }
        let seconds = |cells: &Value| -> i64 {
            let text = cells[index].as_str().expect("a duration");
            text.trim_end_matches('s').parse().unwrap_or_else(|_| panic!("{kind} {name}: {text}"))
        };
        assert!((seconds(ours) - seconds(theirs)).abs() <= 2, "{kind} {name}: {ours} {theirs}");
        (ours[index], theirs[index]) = (Value::Null, Value::Null);
    }
}

#[tokio::test(start_paused = true)]
async fn writes_answer_as_the_reference_did() {
    let (fixture, router) = admin_router().await;
    for (file, kind) in [("deployment-available", Kind::Deployment), ("pod-running", Kind::Pod)] {
        for object in one_or_all(&golden::value(&format!("objects/{file}.json"))["body"]) {
            put(&fixture, kind, object).await;
        }
    }
    for service in
        golden::value("proxy/services.json")["services"]["items"].as_array().into_iter().flatten()
    {
        put(&fixture, Kind::Service, service.clone()).await;
    }
    let mut seen = 0;
    for row in golden::value("objects/writes.json").as_array().expect("rows") {
        let name = row["name"].as_str().expect("a name");
        let method: Method =
            row["method"].as_str().and_then(|text| text.parse().ok()).expect("a method");
        let content = row["contentType"].as_str().expect("a content type");
        let body = if row["request"].is_null() {
            Body::empty()
        } else {
            Body::from(row["request"].to_string())
        };
        let path = row["path"].as_str().expect("a path");
        let answer = ask(&router, method, path, &[("content-type", content)], body).await;
        assert_eq!(json!(answer.code.as_u16()), row["code"], "{name}: {:?}", answer.body);
        let (mut ours, mut theirs) = (answer.json(), row["response"].clone());
        level(name, &mut ours);
        level(name, &mut theirs);
        assert_eq!(ours, theirs, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 25, "every row is compared");
}

/// What differs between two servers that do the same: uids, revisions, times of their own.
fn level(name: &str, answer: &mut Value) {
    for field in ["uid", "resourceVersion", "creationTimestamp"] {
        for place in ["metadata", "details"] {
            if let Some(value) = answer.get_mut(place).and_then(|place| place.get_mut(field)) {
                *value = json!("…");
            }
        }
    }
    if name == "pod spec immutable" {
        // Our second step refuses hostNetwork beside it; the reference's own fault comes first.
        answer["details"]["causes"].as_array_mut().expect("causes").truncate(1);
    }
    if let Some(Value::String(text)) = answer.get_mut("message") {
        *text = levelled(name, text);
    }
    for cause in answer["details"]["causes"].as_array_mut().into_iter().flatten() {
        if let Some(Value::String(text)) = cause.get_mut("message") {
            *text = levelled(name, text);
        }
    }
    if name == "strategic merge container" {
        // The status is the recorded object's own, minutes later.
        answer.as_object_mut().expect("an object").remove("status");
    }
    // The recording left them out; `apply.rs` looks at them.
    if let Some(meta) = answer.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    if answer["details"].is_null() {
        answer.as_object_mut().expect("an object").remove("details");
    }
}

fn levelled(name: &str, text: &str) -> String {
    match name {
        // The dump of Go's structures behind the sentence is Go's own.
        "pod spec immutable" => {
            text.split('\n').next().unwrap_or_default().replace("invalid: [spec", "invalid: spec")
        }
        "delete wrong uid" => text.split("in record (").next().unwrap_or_default().to_owned(),
        _ => text.to_owned(),
    }
}
