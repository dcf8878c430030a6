//! The whole outer skin: whatever is asked, the answer is what was asked for or a well-formed Status
//! of the 4xx family, and a write that is repeated where the reference's is none writes nothing.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode, header};
use futures::StreamExt;
use hyper::body::Body as _;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use serde_json::Value;
use tower::ServiceExt;

use super::corpus::{OBJECT_WORDS, QUERY_WORDS, json_patches, urls, writes};
use super::mutate::{mutated_json, mutated_text};
use super::run::fuzz;
use crate::api::{Api, ApiOptions, IdSource, Identity};
use crate::clock::Clock;
use crate::store::{Sqlite, SqliteOptions, WriterMode};
use crate::task::Tasks;

/// Who share this file's time.
const TARGETS: u32 = 1;

/// One request, as it goes on the wire.
#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    url: String,
    accept: &'static str,
    content: String,
    body: String,
    /// What is in the store when it comes.
    before: Vec<(&'static str, String)>,
    admin: bool,
}

impl Asked {
    /// As a scene of `tests/suite/api_http.rs`.
    fn shown(&self) -> String {
        let Self { method, url, accept, content, body, before, admin } = self;
        let before: String = before
            .iter()
            .map(|(url, body)| format!("post(&router, {url:?}, {body:?});\n"))
            .collect();
        let who = if *admin { "Admin" } else { "Reader" };
        format!(
            "let router = fixture.api.router_as(Identity::{who});\n{before}ask(&router, Method::{method}, {url:?}, \
             &[(\"accept\", {accept:?}), (\"content-type\", {content:?})], {body:?})"
        )
    }
}

const CONTENTS: [&str; 9] = [
    "application/json",
    "application/apply-patch+yaml",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
    "application/vnd.kubernetes.protobuf",
    "application/json; charset=utf-8",
    "text/html",
    "",
];
const ACCEPTS: [&str; 5] = [
    "application/json",
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    "application/vnd.kubernetes.protobuf,application/json",
    "text/html",
];

/// The objects that most of the corpus' writes are about.
fn before() -> Vec<(&'static str, String)> {
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"web","image":"i:1"}]}}"#;
    let deployment = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"web","image":"i:1"}]}}}}"#;
    let map = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"g"},"data":{"a":"1"}}"#;
    vec![
        ("/api/v1/namespaces/default/pods", pod.to_owned()),
        ("/apis/apps/v1/namespaces/default/deployments", deployment.to_owned()),
        ("/api/v1/namespaces/default/configmaps", map.to_owned()),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    let word = |all: &[&'static str]| prop::sample::select(all.to_vec());
    let reads = (mutated_text(urls(), QUERY_WORDS), word(&["GET", "GET", "HEAD", "DELETE", "PUT"]));
    let reads = (reads, word(&ACCEPTS))
        .prop_map(|((url, method), accept)| (method, url, accept, String::new(), String::new()));
    // Writes as they were recorded, with a URL, a body and a content type that are changed.
    let rows = writes();
    let documents: Vec<Value> = rows
        .iter()
        .map(|(_, _, _, body)| serde_json::from_str(body).unwrap_or_default())
        .chain(json_patches())
        .collect();
    let url: Vec<String> = rows.iter().map(|(_, url, _, _)| url.clone()).collect();
    let row = any::<prop::sample::Index>();
    let body = prop_oneof![
        4 => mutated_json(documents, OBJECT_WORDS).prop_map(|value| Some(value.to_string())),
        2 => mutated_text(rows.iter().map(|(_, _, _, body)| body.clone()).collect(), &["{", "}", "\""])
            .prop_map(Some),
        2 => Just(None),
    ];
    let url = prop_oneof![2 => mutated_text(url, QUERY_WORDS).prop_map(Some), 3 => Just(None)];
    let content = prop_oneof![1 => word(&CONTENTS).prop_map(Some), 3 => Just(None)];
    let changed = (row, url, content, body).prop_map(move |(row, url, content, body)| {
        let (method, its_url, its_content, its_body) = row.get(&rows).clone();
        let method = match method.as_str() {
            "POST" => "POST",
            "PUT" => "PUT",
            "DELETE" => "DELETE",
            _ => "PATCH",
        };
        let content = content.map_or(its_content, str::to_owned);
        let (url, body) = (url.unwrap_or(its_url), body.unwrap_or(its_body));
        (method, url, "application/json", content, body)
    });
    (prop_oneof![1 => reads, 3 => changed], prop::bool::weighted(0.8)).prop_map(
        |((method, url, accept, content, body), admin)| Asked {
            method,
            url,
            accept,
            content,
            body,
            before: before(),
            admin,
        },
    )
}

/// What came back; `None` for a stream, which has no end to wait for.
struct Answer {
    code: StatusCode,
    kind: String,
    body: Option<Bytes>,
}

async fn answered(router: &Router, asked: &Asked) -> Option<Answer> {
    // What is no URL at all never leaves a client, and hyper refuses it.
    let request = Request::builder()
        .method(Method::from_bytes(asked.method.as_bytes()).ok()?)
        .uri(asked.url.as_str())
        .header(header::ACCEPT, asked.accept);
    let request = match asked.content.as_str() {
        "" => request,
        content => request.header(header::CONTENT_TYPE, content),
    };
    let request = request.body(Body::from(asked.body.clone())).ok()?;
    let response = router.clone().oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().to_owned();
    let body = match body.size_hint().exact() {
        Some(_) => axum::body::to_bytes(body, usize::MAX).await.ok(),
        None => {
            let mut frames = body.into_data_stream();
            tokio::time::timeout(std::time::Duration::from_millis(1), frames.next()).await.ok();
            None
        }
    };
    Some(Answer { code: parts.status, kind, body })
}

/// The oracle of every answer.
fn is_well_formed(asked: &Asked, answer: &Answer) -> TestCaseResult {
    let code = answer.code.as_u16();
    if answer.code.is_success() {
        return Ok(());
    }
    let Some(body) = answer.body.as_ref().filter(|_| asked.method != "HEAD") else { return Ok(()) };
    if code == 404 && body.as_ref() == b"404 page not found\n" {
        return Ok(());
    }
    // A request may name a revision that does not exist yet, and the reference says 504 to that: it
    // waited for it. Before the daemon is there, its log reader and its metrics are not.
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    let future =
        code == 504 && status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge";
    let unfinished = code == 503 && body.as_ref() != b"";
    // The reference's own answer to an apply of another type, 500 without a reason.
    let untyped = code == 500
        && status["message"].as_str().is_some_and(|said| said.contains("typed patch object"));
    let known = future || unfinished || untyped;
    prop_assert!((400..500).contains(&code) || known, "{}: {:?}", code, body);
    prop_assert!(answer.kind.starts_with("application/json") || unfinished, "{}", answer.kind);
    if !unfinished {
        prop_assert_eq!(
            (&status["kind"], &status["status"]),
            (&"Status".into(), &"Failure".into())
        );
        prop_assert_eq!(&status["code"], &Value::from(code));
        let told = status["message"].is_string() && (untyped || status["reason"].is_string());
        prop_assert!(told, "{}", status);
    }
    // Nobody is told more than a few times what he said.
    prop_assert!(body.len() <= 20_000 + 8 * (asked.url.len() + asked.body.len()), "{}", body.len());
    Ok(())
}

/// Whether the same request, sent again, is no write in the reference server either.
fn says_again(asked: &Asked) -> bool {
    asked.method == "PATCH"
        && !asked.url.contains("dryRun")
        && matches!(
            asked.content.as_str(),
            "application/apply-patch+yaml" | "application/merge-patch+json"
        )
}

async fn judge(asked: &Asked) -> TestCaseResult {
    let folder = tempfile::tempdir().expect("a folder");
    let options = SqliteOptions { writer: WriterMode::Inline, ..SqliteOptions::default() };
    let store = Sqlite::open(&folder.path().join("store.db"), options).expect("opens");
    let (tasks, _done) = Tasks::new();
    let api_options = ApiOptions {
        service_range: "10.97.0.0/16".parse().expect("a range"),
        node_ports: 30_000..=32_767,
        clock: Clock::tokio("2026-11-21T11:35:13Z".parse().expect("a time")),
        secret_key: [7; 32],
        ids: IdSource::seeded(1),
        privileges: std::sync::Arc::default(),
    };
    let api = Api::new(store, api_options, &tasks);
    let admin = api.router_as(Identity::Admin);
    for (url, body) in &asked.before {
        let post = Asked {
            method: "POST",
            url: (*url).to_owned(),
            accept: ACCEPTS[0],
            content: CONTENTS[0].to_owned(),
            body: body.clone(),
            before: Vec::new(),
            admin: true,
        };
        let made = answered(&admin, &post).await.expect("a request");
        assert_eq!(made.code, 201, "{:?}", made.body);
    }
    let router = if asked.admin { admin } else { api.router() };
    let Some(first) = answered(&router, asked).await else { return Ok(()) };
    is_well_formed(asked, &first)?;
    if first.code.is_success() && says_again(asked) {
        let Some(again) = answered(&router, asked).await else { return Ok(()) };
        let revision = |answer: &Answer| {
            let body = answer.body.as_deref().unwrap_or_default();
            let value: Value = serde_json::from_slice(body).unwrap_or_default();
            value["metadata"]["resourceVersion"].clone()
        };
        // A precondition that held once need not hold again.
        if again.code != 409 {
            prop_assert_eq!(again.code.as_u16(), 200, "{:?}", again.body);
            prop_assert_eq!(
                revision(&again),
                revision(&first),
                "a write that changes nothing is none"
            );
        }
    }
    tasks.stop().cancel();
    Ok(())
}

#[test]
fn every_answer_is_what_was_asked_for_or_a_status() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    fuzz(TARGETS, &asked(), Asked::shown, |asked| runtime.block_on(judge(asked)));
}
