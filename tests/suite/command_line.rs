//! The program itself, as a person starts it: what it prints, and with which status it ends. A daemon
//! is the real API on a socket of its own.

use std::path::Path;
use std::process::Output;

use ballast::api::server::{Limits, Surface, bind, serve};
use ballast::cli::Cli;
use ballast::config::ConfigFile;
use ballast::object::Cluster;
use ballast::object::drift::Drift;
use ballast::object::inventory::Inventory;
use ballast::object::source::Source;
use clap::CommandFactory;
use serde_json::{Value, json};

use crate::fixture::{Fixture, config, object};
use crate::repository::Origin;

/// Runs the program in `folder`.
async fn ballast_in(folder: &Path, arguments: &[&str]) -> Output {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_ballast"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("BALLAST_SERVER")
        .env_remove("DOCKER_HOST")
        .output()
        .await
        .expect("it starts")
}

async fn ballast(arguments: &[&str]) -> Output {
    ballast_in(Path::new("/"), arguments).await
}

fn text(output: &Output) -> String {
    let part = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", part(&output.stdout), part(&output.stderr))
}

/// It ended like this and said all of it.
fn assert_said(output: &Output, code: i32, sentences: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for sentence in sentences {
        assert!(said.contains(sentence), "{sentence:?} in {said}");
    }
}

fn answer(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {}", text(output)))
}

/// What a daemon serves; the address of it.
async fn served(fixture: &Fixture) -> String {
    let listener = bind("127.0.0.1:0".parse().expect("an address"), Surface::Everything).await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("bound");
    let limits = Limits::new(Surface::Everything);
    tokio::spawn(serve(listener, fixture.api.router(), limits, fixture.tasks.clone()));
    format!("http://{address}")
}

fn source(path: &str) -> Source {
    let at = "2026-01-01T00:00:00Z";
    let commit =
        json!({"id": "c".repeat(40), "subject": "Open the shop", "author": "Ada", "at": at});
    object(json!({"metadata": {"name": "main"},
        "spec": {"url": "https://git.example/shop.git", "branch": "main", "path": path, "pollSeconds": 60},
        "status": {"fetched": commit, "applied": commit, "converged": {
            "converged": true, "since": at, "checkedAt": at, "commit": "c".repeat(40), "openDrifts": 1}}}))
}

/// A daemon that has applied `path` of a source.
async fn with_source(fixture: &Fixture, path: &str) {
    let wanted = source(path);
    let made = fixture.admin().create(&wanted).await.expect("a source");
    let told = Source { status: wanted.status, ..(*made).clone() };
    fixture.admin().update_status(&told).await.expect("its status");
}

fn service(address: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  type: NodePort\n  clusterIP: {address}\n  ports: [{{port: 80, nodePort: {port}}}]\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_judged_by_the_running_daemons_ranges() {
    let fixture = Fixture::ranging("10.60.0.0/16", 31_000..=31_010);
    let server = served(&fixture).await;
    let folder = tempfile::tempdir().expect("a folder");
    let write = |address: &str, port: u16| {
        std::fs::write(folder.path().join("a.yaml"), service(address, port)).expect("written");
    };
    let here = folder.path().to_string_lossy().into_owned();
    let plan = async |more: &[&str]| {
        let all = [&["plan", &here, "--server", &server], more].concat();
        ballast(&all).await
    };
    write("10.60.0.9", 31_005);
    let whose = format!(
        "note: judged by Service range 10.60.0.0/16 and node ports 31000-31010 (of the daemon at {server})"
    );
    assert_said(&plan(&[]).await, 1, &["+ create Service default/a (a.yaml:1)\n", &whose]);
    assert_said(&plan(&["--empty"]).await, 2, &["spec.clusterIP", "is 10.43.0.0/16"]);

    // What the defaults have is not that daemon's.
    write("10.43.0.9", 31_005);
    let refused = plan(&["--output", "json"]).await;
    assert_said(&refused, 2, &["spec.clusterIP", "The range of valid IPs is 10.60.0.0/16"]);
    let problem = answer(&refused)["problems"][0].clone();
    assert_eq!((&problem["line"], &problem["field"]), (&json!(6), &json!("spec.clusterIP")));
    write("10.60.0.9", 30_080);
    assert_said(
        &plan(&[]).await,
        2,
        &["spec.ports[0].nodePort", "valid ports is 31000-31010", "1 problem: nothing would"],
    );
    let both = ["--node-ports", "30000-32767"];
    let said = "10.60.0.0/16 (of the daemon at";
    assert_said(&plan(&both).await, 1, &[said, "30000-32767 (given on the command line)"]);
    let file = folder.path().join("ballast.conf");
    std::fs::write(&file, "nodePorts: 30000-30100\n").expect("written");
    let file = file.to_string_lossy();
    let by_file = format!("30000-30100 (of {file})");
    assert_said(&plan(&["--config", &file]).await, 1, &[said, &by_file]);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_a_commit_finds_its_repository_or_says_which_flag_names_it() {
    let origin = Origin::new();
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    let first = origin.commit(&[("deploy/a.yaml", manifest), ("other/b.yaml", "no: manifest\n")]);
    let elsewhere = tempfile::tempdir().expect("a folder");
    let repository = origin.path().to_string_lossy().into_owned();
    let create = "+ create ConfigMap default/a (deploy/a.yaml:1)\n";

    let of_flag = ["plan", &first, "--repository", &repository, "--path", "deploy", "--empty"];
    assert_said(&ballast_in(elsewhere.path(), &of_flag).await, 1, &[create]);
    let around = ["plan", "main", "--path", "deploy", "--empty"];
    assert_said(&ballast_in(origin.path(), &around).await, 1, &[create]);
    assert_said(&ballast_in(&origin.path().join("refs"), &around).await, 1, &[create]);
    let hint = ["there is no path \"main\"", "--repository <folder>"];
    assert_said(&ballast_in(elsewhere.path(), &around).await, 2, &hint);
    let mistyped = ballast_in(origin.path(), &["plan", "./manifets", "--empty"]).await;
    assert_said(&mistyped, 2, &["no path \"./manifets\"", "names no commit", "--repository"]);
    // A flag that would be ignored is refused.
    let unused = ballast(&["plan", &repository, "--path", "deploy", "--empty"]).await;
    assert_said(&unused, 2, &["--path is the folder inside a commit"]);

    // The folder is the source's: everybody else's files are none of its business.
    let fixture = Fixture::new();
    with_source(&fixture, "deploy").await;
    let server = served(&fixture).await;
    let followed = ["plan", "main", "--server", &server];
    assert_said(&ballast_in(origin.path(), &followed).await, 1, &[create]);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_drift_answer_in_words_in_json_and_by_their_exit_status() {
    let fixture = Fixture::new();
    let server = served(&fixture).await;
    let ask =
        async |arguments: &[&str]| ballast(&[arguments, &["--server", &server]].concat()).await;
    assert_said(&ask(&["status"]).await, 1, &["no source yet\n"]);
    with_source(&fixture, ".").await;
    let status = ask(&["status"]).await;
    assert_said(
        &status,
        0,
        &[
            "main  https://git.example/shop.git · main · .\n",
            "  Fetched    ccccccc Open the shop (",
            "  Applied    ccccccc Open the shop (",
            "  Converged  yes, ccccccc, for ",
            ", 1 open drift (checked ",
        ],
    );
    let status = answer(&ask(&["status", "--output", "json"]).await);
    assert_eq!(
        (&status["converged"], &status["sources"][0]["name"]),
        (&json!(true), &json!("main"))
    );

    assert_said(&ask(&["drift"]).await, 0, &["no open drift (what is still on its way is none"]);
    let drift = |name: &str, phase: &str| -> Drift {
        let at = "2026-01-01T00:00:00Z";
        object(json!({"metadata": {"name": name, "namespace": "default"},
            "spec": {"object": {"kind": "Pod", "namespace": "default", "name": name, "uid": "u"},
                "layer": "container", "class": "Stopped", "field": "containers[web]",
                "wanted": "running", "actual": "exited (137)",
                "origin": {"source": "main", "file": "web.yaml", "line": 7, "commit": "c".repeat(40)}},
            "status": {"phase": phase, "since": at, "lastSeen": at, "count": 2,
                "cause": "docker kill (signal 9)", "action": "Healing"}}))
    };
    for (name, phase) in [("opened", "Open"), ("healed", "Closed")] {
        let wanted = drift(name, phase);
        let made = fixture.admin().create(&wanted).await.expect("a drift");
        let told = Drift { status: wanted.status, ..(*made).clone() };
        fixture.admin().update_status(&told).await.expect("its status");
    }
    let open = ask(&["drift"]).await;
    assert_said(
        &open,
        1,
        &[
            "Pod default/opened  Container Stopped, Open since ",
            ", 2 times\n",
            "  field   containers[web]\n",
            "  wanted  running   (web.yaml:7@ccccccc)\n",
            "  actual  exited (137)\n",
            "  cause   docker kill (signal 9)\n",
            "  action  healing\n",
        ],
    );
    assert!(!text(&open).contains("healed"), "{}", text(&open));
    let all = answer(&ask(&["drift", "--all", "--output", "json"]).await);
    let names: Vec<&Value> =
        all.as_array().expect("a list").iter().map(|one| &one["metadata"]["name"]).collect();
    assert_eq!(names, ["opened", "healed"]);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_ends_with_2_and_the_next_step() {
    let nobody = ["--server", "http://127.0.0.1:1"];
    for command in [&["status"][..], &["drift"], &["plan", "/etc/hostname"]] {
        let output = ballast(&[command, &nobody].concat()).await;
        assert_said(&output, 2, &["no daemon answers at http://127.0.0.1:1"]);
        assert!(output.stdout.is_empty(), "{}", text(&output));
    }
    for address in ["7440", "localhost:7440", "/run/ballast", "http://"] {
        let output = ballast(&["status", "--server", address]).await;
        assert_said(&output, 2, &["is no address such as http://127.0.0.1:7440"]);
    }
    assert_said(
        &ballast(&["validate", "/no/such/path"]).await,
        2,
        &["/no/such/path: No such file"],
    );
    assert_said(&ballast(&["run"]).await, 2, &["sources: nothing to follow", "1 fault:"]);
    // Each has a fault of its own, so that no daemon starts here.
    let open = ballast(&["run", "https://git.example/r", "--listen", "0.0.0.0"]).await;
    assert_said(&open, 2, &["listen: \"0.0.0.0\" is no address and port"]);
    let half = ballast(&["run", "https://git.example/r", "--tls-cert", "/none"]).await;
    assert_said(&half, 2, &["tlsKeyFile: tlsCertFile is given alone"]);
    assert_said(&ballast(&["trace", "nobody", "10.43.0.5:80"]).await, 2, &["nobody"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_are_valid_and_the_broken_one_shows_every_mistake() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let valid = ballast_in(&examples, &["validate", "repo"]).await;
    assert_said(&valid, 0, &["valid: "]);
    let broken = ballast_in(&examples, &["validate", "broken"]).await;
    assert_said(
        &broken,
        1,
        &[
            "web.yaml:8:",
            "8 |   replicas: three",
            "^^^^^",
            "spec.template.spec.containers[0].imagee",
            "did you mean image?",
            "Ingress",
            " problems in 1 file; nothing of it would be applied\n",
        ],
    );
    let problems =
        answer(&ballast_in(&examples, &["validate", "broken", "--output", "json"]).await);
    let lines: Vec<u64> = problems["problems"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|problem| problem["line"].as_u64())
        .collect();
    assert_eq!(lines, [8, 19, 33, 39, 50, 50, 53]);
}

#[tokio::test(flavor = "multi_thread")]
async fn help_names_an_example_every_default_and_what_each_exit_status_means() {
    let cli = Cli::command();
    cli.clone().debug_assert();
    let readme = include_str!("../../README.md");
    for command in cli.get_subcommands() {
        let name = command.get_name();
        assert!(readme.contains(&format!("\nballast {name}")), "README.md: ballast {name}");
        let help = text(&ballast(&[name, "--help"]).await);
        for argument in command.get_arguments() {
            let id = argument.get_id();
            assert!(argument.get_help().is_some(), "{name}: {id} is not explained");
        }
        if name == "version" {
            continue;
        }
        let example = format!("\n  ballast {name} ");
        assert!(help.contains("Examples:\n") || help.contains(&example), "{help}");
        assert!(help.contains("Exit status: 0 ") && help.contains("; 2 "), "{help}");
    }
    let all = text(&ballast(&["--help"]).await);
    assert!(all.contains("Begin with:") && all.contains("Exit status: 0"), "{all}");
    let version = ballast(&["version", "--output", "json"]).await;
    assert_eq!(answer(&version)["version"], env!("CARGO_PKG_VERSION"));
    assert_said(&ballast(&["version"]).await, 0, &["ballast ", "SQLite 3."]);
}

/// The example of a config file is one, and names every field there is.
#[test]
fn the_config_file_of_the_readme_is_whole() {
    let readme = include_str!("../../README.md");
    let example = readme
        .split("```yaml\n")
        .find(|part| part.starts_with("dataDir:"))
        .and_then(|part| part.split("```").next())
        .expect("the example");
    let read: ConfigFile = serde_yaml::from_str(example).expect("a config file");
    assert_eq!(read.sources.len(), 2);
    for unknown in ["unknownField: 1", "sources: [{unknownField: 1}]"] {
        let fault = serde_yaml::from_str::<ConfigFile>(unknown).expect_err("no such field");
        let fault = fault.to_string();
        let (_, fields) = fault.split_once("expected one of ").expect("the fields");
        for field in fields.split('`').skip(1).step_by(2) {
            assert!(example.contains(field), "README.md: {field}");
        }
    }
}

/// What is compared with is the inventory as the API shows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_compares_with_what_the_daemon_holds() {
    let fixture = Fixture::new();
    with_source(&fixture, ".").await;
    let admin = fixture.admin();
    let mut entries = Vec::new();
    for name in ["kept", "gone"] {
        let mut map = config(name, "1");
        let annotation = ("ballast.dev/source".to_owned(), "main".to_owned());
        map.metadata.annotations = Some([annotation].into());
        let made = admin.create(&map).await.expect("a config map");
        entries.push(json!({"kind": "ConfigMap", "namespace": "default", "name": name,
            "uid": made.metadata.uid, "file": format!("{name}.yaml"), "line": 1}));
    }
    let inventory =
        json!({"metadata": {"name": "main"}, "commit": "c".repeat(40), "objects": entries});
    admin.create::<Inventory>(&object(inventory)).await.expect("an inventory");
    let server = served(&fixture).await;
    let folder = tempfile::tempdir().expect("a folder");
    let map = |value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: kept}}\ndata: {{a: '{value}'}}\n"
        )
    };
    std::fs::write(folder.path().join("kept.yaml"), map("2")).expect("written");
    let here = folder.path().to_string_lossy().into_owned();
    let plan = ballast(&["plan", &here, "--server", &server]).await;
    assert_said(
        &plan,
        1,
        &[
            "~ change ConfigMap default/kept (kept.yaml:1)\n    data.a: 1 -> 2\n",
            "- delete ConfigMap default/gone (gone.yaml:1)\n",
            "0 to create, 1 to change, 1 to delete, 0 as they are\n",
        ],
    );
}
