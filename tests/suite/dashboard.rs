//! The page at `/`, over the same router that the daemon serves.

use axum::http::{StatusCode, header};
use ballast::api::Identity;
use ballast::clock::Clock;
use ballast::object::Cluster;
use ballast::object::drift::Drift;
use ballast::object::source::Source;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::api_http::get;
use crate::fixture::{Fixture, deployment, object};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_the_three_facts_the_workloads_and_the_open_drifts() {
    let fixture = Fixture::new();
    let page = ballast::web::router(fixture.local(Identity::Web), Clock::wall());
    let router = fixture.api.router().merge(page);
    let empty = get(&router, "/").await;
    assert_eq!(empty.code, StatusCode::OK);
    assert_eq!(empty.headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
    let policy = empty.headers[header::CONTENT_SECURITY_POLICY].to_str().expect("text");
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert!(String::from_utf8_lossy(&empty.body).contains("No source yet"));

    let admin = fixture.admin();
    let at = "2026-01-01T00:00:00Z";
    let commit =
        json!({"id": "c".repeat(40), "subject": "<b>Open</b> the shop", "author": "Ada", "at": at});
    let source: Source = object(json!({"metadata": {"name": "main"},
        "spec": {"url": "/srv/shop", "branch": "main", "path": ".", "pollSeconds": 60},
        "status": {"fetched": commit, "applied": commit, "converged": {"converged": false,
            "since": at, "checkedAt": at, "commit": "c".repeat(40), "openDrifts": 1}}}));
    let made = admin.create(&source).await.expect("a source");
    admin
        .update_status(&Source { status: source.status, ..(*made).clone() })
        .await
        .expect("its status");
    admin
        .create::<Deployment>(&object(deployment("storefront", "i:1")))
        .await
        .expect("a deployment");
    let secret = json!({"metadata": {"name": "s", "namespace": "default"}, "stringData": {"k": "hunter2-value"}});
    admin.create::<Secret>(&object(secret)).await.expect("a secret");
    let drift: Drift = object(json!({"metadata": {"name": "d", "namespace": "default"},
        "spec": {"object": {"kind": "Deployment", "namespace": "default", "name": "storefront", "uid": "u"},
            "layer": "object", "class": "Changed", "field": "spec.replicas", "wanted": "3", "actual": "1",
            "origin": {"source": "main", "file": "web.yaml", "line": 9, "commit": "c".repeat(40)}},
        "status": {"phase": "Open", "since": at, "lastSeen": at, "count": 1, "action": "Healing"}}));
    let made = admin.create(&drift).await.expect("a drift");
    admin
        .update_status(&Drift { status: drift.status, ..(*made).clone() })
        .await
        .expect("its status");
    let page = get(&router, "/").await;
    let body = String::from_utf8_lossy(&page.body);
    for part in [
        "Fetched",
        "Applied",
        "Converged",
        "/srv/shop",
        "storefront",
        "spec.replicas",
        "web.yaml:9",
    ] {
        assert!(body.contains(part), "{part}: {body}");
    }
    assert!(body.contains("&lt;b&gt;Open&lt;/b&gt;"), "a stranger's text is text: {body}");
    assert!(!body.contains("hunter2") && !body.contains("<script"), "{body}");
}
