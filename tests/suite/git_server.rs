//! A Git server over HTTPS on loopback: certificates made for the test, the installed git's own
//! `http-backend` behind them, and a record of what every request brought. It can be told to behave
//! badly.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Signs certificates of servers.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// What a server shows, and its key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    pub pem: String,
    pub key_pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// For `127.0.0.1` and `localhost`.
    pub fn sign(&self) -> Identity {
        self.sign_for(&["127.0.0.1", "localhost"], 2099)
    }

    pub fn sign_for(&self, names: &[&str], until: i32) -> Identity {
        let (params, key) = server_params(names, until);
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Identity::of(certificate, &key)
    }
}

impl Identity {
    /// Its own authority, as `gitea cert --ca` makes one.
    pub fn self_signed(names: &[&str]) -> Self {
        let (mut params, key) = server_params(names, 2099);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signed");
        Self::of(certificate, &key)
    }

    fn of(certificate: rcgen::Certificate, key: &KeyPair) -> Self {
        let der = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let (pem, key_pem) = (certificate.pem(), key.serialize_pem());
        Self { pem, key_pem, certificate: certificate.der().clone(), key: der }
    }
}

fn server_params(names: &[&str], until: i32) -> (CertificateParams, KeyPair) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    (params, KeyPair::generate().expect("a key"))
}

/// How the server behaves.
#[derive(Clone, Debug)]
pub enum Conduct {
    Serve,
    /// 401 to who does not send this user and token.
    Ask {
        user: &'static str,
        token: &'static str,
    },
    /// The list of references is elsewhere: an address, to which the path is added.
    Redirect {
        to: String,
    },
    /// The repository moved on this server.
    Moved {
        from: &'static str,
        to: &'static str,
    },
    Answer {
        status: u16,
        content_type: &'static str,
        body: &'static str,
    },
    /// Accepts, and never says a word.
    Mute,
    /// Reads the request, and never answers.
    NoAnswer,
    /// A head, and nothing after it; of the list or of the pack.
    NoBody {
        of: &'static str,
    },
    /// One byte at a time, for ever.
    Trickle,
    /// References without an end.
    Endless,
    /// Ends the connection in the middle of the pack.
    CutPack,
    /// Speaks something that is not TLS.
    Plain,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub authorization: Option<String>,
}

/// Serves until it is dropped.
pub struct GitServer {
    pub address: SocketAddr,
    state: Arc<State>,
    /// Dropped in the background: a connection that is mute would hold it up.
    runtime: Option<tokio::runtime::Runtime>,
}

struct State {
    /// The folder above the repositories.
    root: PathBuf,
    conduct: Mutex<Conduct>,
    seen: Mutex<Vec<Seen>>,
    connections: std::sync::atomic::AtomicUsize,
}

impl GitServer {
    /// Serves the repositories in `root`.
    pub fn start(root: &Path, identity: &Identity, conduct: Conduct) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())
            .expect("a certificate");
        // The test may run inside a runtime of its own: nothing here waits.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("set");
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).expect("a listener")
        };
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            root: root.to_owned(),
            conduct: Mutex::new(conduct),
            seen: Mutex::default(),
            connections: Default::default(),
        });
        let (acceptor, serving) = (TlsAcceptor::from(Arc::new(tls)), state.clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::spawn(connection(stream, acceptor.clone(), serving.clone()));
            }
        });
        Self { address, state, runtime: Some(runtime) }
    }

    pub fn behave(&self, conduct: Conduct) {
        *self.state.conduct.lock().unwrap_or_else(PoisonError::into_inner) = conduct;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections there have been, whether or not one said anything.
    pub fn connections(&self) -> usize {
        self.state.connections.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// `https://127.0.0.1:port/path`
    pub fn url(&self, path: &str) -> String {
        format!("https://{}/{path}", self.address)
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of `first`, and then nothing and no end.
fn unfinished(first: Vec<u8>) -> Body {
    let first = futures::stream::once(async move { Ok(Frame::data(Bytes::from(first))) });
    StreamBody::new(first.chain(futures::stream::pending())).boxed_unsync()
}

async fn connection(mut stream: TcpStream, acceptor: TlsAcceptor, state: Arc<State>) {
    let conduct = state.conduct.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match conduct {
        Conduct::Mute => std::future::pending().await,
        Conduct::Plain => {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            return;
        }
        _ => {}
    }
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let answer = service_fn(move |request| answer(request, state.clone(), conduct.clone()));
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

const LISTED: &str = "application/x-git-upload-pack-advertisement";

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
    conduct: Conduct,
) -> Result<Response<Body>, std::io::Error> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let text = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let seen = Seen {
        method: request.method().to_string(),
        path: path.clone(),
        authorization: text("authorization"),
    };
    state.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    let listing = path.ends_with("/info/refs");
    let bare = |status: u16| Response::builder().status(status);
    let with_body = |status: u16, kind: &str, body: Body| {
        Ok(bare(status).header("content-type", kind).body(body).expect("a response"))
    };
    match &conduct {
        Conduct::Ask { user, token } => {
            use base64::Engine as _;
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{token}"));
            if text("authorization") != Some(format!("Basic {pair}")) {
                let asked = bare(401).header("www-authenticate", "Basic realm=\"git\"");
                return Ok(asked.body(full("denied")).expect("a response"));
            }
        }
        Conduct::Redirect { to } => {
            let to = format!("{to}{path}?{query}");
            return Ok(bare(302).header("location", to).body(full("")).expect("a response"));
        }
        Conduct::Moved { from, to } if path.starts_with(from) => {
            let to = format!("{}?{query}", path.replacen(from, to, 1));
            return Ok(bare(301).header("location", to).body(full("")).expect("a response"));
        }
        Conduct::Answer { status, content_type, body } => {
            return with_body(*status, content_type, full(*body));
        }
        Conduct::NoAnswer => std::future::pending().await,
        Conduct::NoBody { of: "list" } if listing => {
            return with_body(200, LISTED, unfinished(Vec::new()));
        }
        Conduct::NoBody { of: "pack" } if !listing => {
            let kind = "application/x-git-upload-pack-result";
            return with_body(200, kind, unfinished(b"0008NAK\n".to_vec()));
        }
        Conduct::Trickle => {
            // One line of 65,520 bytes.
            let first = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"fff0")))]);
            let bytes = futures::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(b"a"))));
            let slowly = bytes.then(|byte| async {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                byte
            });
            return with_body(200, LISTED, StreamBody::new(first.chain(slowly)).boxed_unsync());
        }
        Conduct::Endless => {
            let line = "0044aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa refs/heads/branch-0000\n";
            let start = "001e# service=git-upload-pack\n0000";
            let first = futures::stream::once(async move { Ok(Frame::data(Bytes::from(start))) });
            let rest = futures::stream::repeat_with(move || Ok(Frame::data(Bytes::from(line))));
            return with_body(200, LISTED, StreamBody::new(first.chain(rest)).boxed_unsync());
        }
        _ => {}
    }
    let cut = matches!(conduct, Conduct::CutPack) && !listing;
    backend(request, &state.root, cut).await
}

/// `git http-backend`, as a web server runs it (CGI).
async fn backend(
    request: Request<Incoming>,
    root: &Path,
    cut: bool,
) -> Result<Response<Body>, std::io::Error> {
    let (head, body) = request.into_parts();
    let header = |headers: &HeaderMap, name: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let mut child = tokio::process::Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("REQUEST_METHOD", head.method.as_str())
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header(&head.headers, "content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = child.stdin.take().expect("piped");
    let (written, output) = tokio::join!(
        async move {
            let written = input.write_all(&body).await;
            drop(input);
            written
        },
        child.wait_with_output()
    );
    // A program that fails early does not read its input; its answer says so.
    let _ = written;
    let output = output?.stdout;
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(output.len());
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().and_then(|code| code.parse::<u16>().ok());
            response = response.status(code.unwrap_or(500));
        } else {
            response = response.header(name, value);
        }
    }
    let body = output.get(end + 4..).unwrap_or_default().to_vec();
    let body = if cut {
        let half = Bytes::copy_from_slice(&body[..body.len() / 2]);
        let broken = [Ok(Frame::data(half)), Err(std::io::Error::other("cut"))];
        StreamBody::new(futures::stream::iter(broken)).boxed_unsync()
    } else {
        full(body)
    };
    Ok(response.body(body).unwrap_or_else(|_| {
        let mut failed = Response::new(full(""));
        *failed.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        failed
    }))
}
