//! `kubectl debug` with the real kubectls of the machine, over TLS and with an operator's kubeconfig,
//! into a pod that a node agent runs on an engine in memory; and the subresource behind it by hand.

use std::process::Stdio;

use ballast::cli::GrantedRole;
use ballast::node::instance::{Instance, Role};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::fixture::until;
use crate::kubectl_exec::{Operator, text};
use crate::kubectl_world::all;

fn ephemeral(operator: &Operator, name: &str) -> Option<Instance> {
    let mut all = operator.world.engine.containers().into_iter();
    all.find(|one| one.identity.role == Role::Ephemeral && one.identity.container == name)
}

async fn state(operator: &Operator, name: &'static str, wanted: &'static str) {
    let admin = operator.world.served.fixture.admin();
    until::<Pod>(&admin, wanted, |pods| {
        let pod = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some("p"));
        let status = pod.and_then(|pod| pod.status.as_ref());
        let told = status.and_then(|status| status.ephemeral_container_statuses.as_ref());
        let own = told.into_iter().flatten().find(|own| own.name == name);
        own.is_some_and(|own| serde_json::to_value(&own.state).expect("JSON")[wanted].is_object())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_looks_into_a_running_pod() {
    let operator = Operator::new(GrantedRole::Operator).await;
    let engine = &operator.world.engine;
    let before = engine.started();
    for kubectl in all() {
        let minor = kubectl.minor;
        let name: &'static str = format!("look-{minor}").leak();
        let words = ["debug", "p", "-i", "--image=app:v1", "--target=web", "-c", name];
        let mut command =
            operator.command(kubectl, &[&words[..], &["--profile=baseline"]].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("kubectl starts");
        while engine.attached() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let id = ephemeral(&operator, name).expect("it was made").id;
        engine.say(&id, "one line\n");
        engine.end(&id, 3, None);
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
        let ended = ended.await.expect("waited").expect("it ends");
        assert!(text(&ended.stdout).ends_with("one line\n"), "1.{minor}: {ended:?}");
        state(&operator, name, "terminated").await;
        let told = operator.run(kubectl, &["describe", "pod", "p"]);
        let told = text(&told.stdout);
        assert!(told.contains("Ephemeral Containers:") && told.contains(name), "1.{minor}: {told}");
        assert!(told.contains("Exit Code:    3"), "1.{minor}: {told}");
        let json = operator.run(kubectl, &["get", "pod", "p", "-o", "json"]);
        let pod: Value = serde_json::from_slice(&json.stdout).expect("JSON");
        let list = pod["spec"]["ephemeralContainers"].as_array().expect("a list");
        let own = list.iter().find(|own| own["name"] == name).expect("it stays");
        assert_eq!((&own["targetContainerName"], &own["stdin"]), (&json!("web"), &json!(true)));
        let can = ["auth", "can-i", "patch", "pods", "--subresource=ephemeralcontainers"];
        assert_eq!(text(&operator.run(kubectl, &can).stdout), "yes\n", "1.{minor}");
    }
    // Each was started once, and nothing else of the pod was.
    let started = engine.started().len() - before.len();
    assert_eq!(started, all().len());
    let world = &operator.world;
    until::<Event>(&world.served.fixture.admin(), "an Event of each", |events| {
        all().iter().all(|kubectl| {
            let words = format!(
                "ops added ephemeral container look-{} of image \"app:v1\" beside the processes of container web, from 127.0.0.1",
                kubectl.minor
            );
            let is_it = |event: &Event| {
                event.reason.as_deref() == Some("Debug") && event.message == Some(words.clone())
            };
            events.iter().any(|event| is_it(event))
        })
    })
    .await;
    operator.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_debug_is_told_what_is_not_allowed() {
    let operator = Operator::new(GrantedRole::Operator).await;
    let viewer = {
        let file = operator.world.served.kubeconfig(GrantedRole::Viewer, "ada");
        let path = operator.world.served.fixture.folder().join("viewer");
        std::fs::write(&path, serde_json::to_string(&file).expect("JSON")).expect("written");
        path
    };
    for kubectl in all() {
        let image = "--image=app:v1";
        let through_git = "this cluster changes through Git";
        for (words, told) in [
            // The profile's SYS_PTRACE is more than the namespace's level.
            (
                &["debug", "p", image, "--target=web", "--profile=general"][..],
                "violates PodSecurity \"baseline:latest\": non-default capabilities (container \"debugger",
            ),
            (&["debug", "p", image, "--target=nope", "--profile=baseline"], "targetContainerName"),
            (&["debug", "p", image, "-c", "web", "--profile=baseline"], "Duplicate value: \"web\""),
            (&["debug", "p", image, "--copy-to=copy"], through_git),
            (&["debug", "node/n1", image], through_git),
            (&["debug", "nope", image], "pods \"nope\" not found"),
        ] {
            let ran = operator.run(kubectl, words);
            let said = text(&ran.stderr);
            assert!(!ran.status.success(), "1.{}: {words:?}: {said}", kubectl.minor);
            assert!(said.contains(told), "1.{}: {words:?}: {said}", kubectl.minor);
        }
        let words = ["debug", "p", image, "--target=web", "--profile=baseline"];
        let mut command = operator.command(kubectl, &words);
        let ran = command.env("KUBECONFIG", &viewer).stdin(Stdio::null()).output();
        let said = text(&ran.expect("it ends").stderr);
        let refused = "cannot patch resource \"pods/ephemeralcontainers\" in API group \"\" in the namespace \"default\"";
        assert!(said.contains(refused), "1.{}: {said}", kubectl.minor);
    }
    assert!(operator.world.engine.containers().iter().all(|i| i.identity.role != Role::Ephemeral));
    operator.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_subresource_takes_every_write_and_only_additions() {
    let operator = Operator::new(GrantedRole::Operator).await;
    let client = operator.world.served.client(GrantedRole::Operator, "hand").await;
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let own = |name: &str| json!({"name": name, "image": "app:v1"});
    let list = |names: &[&str]| {
        let all: Vec<Value> = names.iter().map(|name| own(name)).collect();
        json!({"spec": {"ephemeralContainers": all}})
    };
    let plain = PatchParams::default();
    pods.patch_ephemeral_containers("p", &plain, &Patch::Strategic(list(&["a"]))).await.expect("a");
    let merge = Patch::Merge(list(&["a", "b"]));
    // It says each whole; what it leaves out has its default, as before.
    pods.patch_ephemeral_containers("p", &plain, &merge).await.expect("b");
    let add = json!([{"op": "add", "path": "/spec/ephemeralContainers/-", "value": own("c")}]);
    let add = Patch::Json::<()>(serde_json::from_value(add).expect("a patch"));
    pods.patch_ephemeral_containers("p", &plain, &add).await.expect("c");
    let mut config = list(&["d"]);
    (config["apiVersion"], config["kind"]) = (json!("v1"), json!("Pod"));
    let apply = PatchParams::apply("hand");
    let pod = pods.patch_ephemeral_containers("p", &apply, &Patch::Apply(config)).await.expect("d");
    let managed = pod.metadata.managed_fields.expect("tracked");
    assert!(
        managed.iter().any(|entry| entry.subresource.as_deref() == Some("ephemeralcontainers"))
    );
    let mut pod = pods.get_ephemeral_containers("p").await.expect("read");
    // The node writes its status meanwhile.
    pod.metadata.resource_version = None;
    let mut more = pod.spec.clone().expect("a spec").ephemeral_containers.expect("four");
    assert_eq!(more.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    more.push(serde_json::from_value(own("e")).expect("one"));
    let spec = pod.spec.as_mut().expect("a spec");
    spec.ephemeral_containers = Some(more);
    // What else is sent is not looked at.
    spec.containers[0].image = Some("other:v1".to_owned());
    let name = "p";
    let stored =
        pods.replace_ephemeral_containers(name, &Default::default(), &pod).await.expect("e");
    let spec = stored.spec.as_ref().expect("a spec");
    assert_eq!(spec.containers[0].image.as_deref(), Some("app:v1"));
    assert_eq!(spec.ephemeral_containers.as_ref().map(Vec::len), Some(5));
    assert_eq!(stored.metadata.generation, Some(6));
    let gone = json!([{"op": "remove", "path": "/spec/ephemeralContainers/0"}]);
    let gone = Patch::Json::<()>(serde_json::from_value(gone).expect("a patch"));
    let refused = pods.patch_ephemeral_containers("p", &plain, &gone).await;
    let refused = refused.expect_err("they stay").to_string();
    assert!(
        refused.contains("existing ephemeral containers \"a\" may not be removed"),
        "{refused}"
    );
    let key = pods.patch("p", &plain, &Patch::Merge(list(&["z"]))).await;
    assert!(key.expect_err("not that way").to_string().contains("through Git"));
    for name in ["a", "b", "c", "d", "e"] {
        state(&operator, name, "running").await;
    }
    // A read is everybody's, and leaves none.
    let lines = operator.world.served.audited(7).await;
    let of_part = lines.iter().filter(|line| line["subresource"] == "ephemeralcontainers");
    let verbs: Vec<&str> = of_part.filter_map(|line| line["verb"].as_str()).collect();
    assert_eq!(verbs, ["patch", "patch", "patch", "patch", "update", "patch"]);
    operator.world.end().await;
}
