//! `kubectl port-forward` with every kubectl of the machine: over TLS, through the served listener, to
//! a pod that the test plays.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ballast::access_commands::revoke;
use ballast::cli::GrantedRole;
use ballast::object::ports::BoxFuture;
use ballast::object::streams::{AttachQuery, ExecQuery, PortConnection, Process, Streams};
use ballast::object::{ApiError, Cluster, Key};
use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::access::Secured;
use crate::fixture::{PATIENCE, object, pod, until};
use crate::kubectl_world::{Kubectl, all, different};

/// Answers what it hears.
const ECHO: u16 = 8080;
/// Says more and more.
const FLOOD: u16 = 9000;
const REFUSED: &str = "IPv4: dial tcp4 127.0.0.1:81: connect: connection refused";
const PART: usize = 16 * 1024;

/// The pod's network: two ports, and nobody at any other.
struct Ports {
    /// Bytes that were taken from [`FLOOD`].
    flooded: Arc<AtomicUsize>,
    /// Held by every open connection.
    open: Arc<()>,
}

impl Streams for Ports {
    fn exec(&self, _: Key, _: ExecQuery) -> BoxFuture<Result<Process<ApiError>, ApiError>> {
        panic!("only ports are asked for")
    }

    fn attach(&self, _: Key, _: AttachQuery) -> BoxFuture<Result<Process<ApiError>, ApiError>> {
        panic!("only ports are asked for")
    }

    fn connect(
        &self,
        pod: Key,
        port: u16,
    ) -> BoxFuture<Result<PortConnection<ApiError>, ApiError>> {
        assert_eq!(pod, Key::new("default", "web"));
        let (flooded, held) = (self.flooded.clone(), self.open.clone());
        Box::pin(async move {
            let (heard, said) = mpsc::channel::<Bytes>(1);
            let gone = |_| ApiError::internal("connection reset by peer");
            let input = Box::pin(heard.sink_map_err(gone));
            let output = match port {
                ECHO => said
                    .map(move |bytes| {
                        let _held = &held;
                        Ok(bytes)
                    })
                    .boxed(),
                FLOOD => futures::stream::unfold((said, flooded), |(said, flooded)| async move {
                    flooded.fetch_add(PART, Ordering::Relaxed);
                    Some((Ok(Bytes::from_static(&[7; PART])), (said, flooded)))
                })
                .boxed(),
                _ => return Err(ApiError::internal(REFUSED)),
            };
            Ok(PortConnection { input, output })
        })
    }
}

struct World {
    served: Secured,
    flooded: Arc<AtomicUsize>,
    open: Arc<()>,
    home: PathBuf,
}

impl World {
    async fn new() -> Self {
        let served = Secured::start(true).await;
        let (flooded, open) = (Arc::<AtomicUsize>::default(), Arc::new(()));
        let ports = Ports { flooded: flooded.clone(), open: open.clone() };
        served.fixture.api.set_streams(Arc::new(ports));
        let admin = served.fixture.admin();
        let mut wanted = pod("web");
        wanted.spec.as_mut().expect("a spec").node_name = Some("n1".to_owned());
        let mut made = Pod::clone(&*admin.create(&wanted).await.expect("a pod"));
        made.status.get_or_insert_default().phase = Some("Running".to_owned());
        admin.update_status(&made).await.expect("it runs");
        let service: Service =
            object(json!({"metadata": {"name": "front", "namespace": "default"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": ECHO}]}}));
        admin.create(&service).await.expect("a Service");
        let home = served.fixture.folder().join("home");
        std::fs::create_dir(&home).expect("a folder for kubectl's cache");
        Self { served, flooded, open, home }
    }

    /// A kubectl with a fresh credential of its own.
    fn kubectl(&self, kubectl: &Kubectl, role: GrantedRole, name: &str, line: &str) -> Command {
        let file = self.home.join(name);
        let config = self.served.kubeconfig(role, name);
        let text = serde_json::to_string(&config).expect("serialises");
        std::fs::write(&file, text).expect("written");
        let mut command = Command::new(&kubectl.program);
        command.env("HOME", &self.home).env_remove("KUBERNETES_SERVICE_HOST");
        command.arg("--kubeconfig").arg(file).arg("--cache-dir").arg(self.home.join("cache"));
        command.args(line.split(' ')).kill_on_drop(true).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn forward(&self, kubectl: &Kubectl, name: &str, line: &str) -> Forward {
        let line = format!("port-forward --address 127.0.0.1 {line}");
        let mut command = self.kubectl(kubectl, GrantedRole::Operator, name, &line);
        let mut child = command.spawn().expect("kubectl starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let first = timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("text");
        let Some(first) = first else {
            let output = child.wait_with_output().await.expect("ended");
            panic!("1.{}: {}", kubectl.minor, String::from_utf8_lossy(&output.stderr));
        };
        let port = first.split(' ').nth(2).and_then(|from| from.rsplit(':').next());
        let port = port.and_then(|port| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("1.{}: {first:?}", kubectl.minor));
        // Read on, or kubectl would have no reader when it tells of connections.
        self.served.fixture.tasks.spawn_short("kubectl's words", async move {
            while let Ok(Some(_)) = lines.next_line().await {}
        });
        Forward { child, port }
    }
}

/// A kubectl that forwards from this port.
struct Forward {
    child: Child,
    port: u16,
}

impl Forward {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.expect("kubectl listens")
    }

    /// Its own end, and what it said.
    async fn ended(self) -> String {
        let output = timeout(PATIENCE, self.child.wait_with_output()).await.expect("it ends");
        said(&output.expect("ended"))
    }
}

fn said(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Different bytes for each connection, and never the same 64 KiB twice.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed * 2 + 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sends so much, ends its half and gets it all back.
async fn echoed(stream: TcpStream, seed: u64, length: usize) {
    let sent = pattern(seed, length);
    let (mut reads, mut writes) = stream.into_split();
    let writing = async {
        writes.write_all(&sent).await.expect("written");
        writes.shutdown().await.expect("half a close");
    };
    let mut back = Vec::new();
    let (read, ()) = tokio::join!(reads.read_to_end(&mut back), writing);
    read.expect("read");
    assert_eq!(back.len(), length, "connection {seed}");
    assert!(back == sent, "connection {seed}: other bytes than were sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kubectl_forwards_many_connections_byte_by_byte() {
    let world = World::new().await;
    let thorough: Vec<u32> = different().iter().map(|kubectl| kubectl.minor).collect();
    for kubectl in all() {
        let forward =
            world.forward(kubectl, &format!("ops-{}", kubectl.minor), "pod/web :8080").await;
        let large = if thorough.contains(&kubectl.minor) { 20_000_000 } else { 1_000_000 };
        let connections = (0..8_u64).map(|seed| {
            let length = if seed == 0 { large } else { 10_000 * seed as usize };
            let forward = &forward;
            async move { echoed(forward.connect().await, seed, length).await }
        });
        let all = futures::future::join_all(connections);
        assert!(timeout(PATIENCE, all).await.is_ok(), "1.{}: never echoed", kubectl.minor);
        // One after the other, too: numbers go on.
        echoed(forward.connect().await, 9, 5).await;
    }
    for kubectl in different() {
        let name = format!("front-{}", kubectl.minor);
        let forward = world.forward(kubectl, &name, "service/front :80").await;
        echoed(forward.connect().await, 1, 100).await;
    }
    world.served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_is_told_and_what_is_used_is_written_down() {
    let world = World::new().await;
    for kubectl in different() {
        let (viewer, line) = (format!("eve-{}", kubectl.minor), "port-forward pod/web :8080");
        let mut asked = world.kubectl(kubectl, GrantedRole::Viewer, &viewer, line);
        let words = said(&asked.output().await.expect("kubectl starts"));
        let wanted = format!(
            "pods \"web\" is forbidden: User \"{viewer}\" cannot create resource \"pods/portforward\""
        );
        assert!(words.contains(&wanted), "1.{}: {words}", kubectl.minor);

        let ops = format!("ops-{}", kubectl.minor);
        let forward = world.forward(kubectl, &ops, "pod/web :81").await;
        let mut refused = forward.connect().await;
        assert!(matches!(refused.read(&mut [0]).await, Ok(0) | Err(_)), "closed");
        let words = forward.ended().await;
        assert!(words.contains("error forwarding port 81 to pod web, uid "), "{words}");
        assert!(words.contains(REFUSED), "{words}");
        let message = format!("{ops} forwards ports, from 127.0.0.1");
        until::<Event>(&world.served.fixture.admin(), "an Event", |events| {
            events.iter().any(|event| {
                event.reason.as_deref() == Some("PortForward")
                    && event.message.as_deref() == Some(&*message)
                    && event.involved_object.name.as_deref() == Some("web")
            })
        })
        .await;
    }
    let lines = world.served.audited(2 * different().len()).await;
    let used: Vec<_> = lines
        .iter()
        .filter(|line| line["code"] == 101)
        .map(|line| (line["role"].as_str(), line["subresource"].as_str(), line["name"].as_str()))
        .collect();
    let expected = (Some("operator"), Some("portforward"), Some("web"));
    assert_eq!(used, vec![expected; different().len()], "{lines:?}");
    assert!(lines.iter().any(|line| line["role"] == "viewer" && line["code"] == 403), "{lines:?}");
    world.served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_credential_ends_what_it_forwarded() {
    let world = World::new().await;
    for kubectl in different() {
        let name = format!("ops-{}", kubectl.minor);
        let forward = world.forward(kubectl, &name, "pod/web :8080").await;
        let mut open = forward.connect().await;
        open.write_all(b"hello").await.expect("written");
        open.read_exact(&mut [0; 5]).await.expect("echoed");
        revoke(world.served.fixture.folder(), &name).expect("revoked");
        let words = forward.ended().await;
        assert!(words.contains("lost connection to pod"), "1.{}: {words}", kubectl.minor);
    }
    world.served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_its_kubectl_and_with_the_daemon() {
    let world = World::new().await;
    // The test's own, and the pod's.
    let nobody = Arc::strong_count(&world.open);
    for kubectl in different() {
        let name = format!("ops-{}", kubectl.minor);
        let mut forward = world.forward(kubectl, &name, "pod/web :8080").await;
        let mut open = forward.connect().await;
        open.write_all(b"hello").await.expect("written");
        open.read_exact(&mut [0; 5]).await.expect("echoed");
        assert_eq!(Arc::strong_count(&world.open), nobody + 1);
        forward.child.kill().await.expect("killed");
        let closed = async {
            while Arc::strong_count(&world.open) > nobody {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, closed).await.expect("the pod sees the end");
    }
    let mut left = Vec::new();
    for kubectl in different() {
        let name = format!("last-{}", kubectl.minor);
        left.push(world.forward(kubectl, &name, "pod/web :8080").await);
    }
    world.served.fixture.tasks.stop().cancel();
    for forward in left {
        let words = forward.ended().await;
        assert!(words.contains("lost connection to pod"), "{words}");
    }
    world.served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_is_sent_no_more_until_he_does() {
    let world = World::new().await;
    for kubectl in different() {
        world.flooded.store(0, Ordering::Relaxed);
        let name = format!("ops-{}", kubectl.minor);
        let forward = world.forward(kubectl, &name, "pod/web :9000").await;
        let mut slow = forward.connect().await;
        let taken = timeout(PATIENCE, stalled(&world.flooded)).await.expect("it stops");
        // kubectl keeps 250 frames, 4 MB; kernels keep some more on three connections.
        assert!(taken < 40_000_000, "1.{}: {taken} bytes for nobody", kubectl.minor);
        let mut left = vec![0; 1 << 20];
        for _ in 0..60 {
            slow.read_exact(&mut left).await.expect("it goes on");
            assert!(left.iter().all(|byte| *byte == 7));
        }
    }
    world.served.fixture.end().await;
}

/// What was taken, when no more is for a second.
async fn stalled(taken: &AtomicUsize) -> usize {
    let (mut seen, mut quiet) = (0, 0);
    while seen == 0 || quiet < 10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = taken.load(Ordering::Relaxed);
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
    }
    seen
}
