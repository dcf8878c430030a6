//! What an event costs when many watch it: it is written out once a form, and that line is everybody's.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{Request, header};
use ballast::clock::Clock;
use ballast::object::{Cluster, Patch};
use bytes::Bytes;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::exposition::Exposition;
use crate::fixture::{Fixture, config, object};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";

/// A watch from now on.
async fn watch(router: &Router, path: &str, form: &str) -> BodyDataStream {
    let path =
        format!("{path}watch=true&resourceVersionMatch=NotOlderThan&sendInitialEvents=false");
    let request = Request::get(path).header(header::ACCEPT, form).body(Body::empty());
    let answer = router.clone().oneshot(request.expect("a request")).await.expect("infallible");
    assert_eq!(answer.status(), 200);
    answer.into_body().into_data_stream()
}

async fn line(lines: &mut BodyDataStream) -> Bytes {
    lines.next().await.expect("a line").expect("a line")
}

/// Lines sent, and lines written out.
async fn counted(router: &Router) -> (f64, f64) {
    let request = Request::get("/metrics").body(Body::empty()).expect("a request");
    let answer = router.clone().oneshot(request).await.expect("infallible");
    let text = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
    let text = String::from_utf8(text.to_vec()).expect("text");
    let text = Exposition::parse(&text).expect("an exposition");
    let value = |name| text.value(name, &[]).expect("it is counted");
    (value("ballast_api_watch_lines_total"), value("ballast_api_watch_lines_rendered_total"))
}

fn fixture() -> Fixture {
    // Its second does not end before the test lets time pass.
    let fixture = Fixture::at(Clock::tokio("2026-11-21T11:35:13Z".parse().expect("a time")));
    let mut registry = Registry::default();
    fixture.api.metrics().register(&mut registry);
    fixture.api.set_registry(Arc::new(registry));
    fixture
}

#[tokio::test(start_paused = true)]
async fn an_event_is_written_out_once_a_form_for_all_who_watch() {
    let fixture = fixture();
    let router = fixture.api.router();
    fixture.admin().create(&config("c", "1")).await.expect("created");
    let all = "/api/v1/configmaps?";
    let labelled = "/api/v1/configmaps?labelSelector=new&";
    let mut watches = Vec::new();
    for (count, path, form, kind) in [
        (50, all, "application/json", "MODIFIED"),
        // To them it is new: another line.
        (10, labelled, "application/json", "ADDED"),
        (20, all, TABLE, "MODIFIED"),
        (20, all, METADATA, "MODIFIED"),
    ] {
        for _ in 0..count {
            watches.push((kind, form, watch(&router, path, form).await));
        }
    }
    assert_eq!(counted(&router).await, (0.0, 0.0));
    let change = Patch::Merge(json!({"metadata": {"labels": {"new": "yes"}}}));
    let key = ballast::object::Key::new("default", "c");
    fixture.admin().patch::<ConfigMap>(&key, &change).await.expect("changed");
    let mut places = std::collections::BTreeSet::new();
    for (kind, form, lines) in &mut watches {
        let line = line(lines).await;
        let event: Value = serde_json::from_slice(&line).expect("an event");
        assert_eq!(event["type"], *kind, "{form}");
        let object = match *form {
            TABLE => &event["object"]["rows"][0]["object"],
            _ => &event["object"],
        };
        assert_eq!(object["metadata"]["labels"]["new"], "yes", "{form}");
        places.insert((line.as_ptr() as usize, line.len()));
    }
    assert_eq!(places.len(), 4, "everybody of a form has the same bytes");
    assert_eq!(counted(&router).await, (100.0, 4.0));
}

#[tokio::test(start_paused = true)]
async fn secrets_are_written_out_for_each_who_asks() {
    let fixture = fixture();
    let (reader, admin) =
        (fixture.api.router(), fixture.api.router_as(ballast::api::Identity::Admin));
    let path = "/api/v1/secrets?";
    let mut hashed = watch(&reader, path, "application/json").await;
    let mut clear = watch(&admin, path, "application/json").await;
    let secret: Secret = object(json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "s", "namespace": "default"}, "stringData": {"a": "hunter2"}}));
    fixture.admin().create(&secret).await.expect("created");
    let value = |line: Bytes| {
        let event: Value = serde_json::from_slice(&line).expect("an event");
        event["object"]["data"]["a"].as_str().expect("a value").to_owned()
    };
    let (hashed, clear) = (value(line(&mut hashed).await), value(line(&mut clear).await));
    assert_ne!(hashed, clear);
    assert_eq!(counted(&reader).await, (2.0, 2.0));
}
