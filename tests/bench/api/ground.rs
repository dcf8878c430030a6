//! The server that is measured and its floor, on one runtime of their own as the daemon has one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use axum::serve::ListenerExt;
use ballast::api::Identity;
use ballast::api::server::{Limits, Surface, bind, serve};
use bytes::Bytes;
use http_body_util::BodyExt;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;

use super::{client::Client, pods};
use crate::cluster::Cluster;

/// Lines that a floor's watcher may be behind.
const BEHIND: usize = 1024;

pub struct Ground {
    /// Server and floor run here; asked from another thread.
    pub runtime: Runtime,
    pub cluster: Cluster,
    pub ours: SocketAddr,
    pub floor: SocketAddr,
    /// What is sent here goes to everybody who watches the floor.
    pub lines: broadcast::Sender<Bytes>,
    _folder: TempDir,
}

impl Ground {
    pub fn prepare(many: usize) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let folder = tempfile::tempdir_in(".").expect("a folder on this disk");
        let (lines, _) = broadcast::channel(BEHIND);
        let (cluster, ours, floor) = runtime.block_on(async {
            let cluster = Cluster::open(folder.path());
            pods::fill(&cluster, many).await;
            let listener = bind(anywhere(), Surface::Everything).await.expect("binds");
            let ours = listener.local_addr().expect("bound");
            let mut limits = Limits::new(Surface::Everything);
            // What the server can do is measured, not what one identity is allowed.
            (limits.share.per_second, limits.share.burst) = (1e9, 1e9);
            let router = cluster.api.router_as(Identity::Admin);
            let tasks = cluster.tasks.clone();
            cluster.tasks.spawn_short("listener", serve(listener, router, limits, tasks));
            let floor = Floor { ours, lines: lines.clone(), known: Arc::default() };
            (cluster, ours, floor.listen().await)
        });
        Self { runtime, cluster, ours, floor, lines, _folder: folder }
    }

    pub fn close(self) {
        let Self { runtime, cluster, .. } = self;
        runtime.block_on(cluster.close());
    }
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

/// The same bytes for the same request: ours are asked once, and given again from memory.
#[derive(Clone)]
struct Floor {
    ours: SocketAddr,
    lines: broadcast::Sender<Bytes>,
    known: Arc<Mutex<HashMap<Asked, Told>>>,
}

type Told = (StatusCode, HeaderMap, Bytes);

/// What an answer depends on. A create's name does not count: it is answered with the first one's.
#[derive(PartialEq, Eq, Hash)]
struct Asked {
    method: Method,
    uri: String,
    forms: [Vec<u8>; 2],
}

impl Floor {
    async fn listen(self) -> SocketAddr {
        let listener = TcpListener::bind(anywhere()).await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let listener = listener.tap_io(|stream| {
            stream.set_nodelay(true).expect("a TCP stream");
        });
        let router = Router::new().fallback(answer).with_state(self);
        tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        address
    }

    fn watch(&self) -> Response {
        let lines = futures::stream::unfold(self.lines.subscribe(), |mut lines| async move {
            Some((lines.recv().await, lines))
        });
        Response::new(Body::from_stream(lines))
    }
}

async fn answer(State(floor): State<Floor>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if parts.uri.query().is_some_and(|query| query.contains("watch=")) {
        return floor.watch();
    }
    let form = |name| parts.headers.get(name).map_or(Vec::new(), |form| form.as_bytes().to_vec());
    let forms = [form(header::ACCEPT), form(header::ACCEPT_ENCODING)];
    let asked = Asked { method: parts.method.clone(), uri: parts.uri.to_string(), forms };
    let body = body.collect().await.expect("a request").to_bytes();
    let known = floor.known.lock().expect("nobody panics").get(&asked).cloned();
    let (code, headers, bytes) = match known {
        Some(known) => known,
        None => {
            let request = Request::from_parts(parts, Body::from(body));
            let whole = Client::connect(floor.ours).await.whole(request).await;
            floor.known.lock().expect("nobody panics").insert(asked, whole.clone());
            whole
        }
    };
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = code;
    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
        if let Some(value) = headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}
