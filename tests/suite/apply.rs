//! Server-side apply, field managers, dry runs and field validation over the real API: requests as
//! kubectl makes them, and a `kube::Client` that others wrote.

use axum::Router;
use axum::body::Body;
use axum::http::{Method, StatusCode};
use ballast::api::Identity;
use ballast::object::{ApplySet, Cluster, Key, Kind, Patch as OwnPatch, SetWrite, Transact};
use ballast::store::Store;
use base64::Engine;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::api_http::{Answer, ask, get};
use crate::fixture::{Fixture, config, deployment, object, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = "/api/v1/namespaces/default/configmaps/g";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

async fn send(
    router: &Router,
    method: Method,
    path: &str,
    content: &str,
    body: impl Into<Body>,
) -> Answer {
    ask(router, method, path, &[("content-type", content)], body).await
}

async fn patched(router: &Router, path: &str, content: &str, patch: Value) -> Answer {
    send(router, Method::PATCH, path, content, patch.to_string()).await
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "g"}, "data": data})
}

/// A configuration that says nothing: an empty `data` would be a word about it.
fn nothing() -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "g"}})
}

fn ok(answer: Answer) -> Value {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.code.is_success(), "{} {text}", answer.code);
    answer.json()
}

/// The code, the reason and the sentence of a refusal.
fn refusal(answer: &Answer) -> (u16, String, String) {
    let status = answer.json();
    assert_eq!(status["kind"], "Status");
    let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
    (answer.code.as_u16(), text("reason"), text("message"))
}

/// `manager/operation[/subresource]` of every entry, with its fields.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let one = |entry: &Value| {
        assert_eq!(entry["fieldsType"], "FieldsV1");
        assert!(entry["time"].is_string(), "{entry}");
        let words = ["manager", "operation", "subresource"].map(|field| entry[field].as_str());
        let name: Vec<&str> = words.into_iter().flatten().collect();
        (name.join("/"), entry["fieldsV1"].clone())
    };
    entries.iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_creates_prunes_and_repeats_without_a_write() {
    let fixture = Fixture::new();
    let router = fixture.api.router_as(Identity::Admin);
    // As kubectl 1.27 to 1.33 ask (`golden/kubectl-requests`).
    let path = format!("{MAP}?fieldManager=kubectl&fieldValidation=Strict&force=false");
    let yaml =
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: g\ndata:\n  a: \"1\"\n  b: \"2\"\n";
    let answer = send(&router, Method::PATCH, &path, APPLY, yaml).await;
    assert_eq!(answer.code, StatusCode::CREATED);
    let made = ok(answer);
    let wanted = json!({"f:data": {"f:a": {}, "f:b": {}}});
    assert_eq!(owners(&made), [("kubectl/Apply".to_owned(), wanted)]);

    let again = ok(patched(&router, &path, APPLY, map(json!({"a": "1", "b": "2"}))).await);
    assert_eq!(again, made, "no new version, no new time");
    let pruned = patched(&router, &path, APPLY, map(json!({"b": "3"}))).await;
    assert_eq!(pruned.code, StatusCode::OK);
    assert_eq!(ok(pruned)["data"], json!({"b": "3"}));
    assert_eq!(get(&router, MAP).await.json()["data"], json!({"b": "3"}));

    // Another manager: what it changes conflicts, what it repeats is shared.
    let other = format!("{MAP}?fieldManager=t2");
    let refused = patched(&router, &other, APPLY, map(json!({"b": "4", "c": "5"}))).await;
    assert_eq!(
        refusal(&refused),
        (
            409,
            "Conflict".to_owned(),
            "Apply failed with 1 conflict: conflict with \"kubectl\": .data.b".to_owned()
        )
    );
    assert_eq!(
        refused.json()["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"kubectl\"",
            "field": ".data.b"}])
    );
    ok(patched(&router, &other, APPLY, map(json!({"b": "3", "c": "5"}))).await);
    let shared = ok(patched(&router, &path, APPLY, nothing()).await);
    assert_eq!(shared["data"], json!({"b": "3", "c": "5"}), "t2 still says b");
    let edited = format!("{MAP}?fieldManager=kubectl-edit");
    ok(patched(&router, &edited, MERGE, json!({"data": {"b": "6", "c": "7", "d": "8"}})).await);
    let refused = patched(&router, &other, APPLY, map(json!({"b": "3", "c": "5"}))).await;
    assert_eq!(
        refusal(&refused).2,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-edit\" using v1:\n- .data.b\n- .data.c"
    );
    let forced = format!("{MAP}?fieldManager=t2&force=true");
    let forced = ok(patched(&router, &forced, APPLY, map(json!({"b": "3", "c": "5"}))).await);
    assert_eq!(forced["data"], json!({"b": "3", "c": "5", "d": "8"}));
    assert_eq!(
        owners(&forced),
        [
            ("t2/Apply".to_owned(), json!({"f:data": {"f:b": {}, "f:c": {}}})),
            ("kubectl-edit/Update".to_owned(), json!({"f:data": {"f:d": {}}})),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_others_applies_and_lists_merge_by_their_keys() {
    let fixture = Fixture::new();
    let client = kube::Client::new(fixture.api.router_as(Identity::Admin), "default");
    let deployments: Api<Deployment> = Api::namespaced(client, "default");
    let mut whole = deployment("web", "i:1");
    whole["spec"]["replicas"] = json!(2);
    whole["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]);
    let made = deployments
        .patch("web", &PatchParams::apply("ci"), &Patch::Apply(&whole))
        .await
        .expect("created");
    assert_eq!(made.metadata.generation, Some(1));
    let again = deployments
        .patch("web", &PatchParams::apply("ci"), &Patch::Apply(&whole))
        .await
        .expect("applied again");
    assert_eq!(again.metadata.resource_version, made.metadata.resource_version);

    // A second manager's part of the same container.
    let part = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"template": {"spec": {"containers": [{"name": "c",
            "env": [{"name": "C", "value": "3"}], "ports": [{"containerPort": 80}]}]}}}});
    let both = deployments
        .patch("web", &PatchParams::apply("mesh"), &Patch::Apply(&part))
        .await
        .expect("applied");
    let container = |deployment: &Deployment| {
        let spec = deployment.spec.as_ref().expect("a spec");
        spec.template.spec.as_ref().expect("a pod's").containers[0].clone()
    };
    let names = |deployment: &Deployment| -> Vec<String> {
        container(deployment).env.iter().flatten().map(|variable| variable.name.clone()).collect()
    };
    assert_eq!(names(&both), ["A", "B", "C"]);
    assert_eq!(container(&both).image.as_deref(), Some("i:1"));
    assert_eq!(both.metadata.generation, Some(2));

    // What the first says no more goes, the second's stays.
    let mut fewer = whole.clone();
    fewer["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "B", "value": "2"}]);
    let fewer = deployments
        .patch("web", &PatchParams::apply("ci"), &Patch::Apply(&fewer))
        .await
        .expect("applied");
    assert_eq!(names(&fewer), ["B", "C"]);

    // A scale takes the replicas; whoever applied them is told, or lets go of them.
    let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
    let scaler = PatchParams { field_manager: Some("hpa".to_owned()), ..PatchParams::default() };
    deployments.patch_scale("web", &scaler, &scale).await.expect("scaled");
    let refused = deployments.patch("web", &PatchParams::apply("ci"), &Patch::Apply(&whole)).await;
    let Err(kube::Error::Api(status)) = refused else { panic!("{refused:?}") };
    assert_eq!(
        (status.code, status.message.as_str()),
        (
            409,
            "Apply failed with 1 conflict: conflict with \"hpa\" with subresource \"scale\" using apps/v1: .spec.replicas"
        )
    );
    whole["spec"].as_object_mut().expect("a spec").remove("replicas");
    let left = deployments
        .patch("web", &PatchParams::apply("ci"), &Patch::Apply(&whole))
        .await
        .expect("applied");
    assert_eq!(left.spec.as_ref().and_then(|spec| spec.replicas), Some(5));

    // Atomic: the selector of a Deployment is one value, a toleration no element of its own.
    let tolerate = |key: &str| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"template": {"spec": {"tolerations": [{"key": key, "operator": "Exists"}]}}}})
    };
    deployments
        .patch("web", &PatchParams::apply("a"), &Patch::Apply(tolerate("a")))
        .await
        .expect("applied");
    let refused =
        deployments.patch("web", &PatchParams::apply("b"), &Patch::Apply(tolerate("b"))).await;
    let Err(kube::Error::Api(status)) = refused else { panic!("{refused:?}") };
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"a\": .spec.template.spec.tolerations"
    );
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"},
        "spec": {"replicas": 3}});
    deployments
        .patch_scale("web", &PatchParams::apply("keda").force(), &Patch::Apply(&scale))
        .await
        .expect("applied to the scale");
    let scaled = deployments.get("web").await.expect("there");
    assert_eq!(scaled.spec.as_ref().and_then(|spec| spec.replicas), Some(3));
    let entries = scaled.metadata.managed_fields.expect("tracked");
    let keda = entries.iter().find(|entry| entry.manager.as_deref() == Some("keda"));
    assert_eq!(keda.and_then(|entry| entry.subresource.as_deref()), Some("scale"));
}

#[tokio::test(flavor = "multi_thread")]
async fn client_side_apply_becomes_server_side_apply() {
    let fixture = Fixture::new();
    let router = fixture.api.router_as(Identity::Admin);
    let last = map(json!({"a": "1", "b": "2"})).to_string();
    let mut first = map(json!({"a": "1", "b": "2"}));
    first["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    let path = format!("{MAPS}?fieldManager=kubectl-client-side-apply&fieldValidation=Strict");
    let made = ok(send(&router, Method::POST, &path, "application/json", first.to_string()).await);
    assert_eq!(owners(&made)[0].0, "kubectl-client-side-apply/Update");

    // Any other name meets a conflict; kubectl's own takes over what it applied before.
    let next = map(json!({"a": "9", "b": "2"}));
    let refused = patched(&router, &format!("{MAP}?fieldManager=ci"), APPLY, next.clone()).await;
    assert_eq!(
        refusal(&refused).2,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.a"
    );
    let path = format!("{MAP}?fieldManager=kubectl");
    let taken = ok(patched(&router, &path, APPLY, next.clone()).await);
    assert_eq!(taken["data"], json!({"a": "9", "b": "2"}));
    let annotation =
        &taken["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    let said: Value = serde_json::from_str(annotation.as_str().expect("kept")).expect("JSON");
    assert_eq!(said, next, "the annotation follows");

    // kubectl then moves its old entry into the new one: a JSON patch of the managed fields.
    let entries = taken["metadata"]["managedFields"].as_array().expect("tracked").clone();
    let mine: Vec<Value> =
        entries.into_iter().filter(|entry| entry["operation"] == "Apply").collect();
    assert_eq!(mine.len(), 1);
    let migrate = json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": mine},
        {"op": "replace", "path": "/metadata/resourceVersion",
            "value": taken["metadata"]["resourceVersion"]}]);
    let moved =
        ok(patched(&router, &format!("{MAP}?fieldManager=kubectl"), JSON_PATCH, migrate).await);
    assert_eq!(owners(&moved).len(), 1);
    let only_a = ok(patched(&router, &path, APPLY, map(json!({"a": "9"}))).await);
    assert_eq!(only_a["data"], json!({"a": "9"}), "b went with its last owner");

    // An empty list makes the object forget.
    let reset = json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]);
    let reset = ok(patched(&router, MAP, JSON_PATCH, reset).await);
    assert_eq!(reset["metadata"].get("managedFields"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_has_managers_of_its_own() {
    let fixture = Fixture::new();
    let client = kube::Client::new(fixture.api.router_as(Identity::Admin), "default");
    let nodes: Api<Node> = Api::all(client);
    let node = |body: Value| {
        let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
        for (name, value) in body.as_object().expect("fields") {
            node[name] = value.clone();
        }
        node
    };
    let whole = node(json!({"spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
    let absent = nodes.patch_status("n1", &PatchParams::apply("k"), &Patch::Apply(&whole)).await;
    assert!(matches!(absent, Err(kube::Error::Api(status)) if status.code == 404));
    let made =
        nodes.patch("n1", &PatchParams::apply("k"), &Patch::Apply(&whole)).await.expect("created");
    assert!(
        made.status.and_then(|status| status.conditions).is_none(),
        "a status is not applied with it"
    );
    let status = nodes
        .patch_status("n1", &PatchParams::apply("k"), &Patch::Apply(&whole))
        .await
        .expect("applied");
    let conditions = status.status.as_ref().and_then(|status| status.conditions.clone());
    assert_eq!(conditions.expect("applied").len(), 1);
    let text = serde_json::to_value(&status).expect("JSON");
    assert_eq!(
        owners(&text),
        [
            ("k/Apply".to_owned(), json!({"f:spec": {"f:unschedulable": {}}})),
            (
                "k/Apply/status".to_owned(),
                json!({"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}":
                    {".": {}, "f:status": {}, "f:type": {}}}}})
            ),
        ]
    );
    // Through the status the spec is not given up, and another manager's condition is its own.
    let other = node(json!({"status": {"conditions": [{"type": "Disk", "status": "False"}]}}));
    let after = nodes
        .patch_status("n1", &PatchParams::apply("d"), &Patch::Apply(&other))
        .await
        .expect("applied");
    assert_eq!(after.spec.and_then(|spec| spec.unschedulable), Some(true));
    assert_eq!(after.status.and_then(|status| status.conditions).expect("both").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_the_rooms_are_not_tracked_until_somebody_applies() {
    let fixture = Fixture::new();
    let rooms = fixture.local(Identity::Controllers);
    let made = fixture.admin().create(&pod("p")).await.expect("created");
    assert_eq!(made.metadata.managed_fields, None);
    let patch = OwnPatch::Merge(json!({"metadata": {"labels": {"room": "1"}}}));
    let key = Key::new("default", "p");
    let labelled = rooms.patch::<Pod>(&key, &patch).await.expect("patched");
    assert_eq!(labelled.metadata.managed_fields, None);
    // A client that names no manager begins no tracking either.
    let router = fixture.api.router_as(Identity::Admin);
    let one = "/api/v1/namespaces/default/pods/p";
    let plain = ok(patched(&router, one, MERGE, json!({"metadata": {"labels": {"x": "1"}}})).await);
    assert!(owners(&plain).is_empty());

    let config = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p",
        "labels": {"x": "2", "y": "1"}}});
    let path = format!("{one}?fieldManager=t1");
    let refused = patched(&router, &path, APPLY, config.clone()).await;
    assert_eq!(
        refusal(&refused).2,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .metadata.labels.x"
    );
    let applied = ok(patched(&router, &format!("{path}&force=true"), APPLY, config).await);
    let names: Vec<String> = owners(&applied).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["t1/Apply", "before-first-apply/Update"]);

    // From now on a room's write is one manager's among others.
    let patch = OwnPatch::Merge(json!({"metadata": {"labels": {"y": "9"}}}));
    rooms.patch::<Pod>(&key, &patch).await.expect("patched");
    let agent = fixture.local(Identity::NodeAgent { node: "n1".to_owned() });
    rooms_bind(&fixture, &applied).await;
    let status = OwnPatch::Merge(json!({"status": {"phase": "Running"}}));
    agent.patch_status::<Pod>(&key, &status).await.expect("patched");
    let tracked = get(&router, one).await.json();
    let all = owners(&tracked);
    let of = |name: &str| all.iter().find(|(owner, _)| owner == name).map(|(_, fields)| fields);
    assert_eq!(of("controllers/Update"), Some(&json!({"f:metadata": {"f:labels": {"f:y": {}}}})));
    assert_eq!(of("node/Update/status"), Some(&json!({"f:status": {"f:phase": {}}})));
    assert_eq!(of("t1/Apply"), Some(&json!({"f:metadata": {"f:labels": {"f:x": {}}}})));
}

async fn rooms_bind(fixture: &Fixture, pod: &Value) {
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let scheduler = fixture.local(Identity::Scheduler);
    scheduler.bind(&Key::new("default", "p"), uid, "n1").await.expect("bound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_owns_what_it_changes_of_an_applied_object() {
    let fixture = Fixture::new();
    let router = fixture.api.router_as(Identity::Admin);
    let sync = fixture.local(Identity::Sync);
    let commit = |value: &str| ApplySet {
        source: "web".into(),
        writes: vec![SetWrite::Apply {
            kind: Kind::ConfigMap,
            key: Key::new("default", "g"),
            manifest: map(json!({"a": value})),
            previous_labels: Vec::new(),
            previous_annotations: Vec::new(),
            adopt: false,
        }],
        ..ApplySet::default()
    };
    sync.apply_set(&commit("1"), false).await.expect("entered");
    let key = Key::new("default", "g");
    let made = fixture.admin().get::<ConfigMap>(&key).await.expect("there");
    assert_eq!(made.metadata.managed_fields, None);
    let path = format!("{MAP}?fieldManager=t1&force=true");
    let applied = ok(patched(&router, &path, APPLY, map(json!({"a": "1", "b": "2"}))).await);
    assert_eq!(owners(&applied).len(), 2);
    sync.apply_set(&commit("3"), false).await.expect("entered");
    let after = get(&router, MAP).await.json();
    assert_eq!(after["data"], json!({"a": "3"}), "a commit says the whole object");
    let all = owners(&after);
    let mine = all.iter().find(|(name, _)| name == "sync/Update").expect("the commit's");
    assert_eq!(mine.1, json!({"f:data": {"f:a": {}}}));
    assert!(!all.iter().any(|(name, _)| name == "t1/Apply"), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_what_a_write_would_come_to_and_change_nothing() {
    let fixture = Fixture::new();
    fixture.admin().create(&config("g", "1")).await.expect("created");
    let web: Deployment = object(deployment("web", "i:1"));
    fixture.admin().create(&web).await.expect("created");
    fixture.admin().create(&pod("p")).await.expect("created");
    let router = fixture.api.router_as(Identity::Reader);
    let before = fixture.store.revision();
    let json_type = "application/json";
    let new = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "n"}});
    let scale = json!({"spec": {"replicas": 3}});
    let dry = |path: &str| {
        let sign = if path.contains('?') { '&' } else { '?' };
        format!("{path}{sign}dryRun=All")
    };
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    let delete = json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]});
    let web = format!("{deployments}/web");
    let cases: Vec<(Method, String, &str, Value, u16)> = vec![
        (Method::POST, dry(MAPS), json_type, new.clone(), 201),
        (Method::PUT, dry(MAP), json_type, map(json!({"a": "2"})), 200),
        (Method::PATCH, dry(MAP), MERGE, json!({"data": {"a": "2"}}), 200),
        (Method::PATCH, dry(MAP), STRATEGIC, json!({"data": {"a": "2"}}), 200),
        (
            Method::PATCH,
            dry(&format!("{MAP}?fieldManager=me&force=true")),
            APPLY,
            map(json!({"a": "2"})),
            200,
        ),
        (Method::PATCH, dry(&format!("{MAPS}/n?fieldManager=me")), APPLY, new.clone(), 201),
        (Method::PATCH, dry(&format!("{web}/scale")), MERGE, scale.clone(), 200),
        (
            Method::PATCH,
            dry(&format!("{web}/status")),
            MERGE,
            json!({"status": {"replicas": 1}}),
            200,
        ),
        (
            Method::POST,
            dry("/api/v1/namespaces/default/pods/p/binding"),
            json_type,
            binding.clone(),
            201,
        ),
        (Method::DELETE, dry(MAP), json_type, Value::Null, 200),
        (Method::DELETE, MAP.to_owned(), json_type, delete.clone(), 200),
        (Method::DELETE, MAPS.to_owned(), json_type, delete, 200),
        // What admission refuses is told, too.
        (Method::POST, dry(MAPS), json_type, json!({"metadata": {"name": "Bad"}}), 422),
        (Method::POST, dry(MAPS), json_type, json!({"metadata": {"name": "g"}}), 409),
        (Method::PATCH, dry(&format!("{MAPS}/none")), MERGE, json!({}), 404),
        (
            Method::PATCH,
            dry(&web),
            MERGE,
            json!({"spec": {"template": {"spec": {"hostUsers": false}}}}),
            422,
        ),
        // And for good, nothing.
        (Method::POST, MAPS.to_owned(), json_type, new, 403),
        (Method::PATCH, format!("{MAP}?fieldManager=me"), APPLY, map(json!({"a": "2"})), 403),
        (Method::DELETE, MAP.to_owned(), json_type, json!({"kind": "DeleteOptions"}), 403),
        (Method::DELETE, MAPS.to_owned(), json_type, Value::Null, 403),
        (Method::PATCH, format!("{MAP}?dryRun="), MERGE, json!({"data": {"a": "2"}}), 403),
    ];
    for (method, path, content, body, code) in cases {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let answer = send(&router, method.clone(), &path, content, text).await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.code.as_u16(), code, "{method} {path}: {said}");
        match code {
            403 => assert!(said.contains("changes through Git"), "{said}"),
            200 if path.starts_with(MAP) && method != Method::DELETE => {
                assert_eq!(answer.json()["data"]["a"], "2", "{method} {path}");
            }
            _ => {}
        }
    }
    assert_eq!(fixture.store.revision(), before, "nothing was written");
    assert_eq!(get(&router, MAP).await.json()["data"]["a"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_on_a_secret_meets_hashes_only() {
    let fixture = Fixture::new();
    let secret: Secret = object(json!({"metadata": {"name": "s", "namespace": "default"},
        "stringData": {"password": "hunter2-value", "copy": "x"}}));
    fixture.admin().create(&secret).await.expect("created");
    let registry: Secret = object(json!({"metadata": {"name": "r", "namespace": "default"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": "{\"auths\": {\"hunter2-value\": {}}}"}}));
    fixture.admin().create(&registry).await.expect("created");
    let before = fixture.store.revision();
    let router = fixture.api.router_as(Identity::Reader);
    let one = format!("{SECRETS}/s");
    let engine = base64::engine::general_purpose::STANDARD;
    let clear = engine.encode("hunter2-value");
    let shown = get(&router, &one).await.json()["data"]["password"].clone();
    let mut replies = Vec::new();

    // Every way to move a value moves its hash; a test of the value fails, one of the hash holds.
    let dry = format!("{one}?dryRun=All&fieldManager=me");
    for (patch, code) in [
        (json!([{"op": "copy", "from": "/data/password", "path": "/metadata/annotations",}]), 422),
        (
            json!([{"op": "add", "path": "/metadata/annotations", "value": {}},
            {"op": "copy", "from": "/data/password", "path": "/metadata/annotations/x"}]),
            200,
        ),
        (json!([{"op": "move", "from": "/data/password", "path": "/data/copy"}]), 200),
        (json!([{"op": "copy", "from": "/data/password", "path": "/type"}]), 422),
        (json!([{"op": "test", "path": "/data/password", "value": clear}]), 422),
        (json!([{"op": "test", "path": "/data/password", "value": shown}]), 200),
    ] {
        let answer = patched(&router, &dry, JSON_PATCH, patch.clone()).await;
        replies.push((patch.to_string(), answer.body.clone()));
        if answer.code.as_u16() != code {
            // A patch that makes no Secret is refused one way or the other.
            assert!(code == 422 && answer.code.is_client_error(), "{patch}: {:?}", answer.body);
        }
        if patch[0]["op"] == "move" {
            assert_eq!(answer.json()["data"]["copy"], shown);
        }
    }
    for (content, patch) in [
        (MERGE, json!({"metadata": {"labels": {"a": "b"}}})),
        (STRATEGIC, json!({"data": {"copy": null}})),
        (
            APPLY,
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s",
            "labels": {"a": "b"}}}),
        ),
    ] {
        let answer = patched(&router, &dry, content, patch.clone()).await;
        assert_eq!(answer.json()["data"]["password"], shown, "{patch}");
        replies.push((patch.to_string(), answer.body));
    }
    // No oracle: what the reader brings is not hashed, so that no guess can be compared.
    let guess = json!({"data": {"guess": clear}});
    let answer = patched(&router, &dry, MERGE, guess).await.json();
    assert_eq!((&answer["data"]["guess"], &answer["data"]["password"]), (&json!(clear), &shown));
    let guess = json!({"metadata": {"name": "new"}, "data": {"guess": clear}});
    let path = format!("{SECRETS}?dryRun=All");
    let answer = send(&router, Method::POST, &path, "application/json", guess.to_string()).await;
    assert_eq!(answer.json()["data"]["guess"], json!(clear));
    let put = json!({"metadata": {"name": "s"}, "type": "Opaque", "data": {"password": shown}});
    let path = format!("{one}?dryRun=All");
    let answer = send(&router, Method::PUT, &path, "application/json", put.to_string()).await;
    assert_eq!(answer.json()["data"], json!({"password": shown}));
    replies.push(("put".to_owned(), answer.body));
    let answer = send(&router, Method::DELETE, &path, "application/json", Body::empty()).await;
    assert_eq!(answer.code, StatusCode::OK);
    replies.push(("delete".to_owned(), answer.body));
    // Credentials of a registry are shown as valid as they are, and can be tried.
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let path = format!("{SECRETS}/r?dryRun=All");
    let answer = patched(&router, &path, MERGE, labels).await;
    assert_eq!(answer.code, StatusCode::OK, "{:?}", answer.body);
    replies.push(("registry".to_owned(), answer.body));
    for (what, body) in &replies {
        let text = String::from_utf8_lossy(body);
        assert!(!text.contains("hunter2"), "{what}: {text}");
        // The test with the clear value names it itself; no answer repeats it.
        assert!(!text.contains("aHVudGVyMi12YWx1ZQ"), "{what}: {text}");
    }
    assert_eq!(fixture.store.revision(), before, "nothing was written");
}

fn warnings(answer: &Answer) -> Vec<String> {
    let all = answer.headers.get_all("warning").iter();
    all.map(|value| value.to_str().expect("text").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_repeated_fields_are_refused_told_or_ignored() {
    let fixture = Fixture::new();
    let router = fixture.api.router_as(Identity::Admin);
    fixture.admin().create(&config("g", "1")).await.expect("created");
    let twice = r#"{"metadata": {"name": "s"}, "dta": {}, "data": {"a": "1", "a": "2"}}"#;
    let told = ["duplicate field \"data.a\"", "unknown field \"dta\""];
    let header = told.map(|text| format!("299 - \"{}\"", text.replace('"', "\\\"")));
    let json_type = "application/json";
    let dry = |query: &str| format!("{MAPS}?dryRun=All{query}");
    for query in ["", "&fieldValidation=Warn"] {
        let answer = send(&router, Method::POST, &dry(query), json_type, twice).await;
        assert_eq!(warnings(&answer), header);
        assert_eq!(ok(answer)["data"], json!({"a": "2"}));
    }
    let answer =
        send(&router, Method::POST, &dry("&fieldValidation=Ignore"), json_type, twice).await;
    assert_eq!((answer.code, warnings(&answer).len()), (StatusCode::CREATED, 0));
    let answer =
        send(&router, Method::POST, &dry("&fieldValidation=Strict"), json_type, twice).await;
    assert_eq!(
        refusal(&answer),
        (
            400,
            "BadRequest".to_owned(),
            format!(
                "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: {}, {}",
                told[0], told[1]
            )
        )
    );

    // A patch: the reference names the patch, and says 422.
    let one = |query: &str| format!("{MAP}?dryRun=All{query}");
    let unknown = json!({"dta": {"x": "y"}});
    for content in [MERGE, STRATEGIC] {
        let answer = patched(&router, &one(""), content, unknown.clone()).await;
        assert_eq!(warnings(&answer), [&header[1][..]], "{content}");
        let path = one("&fieldValidation=Strict");
        let (code, reason, text) =
            refusal(&patched(&router, &path, content, unknown.clone()).await);
        assert_eq!((code, reason.as_str()), (422, "Invalid"));
        assert!(
            text.starts_with(" \"\" is invalid: patch: Invalid value: \"")
                && text.ends_with("\": strict decoding error: unknown field \"dta\""),
            "{text}"
        );
        let path = one("&fieldValidation=Ignore");
        assert_eq!(warnings(&patched(&router, &path, content, unknown.clone()).await).len(), 0);
    }
    let doubled = r#"[{"op": "add", "op": "add", "path": "/data/b", "value": "1"}]"#;
    let answer = send(&router, Method::PATCH, &one(""), JSON_PATCH, doubled).await;
    assert_eq!(warnings(&answer), ["299 - \"json patch duplicate field \\\"[0].op\\\"\""]);

    // A subresource's body too.
    let web: Deployment = object(deployment("web", "i:1"));
    fixture.admin().create(&web).await.expect("created");
    let scale = "/apis/apps/v1/namespaces/default/deployments/web/scale?dryRun=All";
    let wrong = json!({"spec": {"replica": 2}});
    let answer = patched(&router, scale, MERGE, wrong.clone()).await;
    assert_eq!(warnings(&answer), ["299 - \"unknown field \\\"spec.replica\\\"\""]);
    let answer = patched(&router, &format!("{scale}&fieldValidation=Strict"), MERGE, wrong).await;
    assert_eq!(answer.code, StatusCode::BAD_REQUEST);

    // An apply has a schema whatever the validation.
    let path = one("&fieldManager=t1&fieldValidation=Ignore");
    let mut config = map(json!({"a": "1"}));
    config["dta"] = json!({});
    assert_eq!(
        refusal(&patched(&router, &path, APPLY, config).await),
        (
            500,
            String::new(),
            "failed to create typed patch object (default/g; /v1, Kind=ConfigMap): .dta: field not declared in schema".to_owned()
        )
    );
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: g\ndata:\n  a: '1'\n  a: '1'\n";
    let answer = send(&router, Method::PATCH, &one("&fieldManager=t1"), APPLY, yaml).await;
    assert_eq!(warnings(&answer), [&header[0][..]]);
    let path = one("&fieldManager=t1&fieldValidation=Strict");
    let answer = send(&router, Method::PATCH, &path, APPLY, yaml).await;
    assert_eq!(refusal(&answer).2, "error strict decoding patch: duplicate field \"data.a\"");
    // Warnings are bounded: a client takes only so many headers.
    let fields: Vec<String> = (0..5000).map(|n| format!("\"unknown{n}\": 1")).collect();
    let many = format!("{{\"metadata\": {{\"name\": \"s\"}}, {}}}", fields.join(", "));
    let answer = send(&router, Method::POST, &dry(""), json_type, many).await;
    let all: usize = warnings(&answer).iter().map(String::len).sum();
    assert!(all < 10_000, "{all} bytes of warnings");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_apply_is_refused_in_the_references_words() {
    let fixture = Fixture::new();
    let router = fixture.api.router_as(Identity::Admin);
    let path = format!("{MAP}?fieldManager=t1");
    let mut managed = map(json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    let mut other = map(json!({}));
    other["metadata"]["name"] = json!("h");
    let mut elsewhere = map(json!({}));
    elsewhere["metadata"]["namespace"] = json!("other");
    let mut known = map(json!({}));
    known["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "g"}});
    for (path, body, code, text) in [
        (
            MAP,
            map(json!({})).to_string(),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        (path.as_str(), "a: [".to_owned(), 400, "error decoding patch: "),
        (&path, "[]".to_owned(), 400, "error decoding patch: "),
        (&path, "a: 1\n---\nb: 2\n".to_owned(), 400, "error decoding patch: "),
        (&path, secret.to_string(), 400, "invalid object type: /v1, Kind=Secret"),
        (&path, managed.to_string(), 400, "metadata.managedFields must be nil"),
        (
            &path,
            other.to_string(),
            400,
            "the name of the object (h) does not match the name on the URL (g)",
        ),
        (
            &path,
            elsewhere.to_string(),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            &path,
            known.to_string(),
            409,
            "Operation cannot be fulfilled on configmaps \"g\": uid mismatch: the provided object specified uid 00000000-0000-0000-0000-000000000000, and no existing object was found",
        ),
        (
            &path,
            map(json!({"a": 1})).to_string(),
            500,
            "failed to create typed patch object (default/g; /v1, Kind=ConfigMap): .data.a: ",
        ),
    ] {
        let answer = send(&router, Method::PATCH, path, APPLY, body.clone()).await;
        let (given, _, said) = refusal(&answer);
        assert!(given == code && said.starts_with(text), "{body}: {given} {said}");
    }
    let missing = get(&router, MAP).await;
    assert_eq!(missing.code, StatusCode::NOT_FOUND, "nothing was made");
    // A stale version in the configuration is a precondition.
    ok(patched(&router, &path, APPLY, map(json!({"a": "1"}))).await);
    let mut stale = map(json!({"a": "2"}));
    stale["metadata"]["resourceVersion"] = json!("1");
    assert_eq!(patched(&router, &path, APPLY, stale).await.code, StatusCode::CONFLICT);
    let forced = patched(&router, &format!("{MAP}?force=true"), MERGE, json!({})).await;
    assert_eq!(
        refusal(&forced).2,
        "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch"
    );
    let none: Api<ConfigMap> = Api::namespaced(kube::Client::new(router, "default"), "default");
    let replaced = none.replace("g", &PostParams::default(), &config("g", "3")).await;
    assert_eq!(replaced.expect("replaced").data.expect("values")["a"], "3");
}
