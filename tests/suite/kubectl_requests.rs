//! Every request that a real kubectl made (1.27 and 1.32, which between them speak all the forms of
//! 1.27 to 1.33), made again: each is answered in the form that kubectl asked for, or refused in the
//! words that people are to read, or named below as what later versions serve.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, header};
use ballast::api::Identity;
use ballast::object::{Cluster, Key, Patch};
use http_body_util::BodyExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::api_http::{Answer, TwoLines, ask};
use crate::fixture::{Fixture, PATIENCE, config, deployment, object};
use crate::golden;

/// `Accept` of discovery: kubectl up to 1.29, and later ones.
pub const AGGREGATED: [&str; 2] = [
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
];
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Of a later commit than the recording's 100: a watch goes on from what a list said.
const RECORDED_REVISION: &str = "resourceVersion=100";

/// What is asked for in vain, or is no read, by a part of its path.
const LATER: [(&str, &str); 7] = [
    ("/statefulsets", "comes with the kind; asked for only where discovery lists it"),
    ("/horizontalpodautoscalers", "comes with the kind; asked for only where discovery lists it"),
    ("/cronjobs", "comes with the kind; asked for only where discovery lists it"),
    ("/jobs", "comes with the kind; asked for only where discovery lists it"),
    ("/swagger-2.0.0.pb-v1", "asked for where /openapi/v2 is not there, which it is"),
    ("/exec", "a stream and no read: `kubectl_exec` drives it"),
    ("/portforward", "a stream and no read: `port_forward` drives it"),
];

/// One line of a recording.
#[derive(Debug)]
struct Recorded {
    method: Method,
    path: String,
    accept: String,
}

fn recorded(file: &str) -> Vec<Recorded> {
    let text = golden::text(&format!("kubectl-requests/{file}"));
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("## "));
    let one = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_else(|| panic!("{file}: {line}"));
        let (method, path, rest) = (word(), word(), word());
        let accept = rest.trim_start_matches('[').split(']').next().unwrap_or_default();
        Recorded {
            method: method.parse().expect("a method"),
            path: path.to_owned(),
            accept: accept.to_owned(),
        }
    };
    lines.map(one).collect()
}

/// The objects that kubectl was asked about.
async fn world() -> Fixture {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    fixture.namespaces(&["kube-node-lease"]).await;
    let node: Node = object(json!({"metadata": {"name": "n1"}}));
    admin.create(&node).await.expect("a node");
    let lease: Lease = object(json!({"metadata": {"name": "n1", "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": "n1"}}));
    admin.create(&lease).await.expect("a lease");
    admin.create(&config("a", "1")).await.expect("a config map");
    let web: Deployment = object(deployment("web", "i:1"));
    admin.create(&web).await.expect("a deployment");
    let mut set = deployment("web-abc", "i:1");
    set["kind"] = json!("ReplicaSet");
    set["metadata"]["labels"] = json!({"app": "web"});
    let set: ReplicaSet = object(set);
    admin.create(&set).await.expect("a replica set");
    let service: Service = object(json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}));
    admin.create(&service).await.expect("a service");
    let mut pod = crate::fixture::pod("web-abc-x1");
    pod.spec.as_mut().expect("a spec").node_name = Some("n1".to_owned());
    admin.create(&pod).await.expect("a pod");
    fixture.api.set_logs(Arc::new(TwoLines));
    fixture
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_kubectl_is_answered_or_named() {
    let fixture = world().await;
    let router = fixture.api.router_as(Identity::Reader);
    let mut named = [0; LATER.len()];
    let mut answered = 0;
    for file in golden::names("kubectl-requests") {
        for request in recorded(&file) {
            let later = LATER.iter().position(|(part, _)| request.path.contains(part));
            if let Some(place) = later {
                named[place] += 1;
                let answer = plain(&router, &request).await;
                assert!(answer.code.is_client_error(), "served after all: {request:?}");
                continue;
            }
            answered += 1;
            if request.path.contains("dryRun=All") {
                tried(&router, &request).await;
            } else if request.path.contains("reviews") {
                reviewed(&request, &router).await;
            } else if request.method != Method::GET {
                refused(&request, &plain(&router, &request).await);
            } else if request.path.contains("watch=true") {
                watched(&fixture, &router, &request).await;
            } else {
                shaped(&request, &plain(&router, &request).await);
            }
        }
    }
    let never: Vec<&str> = LATER
        .iter()
        .zip(named)
        .filter(|(_, count)| *count == 0)
        .map(|((part, _), _)| *part)
        .collect();
    assert!(never.is_empty(), "no recording asks for {never:?}");
    assert!(answered > 200, "only {answered} were made again");
}

fn accept(request: &Recorded) -> &str {
    match request.accept.as_str() {
        "agg:v2beta1" => AGGREGATED[0],
        "agg:v2,v2beta1" => AGGREGATED[1],
        "Table" => TABLE,
        "proto" => PROTOBUF,
        other => other,
    }
}

async fn plain(router: &Router, request: &Recorded) -> Answer {
    let headers = [("accept", accept(request))];
    ask(router, request.method.clone(), &request.path, &headers, Body::empty()).await
}

/// What `kubectl diff` and `apply --dry-run=server` send: anybody may see what would come of it.
async fn tried(router: &Router, request: &Recorded) {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "new"},
        "data": {"a": "1"}});
    let headers = [("accept", accept(request)), ("content-type", "application/json")];
    let answer =
        ask(router, request.method.clone(), &request.path, &headers, map.to_string()).await;
    assert_eq!(answer.code, 201, "{request:?}");
    let object = answer.json();
    assert_eq!(object["metadata"]["managedFields"][0]["manager"], "kubectl-client-side-apply");
    assert_eq!(object["metadata"].get("resourceVersion"), None, "it is stored nowhere");
}

/// A review is no write. Its body was not recorded; the forms that kubectl sends are asked in
/// `api_negotiation::reviews_answer_in_both_forms`.
async fn reviewed(request: &Recorded, router: &Router) {
    let body = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let headers = [("accept", accept(request)), ("content-type", "application/json")];
    let body = Body::from(body.to_string());
    let answer = ask(router, request.method.clone(), &request.path, &headers, body).await;
    assert_eq!(answer.code, 201, "{request:?}");
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    let (path, body) = (&request.path, answer.json());
    assert!(path.ends_with(&format!("{}s", body["kind"].as_str().unwrap().to_lowercase())));
    assert!(path.starts_with(&format!("/apis/{}/", body["apiVersion"].as_str().unwrap())));
}

/// People read: a write is refused with the way to do it.
fn refused(request: &Recorded, answer: &Answer) {
    assert_eq!(answer.code, 403, "{request:?}");
    let status = answer.json();
    assert_eq!((&status["kind"], &status["reason"]), (&json!("Status"), &json!("Forbidden")));
    let message = status["message"].as_str().expect("a message");
    assert!(message.contains("changes through Git"), "{request:?}: {message}");
}

/// Answered, and in the form that was asked for.
fn shaped(request: &Recorded, answer: &Answer) {
    if request.path.ends_with("/pods/nope") {
        assert_eq!(answer.code, 404, "{request:?}");
        assert_eq!(answer.json()["reason"], "NotFound");
        return;
    }
    let said = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.code, 200, "{request:?}: {said}");
    let content = answer.headers[header::CONTENT_TYPE].to_str().expect("text");
    let path = request.path.split('?').next().unwrap_or_default();
    if path.ends_with("/log") {
        assert_eq!(content, "text/plain", "{request:?}");
        assert!(said.starts_with("default/web-abc-x1 c\n"), "{said}");
        return;
    }
    let body = answer.json();
    if let Some(forms) = request.accept.strip_prefix("agg:") {
        let best = forms.split(',').next().expect("one");
        assert_eq!(body["apiVersion"], format!("apidiscovery.k8s.io/{best}"), "{request:?}");
        let wanted =
            format!("application/json;g=apidiscovery.k8s.io;v={best};as=APIGroupDiscoveryList");
        assert_eq!(content, wanted);
        return;
    }
    assert_eq!(content, "application/json", "{request:?}");
    if request.accept == "Table" {
        assert_eq!(body["kind"], "Table", "{request:?}");
        return;
    }
    match path {
        "/version" => assert_eq!(body["major"], "1"),
        path if path.starts_with("/openapi/v") => assert!(body["paths"].is_object()),
        "/api/v1" => assert_eq!(body["kind"], "APIResourceList"),
        path if path.contains("/endpoints/") => assert_eq!(body["kind"], "Endpoints"),
        path => assert_eq!(body["kind"], kind_at(path), "{request:?}"),
    }
}

/// `Pod` for the path of a pod, `PodList` for that of pods.
fn kind_at(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    let place = parts.iter().rposition(|part| golden::served(part).is_some());
    // A namespace's name may stand before the plural, never behind it.
    let place = place.unwrap_or_else(|| panic!("{path}"));
    let name = golden::served(parts[place]).expect("just seen").row().name;
    if place + 1 == parts.len() { format!("{name}List") } else { name.to_owned() }
}

/// A watch from what a list has just said tells the next change, in the form that was asked for.
async fn watched(fixture: &Fixture, router: &Router, request: &Recorded) {
    let pod = Key::new("default", "web-abc-x1");
    let revision = {
        let stored = fixture.admin().get::<Pod>(&pod).await.expect("the pod");
        let list = Recorded {
            method: Method::GET,
            path: "/api/v1/pods?limit=1".to_owned(),
            accept: "application/json".to_owned(),
        };
        let page = plain(router, &list).await.json();
        assert!(stored.metadata.resource_version.is_some());
        page["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned()
    };
    let from = format!("resourceVersion={revision}");
    assert!(request.path.contains(RECORDED_REVISION), "{request:?}");
    let path = request.path.replace(RECORDED_REVISION, &from);
    let asked = Request::get(&path).header("accept", accept(request));
    let response = router.clone().oneshot(asked.body(Body::empty()).expect("a request")).await;
    let (parts, mut body) = response.expect("infallible").into_parts();
    assert_eq!(parts.status, 200, "{request:?}");
    let touch = Patch::Merge(json!({"metadata": {"annotations": {"touched": revision}}}));
    let kind = if request.path.contains("/deployments") {
        let key = Key::new("default", "web");
        fixture.admin().patch::<Deployment>(&key, &touch).await.expect("touched");
        "Deployment"
    } else {
        fixture.admin().patch::<Pod>(&pod, &touch).await.expect("touched");
        "Pod"
    };
    let line = async {
        let mut text = Vec::new();
        while !text.contains(&b'\n') {
            let frame = body.frame().await.expect("it goes on").expect("a frame");
            text.extend_from_slice(&frame.into_data().expect("data"));
        }
        text
    };
    let line = tokio::time::timeout(PATIENCE.min(Duration::from_secs(20)), line).await;
    let line = line.unwrap_or_else(|_| panic!("{request:?}: no event"));
    let line = line.split(|byte| *byte == b'\n').next().expect("a line");
    let event: Value = serde_json::from_slice(line).expect("an event");
    assert_eq!(event["type"], "MODIFIED", "{request:?}");
    let wanted = if request.accept == "Table" { "Table" } else { kind };
    assert_eq!(event["object"]["kind"], wanted, "{request:?}");
}
