//! What the tests of streams stand on: a listener with TLS, a node agent over the engine in memory with
//! one running pod, and a WebSocket client that others wrote.

use std::sync::Arc;

use ballast::api::Identity;
use ballast::api::gate::tls::Certificate;
use ballast::api::server::{Limits, Surface};
use ballast::cli::GrantedRole;
use ballast::clock::Clock;
use ballast::node::instance::{Instance, Role};
use ballast::object::{Cluster, condition};
use ballast::task::{AllDone, Tasks};
use futures::{SinkExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::handshake::client::{Response, generate_key};
use tokio_tungstenite::tungstenite::http::Request;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::access::Secured;
use crate::fixture::{PATIENCE, object, until};
use crate::node::{NoNetwork, node_options};
use crate::sim::fake_runtime::FakeRuntime;

pub const V5: &str = "v5.channel.k8s.io";
pub const V4: &str = "v4.channel.k8s.io";
/// The running pod: containers `web`, which is attached to, and `side`.
pub const POD: &str = "/api/v1/namespaces/default/pods/p";

pub struct StreamWorld {
    pub served: Secured,
    pub engine: FakeRuntime,
    agent: (Tasks, AllDone),
}

impl StreamWorld {
    pub async fn new() -> Self {
        Self::limited(Limits::new(Surface::Secured)).await
    }

    pub async fn limited(limits: Limits) -> Self {
        let own = Certificate::Own { names: vec!["localhost".into(), "127.0.0.1".into()] };
        let served = Secured::with(true, limits, own).await;
        let fixture = &served.fixture;
        fixture.namespaces(&["default", "kube-node-lease"]).await;
        let engine = FakeRuntime::new(Clock::wall()).with_image("app:v1");
        let options = node_options(fixture.folder());
        let (tasks, done) = Tasks::new();
        let agent = fixture.local(Identity::NodeAgent { node: "n1".to_owned() });
        let (network, clock) = (Arc::new(NoNetwork), Clock::wall());
        let handle = ballast::node::run(agent, engine.clone(), options, network, clock, &tasks);
        fixture.api.set_streams(handle);
        let pod: Pod = object(json!({"metadata": {"name": "p", "namespace": "default"},
            "spec": {"nodeName": "n1", "restartPolicy": "Never", "containers": [
                {"name": "web", "image": "app:v1", "stdin": true, "tty": true},
                {"name": "side", "image": "app:v1"}]}}));
        let admin = fixture.admin();
        admin.create(&pod).await.expect("a pod");
        let unbound: Pod = object(json!({"metadata": {"name": "waits", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "app:v1"}]}}));
        admin.create(&unbound).await.expect("a pod");
        until::<Pod>(&admin, "p is ready", |pods| pods.iter().any(|pod| is_ready(pod))).await;
        drop(admin);
        Self { served, engine, agent: (tasks, done) }
    }

    pub fn operator(&self, name: &str) -> String {
        self.served.token(GrantedRole::Operator, name)
    }

    /// The running instance of a container.
    pub fn instance(&self, container: &str) -> Instance {
        let all = self.engine.containers().into_iter();
        let mut ours =
            all.filter(|i| i.identity.role == Role::Container && i.identity.container == container);
        ours.next().expect("it was made")
    }

    /// Asks for a stream; the answer with its code and message where it is none.
    pub async fn open(
        &self,
        token: &str,
        path: &str,
        protocol: &str,
    ) -> Result<Stream, (u16, String)> {
        let stream = self.served.connect().await.expect("connects");
        let request = Request::get(format!("wss://localhost{path}"))
            .header("Host", "localhost")
            .header("Authorization", format!("Bearer {token}"))
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", generate_key())
            .header("Sec-WebSocket-Protocol", protocol)
            .body(())
            .expect("a request");
        match client_async(request, stream).await {
            Ok((socket, answer)) => Ok(Stream { socket, answer }),
            Err(Error::Http(answer)) => {
                let body = answer.body().clone().unwrap_or_default();
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let message = body["message"].as_str().unwrap_or_default().to_owned();
                Err((answer.status().as_u16(), message))
            }
            Err(other) => panic!("{path}: {other}"),
        }
    }

    /// Runs a command in the container `side` to its end.
    pub async fn ran(&self, token: &str, command: &[&str], protocol: &str) -> Heard {
        let path = exec(command, "stdout=true&stderr=true");
        self.open(token, &path, protocol).await.expect("a stream").hear_all().await
    }

    pub async fn end(self) {
        let (tasks, done) = self.agent;
        assert_eq!(tasks.died(), 0);
        tasks.stop().cancel();
        drop(tasks);
        done.wait().await;
        self.served.fixture.end().await;
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    condition::is_true(conditions.unwrap_or_default(), "Ready")
}

/// The path of an exec in the container `side`.
pub fn exec(command: &[&str], flags: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric();
    let encoded = |word: &str| -> String {
        let of = |c: char| if plain(c) { c.to_string() } else { format!("%{:02X}", c as u32) };
        word.chars().map(of).collect()
    };
    let words: Vec<String> =
        command.iter().map(|word| format!("command={}", encoded(word))).collect();
    format!("{POD}/exec?{}&container=side&{flags}", words.join("&"))
}

pub struct Stream {
    pub socket: WebSocketStream<TlsStream<TcpStream>>,
    pub answer: Response,
}

/// All that a stream said.
#[derive(Debug, Default)]
pub struct Heard {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub status: Value,
    pub close: Option<CloseFrame>,
}

impl Heard {
    pub fn text(&self) -> (String, String) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&self.stdout), text(&self.stderr))
    }
}

impl Stream {
    pub async fn say(&mut self, channel: u8, bytes: &[u8]) {
        let message = [&[channel], bytes].concat();
        self.socket.send(Message::Binary(message.into())).await.expect("sent");
    }

    /// The next message of a channel; pings are answered on the way.
    pub async fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Binary(message)) => return Some((message[0], message[1..].to_vec())),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Reads until something was said on standard output.
    pub async fn hear_stdout(&mut self, wanted: &str) {
        let mut said = Vec::new();
        let read = async {
            while !String::from_utf8_lossy(&said).contains(wanted) {
                let (channel, mut bytes) = self.hear().await.expect("it goes on");
                assert!(channel == 1 || bytes.is_empty(), "{channel}: {bytes:?}");
                said.append(&mut bytes);
            }
        };
        let read = tokio::time::timeout(PATIENCE, read).await;
        assert!(read.is_ok(), "never {wanted:?}");
    }

    /// Reads to the end.
    pub async fn hear_all(self) -> Heard {
        let (mut heard, mut socket) = (Heard::default(), self.socket);
        let read = async {
            while let Some(message) = socket.next().await {
                match message {
                    Ok(Message::Binary(message)) => match message[0] {
                        1 => heard.stdout.extend_from_slice(&message[1..]),
                        2 => heard.stderr.extend_from_slice(&message[1..]),
                        3 if message.len() > 1 => {
                            assert!(heard.status.is_null(), "one status");
                            heard.status = serde_json::from_slice(&message[1..]).expect("JSON");
                        }
                        3 => {}
                        other => panic!("channel {other}"),
                    },
                    Ok(Message::Close(frame)) => heard.close = frame,
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("it ends");
        heard
    }
}
