//! The client of the Docker Engine against an engine that answers what a test says: HTTP over a Unix
//! socket. For what a real engine does seldom: hang on one container, speak another version than
//! before, take a command on and not start it. In real time: a paused clock would run ahead of the
//! socket.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use ballast::node::docker::Docker;
use ballast::node::instance::{Instance, Life, Role};
use ballast::node::runtime::{ExecOutcome, Runtime, RuntimeError};
use serde_json::{Value, json};
use tokio::net::UnixListener;

#[derive(Clone)]
enum Reply {
    Json(Value),
    Refuse(u16, &'static str),
    Silence,
    /// The connection becomes a command's output, which ends at once or never.
    Stream {
        ends: bool,
    },
}

type Script = dyn Fn(&str) -> Reply + Send + Sync;

#[derive(Clone)]
struct Scripted {
    /// The least and the greatest API version, by their minor number.
    versions: Arc<Mutex<(u32, u32)>>,
    script: Arc<Script>,
}

/// An engine of API 1.24 to 1.41 that answers `METHOD /path` by the script, and a client of it.
async fn engine(script: impl Fn(&str) -> Reply + Send + Sync + 'static) -> (Docker, Scripted) {
    let folder = tempfile::tempdir().expect("a folder").keep();
    let socket = folder.join("docker.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let scripted = Scripted { versions: Arc::new(Mutex::new((24, 41))), script: Arc::new(script) };
    let router = Router::new().fallback(answer).with_state(scripted.clone());
    tokio::spawn(async move {
        axum::serve(listener, router).await.expect("it serves");
        drop(std::fs::remove_dir_all(folder));
    });
    (Docker::new(&format!("unix://{}", socket.display())), scripted)
}

async fn answer(State(scripted): State<Scripted>, mut request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let (least, most) = *scripted.versions.lock().expect("no panic inside");
    if path.ends_with("/version") {
        let version = json!({"Version": "1", "Arch": "amd64", "ApiVersion": format!("1.{most}")});
        return json_response(200, &version);
    }
    // As the engine does: a path without a version is of its newest.
    let versioned = path.strip_prefix("/v1.").and_then(|rest| rest.split_once('/'));
    let minor = versioned.map_or(most, |(minor, _)| minor.parse().expect("a version"));
    if !(least..=most).contains(&minor) {
        let message = format!("client version 1.{minor} is not between 1.{least} and 1.{most}");
        return json_response(400, &json!({"message": message}));
    }
    let path = versioned.map_or(&path[1..], |(_, path)| path);
    if path == "_ping" {
        return Response::new(Body::from("OK"));
    }
    match (scripted.script)(&format!("{} /{path}", request.method())) {
        Reply::Json(value) => json_response(200, &value),
        Reply::Refuse(status, message) => json_response(status, &json!({"message": message})),
        Reply::Silence => std::future::pending().await,
        Reply::Stream { ends } => {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let connection = upgraded.await.expect("the client asked for it");
                if !ends {
                    std::future::pending::<()>().await;
                }
                drop(connection);
            });
            let response = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("Connection", "Upgrade")
                .header("Upgrade", "tcp");
            response.body(Body::empty()).expect("a response")
        }
    }
}

fn json_response(status: u16, value: &Value) -> Response {
    let response = Response::builder().status(status).header("Content-Type", "application/json");
    response.body(Body::from(value.to_string())).expect("a response")
}

fn labels(name: &str) -> Value {
    json!({"ballast.dev/installation": "i", "ballast.dev/pod-uid": "u",
        "ballast.dev/pod-namespace": "n", "ballast.dev/pod-name": "p",
        "ballast.dev/container": name, "ballast.dev/kind": "container",
        "ballast.dev/attempt": "0", "ballast.dev/spec-hash": "v1:x"})
}

fn summary(id: &str, state: &str, status: &str) -> Value {
    json!({"Id": id, "Names": [format!("/ballast_{id}")], "Labels": labels(id), "State": state,
        "Status": status, "Created": 1_700_000_000, "ImageID": "sha256:1",
        "HostConfig": {"NetworkMode": "container:sandbox"}})
}

#[tokio::test]
async fn a_list_goes_on_past_containers_that_cannot_be_inspected() {
    let (docker, _) = engine(|call| match call {
        "GET /containers/json" => Reply::Json(json!([
            summary("whole", "running", "Up 3 minutes"),
            summary("stuck", "created", "Created"),
            summary("broken", "exited", "Exited (3) 2 minutes ago"),
            summary("dead", "dead", "Dead"),
            summary("gone", "running", "Up 3 minutes"),
        ])),
        "GET /containers/whole/json" => {
            Reply::Json(json!({"Id": "whole", "Name": "/ballast_whole",
            "Created": "2023-11-14T22:13:20Z", "State": {"Status": "running",
                "StartedAt": "2023-11-14T22:13:21Z", "FinishedAt": "0001-01-01T00:00:00Z"},
            "Config": {"Labels": labels("whole"), "Image": "a:1", "Env": []}, "HostConfig": {}}))
        }
        // Its start hangs, and the engine holds its lock meanwhile.
        "GET /containers/stuck/json" => Reply::Silence,
        "GET /containers/broken/json" | "GET /containers/dead/json" => {
            Reply::Refuse(500, "RWLayer of container is unexpectedly nil")
        }
        "GET /containers/gone/json" => Reply::Refuse(404, "No such container: gone"),
        call => panic!("nobody asked for {call}"),
    })
    .await;
    let listed = docker.list("i", &|_| false).await.expect("the engine answers");
    let ids = |list: &[Instance]| list.iter().map(|i| i.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&listed.instances), ["whole"]);
    assert_eq!(ids(&listed.vague), ["stuck", "broken", "dead"]);
    let [stuck, broken, dead] = &listed.vague[..] else { panic!("{listed:?}") };
    assert_eq!((stuck.life, stuck.identity.role), (Life::Created, Role::Container));
    assert_eq!((&*stuck.name, stuck.joined.as_deref()), ("ballast_stuck", Some("sandbox")));
    assert_eq!((broken.life, broken.exit_code), (Life::Exited, 3));
    assert_eq!((dead.life, dead.exit_code), (Life::Exited, 137), "an unseen end is no success");
    // Nothing of them may look changed from outside.
    assert!(listed.vague.iter().all(|one| one.asked.as_ref() == Some(&one.settings)));
}

#[tokio::test]
async fn an_engine_of_another_version_is_spoken_to_in_its_own() {
    let (docker, scripted) = engine(|call| match call {
        "GET /info" => Reply::Json(json!({"NCPU": 2})),
        "GET /containers/json" => Reply::Json(json!([])),
        call => panic!("nobody asked for {call}"),
    })
    .await;
    assert_eq!(docker.engine().await.expect("it answers").api_version, "1.41");
    for versions in [(44, 52), (24, 40)] {
        *scripted.versions.lock().expect("no panic inside") = versions;
        let engine = docker.engine().await.expect("the upgraded engine answers");
        assert_eq!(engine.api_version, format!("1.{}", versions.1));
        docker.list("i", &|_| false).await.expect("and so for every call");
    }
}

#[tokio::test]
async fn an_engine_that_stalls_says_nothing_about_a_command() {
    let run = async |create: Reply, start: Reply, inspect: Value, limit: Duration| {
        let (docker, _) = engine(move |call| match call {
            "POST /containers/c/exec" => create.clone(),
            "POST /exec/e/start" => start.clone(),
            "GET /exec/e/json" => Reply::Json(inspect.clone()),
            call => panic!("nobody asked for {call}"),
        })
        .await;
        docker.exec("c", &["ready".to_owned()], limit).await
    };
    let made = || Reply::Json(json!({"Id": "e"}));
    let (ends, runs) = (Reply::Stream { ends: true }, Reply::Stream { ends: false });
    // Long for what ends at once, short for what never does.
    let (long, short) = (Duration::from_secs(60), Duration::from_millis(100));
    for code in [0, 3] {
        let ended = json!({"Running": false, "ExitCode": code, "Pid": 42});
        let outcome = run(made(), ends.clone(), ended, long).await;
        assert_eq!(outcome, Ok(ExecOutcome::Ended { exit_code: code, output: String::new() }));
    }
    let running = json!({"Running": true, "ExitCode": null, "Pid": 42});
    let late = run(made(), runs.clone(), running.clone(), short).await;
    assert_eq!(late, Ok(ExecOutcome::Late));

    let waiting = json!({"Running": true, "ExitCode": null, "Pid": 0});
    let (no_exec, no_start, no_process) = tokio::join!(
        run(Reply::Silence, Reply::Silence, running.clone(), short),
        run(made(), Reply::Silence, running.clone(), short),
        run(made(), runs, waiting, short),
    );
    for stalled in [no_exec, no_start, no_process] {
        assert!(matches!(stalled, Err(RuntimeError::Unreachable(_))), "{stalled:?}");
    }
}

#[tokio::test]
async fn usage_is_the_working_set_and_the_time_of_all_cores() {
    let (docker, _) = engine(|call| match call {
        "GET /containers/web/stats" => Reply::Json(json!({"id": "web",
            "read": "2026-11-21T11:40:00.5Z",
            "cpu_stats": {"cpu_usage": {"total_usage": 1_500_000_000}},
            "memory_stats": {"usage": 5_000_000, "stats": {"inactive_file": 1_000_000}}})),
        // What the engine answers of a container that does not run.
        "GET /containers/ended/stats" => Reply::Json(json!({"id": "ended",
            "read": "0001-01-01T00:00:00Z", "cpu_stats": {"cpu_usage": {"total_usage": 0}},
            "memory_stats": {}})),
        _ => Reply::Refuse(404, "No such container"),
    })
    .await;
    let sample = docker.usage("web").await.expect("it runs");
    assert_eq!((sample.cpu_nanos, sample.memory_bytes), (1_500_000_000, 4_000_000));
    assert_eq!(sample.at.to_string(), "2026-11-21T11:40:00.5Z");
    assert!(matches!(docker.usage("ended").await, Err(RuntimeError::Other(_))));
    assert!(matches!(docker.usage("gone").await, Err(RuntimeError::NotFound(_))));
}
