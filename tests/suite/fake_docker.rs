//! A container engine over HTTP on a Unix socket, with everything that the node agent asks of one, and
//! with faults: one call of a kind can be refused, done and refused, done and cut off, late, or never
//! answered, and events can be lost. It keeps what a create asked for as it came and tells it in an
//! inspect, as Docker does.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use ballast::node::docker::Docker;
use ballast::node::pause_image::pause_image;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::broadcast;

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error, and nothing done.
    Refused,
    /// Done, and an error all the same.
    DoneAndRefused,
    /// Done, and the connection ends without an answer.
    Cut,
    /// Done after a while.
    Late,
    /// Nothing done, never answered.
    Hangs,
    /// Done, never answered.
    DoneAndHangs,
}

impl Fault {
    pub const ALL: [Self; 6] = [
        Self::Refused,
        Self::DoneAndRefused,
        Self::Cut,
        Self::Late,
        Self::Hangs,
        Self::DoneAndHangs,
    ];
}

/// The n-th call (from 0) of a kind, and what happens to it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub call: &'static str,
    pub nth: usize,
    pub fault: Fault,
}

/// The kinds of calls that every life makes.
pub const CALLS: [&str; 11] = [
    "version", "info", "list", "inspect", "create", "start", "stop", "remove", "network", "image",
    "events",
];

struct Container {
    id: String,
    name: String,
    body: Value,
    status: &'static str,
    exit_code: i64,
    created: Timestamp,
    started: Option<Timestamp>,
    finished: Option<Timestamp>,
    address: Option<Ipv4Addr>,
}

#[derive(Default)]
struct Inside {
    containers: Vec<Container>,
    networks: BTreeMap<String, Value>,
    calls: BTreeMap<&'static str, usize>,
    made: u32,
    pause_loaded: bool,
    /// Every start, for what ran twice at a time.
    doubles: Vec<String>,
}

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct FakeDocker {
    inside: Arc<Mutex<Inside>>,
    events: broadcast::Sender<Value>,
    plan: Option<Plan>,
    /// Of all events only each n-th is told; 0 tells none, 1 tells all.
    told: usize,
    socket: PathBuf,
}

/// A container as a test compares it: pod, container, kind, image, and whether it runs.
pub type Seen = (String, String, String, String, bool);

impl FakeDocker {
    /// Serves in a folder of its own until the runtime ends.
    pub async fn start(folder: PathBuf, plan: Option<Plan>, told: usize) -> Self {
        let socket = folder.join("docker.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let (events, _) = broadcast::channel(1024);
        let engine = Self { inside: Arc::default(), events, plan, told, socket };
        let router = Router::new().fallback(answer).with_state(engine.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        engine
    }

    pub fn client(&self) -> Docker {
        Docker::new(&format!("unix://{}", self.socket.display()))
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().expect("no panic inside")
    }

    /// Whether the planned call has come.
    pub fn was_hit(&self) -> bool {
        let inside = self.lock();
        self.plan.is_none_or(|plan| inside.calls.get(plan.call).is_some_and(|n| *n > plan.nth))
    }

    /// By pod: what was asked for of all that runs.
    pub fn device_requests(&self) -> BTreeMap<String, Value> {
        let inside = self.lock();
        let running = inside.containers.iter().filter(|one| one.status == "running");
        let asked = running.filter(|one| !one.body["HostConfig"]["DeviceRequests"].is_null());
        let request = |one: &Container| {
            let host = &one.body["HostConfig"];
            (one.label("pod-name").to_owned(), host["DeviceRequests"].clone())
        };
        asked.map(request).collect()
    }

    /// Everything that is there and no spare, without the dead.
    pub fn seen(&self) -> Vec<Seen> {
        let inside = self.lock();
        let running = inside.containers.iter().filter(|one| one.status == "running");
        let mut all: Vec<Seen> = running
            .map(|one| {
                let label = |name: &str| one.label(name).to_owned();
                let pod = match label("pod-name") {
                    // A claimed spare says whose it is by its name.
                    none if none.is_empty() => one.name.split('_').nth(2).unwrap_or("").to_owned(),
                    pod => pod,
                };
                let image = one.body["Image"].as_str().unwrap_or_default().to_owned();
                let kind =
                    if one.name.contains("_POD_") { "sandbox".into() } else { label("kind") };
                (pod, label("container"), kind, image, true)
            })
            .filter(|(_, _, kind, _, _)| kind != "spare")
            .collect();
        all.sort();
        all
    }

    pub fn doubles(&self) -> Vec<String> {
        self.lock().doubles.clone()
    }

    fn tell(&self, one: &Container, action: &str, more: &[(&str, &str)]) {
        let mut attributes = one.body["Labels"].clone();
        attributes["name"] = json!(one.name);
        for (name, value) in more {
            attributes[*name] = json!(value);
        }
        let nanos = Timestamp::now().as_nanosecond();
        let event = json!({"Type": "container", "Action": action, "timeNano": nanos as i64,
            "Actor": {"ID": one.id, "Attributes": attributes}});
        // Nobody listens: it is lost, as with Docker.
        drop(self.events.send(event));
    }
}

impl Container {
    fn label(&self, name: &str) -> &str {
        self.body["Labels"][format!("ballast.dev/{name}")].as_str().unwrap_or_default()
    }

    fn networks(&self) -> Value {
        match (self.body["HostConfig"]["NetworkMode"].as_str(), self.address) {
            (Some(mode), Some(ip)) => json!({mode: {"IPAddress": ip.to_string()}}),
            (Some(mode), None) if !mode.contains(':') => json!({mode: {"IPAddress": ""}}),
            _ => json!({}),
        }
    }

    fn inspect(&self) -> Value {
        let time = |at: &Option<Timestamp>| {
            at.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.to_string())
        };
        let mut config = self.body.clone();
        let host = config.as_object_mut().and_then(|all| all.remove("HostConfig"));
        json!({
            "Id": self.id, "Name": format!("/{}", self.name), "Created": self.created.to_string(),
            "Image": "sha256:1", "Config": config, "HostConfig": host,
            "State": {"Status": self.status, "ExitCode": self.exit_code, "Pid": 1,
                "StartedAt": time(&self.started), "FinishedAt": time(&self.finished)},
            "NetworkSettings": {"Networks": self.networks()},
        })
    }

    fn summary(&self) -> Value {
        json!({"Id": self.id, "Names": [format!("/{}", self.name)], "Labels": self.body["Labels"],
            "State": self.status, "Status": format!("Exited ({})", self.exit_code),
            "Created": self.created.as_second(), "ImageID": "sha256:1",
            "HostConfig": {"NetworkMode": self.body["HostConfig"]["NetworkMode"]},
            "NetworkSettings": {"Networks": self.networks()}})
    }
}

fn reply(status: u16, value: &Value) -> Response {
    let response = Response::builder().status(status).header("Content-Type", "application/json");
    response.body(Body::from(value.to_string())).expect("a response")
}

fn none() -> Response {
    Response::builder().status(204).body(Body::empty()).expect("a response")
}

fn no_such(id: &str) -> Response {
    reply(404, &json!({"message": format!("No such container: {id}")}))
}

async fn answer(State(engine): State<FakeDocker>, request: Request) -> Response {
    let method = request.method().as_str().to_owned();
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let path = match path.strip_prefix("/v1.").and_then(|rest| rest.split_once('/')) {
        Some((_, path)) => path.to_owned(),
        None => path[1..].to_owned(),
    };
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    let call = kind(&method, &parts);
    let nth = {
        let mut inside = engine.lock();
        let count = inside.calls.entry(call).or_default();
        *count += 1;
        *count - 1
    };
    let fault = engine.plan.filter(|plan| (plan.call, plan.nth) == (call, nth)).map(|p| p.fault);
    let failed = || reply(500, &json!({"message": "injected"}));
    match fault {
        Some(Fault::Refused) => return failed(),
        Some(Fault::Hangs) => std::future::pending().await,
        Some(Fault::Late) => tokio::time::sleep(Duration::from_millis(300)).await,
        _ => {}
    }
    let done = perform(&engine, &method, &parts, &query, &body);
    match fault {
        Some(Fault::DoneAndRefused) => failed(),
        Some(Fault::DoneAndHangs) => std::future::pending().await,
        // The server drops the connection of a handler that panics: no answer, and it is not ours.
        Some(Fault::Cut) => Response::builder()
            .header("Content-Length", "100")
            .body(Body::from_stream(futures::stream::iter([Err::<Vec<u8>, _>(
                std::io::Error::other("cut"),
            )])))
            .expect("a response"),
        _ => done,
    }
}

fn kind(method: &str, parts: &[&str]) -> &'static str {
    match (method, parts) {
        (_, ["_ping"]) => "ping",
        (_, ["version"]) => "version",
        (_, ["info"]) => "info",
        (_, ["events"]) => "events",
        (_, ["networks", ..]) => "network",
        (_, ["images", ..]) => "image",
        ("GET", ["containers", "json"]) => "list",
        ("GET", ["containers", _, "json"]) => "inspect",
        (_, ["containers", "create"]) => "create",
        (_, ["containers", _, "start"]) => "start",
        (_, ["containers", _, "stop"]) => "stop",
        (_, ["containers", _, "rename"]) => "rename",
        ("DELETE", ["containers", _]) => "remove",
        _ => "other",
    }
}

fn perform(
    engine: &FakeDocker,
    method: &str,
    parts: &[&str],
    query: &str,
    body: &[u8],
) -> Response {
    match (method, parts) {
        (_, ["_ping"]) => Response::new(Body::from("OK")),
        (_, ["version"]) => {
            reply(200, &json!({"Version": "1", "Arch": "amd64", "ApiVersion": "1.41"}))
        }
        (_, ["info"]) => reply(200, &json!({"NCPU": 2, "MemTotal": 8_i64 << 30})),
        (_, ["events"]) => events(engine),
        ("GET", ["networks", name]) => match engine.lock().networks.get(*name) {
            Some(network) => reply(200, network),
            None => reply(404, &json!({"message": "no such network"})),
        },
        ("POST", ["networks", "create"]) => {
            let mut network: Value = serde_json::from_slice(body).expect("a network");
            let name = network["Name"].as_str().expect("its name").to_owned();
            network["Id"] = json!(name);
            engine.lock().networks.insert(name.clone(), network);
            reply(201, &json!({"Id": name, "Warning": ""}))
        }
        ("POST", ["images", "load"]) => {
            engine.lock().pause_loaded = true;
            Response::new(Body::empty())
        }
        ("GET", ["images", name @ .., "json"]) => image(engine, &name.join("/")),
        ("GET", ["containers", "json"]) => {
            let all: Vec<Value> = engine.lock().containers.iter().map(Container::summary).collect();
            reply(200, &json!(all))
        }
        ("POST", ["containers", "create"]) => create(engine, query, body),
        (_, ["containers", id, ..]) => change(engine, method, id, parts.get(2).copied(), query),
        _ => panic!("nobody asked for {method} {parts:?}"),
    }
}

fn image(engine: &FakeDocker, name: &str) -> Response {
    let pause = pause_image();
    let layers = match name {
        _ if name.starts_with("app:") => vec!["sha256:app".to_owned()],
        _ if engine.lock().pause_loaded => vec![pause.layer.clone()],
        _ => return reply(404, &json!({"message": "no such image"})),
    };
    reply(
        200,
        &json!({"Id": format!("sha256:{name}"), "RootFS": {"Type": "layers", "Layers": layers}}),
    )
}

fn create(engine: &FakeDocker, query: &str, body: &[u8]) -> Response {
    let name = query.split('&').find_map(|pair| pair.strip_prefix("name=")).expect("a name");
    let mut inside = engine.lock();
    if inside.containers.iter().any(|one| one.name == name) {
        return reply(409, &json!({"message": format!("the name {name} is in use")}));
    }
    inside.made += 1;
    let id = format!("{:064x}", inside.made);
    inside.containers.push(Container {
        id: id.clone(),
        name: name.to_owned(),
        body: serde_json::from_slice(body).expect("a container"),
        status: "created",
        exit_code: 0,
        created: Timestamp::now(),
        started: None,
        finished: None,
        address: None,
    });
    reply(201, &json!({"Id": id, "Warnings": []}))
}

fn change(
    engine: &FakeDocker,
    method: &str,
    id: &str,
    verb: Option<&str>,
    query: &str,
) -> Response {
    let mut inside = engine.lock();
    let inside = &mut *inside;
    let Some(at) = inside.containers.iter().position(|one| one.id == id || one.name == id) else {
        return no_such(id);
    };
    match (method, verb) {
        ("GET", Some("json")) => reply(200, &inside.containers[at].inspect()),
        ("POST", Some("start")) => start(engine, inside, at),
        ("POST", Some("stop")) => {
            end(engine, &mut inside.containers[at]);
            none()
        }
        ("POST", Some("rename")) => {
            let name = query.split('&').find_map(|pair| pair.strip_prefix("name=")).expect("one");
            if inside.containers.iter().any(|one| one.name == name) {
                return reply(409, &json!({"message": "the name is in use"}));
            }
            inside.containers[at].name = name.to_owned();
            engine.tell(&inside.containers[at], "rename", &[]);
            none()
        }
        ("DELETE", None) => {
            end(engine, &mut inside.containers[at]);
            let gone = inside.containers.remove(at);
            engine.tell(&gone, "destroy", &[]);
            none()
        }
        _ => panic!("nobody asked for {method} {verb:?}"),
    }
}

fn start(engine: &FakeDocker, inside: &mut Inside, at: usize) -> Response {
    if inside.containers[at].status == "running" {
        return Response::builder().status(304).body(Body::empty()).expect("a response");
    }
    let host = inside.containers[at].body["HostConfig"].clone();
    for asked in host["DeviceRequests"].as_array().into_iter().flatten() {
        if asked["Driver"] != "nvidia" {
            // As an engine says it that has not the runtime.
            let words = format!(
                "could not select device driver {} with capabilities: [[{}]]",
                asked["Driver"],
                asked["Capabilities"][0][0].as_str().unwrap_or_default()
            );
            return reply(500, &json!({"message": words}));
        }
    }
    let mode = host["NetworkMode"].clone();
    let joined = mode.as_str().and_then(|mode| mode.strip_prefix("container:")).map(str::to_owned);
    if let Some(joined) = &joined {
        let runs = |one: &Container| one.id == *joined && one.status == "running";
        if !inside.containers.iter().any(runs) {
            return reply(
                409,
                &json!({"message": "cannot join network of a non running container"}),
            );
        }
    }
    let of = |one: &Container| (one.label("pod-uid").to_owned(), one.label("container").to_owned());
    let own = of(&inside.containers[at]);
    if !own.0.is_empty()
        && inside.containers.iter().any(|one| one.status == "running" && of(one) == own)
    {
        inside.doubles.push(inside.containers[at].name.clone());
    }
    inside.made += 1;
    let last = u8::try_from(inside.made % 250).expect("a byte") + 2;
    let one = &mut inside.containers[at];
    one.address = joined.is_none().then(|| Ipv4Addr::new(10, 42, 0, last));
    one.status = "running";
    one.started = Some(Timestamp::now());
    engine.tell(one, "start", &[]);
    none()
}

fn end(engine: &FakeDocker, one: &mut Container) {
    if one.status == "running" {
        one.status = "exited";
        one.finished = Some(Timestamp::now());
        one.address = None;
        engine.tell(one, "die", &[("exitCode", "0")]);
    }
}

/// One event a line, as they come.
fn events(engine: &FakeDocker) -> Response {
    let receiver = engine.events.subscribe();
    let told = engine.told;
    let lines =
        futures::stream::unfold((receiver, 0_usize), move |(mut receiver, seen)| async move {
            let mut seen = seen;
            loop {
                let event = receiver.recv().await.ok()?;
                seen += 1;
                if told > 0 && seen.is_multiple_of(told) {
                    let line = format!("{event}\n").into_bytes();
                    return Some((Ok::<_, std::io::Error>(line), (receiver, seen)));
                }
            }
        });
    let response = Response::builder().header("Content-Type", "application/json");
    response.body(Body::from_stream(lines)).expect("a response")
}
