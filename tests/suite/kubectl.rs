//! A real kubectl against the served listener: one test an item of what a kubectl user does, with the
//! oldest and the newest kubectl of this machine, which between them speak every form. Where the forms
//! differ most, every one is driven.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use ballast::object::{Cluster, DeleteOptions, Key};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use crate::fixture::{PATIENCE, config};
use crate::kubectl_world::{Kubectl, POD, REPLICA_SET, World, all, different};

#[tokio::test(flavor = "multi_thread")]
async fn get_prints_every_form() {
    let world = World::new().await;
    let pod = format!("pod/{POD}");
    world.prints(&[
        ("get pods", &["NAME", "READY", "STATUS", "RESTARTS", "AGE", POD, "Running"]),
        ("get pods -o wide", &["NODE", "n1", "172.17.0.2", "READINESS GATES"]),
        ("get pods -A", &["NAMESPACE", "default", POD]),
        ("get pods -o yaml", &["kind: List", "kind: Pod", "nodeName: n1"]),
        ("get pods -o json", &["\"kind\": \"List\"", "\"nodeName\": \"n1\""]),
        ("get pods -o name", &[&pod]),
        ("get pods -o jsonpath={.items[*].spec.nodeName}", &["n1"]),
        ("get pods -o 'go-template={{range .items}}{{.status.podIP}}{{end}}'", &["172.17.0.2"]),
        ("get pods -o custom-columns=P:.metadata.name,ON:.spec.nodeName", &["P", "ON", "n1"]),
        ("get pods --no-headers", &[POD]),
        ("get pods --show-labels", &["LABELS", "app=web"]),
        ("get pods -L app", &["APP", "web"]),
        ("get pods -l app=web", &[POD]),
        ("get pods -l 'app in (web,api),!gone'", &[POD]),
        ("get pods -l app=nope", &["No resources found in default namespace."]),
        ("get pods --field-selector status.phase=Running,spec.nodeName=n1", &[POD]),
        ("get pods --field-selector spec.nodeName!=n1", &["No resources found"]),
        ("get events --field-selector involvedObject.kind=Node", &["NodeReady was said"]),
        ("get secrets --field-selector type=Opaque", &["key"]),
        ("get svc --field-selector spec.type=ClusterIP", &["web"]),
        ("get rs --field-selector status.replicas=2", &[REPLICA_SET]),
        ("get nodes --field-selector spec.unschedulable=false", &["n1"]),
        ("get drifts --field-selector spec.layer=object,status.phase=Open", &["deployment/web"]),
        ("get ns --field-selector metadata.name=shop", &["shop", "Active"]),
        (
            "get deploy,rs,svc,nodes",
            &["deployment.apps/web", "replicaset.apps/", "service/web", "node/n1"],
        ),
        ("get deploy/web svc/web", &["deployment.apps/web", "service/web"]),
        (
            "get all",
            &[&pod, "service/web", "deployment.apps/web", "replicaset.apps/web-7f4cc58bfd"],
        ),
        ("get po,no,ns,cm,svc,ev,rs,deploy -A", &[&pod, "node/n1", "configmap/a"]),
        ("get pods nope --ignore-not-found", &[]),
        ("get endpointslices", &["web-x1", "IPv4", "8080", "10.1.0.7"]),
        ("get endpoints", &["NAME ENDPOINTS AGE", "web 10.1.0.7:8080", "use discovery.k8s.io/v1"]),
        ("get ep web -o jsonpath={.subsets[0].addresses[0].targetRef.name}", &[POD]),
        ("get leases -n kube-node-lease", &["n1"]),
        ("get sources", &["APPLIED", "0123456 web: two replicas", "CONVERGED"]),
        ("get src -o wide", &["https://example.com/shop.git", "main"]),
        ("get drifts", &["OBJECT", "deployment/web", "spec.replicas", "Healing", "Open"]),
        ("get dr -o wide", &["WANTED", "web.yaml:7@0123456"]),
        ("get inv", &["main", "0123456"]),
        ("get deploy web --subresource=scale -o jsonpath={.spec.replicas}", &["2"]),
        (
            "get pod web-7f4cc58bfd-6txfl --subresource=status -o jsonpath={.status.phase}",
            &["Running"],
        ),
    ]);
    world.refuses(&[
        ("get pods nope", "Error from server (NotFound): pods \"nope\" not found"),
        ("get things", "the server doesn't have a resource type \"things\""),
        ("get pods --field-selector spec.nope=x", "field label not supported: spec.nope"),
        ("get daemonsets", "the server doesn't have a resource type \"daemonsets\""),
        ("get pods -l 'a b c'", "unable to parse requirement"),
    ]);
    for kubectl in all() {
        let secret = world.told(kubectl, "get secret key -o yaml");
        assert!(!secret.contains("hunter2") && !secret.contains("aHVudGVyMg"), "{secret}");
    }
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_sorts_and_pages() {
    let world = World::new().await;
    for kubectl in different() {
        let names = |line: &str| -> String {
            let text = world.told(kubectl, line);
            text.lines().filter_map(|line| line.split_whitespace().next()).collect()
        };
        assert_eq!(names("get cm --no-headers"), "abcde");
        // By the value of the data: in the order of their creation.
        assert_eq!(names("get cm --no-headers --sort-by=.data.a"), "caebd");
        assert_eq!(names("get cm --no-headers --chunk-size=2"), "abcde");
        let yaml = world.told(kubectl, "get cm --chunk-size=2 -o name");
        assert_eq!(yaml.lines().count(), 5, "{yaml}");
    }
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_watches() {
    let world = World::new().await;
    for kubectl in different() {
        let name = format!("late-{}", kubectl.minor);
        let mut following = world.start(kubectl, "get cm -w --no-headers");
        let mut lines = BufReader::new(following.0.stdout.take().expect("a pipe")).lines();
        let mut next = || lines.next().expect("it goes on").expect("a line");
        while !next().starts_with("e ") {}
        world.fixture.admin().create(&config(&name, "9")).await.expect("created");
        assert!(next().starts_with(&name));
        let key = Key::new("default", &name);
        let admin = world.fixture.admin();
        admin.delete::<ConfigMap>(&key, &DeleteOptions::default()).await.expect("deleted");
        assert!(next().starts_with(&name), "the last state is told");
    }
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_is_described() {
    let world = World::new().await;
    let pod = format!("describe pod {POD}");
    let set = format!("describe rs {REPLICA_SET}");
    world.prints(&[
        (&pod, &["Node:", "n1", "Controlled By:", "Scheduled was said", "Conditions:"]),
        (&set, &["Controlled By:", "Deployment/web", "Pods Status:", "SuccessfulCreate was said"]),
        (
            "describe deploy web",
            &["RollingUpdateStrategy", "NewReplicaSet", "ScalingReplicaSet was said"],
        ),
        ("describe svc web", &["Port:", "http", "10.1.0.7:8080", "Programmed was said"]),
        (
            "describe node n1",
            &["Conditions:", "Allocated resources:", POD, "NodeReady was said", "HolderIdentity:"],
        ),
        ("describe ns default", &["Name:", "default", "Status:", "Active"]),
        ("describe cm a", &["Data", "a:"]),
        ("describe secret key", &["Type:", "Opaque", "token:"]),
        ("describe event event-0", &["Scheduled was said"]),
        ("describe endpointslice web-x1", &["AddressType:", "IPv4", "10.1.0.7"]),
        (
            "describe endpoints web",
            &["Name:", "Addresses: 10.1.0.7", "NotReadyAddresses: <none>", "http 8080 TCP"],
        ),
        ("describe ep", &["Name:", "web", "Subsets:"]),
        ("describe lease n1 -n kube-node-lease", &["Holder Identity:", "n1"]),
        ("describe source main", &["https://example.com/shop.git", "web: two replicas"]),
        ("describe drift web-image", &["spec.replicas", "web.yaml"]),
        ("describe inventory main", &["0123456789abcdef"]),
        ("describe pods", &[POD]),
    ]);
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_take_their_flags() {
    let world = World::new().await;
    let logs = |flags: &str| format!("logs {POD} {flags}");
    let lines = [
        (logs("-c web"), vec!["web follow=false previous=false tail=None"]),
        (logs("-c prepare"), vec!["prepare follow"]),
        (logs(""), vec!["web follow=false"]),
        (logs("-c web -f"), vec!["web follow=true"]),
        (logs("-c side --previous"), vec!["side follow=false previous=true"]),
        (logs("-c web --tail=5 --since=1m"), vec!["tail=Some(5) since=Some(60)"]),
        (
            logs("-c web --since-time=2026-11-21T11:00:00Z"),
            vec!["sinceTime=Some(\"2026-11-21T11:00:00Z\")"],
        ),
        (logs("-c web --timestamps --limit-bytes=100"), vec!["timestamps=true limit=Some(100)"]),
        (logs("--all-containers"), vec!["prepare follow", "web follow", "side follow"]),
        ("logs -l app=web --all-containers".into(), vec!["prepare follow", "tail=Some(10)"]),
        ("logs -l app=web -c web --tail=3 --prefix".into(), vec![POD, "tail=Some(3)"]),
        ("logs deploy/web -c web --tail=2".into(), vec!["web follow", "tail=Some(2)"]),
    ];
    for (line, wanted) in &lines {
        world.prints(&[(line.as_str(), wanted.as_slice())]);
    }
    let nope = logs("-c nope");
    world.refuses(&[(&nope, "container nope is not valid for pod")]);
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_told() {
    let world = World::new().await;
    let of_pod = format!("events --for pod/{POD}");
    world.prints(&[
        ("events", &["LAST SEEN", "Scheduled was said", "Pod/web-7f4cc58bfd-6txfl"]),
        ("events -A", &["NAMESPACE", "NodeReady was said"]),
        (&of_pod, &["Scheduled was said"]),
        ("events --types=Warning", &["No events found"]),
        ("get events --sort-by=.lastTimestamp", &["ScalingReplicaSet was said"]),
    ]);
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_waits() {
    let world = World::new().await;
    let ready = format!("wait --for=condition=Ready pod/{POD} --timeout=20s");
    let running = format!("wait --for=jsonpath={{.status.phase}}=Running pod/{POD} --timeout=20s");
    world.prints(&[
        (&ready, &["condition met"]),
        (&running, &["condition met"]),
        ("wait --for=condition=Available deploy/web --timeout=20s", &["condition met"]),
        ("wait --for=delete cm/nope --timeout=20s", &[]),
    ]);
    world.refuses(&[(
        "wait --for=condition=Never deploy/web --timeout=1s",
        "timed out waiting for the condition",
    )]);
    let admin = world.fixture.admin();
    for kubectl in different() {
        let name = format!("leaves-{}", kubectl.minor);
        admin.create(&config(&name, "1")).await.expect("created");
        let mut waits = world.start(kubectl, &format!("wait --for=delete cm/{name} --timeout=50s"));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(waits.0.try_wait().expect("asked").is_none(), "it is still there");
        let key = Key::new("default", &name);
        admin.delete::<ConfigMap>(&key, &DeleteOptions::default()).await.expect("deleted");
        let ended = tokio::task::spawn_blocking(move || waits.0.wait().expect("ends"));
        let ended = tokio::time::timeout(PATIENCE, ended).await.expect("in time").expect("joins");
        assert!(ended.success());
    }
    drop(admin);
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollouts_have_a_status_and_a_history() {
    let world = World::new().await;
    world.prints(&[
        ("rollout status deploy/web --timeout=20s", &["successfully rolled out"]),
        ("rollout history deploy/web", &["REVISION", "CHANGE-CAUSE", "1"]),
        ("rollout history deploy/web --revision=1", &["revision #1", "registry.example/web:1"]),
    ]);
    world.refuses(&[
        ("rollout restart deploy/web", "this cluster changes through Git"),
        ("scale deploy/web --replicas=4", "this cluster changes through Git"),
        ("delete cm a --wait=false", "this cluster changes through Git"),
        ("annotate cm a x=y", "this cluster changes through Git"),
        ("set image deploy/web web=other", "this cluster changes through Git"),
    ]);
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_can_be_asked() {
    let world = World::new().await;
    world.prints(&[
        (
            "api-resources",
            &[
                "deployments",
                "deploy",
                "apps/v1",
                "sources",
                "src",
                "drifts",
                "selfsubjectaccessreviews",
            ],
        ),
        ("api-resources --namespaced=false -o name", &["nodes", "sources.ballast.dev"]),
        ("api-resources --verbs=list,watch -o wide", &["VERBS", "pods"]),
        ("api-resources --api-group=apps", &["replicasets"]),
        ("api-versions", &["apps/v1", "ballast.dev/v1alpha1", "authorization.k8s.io/v1", "v1"]),
        ("version", &["Server Version", "ballast"]),
        ("version -o json", &["serverVersion"]),
        ("cluster-info", &["Kubernetes control plane", "is running at"]),
        (
            "cluster-info dump",
            &["NodeList", "ReplicationControllerList", "DaemonSetList", "PodList", "web follow="],
        ),
        ("get --raw /healthz", &["ok"]),
        ("get --raw /version", &["\"major\":\"1\""]),
        (
            "get --raw /api/v1/namespaces/default/configmaps?limit=1",
            &["ConfigMapList", "\"continue\""],
        ),
        ("get --raw /apis/apps/v1", &["APIResourceList"]),
        ("get --raw /openapi/v2", &["\"swagger\":\"2.0\""]),
    ]);
    world.refuses(&[("get --raw /nope", "the server could not find the requested resource")]);
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_are_explained() {
    let world = World::new().await;
    let every: Vec<&Kubectl> = all().iter().collect();
    world.prints_with(
        &every,
        &[
            (
                "explain pods",
                &["KIND: Pod", "VERSION: v1", "Pod is a collection of containers", "PodSpec"],
            ),
            ("explain pod.spec.containers.image", &["Container image name."]),
            ("explain deploy.spec.strategy.rollingUpdate.maxSurge", &["maximum number of pods"]),
            (
                "explain deployments --recursive",
                &["terminationGracePeriodSeconds", "maxUnavailable"],
            ),
            ("explain nodes.status.capacity", &["total resources of a node"]),
            ("explain cm.data", &["Data contains the configuration data"]),
            ("explain sources", &["Source", "ballast.dev", "What is followed."]),
            ("explain src.spec", &["url", "without credentials", "pollSeconds"]),
            ("explain drifts.spec.layer", &["Where the difference was seen", "container"]),
            ("explain drift.spec.origin", &["file", "commit", "The full hex id"]),
        ],
    );
    world.refuses(&[("explain pods.nope", "nope"), ("explain things", "things")]);
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what_is_answered() {
    let world = World::new().await;
    for kubectl in all() {
        let can = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let output = world.run(kubectl, &[&["auth", "can-i"][..], &words].concat());
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            assert!(
                text.starts_with(if output.status.success() { "yes" } else { "no" }),
                "1.{}: can-i {line}: {text:?} {}",
                kubectl.minor,
                String::from_utf8_lossy(&output.stderr)
            );
            text
        };
        for yes in [
            "get pods",
            "list deployments.apps",
            "watch drifts -A",
            "watch endpoints",
            "get pods --subresource=log",
            "get /healthz",
        ] {
            assert!(can(yes).starts_with("yes"), "{yes}");
        }
        for no in [
            "create endpoints",
            "create pods",
            "delete deployments.apps",
            "get pods --subresource=exec",
            "* *",
        ] {
            assert!(can(no).starts_with("no"), "{no}");
        }
        let rules = world.told(kubectl, "auth can-i --list");
        assert!(
            rules.contains("deployments.apps") && rules.contains("[get list watch]"),
            "{rules}"
        );
        let me = world.told(kubectl, "auth whoami");
        assert!(
            me.contains("Username") && me.contains("system:anonymous"),
            "1.{}: {me}",
            kubectl.minor
        );
        // Nobody is answered for somebody else.
        let other = world.run(kubectl, &["auth", "can-i", "get", "pods", "--as", "bob"]);
        let text = String::from_utf8_lossy(&other.stderr);
        assert!(!other.status.success() && text.contains("cannot impersonate"), "{text}");
    }
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn top_tells_what_is_used() {
    let world = World::new().await;
    let one = format!("top pod {POD}");
    world.prints(&[
        ("top nodes", &["CPU(cores)", "n1", "1500m", "512Mi"]),
        ("top node n1", &["1500m"]),
        ("top pods", &[POD, "250m", "64Mi"]),
        ("top pods --containers", &["web", "240m", "60Mi", "side", "10m", "4Mi"]),
        ("top pods -A --sort-by=cpu", &["default", POD]),
        ("top pods -l app=web", &[POD]),
        (&one, &["250m"]),
    ]);
    world.refuses(&[("top pod nope", "not found")]);
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_checked_by_the_client_alone() {
    let world = World::new().await;
    let file = world.fixture.folder().join("a.json");
    let mut manifest = serde_json::to_value(config("new", "1")).expect("serialises");
    manifest["apiVersion"] = json!("v1");
    manifest["kind"] = json!("ConfigMap");
    std::fs::write(&file, manifest.to_string()).expect("writes");
    let file = file.to_str().expect("text");
    for kubectl in all() {
        for verb in ["create", "apply"] {
            let text = world.told(kubectl, &format!("{verb} -f {file} --dry-run=client -o json"));
            let made: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(made["data"]["a"], "1", "1.{}", kubectl.minor);
        }
    }
    world.fixture.end().await;
}
