//! The forms and selectors of `kubectl get`, over every kind that is served, with a real kubectl.

use std::io::{BufRead, BufReader};

use ballast::object::{Cluster, DeleteOptions, Key, Kind, Patch};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::fixture::config;
use crate::kubectl_world::{Kubectl, POD, REPLICA_SET, World, all, different};

/// Each kind with an object of it.
const EACH: [(&str, &str, &str); 17] = [
    ("Namespace", "ns", "default"),
    ("Node", "no", "n1"),
    ("Pod", "po", POD),
    ("ConfigMap", "cm", "a"),
    ("Secret", "secrets", "key"),
    ("Service", "svc", "web"),
    ("Event", "ev", "event-0"),
    ("ReplicaSet", "rs", REPLICA_SET),
    ("Deployment", "deploy", "web"),
    ("EndpointSlice", "endpointslices", "web-x1"),
    ("Lease", "leases", "n1"),
    ("Source", "src", "main"),
    ("Drift", "dr", "web-image"),
    ("Inventory", "inv", "main"),
    ("PersistentVolume", "pv", "pvc-1"),
    ("PersistentVolumeClaim", "pvc", "data"),
    ("StorageClass", "sc", "local-path"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_has_every_form() {
    let served: Vec<&str> = Kind::all().map(|kind| kind.row().name).collect();
    assert_eq!(EACH.map(|(kind, ..)| kind).as_slice(), served);
    let world = World::new().await;
    // Several kinds at once, by their short names.
    let all_kinds = EACH.map(|(_, short, _)| short).join(",");
    let names: Vec<&str> = EACH.iter().map(|(.., name)| *name).collect();
    let kinds: Vec<String> = EACH.iter().map(|(kind, ..)| format!("kind: {kind}")).collect();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let qualified: Vec<String> = Kind::all()
        .zip(EACH)
        .map(|(kind, (.., name))| {
            let (row, dot) = (kind.row(), if kind.row().group.is_empty() { "" } else { "." });
            format!("{}{dot}{}/{name}", row.singular, row.group)
        })
        .collect();
    let qualified: Vec<&str> = qualified.iter().map(String::as_str).collect();
    let line = |flags: &str| format!("get {all_kinds} -A {flags}");
    let forms = [
        (line("-o wide"), &names),
        (line("-o yaml"), &kinds),
        (line("-o json"), &names),
        (line("-o name"), &qualified),
        (line("-o custom-columns=N:.metadata.name,K:.kind --no-headers"), &names),
        (line("-o jsonpath={.items[*].metadata.name}"), &names),
        (line("-o 'go-template={{range .items}}{{.metadata.name}} {{end}}'"), &names),
        (line("--sort-by=.metadata.name -o name"), &qualified),
        (line("--chunk-size=2 -o name"), &qualified),
        (line("--server-print=false --show-kind"), &qualified),
    ];
    let lines: Vec<(&str, &[&str])> =
        forms.iter().map(|(line, words)| (line.as_str(), words.as_slice())).collect();
    let every: Vec<&Kubectl> = all().iter().collect();
    world.prints_with(&every, &lines);
    for (kind, short, _) in EACH {
        for kubectl in different() {
            let table = world.told(kubectl, &format!("get {short} -A --show-labels"));
            let wide = world.told(kubectl, &format!("get {short} -A -o wide"));
            let head = |text: &str| text.lines().next().unwrap_or_default().to_owned();
            assert!(head(&table).ends_with("LABELS"), "{kind}: {table}");
            assert!(head(&wide).len() >= head(&table).len() - "   LABELS".len(), "{kind}: {wide}");
            assert!(table.lines().count() >= 2, "{kind}: {table}");
        }
    }
    // What has no kind of its own has columns all the same.
    world.prints_with(
        &every,
        &[
            ("get deploy web --subresource=scale", &["NAME DESIRED AVAILABLE AGE", "web 2 2"]),
            ("get deploy web --subresource=status", &["NAME READY UP-TO-DATE AVAILABLE"]),
            ("get nodes.metrics.k8s.io", &["NAME CPU MEMORY WINDOW", "n1 1500m 512Mi 1.000s"]),
            ("get pods.metrics.k8s.io -A", &["NAME CPU MEMORY WINDOW", POD, "250m 64Mi"]),
        ],
    );
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_in_chunks_is_asked_for_in_chunks() {
    let world = World::new().await;
    for kubectl in all() {
        let told = world.told(kubectl, "get cm --chunk-size=2 -o name -v=6");
        let pages = told.lines().filter(|line| line.contains("limit=2")).count();
        let goes_on = told.lines().filter(|line| line.contains("continue=")).count();
        assert_eq!((pages, goes_on), (3, 2), "1.{}: {told}", kubectl.minor);
        for name in ["a", "b", "c", "d", "e"] {
            let line = format!("configmap/{name}");
            assert_eq!(told.lines().filter(|one| **one == line).count(), 1, "{told}");
        }
    }
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_selected_by_sets() {
    let world = World::new().await;
    for (selector, found) in [
        ("app=web", true),
        ("app==web", true),
        ("app!=web", false),
        ("app!=api", true),
        ("app in (web, api)", true),
        ("app notin (web)", false),
        ("app notin (api),pod-template-hash", true),
        ("app,!gone", true),
        ("!app", false),
        ("gone", false),
        ("gone!=x", true),
        ("app in (api)", false),
        ("pod-template-hash in (7f4cc58bfd),app=web", true),
    ] {
        let line = format!("get po -o name -l '{selector}'");
        for kubectl in different() {
            let told = world.told(kubectl, &line);
            assert_eq!(told.contains(POD), found, "1.{}: {line}: {told}", kubectl.minor);
        }
    }
    world.refuses(&[
        ("get po -l 'app in ()'", "values set can't be empty"),
        ("get po -l 'app in web'", "expected: '('"),
        ("get po -l 'a/b/c=d'", "a/b/c"),
    ]);
    world.fixture.end().await;
}

/// Kind, field, a value that one object has, and its name. Every selectable field stands here.
const FIELDS: [(&str, &str, &str, &str); 32] = [
    ("ns", "metadata.name", "shop", "namespace/shop"),
    ("cm", "metadata.namespace", "default", "configmap/a"),
    ("ns", "status.phase", "Active", "namespace/shop"),
    ("no", "spec.unschedulable", "false", "node/n1"),
    ("po", "spec.nodeName", "n1", POD),
    ("po", "spec.restartPolicy", "Always", POD),
    ("po", "spec.schedulerName", "default-scheduler", POD),
    ("po", "spec.serviceAccountName", "", POD),
    ("po", "spec.hostNetwork", "false", POD),
    ("po", "status.phase", "Running", POD),
    ("po", "status.podIP", "172.17.0.2", POD),
    ("po", "status.podIPs", "172.17.0.2", POD),
    ("po", "status.nominatedNodeName", "", POD),
    ("secrets", "type", "Opaque", "secret/key"),
    ("svc", "spec.type", "ClusterIP", "service/web"),
    ("svc", "spec.clusterIP", "@", "service/web"),
    ("ev", "involvedObject.kind", "Node", "event/event-3"),
    ("ev", "involvedObject.namespace", "default", "event/event-0"),
    ("ev", "involvedObject.name", "n1", "event/event-3"),
    ("ev", "involvedObject.uid", "@", "event/event-3"),
    ("ev", "involvedObject.apiVersion", "apps/v1", "event/event-1"),
    ("ev", "involvedObject.resourceVersion", "", "event/event-3"),
    ("ev", "involvedObject.fieldPath", "", "event/event-3"),
    ("ev", "reason", "NodeReady", "event/event-3"),
    ("ev", "reportingComponent", "", "event/event-3"),
    ("ev", "source", "tests", "event/event-3"),
    ("ev", "type", "Normal", "event/event-3"),
    ("rs", "status.replicas", "2", REPLICA_SET),
    ("dr", "spec.layer", "object", "web-image"),
    ("dr", "spec.class", "Changed", "web-image"),
    ("dr", "status.phase", "Open", "web-image"),
    ("inv", "metadata.name", "main", "inventory.ballast.dev/main"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_field_that_can_be_selected_is() {
    for kind in Kind::all() {
        let shown = EACH[kind as usize].1;
        for field in kind.row().selectable {
            let is_there = FIELDS.iter().any(|(short, name, ..)| (short, name) == (&shown, field));
            assert!(is_there, "nobody selects {shown} by {field}");
        }
    }
    let world = World::new().await;
    let newest = all().iter().next_back();
    for (short, field, value, name) in FIELDS.iter().filter(|_| newest.is_some()) {
        let kubectl = newest.expect("just asked");
        // A value that is drawn at random is read first.
        let value = match *value {
            "@" => {
                let path = if *field == "spec.clusterIP" { "svc web" } else { "ev event-3" };
                world.told(kubectl, &format!("get {path} -o jsonpath={{.{field}}}"))
            }
            value => value.to_owned(),
        };
        let found = |selector: &str| {
            let line = format!("get {short} -A -o name --field-selector {selector}");
            world.told(kubectl, &line).contains(name)
        };
        assert!(found(&format!("{field}={value}")), "{short} {field}={value}");
        assert!(found(&format!("{field}=={value}")), "{short} {field}");
        assert!(!found(&format!("{field}!={value}")), "{short} {field}!={value}");
        assert!(!found(&format!("{field}=no-such-value")), "{short} {field}");
        assert!(found(&format!("{field}!=no-such-value")), "{short} {field}");
    }
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_names_its_events() {
    let world = World::new().await;
    for kubectl in different() {
        let name = format!("seen-{}", kubectl.minor);
        let line = "get cm -w --output-watch-events --no-headers";
        let mut following = world.start(kubectl, line);
        let mut lines = BufReader::new(following.0.stdout.take().expect("a pipe")).lines();
        let mut next = || {
            let line = lines.next().expect("it goes on").expect("a line");
            line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
        };
        while next() != "ADDED e" {}
        let admin = world.fixture.admin();
        admin.create(&config(&name, "1")).await.expect("created");
        assert_eq!(next(), format!("ADDED {name}"));
        let key = Key::new("default", &name);
        let changed = Patch::Merge(json!({"data": {"a": "2"}}));
        admin.patch::<ConfigMap>(&key, &changed).await.expect("patched");
        assert_eq!(next(), format!("MODIFIED {name}"));
        admin.delete::<ConfigMap>(&key, &DeleteOptions::default()).await.expect("deleted");
        assert_eq!(next(), format!("DELETED {name}"));
    }
    world.fixture.end().await;
}

/// The legacy kind that is read and never written, which every kubectl knows.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_watched_and_waited_for() {
    let world = World::new().await;
    let admin = world.fixture.admin();
    let slice = Key::new("default", "web-x1");
    let addressed = |address: &str| Patch::Merge(json!({"endpoints": [{"addresses": [address]}]}));
    for kubectl in all() {
        let minor = kubectl.minor;
        // The last one's are over.
        world.is_watched_by(0).await;
        let first = addressed("10.1.0.7");
        admin.patch::<EndpointSlice>(&slice, &first).await.expect("patched");
        let lines = [
            "get endpoints -w --output-watch-events --no-headers",
            "get ep web -w --output-watch-events --no-headers",
            "get endpoints -l !app -w --output-watch-events --no-headers",
            "get ep -A -w -o 'custom-columns=N:.metadata.name,IP:.subsets[*].addresses[*].ip' --no-headers",
        ];
        let mut following = lines.map(|line| world.start(kubectl, line));
        let mut told = following
            .each_mut()
            .map(|one| BufReader::new(one.0.stdout.take().expect("a pipe")).lines());
        let mut next = |place: usize| {
            let line = told[place].next().expect("it goes on").expect("a line");
            line.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
        };
        for place in 0..3 {
            assert_eq!(next(place), "ADDED web 10.1.0.7:8080", "1.{minor}");
        }
        assert_eq!(next(3), "web 10.1.0.7", "1.{minor}");
        // Of a single object kubectl watches the newest state and swallows its first event: what changes
        // before that is never printed, by whatever server.
        world.is_watched_by(4).await;
        let waits = "wait --for=jsonpath={.subsets[0].addresses[0].ip}=10.1.0.9 endpoints/web --timeout=60s";
        let mut waiting = world.start(kubectl, waits);
        let changed = addressed("10.1.0.9");
        admin.patch::<EndpointSlice>(&slice, &changed).await.expect("patched");
        for place in 0..3 {
            assert_eq!(next(place), "MODIFIED web 10.1.0.9:8080", "1.{minor}");
        }
        assert_eq!(next(3), "web 10.1.0.9", "1.{minor}");
        assert!(waiting.0.wait().expect("it ends").success(), "1.{minor}");
        let labelled = |value: serde_json::Value| {
            Patch::Merge(json!({"metadata": {"labels": {"app": value}}}))
        };
        let web = Key::new("default", "web");
        admin.patch::<Service>(&web, &labelled(json!("web"))).await.expect("patched");
        assert_eq!(next(2), "DELETED web 10.1.0.9:8080", "1.{minor}");
        admin.patch::<Service>(&web, &labelled(json!(null))).await.expect("patched");
        assert_eq!(next(2), "ADDED web 10.1.0.9:8080", "1.{minor}");
    }
    let every: Vec<&Kubectl> = all().iter().collect();
    world.prints_with(
        &every,
        &[
            ("get endpoints web -o yaml", &["kind: Endpoints", "ip: 10.1.0.9"]),
            ("get endpoints web -o wide", &["NAME ENDPOINTS AGE", "10.1.0.9:8080"]),
            ("api-resources --verbs=watch --no-headers -o name", &["endpoints"]),
            ("get ep,svc -o name", &["endpoints/web", "service/web"]),
        ],
    );
    world.refuses(&[
        ("delete endpoints web", "changes through Git"),
        ("label endpoints web a=b", "changes through Git"),
        ("get endpoints nope", "endpoints \"nope\" not found"),
    ]);
    drop(admin);
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_are_explained_whole_in_both_versions() {
    let world = World::new().await;
    let every: Vec<&Kubectl> = all().iter().collect();
    let mut lines = Vec::new();
    for output in ["", " --output=plaintext-openapiv2"] {
        lines.push((format!("explain deployments --recursive{output}"), vec!["maxUnavailable"]));
        lines.push((format!("explain drift.spec.origin{output}"), vec!["The full hex id"]));
        lines.push((format!("explain src --recursive{output}"), vec!["pollSeconds", "applied"]));
        lines.push((format!("explain pod.spec.nodeName{output}"), vec!["node"]));
        let kind = vec!["KIND: Endpoints", "Endpoints is a collection of endpoints", "subsets"];
        lines.push((format!("explain endpoints{output}"), kind));
        let field = vec!["group of addresses", "notReadyAddresses", "IP addresses which offer"];
        lines.push((format!("explain ep.subsets{output}"), field));
        lines.push((format!("explain endpoints --recursive{output}"), vec!["targetRef"]));
    }
    for (kind, short, _) in EACH {
        lines.push((format!("explain {short}"), vec![kind, "DESCRIPTION"]));
    }
    let lines: Vec<(&str, &[&str])> =
        lines.iter().map(|(line, words)| (line.as_str(), words.as_slice())).collect();
    world.prints_with(&every, &lines);
    world.fixture.end().await;
}
