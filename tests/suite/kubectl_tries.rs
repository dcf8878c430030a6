//! What a reader's kubectl tries and nobody stores: `diff`, dry runs, warnings, and every refusal in
//! words; and a kubectl with the kubeconfig that the command line prints.

use std::process::Command;

use ballast::access_commands::revoke;
use ballast::cli::GrantedRole;
use ballast::object::Cluster;
use ballast::store::Store;
use serde_json::{Value, json};

use crate::access::Secured;
use crate::fixture::pod;
use crate::kubectl_world::{Kubectl, World, all, different};

/// The Deployment of the world as a file, changed.
fn changed(world: &World, name: &str, change: impl Fn(&mut Value)) -> String {
    let kubectl = all().first().expect("asked for where there is one");
    let text = world.told(kubectl, "get deploy web -o json");
    let mut web: Value = serde_json::from_str(&text).expect("JSON");
    let meta = web["metadata"].as_object_mut().expect("metadata");
    for server in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
        meta.remove(server);
    }
    web.as_object_mut().expect("an object").remove("status");
    change(&mut web);
    written(world, name, &web)
}

fn written(world: &World, name: &str, manifest: &Value) -> String {
    let path = world.fixture.folder().join(name);
    std::fs::write(&path, manifest.to_string()).expect("written");
    path.to_str().expect("text").to_owned()
}

fn fresh(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"a": "1"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_shows_what_would_change() {
    let world = World::new().await;
    if all().is_empty() {
        return world.fixture.end().await;
    }
    let before = world.fixture.store.revision();
    let more = changed(&world, "more.json", |web| web["spec"]["replicas"] = json!(3));
    let same = changed(&world, "same.json", |_| {});
    let new = written(&world, "new.json", &fresh("fresh"));
    for kubectl in all() {
        let run = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let output = world.run(kubectl, &words);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
        };
        // 1 is "they differ".
        for flags in ["", " --server-side --force-conflicts"] {
            let (code, text) = run(&format!("diff -f {more}{flags}"));
            assert_eq!(code, Some(1), "1.{}: {text}", kubectl.minor);
            for line in ["-  replicas: 2", "+  replicas: 3"] {
                assert!(text.lines().any(|one| one == line), "1.{}: {text}", kubectl.minor);
            }
            let (code, text) = run(&format!("diff -f {new}{flags}"));
            assert!(code == Some(1) && text.contains("+  a: \"1\""), "1.{}: {text}", kubectl.minor);
        }
        let (code, text) = run(&format!("diff -f {same}"));
        let told: Vec<&str> = text.lines().filter(|line| line.starts_with(['+', '-'])).collect();
        // A first client-side apply would write its annotation, and nothing else.
        let alone = told.iter().all(|line| {
            line.starts_with("+++")
                || line.starts_with("---")
                || line.contains("last-applied")
                || line.contains("apiVersion")
                || line.contains("annotations")
        });
        assert!(alone && matches!(code, Some(0 | 1)), "1.{}: {text}", kubectl.minor);
    }
    assert_eq!(world.fixture.store.revision(), before, "nothing was written");
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_is_tried_on_the_server() {
    let world = World::new().await;
    if all().is_empty() {
        return world.fixture.end().await;
    }
    let before = world.fixture.store.revision();
    let more = changed(&world, "more.json", |web| web["spec"]["replicas"] = json!(3));
    let new = written(&world, "new.json", &fresh("fresh"));
    let own = written(&world, "own.json", &fresh("a"));
    let every: Vec<&Kubectl> = all().iter().collect();
    let lines = [
        (format!("apply --dry-run=server -f {new}"), vec!["fresh created (server dry run)"]),
        (format!("apply --dry-run=server -f {more}"), vec!["web configured (server dry run)"]),
        (format!("apply --dry-run=server -f {more} -o jsonpath={{.spec.replicas}}"), vec!["3"]),
        (
            format!("apply --dry-run=server --server-side -f {new}"),
            vec!["fresh serverside-applied (server dry run)"],
        ),
        (
            format!("apply --dry-run=server --server-side --force-conflicts -f {more}"),
            vec!["web serverside-applied (server dry run)"],
        ),
        (
            format!(
                "apply --dry-run=server --server-side --field-manager=me -f {own} --show-managed-fields -o yaml"
            ),
            vec!["manager: me", "operation: Apply", "manager: before-first-apply"],
        ),
        (format!("create --dry-run=server -f {new}"), vec!["fresh created (server dry run)"]),
        (format!("replace --dry-run=server -f {more}"), vec!["web replaced (server dry run)"]),
        ("scale deploy web --replicas=4 --dry-run=server".into(), vec!["web scaled"]),
        ("set image deploy/web web=x:2 --dry-run=server".into(), vec!["image updated"]),
        ("label cm a x=y --dry-run=server".into(), vec!["labeled (server dry run)"]),
        (
            "patch cm a --dry-run=server -o yaml -p {\"data\":{\"x\":\"y\"}}".into(),
            vec!["x: \"y\""],
        ),
        ("delete cm a --dry-run=server".into(), vec!["\"a\" deleted", "(server dry run)"]),
        ("delete cm --all --dry-run=server".into(), vec!["\"e\" deleted", "(server dry run)"]),
    ];
    let lines: Vec<(&str, &[&str])> =
        lines.iter().map(|(line, words)| (line.as_str(), words.as_slice())).collect();
    world.prints_with(&every, &lines);
    let conflict = format!("apply --dry-run=server --server-side -f {more}");
    world.refuses(&[
        (&conflict, "conflict with \"before-first-apply\""),
        (&conflict, ".spec.replicas"),
        (&format!("create --dry-run=server -f {own}"), "configmaps \"a\" already exists"),
    ]);
    assert_eq!(world.fixture.store.revision(), before, "nothing was written");
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_validated_and_warned_of() {
    let world = World::new().await;
    if all().is_empty() {
        return world.fixture.end().await;
    }
    let wrong = changed(&world, "wrong.json", |web| web["spec"]["replica"] = json!(3));
    let twice = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]);
    let hidden = changed(&world, "hidden.json", |web| {
        web["spec"]["template"]["spec"]["containers"][0]["env"] = twice.clone();
    });
    let mut alone = serde_json::to_value(pod("alone.v1")).expect("serialises");
    alone["spec"]["nodeSelector"] = json!({"beta.kubernetes.io/os": "linux"});
    let alone = written(&world, "alone.json", &alone);
    let every: Vec<&Kubectl> = all().iter().collect();
    let hides = "Warning: spec.template.spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply";
    let lines = [
        (
            format!("apply --dry-run=server --validate=warn -f {wrong}"),
            vec!["Warning: unknown field \"spec.replica\"", "web configured"],
        ),
        (format!("apply --dry-run=server --validate=ignore -f {wrong}"), vec!["configured"]),
        // An apply by the client would merge the two by their name.
        (format!("replace --dry-run=server -f {hidden}"), vec![hides, "web replaced"]),
        (
            format!("create --dry-run=server -f {alone}"),
            vec![
                "Warning: metadata.name: this is used in the Pod's hostname",
                "Warning: spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "alone.v1 created",
            ],
        ),
    ];
    let lines: Vec<(&str, &[&str])> =
        lines.iter().map(|(line, words)| (line.as_str(), words.as_slice())).collect();
    world.prints_with(&every, &lines);
    for kubectl in all() {
        let silent =
            world.told(kubectl, &format!("apply --dry-run=server --validate=ignore -f {wrong}"));
        assert!(!silent.contains("unknown field"), "1.{}: {silent}", kubectl.minor);
        // What the template has already is not told again.
        let again = world.told(kubectl, "label deploy web x=y --dry-run=server");
        assert!(!again.contains("Warning"), "1.{}: {again}", kubectl.minor);
    }
    world.refuses(&[
        (&format!("apply --dry-run=server -f {wrong}"), "unknown field \"spec.replica\""),
        (&format!("apply --dry-run=server --validate=strict -f {wrong}"), "strict decoding error"),
    ]);
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_in_protobuf_is_refused_with_the_way_to_do_it() {
    let world = World::new().await;
    for kubectl in all() {
        let words = ["create", "configmap", "x", "--dry-run=server"];
        let output = world.run(kubectl, &words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        // Older ones send JSON.
        let told = text.contains("send application/json, as kubectl apply -f");
        assert!(output.status.success() || told, "1.{}: {text}", kubectl.minor);
    }
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_references_words() {
    let world = World::new().await;
    world.refuses(&[
        (
            "get --raw /api/v1/pods?resourceVersionMatch=Exact",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "get --raw /api/v1/pods?resourceVersion=1&resourceVersionMatch=Exact",
            "The resourceVersion for the provided list is too old.",
        ),
        ("get --raw /api/v1/pods?resourceVersion=x", "invalid resource version"),
        ("get --raw /api/v1/pods?limit=x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
        (
            "get --raw /api/v1/pods?includeObject=All",
            "must be 'Metadata', 'Object', 'None', or empty",
        ),
        ("get --raw /api/v1/pods?resourceVersion=999999", "Too large resource version"),
        ("get deploy nope", "deployments.apps \"nope\" not found"),
        ("get sources nope", "sources.ballast.dev \"nope\" not found"),
        ("logs nope", "pods \"nope\" not found"),
        ("top node nope", "nodes \"nope\" not found"),
        ("delete ns default", "changes through Git"),
    ]);
    world.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_printed_kubeconfig_is_ready_for_kubectl() {
    let served = Secured::start(false).await;
    served.fixture.admin().create(&pod("p")).await.expect("created");
    let home = served.fixture.folder().join("home");
    std::fs::create_dir(&home).expect("a folder for kubectl's cache");
    for certificate in [false, true] {
        let name = if certificate { "bob" } else { "ada" };
        let text = served.printed(GrantedRole::Viewer, name, certificate);
        let file = served.fixture.folder().join(format!("{name}.yaml"));
        std::fs::write(&file, text).expect("written");
        let run = |kubectl: &Kubectl, line: &str| {
            let mut command = Command::new(&kubectl.program);
            command.env("HOME", &home).env("KUBECONFIG", &file).args(line.split(' '));
            let output = command.output().expect("kubectl starts");
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            (output.status.success(), text)
        };
        for kubectl in all() {
            for (line, word) in [
                ("get pods -o name", "pod/p"),
                ("auth whoami", name),
                ("version", "Server Version"),
            ] {
                let (fine, text) = run(kubectl, line);
                assert!(fine && text.contains(word), "1.{}: {line}: {text}", kubectl.minor);
            }
        }
        revoke(served.fixture.folder(), name).expect("revoked");
        for kubectl in different() {
            let (fine, text) = run(kubectl, "get pods");
            let told = text.contains("must be logged in") || text.contains("Unauthorized");
            assert!(!fine && told, "1.{}: {text}", kubectl.minor);
        }
    }
    served.fixture.end().await;
}
