//! The forms and manners of an answer that clients choose: compression, times, protobuf, where a
//! watch begins, whose request it is, and the documents that describe the rest.

use std::io::Read;

use axum::body::Body;
use axum::http::{Method, header};
use ballast::api::Identity;
use ballast::object::Cluster;
use serde_json::{Value, json};

use crate::api_http::{TABLE, ask, get};
use crate::fixture::{Fixture, config};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A field of protobuf that holds bytes: every length here fits a byte.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("short");
    [&[number << 3 | 2, length], bytes].concat()
}

/// A body as client-go sends it: `k8s\0`, then a `runtime.Unknown` of type and message.
fn enveloped(group: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let version = format!("{group}/v1");
    let of_type = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &of_type), field(2, message)].concat()
}

#[tokio::test]
async fn reviews_answer_in_both_forms() {
    let fixture = Fixture::new();
    let router = fixture.api.router();
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (verb, allowed) in [("list", true), ("delete", false)] {
        let attributes = json!({"verb": verb, "group": "apps", "resource": "deployments",
            "namespace": "default"});
        let document = json!({"spec": {"resourceAttributes": attributes}});
        let message = [
            field(1, b"default"),
            field(2, verb.as_bytes()),
            field(3, b"apps"),
            field(5, b"deployments"),
        ];
        let message = field(2, &field(1, &message.concat()));
        let body = enveloped("authorization.k8s.io", "SelfSubjectAccessReview", &message);
        for (media, body) in
            [("application/json", Body::from(document.to_string())), (PROTOBUF, Body::from(body))]
        {
            let headers = [("content-type", media), ("accept", PROTOBUF)];
            let answer = ask(&router, Method::POST, path, &headers, body).await;
            assert_eq!(answer.code, 201, "{media}");
            assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
            let answer = answer.json();
            assert_eq!(answer["status"]["allowed"], allowed, "{answer}");
            assert_eq!(answer["spec"]["resourceAttributes"], attributes);
        }
    }
    let headers = [("content-type", PROTOBUF)];
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let body = enveloped("authentication.k8s.io", "SelfSubjectReview", b"");
    let answer = ask(&router, Method::POST, path, &headers, body).await;
    let groups = ["ballast:viewers", "system:unauthenticated"];
    assert_eq!(
        answer.json()["status"]["userInfo"],
        json!({"username": "system:anonymous", "groups": groups})
    );
    for bad in [&b"k8s"[..], b"{}", b"k8s\0\x0b"] {
        assert_eq!(ask(&router, Method::POST, path, &headers, bad).await.code, 400, "{bad:?}");
    }
    assert_eq!(get(&router, path).await.code, 405);
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for nothing in ["{}", "[]", "7", r#"{"spec": []}"#] {
        let answer = ask(&router, Method::POST, path, &[], Body::from(nothing)).await;
        assert_eq!(answer.code, 422, "{nothing}");
    }
}

#[tokio::test]
async fn other_bodies_in_protobuf_are_refused_by_name() {
    let fixture = Fixture::new();
    let router = fixture.api.router_as(Identity::Admin);
    let path = "/api/v1/namespaces/default/configmaps";
    let body = enveloped("", "ConfigMap", b"");
    let answer = ask(&router, Method::POST, path, &[("content-type", PROTOBUF)], body).await;
    let status = answer.json();
    assert_eq!((answer.code.as_u16(), &status["reason"]), (415, &json!("UnsupportedMediaType")));
    let message = status["message"].as_str().expect("a message");
    assert!(message.contains("application/json"), "{message}");
    // The options of a DELETE too, which `kubectl drain` sends.
    let (path, body) = (format!("{path}/none"), enveloped("", "DeleteOptions", b""));
    let answer = ask(&router, Method::DELETE, &path, &[("content-type", PROTOBUF)], body).await;
    assert_eq!((answer.code.as_u16(), &answer.json()["message"]), (415, &json!(message)));
}

#[tokio::test]
async fn large_answers_are_compressed_and_watches_are_not() {
    let fixture = Fixture::new();
    for name in ["a", "b", "c"] {
        let large = "value ".repeat(15_000);
        fixture.admin().create(&config(name, &large)).await.expect("created");
    }
    let router = fixture.api.router();
    let gzip = [("accept-encoding", "gzip")];
    let all = "/api/v1/configmaps";
    let plain = get(&router, all).await;
    let answer = ask(&router, Method::GET, all, &gzip, Body::empty()).await;
    assert_eq!(answer.headers[header::CONTENT_ENCODING], "gzip");
    assert!(answer.body.len() < plain.body.len() / 10);
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&*answer.body).read_to_end(&mut text).expect("gzip");
    assert!(text == plain.body, "other bytes came back");
    for small in ["/api/v1/configmaps?limit=1", "/api/v1/configmaps?watch=1&timeoutSeconds=1"] {
        let answer = ask(&router, Method::GET, small, &gzip, Body::empty()).await;
        assert!(!answer.headers.contains_key(header::CONTENT_ENCODING), "{small}");
        assert!(answer.body.len() > 80_000, "{small}");
    }
    let table = ask(&router, Method::GET, all, &[TABLE, gzip[0]], Body::empty()).await;
    assert!(!table.headers.contains_key(header::CONTENT_ENCODING), "it is small");
}

#[tokio::test]
async fn a_watch_begins_where_the_request_says() {
    let fixture = Fixture::new();
    fixture.admin().create(&config("early", "1")).await.expect("created");
    let router = fixture.api.router();
    let watch = "/api/v1/configmaps?watch=1&timeoutSeconds=1&resourceVersionMatch=NotOlderThan";
    let events = async |more: &str| -> Vec<Value> {
        let answer = get(&router, &format!("{watch}&{more}")).await;
        assert_eq!(answer.code, 200, "{more}");
        let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("an event")).collect()
    };
    assert_eq!(events("sendInitialEvents=false").await, Vec::<Value>::new());
    let from_now = events("sendInitialEvents=true&allowWatchBookmarks=true").await;
    let types: Vec<&Value> = from_now.iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["ADDED", "BOOKMARK"]);
    assert_eq!(events("sendInitialEvents=true&resourceVersion=0").await.len(), 1);
    assert_eq!(get(&router, "/api/v1/configmaps?sendInitialEvents=false").await.code, 422);
}

#[tokio::test]
async fn nobody_is_answered_for_somebody_else_or_without_end() {
    let fixture = Fixture::new();
    let router = fixture.api.router_as(Identity::Admin);
    let asked = [("impersonate-user", "bob")];
    for path in ["/api/v1/pods", "/version"] {
        let answer = ask(&router, Method::GET, path, &asked, Body::empty()).await;
        assert_eq!(answer.code, 403, "{path}");
        assert!(answer.json()["message"].as_str().expect("text").contains("cannot impersonate"));
    }
    let answer = get(&router, "/api/v1/pods?timeout=soon").await;
    assert_eq!((answer.code.as_u16(), &answer.json()["reason"]), (400, &json!("BadRequest")));
    assert_eq!(get(&router, "/api/v1/pods?timeout=32s").await.code, 200);
}

#[tokio::test]
async fn usage_is_there_when_a_node_agent_is() {
    let fixture = Fixture::new();
    let router = fixture.api.router();
    let answer = get(&router, "/apis/metrics.k8s.io/v1beta1/nodes").await;
    assert_eq!(answer.code, 503, "nobody measures here");
    assert_eq!(
        get(&router, "/apis/metrics.k8s.io/v1beta1").await.json()["kind"],
        "APIResourceList"
    );
    assert_eq!(get(&router, "/apis/metrics.k8s.io/v1beta1/things").await.code, 404);
}

#[tokio::test]
async fn openapi_is_kept_by_its_hash() {
    let fixture = Fixture::new();
    let router = fixture.api.router();
    let index = get(&router, "/openapi/v3").await.json();
    let address = |place: &str| {
        let place = &index["paths"][place]["serverRelativeURL"];
        place.as_str().expect("an address").to_owned()
    };
    for place in ["api/v1", "apis/apps/v1", "apis/ballast.dev/v1alpha1"] {
        let answer = get(&router, &address(place)).await;
        assert_eq!(answer.code, 200);
        let kept = answer.headers[header::CACHE_CONTROL].to_str().expect("text");
        assert!(kept.contains("immutable"));
        assert_eq!(answer.json()["openapi"], "3.0.0");
        // An address of an earlier daemon: answered, and not kept.
        let stale = address(place).split('?').next().expect("a path").to_owned() + "?hash=AB";
        let answer = get(&router, &stale).await;
        assert!(answer.code == 200 && !answer.headers.contains_key(header::CACHE_CONTROL));
    }
    assert_eq!(get(&router, "/openapi/v3/apis/nope/v1").await.code, 404);
    let media = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let headers = [("accept", media)];
    let answer = ask(&router, Method::GET, "/openapi/v2", &headers, Body::empty()).await;
    let answered = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    assert_eq!(answer.headers[header::CONTENT_TYPE], answered);
    assert!(answer.body.starts_with(b"\x0a\x032.0"), "swagger, the first field");
}
