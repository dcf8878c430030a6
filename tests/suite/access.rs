//! Who may do what over a real TLS socket: the kubeconfigs are the command line's own, the clients a
//! real `kube::Client` and bare requests.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ballast::access_commands::{KubeconfigQuestion, kubeconfig_text, revoke};
use ballast::api::gate::audit::{self, Audit, Kept};
use ballast::api::gate::authority::Authority;
use ballast::api::gate::credential_file::Credentials;
use ballast::api::gate::passage::{Entry, Gate, GateOptions};
use ballast::api::gate::served::Served;
use ballast::api::gate::tls::{Certificate, Tls};
use ballast::api::server::{Limits, Surface, bind, serve_behind};
use ballast::cli::{Grant, GrantedRole};
use ballast::clock::Clock;
use ballast::home::{self, Wish};
use ballast::object::Cluster;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::fixture::{Fixture, PATIENCE, config, object, pod, until};
use crate::git_server::Authority as OtherAuthority;

/// A listener with TLS over an API of its own, as the daemon sets it up.
pub struct Secured {
    pub fixture: Fixture,
    pub address: SocketAddr,
    /// What clients trust.
    pub authority: String,
}

impl Secured {
    pub async fn start(operator: bool) -> Self {
        let own = Certificate::Own { names: vec!["localhost".into(), "127.0.0.1".into()] };
        Self::with(operator, Limits::new(Surface::Secured), own).await
    }

    pub async fn with(operator: bool, limits: Limits, certificate: Certificate) -> Self {
        let fixture = Fixture::new();
        let (dir, clock, tasks) = (fixture.folder(), Clock::wall(), fixture.tasks.clone());
        let wish = Wish { installation: "default", node_name: None, host_name: "n1" };
        home::open(dir, wish).expect("ours");
        let own_authority = matches!(certificate, Certificate::Own { .. });
        let tls = Tls::new(dir, certificate, clock).expect("TLS");
        tasks.spawn("certificate", tls.clone().follow(tasks.stop().clone()));
        let credentials = Credentials::new(dir, clock);
        tasks.spawn("credentials", credentials.clone().follow(tasks.stop().clone()));
        let audit = Audit::open(dir, Kept::default(), &tasks).await.expect("opens");
        let entry = Entry::Secured { tls, credentials, operator };
        let gate = Gate::new(GateOptions { entry, audit: Some(audit), share: limits.share, clock });
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = bind(any, Surface::Secured).await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let server = format!("https://localhost:{}", address.port());
        Served { server, tls: true, own_authority, operator }.write(dir).expect("written");
        let authority = Authority::open(dir, clock.now()).expect("opens").pem;
        let router = fixture.api.router();
        tasks.spawn("listener", serve_behind(gate, listener, router, limits, tasks.clone()));
        Self { fixture, address, authority }
    }

    fn question(&self, role: GrantedRole, name: &str, ttl: &str) -> KubeconfigQuestion {
        let node = (role == GrantedRole::Node).then(|| "n1".to_owned());
        let data_dir = self.fixture.folder().to_owned();
        let (name, ttl) = (Some(name.to_owned()), ttl.to_owned());
        let grant = Grant { role, name, ttl, node, data_dir };
        KubeconfigQuestion { grant, server: None, ca_file: None, certificate: false }
    }

    /// What the command line prints: a kubeconfig with a token, or with a client certificate.
    pub fn printed(&self, role: GrantedRole, name: &str, certificate: bool) -> String {
        let question = KubeconfigQuestion { certificate, ..self.question(role, name, "1h") };
        kubeconfig_text(&question).expect("printed").0
    }

    /// A kubeconfig as the command line prints it.
    pub fn kubeconfig(&self, role: GrantedRole, name: &str) -> Kubeconfig {
        Kubeconfig::from_yaml(&self.printed(role, name, false)).expect("kube reads it")
    }

    pub async fn client(&self, role: GrantedRole, name: &str) -> kube::Client {
        client(self.kubeconfig(role, name)).await
    }

    /// The token that the command line prints.
    pub fn token(&self, role: GrantedRole, name: &str) -> String {
        let file = serde_json::to_value(self.kubeconfig(role, name)).expect("serialises");
        file["users"][0]["user"]["token"].as_str().expect("a token").to_owned()
    }

    pub async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        connect(self.address, &self.authority, None).await
    }

    /// The whole answer to a request, of which `head` is everything after the first line.
    pub async fn ask(&self, line: &str, head: &str) -> String {
        let stream = self.connect().await.expect("connects");
        asked(stream, line, head).await
    }

    fn audit(&self) -> Vec<Value> {
        let path = self.fixture.folder().join(audit::FOLDER).join(audit::FILE);
        let text = std::fs::read_to_string(path).expect("there");
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }

    /// The audit log, when it has so many lines.
    pub async fn audited(&self, count: usize) -> Vec<Value> {
        let wait = async {
            loop {
                let lines = self.audit();
                if lines.len() >= count {
                    return lines;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.unwrap_or_else(|_| panic!("never {count} lines: {:?}", self.audit()))
    }
}

async fn client_config(file: Kubeconfig) -> kube::Config {
    let options = KubeConfigOptions::default();
    kube::Config::from_custom_kubeconfig(file, &options).await.expect("a config")
}

async fn client(file: Kubeconfig) -> kube::Client {
    kube::Client::try_from(client_config(file).await).expect("a client")
}

async fn connect(
    address: SocketAddr,
    authority: &str,
    own: Option<(&str, &str)>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut trusted = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.as_bytes()).expect("a certificate");
    trusted.add(root).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(trusted);
    let config = match own {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a PEM");
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
            config.with_client_auth_cert(vec![chain], key).expect("a pair")
        }
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn asked(mut stream: TlsStream<TcpStream>, line: &str, head: &str) -> String {
    let request = format!("{line} HTTP/1.1\r\n{head}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    // A server that closes without a farewell has answered all the same.
    let _ = tokio::time::timeout(PATIENCE, reading).await.expect("it is answered");
    String::from_utf8_lossy(&answer).into_owned()
}

const HOST: &str = "Host: localhost\r\n";

fn bearer(token: &str) -> String {
    format!("{HOST}Authorization: Bearer {token}\r\n")
}

fn body(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {answer}"))
}

fn code<T: std::fmt::Debug>(answer: Result<T, kube::Error>) -> u16 {
    match answer {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("no status: {other:?}"),
    }
}

async fn secret(fixture: &Fixture) {
    let secret: Secret = object(json!({"metadata": {"name": "s", "namespace": "default"},
        "stringData": {"password": "hunter2-value"}}));
    fixture.admin().create(&secret).await.expect("created");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_reads_everything_but_secrets() {
    let served = Secured::start(true).await;
    secret(&served.fixture).await;
    served.fixture.admin().create(&pod("p")).await.expect("created");
    let client = served.client(GrantedRole::Viewer, "ada").await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    assert_eq!(pods.list(&ListParams::default()).await.expect("listed").items.len(), 1);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let seen = secrets.get("s").await.expect("there").data.expect("keys");
    assert!(seen["password"].0.starts_with(b"hmac-sha256:"));
    let written = pods.create(&PostParams::default(), &pod("q")).await;
    let Err(kube::Error::Api(refused)) = written else { panic!("{written:?}") };
    assert_eq!(refused.code, 403);
    assert!(refused.message.contains("changes through Git"), "{}", refused.message);
    let token = served.token(GrantedRole::Viewer, "bob");
    for line in [
        "POST /api/v1/namespaces/default/pods/p/exec?command=sh",
        "GET /api/v1/namespaces/default/pods/p/attach",
        "GET /api/v1/namespaces/default/pods/p/portforward",
    ] {
        let answer = served.ask(line, &bearer(&token)).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        let part = line.rsplit('/').next().and_then(|last| last.split('?').next());
        assert_eq!(
            body(&answer)["message"],
            format!(
                "pods \"p\" is forbidden: User \"bob\" cannot create resource \"pods/{}\" in API group \"\" in the namespace \"default\"",
                part.expect("a part")
            )
        );
        assert_eq!(body(&answer)["details"], json!({"name": "p", "kind": "pods"}));
    }
    served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_refused_unread_ends_its_connection_and_says_so() {
    let served = Secured::start(false).await;
    let head = bearer(&served.token(GrantedRole::Viewer, "ada"));
    for (method, says_close) in [("GET", false), ("POST", true)] {
        let mut stream = served.connect().await.expect("connects");
        let length = if says_close { "Content-Length: 9\r\n" } else { "" };
        let line = format!("{method} /api/v1/namespaces/default/pods HTTP/1.1\r\n");
        let request = format!("{line}{head}{length}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        while !answer.contains("\r\n\r\n") {
            let mut part = [0; 1024];
            let count = stream.read(&mut part).await.expect("answered");
            assert_ne!(count, 0, "{answer}");
            answer += &String::from_utf8_lossy(&part[..count]);
        }
        let code = if says_close { "HTTP/1.1 403" } else { "HTTP/1.1 200" };
        assert!(answer.starts_with(code), "{answer}");
        let told = answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n");
        assert_eq!(told, says_close, "{answer}");
    }
    served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_to_who_shows_no_credential_that_counts() {
    let served = Secured::start(false).await;
    let unauthorized = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Failure", "message": "Unauthorized", "reason": "Unauthorized", "code": 401});
    let (token, gone) =
        (served.token(GrantedRole::Viewer, "ada"), served.token(GrantedRole::Viewer, "eve"));
    revoke(served.fixture.folder(), "eve").expect("revoked");
    let short = kubeconfig_text(&served.question(GrantedRole::Viewer, "short", "1s"));
    let short = Kubeconfig::from_yaml(&short.expect("printed").0).expect("kube reads it");
    let short = serde_json::to_value(short).expect("serialises");
    let short = short["users"][0]["user"]["token"].as_str().expect("a token").to_owned();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let wrong = token.replace(char::is_numeric, "0");
    for head in [
        HOST.to_owned(),
        bearer(&gone),
        bearer(&short),
        bearer(&wrong),
        bearer(&token[..token.len() - 1]),
        bearer(""),
        format!("{HOST}Authorization: Basic {token}\r\n"),
        format!("{}Authorization: Bearer {token}\r\n", bearer(&token)),
        format!("{HOST}Cookie: token={token}\r\n"),
    ] {
        for line in [
            "GET /api/v1/pods",
            "GET /apis",
            "GET /metrics",
            "GET /api/v1/drift",
            "GET /",
            "GET /api/v1/pods?watch=true",
            "DELETE /api/v1/namespaces/default/pods/p",
            "POST /healthz",
        ] {
            let answer = served.ask(line, &head).await;
            assert!(answer.starts_with("HTTP/1.1 401"), "{line} {head}: {answer}");
            assert_eq!(body(&answer), unauthorized, "{line} {head}");
        }
    }
    // A token in the URL is no credential: URLs are logged.
    let query = format!("GET /api/v1/pods?access_token={token}");
    assert!(served.ask(&query, HOST).await.starts_with("HTTP/1.1 401"));
    for line in ["GET /healthz", "GET /livez", "HEAD /readyz", "GET /version"] {
        assert!(served.ask(line, HOST).await.starts_with("HTTP/1.1 200"), "{line}");
        assert!(served.ask(line, &bearer(&wrong)).await.starts_with("HTTP/1.1 401"), "{line}");
    }
    assert!(served.ask("GET /api/v1/pods", &bearer(&token)).await.starts_with("HTTP/1.1 200"));
    // What is signed by itself needs no other proof.
    assert!(served.ask("POST /webhook/none", HOST).await.starts_with("HTTP/1.1 404"));
    served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_what_is_open() {
    let served = Secured::start(false).await;
    let client = served.client(GrantedRole::Viewer, "ada").await;
    let other = served.client(GrantedRole::Viewer, "bob").await;
    let watch = |client: &kube::Client| {
        let maps: Api<ConfigMap> = Api::all(client.clone());
        async move { maps.watch(&WatchParams::default(), "0").await.expect("watches") }
    };
    let (mut hers, mut his) = (Box::pin(watch(&client).await), Box::pin(watch(&other).await));
    let admin = served.fixture.admin();
    admin.create(&config("one", "1")).await.expect("created");
    let seen = tokio::time::timeout(PATIENCE, hers.try_next()).await.expect("news");
    assert!(seen.expect("an event").is_some());
    assert!(his.try_next().await.expect("an event").is_some());
    revoke(served.fixture.folder(), "ada").expect("revoked");
    // At once, for a request; and the open watch ends by itself.
    let maps: Api<ConfigMap> = Api::all(client);
    assert_eq!(code(maps.list(&ListParams::default()).await), 401);
    let ended = tokio::time::timeout(PATIENCE, hers.try_next()).await.expect("it ends");
    assert!(matches!(ended, Ok(None)), "{ended:?}");
    admin.create(&config("two", "2")).await.expect("created");
    assert!(his.try_next().await.expect("an event").is_some(), "his goes on");
    drop(admin);
    served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_a_credential_that_can_be_revoked() {
    let served = Secured::start(false).await;
    let mut question = served.question(GrantedRole::Viewer, "ada", "1h");
    question.certificate = true;
    let (text, _) = kubeconfig_text(&question).expect("printed");
    assert!(!text.contains("token"), "{text}");
    let file = Kubeconfig::from_yaml(&text).expect("kube reads it");
    let pods: Api<Pod> = Api::all(client(file.clone()).await);
    pods.list(&ListParams::default()).await.expect("listed");
    let written: Api<Pod> = Api::namespaced(client(file.clone()).await, "default");
    assert_eq!(code(written.create(&PostParams::default(), &pod("p")).await), 403);
    assert_eq!(served.audited(1).await[0]["who"], "ada");
    revoke(served.fixture.folder(), "ada").expect("revoked");
    assert_eq!(code(pods.list(&ListParams::default()).await), 401);
    assert_eq!(code(Api::<Pod>::all(client(file).await).list(&ListParams::default()).await), 401);

    // One of the right authority that the list does not know, and one of another authority.
    let clock = Clock::wall();
    let authority = Authority::open(served.fixture.folder(), clock.now()).expect("opens");
    let later = clock.now() + jiff::SignedDuration::from_hours(1);
    let forged = authority.client("admin", "ballast:operators", clock.now(), later).expect("made");
    let own = Some((forged.certificate.as_str(), forged.key.as_str()));
    let stream = connect(served.address, &served.authority, own).await.expect("a known authority");
    let answer = asked(stream, "GET /api/v1/pods", HOST).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let other = Authority::open(elsewhere.path(), clock.now()).expect("made");
    let foreign = other.client("ada", "ballast:viewers", clock.now(), later).expect("made");
    let own = Some((foreign.certificate.as_str(), foreign.key.as_str()));
    let told = match connect(served.address, &served.authority, own).await {
        // TLS 1.3: the client hears of it when it reads.
        Ok(mut stream) => {
            let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect_err("refused").to_string()
        }
        Err(refused) => refused.to_string(),
    };
    assert!(told.contains("UnknownCA") || told.contains("reset"), "{told}");
    served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_off_until_the_daemon_says_otherwise() {
    let served = Secured::start(false).await;
    let told = kubeconfig_text(&served.question(GrantedRole::Operator, "ops", "1h")).unwrap_err();
    assert!(told.to_string().contains("`operator: true`"), "{told}");
    // One that was made while it was on.
    let dir = served.fixture.folder();
    let note = Served::read(dir).expect("read").expect("there");
    Served { operator: true, ..note.clone() }.write(dir).expect("written");
    let token = served.token(GrantedRole::Operator, "ops");
    note.write(dir).expect("written");
    let answer = served.ask("GET /api/v1/pods", &bearer(&token)).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(body(&answer)["message"].as_str().expect("text").contains("`operator: true`"));
    served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_use_of_an_operators_rights_is_an_event_and_an_audit_line() {
    let served = Secured::start(true).await;
    secret(&served.fixture).await;
    let client = served.client(GrantedRole::Operator, "ops").await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let seen = secrets.get("s").await.expect("there").data.expect("keys");
    assert_eq!(seen["password"].0, b"hunter2-value");
    Api::<Secret>::all(client.clone()).list(&ListParams::default()).await.expect("listed");
    let told = |event: &Event| {
        (
            event.involved_object.kind.clone().unwrap_or_default(),
            event.involved_object.name.clone().unwrap_or_default(),
            event.message.clone().unwrap_or_default(),
        )
    };
    let about = |kind: &str, name: &str, what: &str| {
        let message = format!("ops {what} in clear, from 127.0.0.1");
        (kind.to_owned(), name.to_owned(), message)
    };
    until::<Event>(&served.fixture.admin(), "an Event of each", |events| {
        let all: Vec<_> = events.iter().map(|event| told(event)).collect();
        all.contains(&about("Secret", "s", "read the Secret"))
            && all.contains(&about("Namespace", "default", "read the Secrets of the namespace"))
    })
    .await;
    // Plain reads leave no line, and people change nothing, operators neither.
    Api::<Pod>::all(client.clone()).list(&ListParams::default()).await.expect("listed");
    let patch = Patch::Merge(json!({"data": {"a": "Yg=="}}));
    assert_eq!(code(secrets.patch("s", &PatchParams::default(), &patch).await), 403);
    let lines = served.audited(3).await;
    assert_eq!(lines.len(), 3, "{lines:?}");
    let shown = |line: &Value| {
        let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        (
            text("who"),
            text("role"),
            text("verb"),
            text("resource"),
            text("decision"),
            line["code"].clone(),
        )
    };
    for (line, (verb, decision, code)) in
        lines.iter().zip([("get", "allow", 200), ("list", "allow", 200), ("patch", "deny", 403)])
    {
        let [who, role, verb, resource, decision] =
            ["ops", "operator", verb, "secrets", decision].map(str::to_owned);
        assert_eq!(shown(line), (who, role, verb, resource, decision, json!(code)), "{line}");
        assert!(line["from"].as_str().expect("from").starts_with("127.0.0.1:"), "{line}");
    }
    let text = serde_json::to_string(&lines).expect("serialises");
    assert!(!text.contains("hunter2") && !text.contains("ballast_"), "{text}");
    served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_agent_writes_its_own_node_and_no_other() {
    let served = Secured::start(false).await;
    let admin = served.fixture.admin();
    for name in ["n1", "n2"] {
        let node: Node = object(json!({"metadata": {"name": name}}));
        admin.create(&node).await.expect("created");
    }
    let client = served.client(GrantedRole::Node, "agent-1").await;
    let nodes: Api<Node> = Api::all(client.clone());
    let patch = Patch::Merge(json!({"status": {"phase": "Running"}}));
    nodes.patch_status("n1", &PatchParams::default(), &patch).await.expect("its own");
    let refused = nodes.patch_status("n2", &PatchParams::default(), &patch).await;
    let Err(kube::Error::Api(status)) = refused else { panic!("{refused:?}") };
    assert_eq!(
        status.message,
        "nodes \"n2\" is forbidden: User \"system:node:n1\" cannot patch resource \"nodes/status\" in API group \"\" at the cluster scope"
    );
    let pods: Api<Pod> = Api::namespaced(client, "default");
    assert_eq!(code(pods.create(&PostParams::default(), &pod("p")).await), 403);
    let lines = served.audited(3).await;
    assert_eq!(lines[0]["decision"], "allow");
    assert_eq!((&lines[1]["decision"], &lines[2]["decision"]), (&json!("deny"), &json!("deny")));
    drop(admin);
    served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_name_or_page_is_refused_and_no_page_is_invited() {
    let served = Secured::start(false).await;
    let token = served.token(GrantedRole::Viewer, "ada");
    let with = |head: &str| format!("{head}Authorization: Bearer {token}\r\n");
    let pods = "GET /api/v1/pods";
    for host in ["localhost:7440", "127.0.0.1", "192.0.2.1:7440"] {
        let answer = served.ask(pods, &with(&format!("Host: {host}\r\n"))).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{host}: {answer}");
        assert!(!answer.to_lowercase().contains("access-control"), "{answer}");
    }
    for head in [
        "Host: evil.example\r\n",
        "Host: localhost.evil.example\r\n",
        "Host: localhost\r\nHost: evil.example\r\n",
        "Host: localhost\r\nOrigin: https://evil.example\r\n",
        "Host: localhost\r\nOrigin: null\r\n",
    ] {
        let answer = served.ask(pods, &with(head)).await;
        let refused = answer.starts_with("HTTP/1.1 403") || answer.starts_with("HTTP/1.1 400");
        assert!(refused, "{head}: {answer}");
    }
    let sentence = body(&served.ask(pods, &with("Host: evil.example\r\n")).await);
    assert!(sentence["message"].as_str().expect("text").contains("tlsNames"), "{sentence}");
    let asked = "Host: localhost\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n";
    let preflight = served.ask("OPTIONS /api/v1/pods", asked).await;
    assert!(preflight.starts_with("HTTP/1.1 403"), "{preflight}");
    assert!(!preflight.to_lowercase().contains("access-control-allow"), "{preflight}");
    served.fixture.end().await;
}

fn given(folder: &Path, authority: &OtherAuthority) -> Certificate {
    let (certificate, key) = (folder.join("tls.pem"), folder.join("tls.key"));
    let identity = authority.sign();
    std::fs::write(&key, &identity.key_pem).expect("written");
    std::fs::write(&certificate, &identity.pem).expect("written");
    Certificate::Given { certificate, key }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_certificate_is_shown_and_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = OtherAuthority::new();
    let certificate = given(folder.path(), &first);
    let served = Secured::with(false, Limits::new(Surface::Secured), certificate).await;
    connect(served.address, &first.pem, None).await.expect("the given one is shown");
    assert!(served.connect().await.is_err(), "and not our own");
    // A kubeconfig names the authority that it is told, and else leaves it to the client's system.
    let mut question = served.question(GrantedRole::Viewer, "ada", "1h");
    let (text, _) = kubeconfig_text(&question).expect("printed");
    assert!(!text.contains("certificate-authority-data"), "{text}");
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &first.pem).expect("written");
    question.grant.name = Some("bob".to_owned());
    question.ca_file = Some(ca_file);
    let (text, _) = kubeconfig_text(&question).expect("printed");
    let file = Kubeconfig::from_yaml(&text).expect("kube reads it");
    let pods: Api<Pod> = Api::all(client(file).await);
    pods.list(&ListParams::default()).await.expect("listed");

    let second = OtherAuthority::new();
    given(folder.path(), &second);
    let renewed = async {
        while connect(served.address, &second.pem, None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.expect("the new one is shown");
    // A pair that does not fit is told, and the last good one stays.
    std::fs::write(folder.path().join("tls.key"), "no key").expect("written");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    connect(served.address, &second.pem, None).await.expect("still shown");
    let broken = Certificate::Given {
        certificate: folder.path().join("tls.pem"),
        key: folder.path().join("tls.key"),
    };
    let told = Tls::new(served.fixture.folder(), broken, Clock::wall()).err().expect("refused");
    assert!(told.to_string().contains("tls.key"), "{told}");
    served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_tls_gives_no_credentials() {
    let served = Secured::start(false).await;
    let dir = served.fixture.folder();
    let note = Served::read(dir).expect("read").expect("there");
    Served { server: "http://127.0.0.1:7440".into(), tls: false, ..note }
        .write(dir)
        .expect("written");
    let question = served.question(GrantedRole::Viewer, "ada", "1h");
    let told = kubeconfig_text(&question).unwrap_err().to_string();
    assert!(told.contains("without TLS") && told.contains("--tls"), "{told}");
    // What everybody has anyway is printed, for clients that take their address from a file.
    let mut plain = question.clone();
    (plain.grant.name, plain.grant.ttl) = (None, "30d".to_owned());
    let (text, made) = kubeconfig_text(&plain).expect("printed");
    let config = client_config(Kubeconfig::from_yaml(&text).expect("kube reads it")).await;
    assert_eq!((config.cluster_url.to_string(), made), ("http://127.0.0.1:7440/".into(), None));
    let elsewhere = tempfile::tempdir().expect("a folder");
    let mut lost = served.question(GrantedRole::Viewer, "ada", "1h");
    lost.grant.data_dir = elsewhere.path().to_owned();
    lost.server = Some("https://localhost:1".to_owned());
    let told = kubeconfig_text(&lost).unwrap_err().to_string();
    assert!(told.contains("is no data directory of a daemon"), "{told}");
    served.fixture.end().await;
}

/// The program on the daemon's data directory.
async fn ballast(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_ballast"))
        .args(arguments)
        .env_remove("BALLAST_SERVER")
        .env_remove("BALLAST_KUBECONFIG")
        .output()
        .await
        .expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_makes_shows_and_ends_credentials() {
    let served = Secured::start(false).await;
    let dir = served.fixture.folder().to_str().expect("text").to_owned();
    let create = ["token", "create", "--role", "viewer", "--name", "ada", "--data-dir", &dir];
    let (code, token, told) = ballast(&create).await;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("credential ada (viewer) counts until"), "{told}");
    let token = token.strip_suffix('\n').expect("one line");
    let pods = "GET /api/v1/pods";
    assert!(served.ask(pods, &bearer(token)).await.starts_with("HTTP/1.1 200"));
    let (code, _, told) = ballast(&create).await;
    assert_eq!(code, Some(2));
    assert!(told.contains("there is a credential ada already"), "{told}");
    let (code, list, _) = ballast(&["token", "list", "--data-dir", &dir]).await;
    assert_eq!(code, Some(0));
    assert!(list.contains("ada ") && list.contains("viewer") && !list.contains(token), "{list}");

    let file = served.fixture.folder().join("bob.yaml");
    let path = file.to_str().expect("text");
    let print = ["kubeconfig", "--role", "viewer", "--name", "bob", "--data-dir", &dir];
    let (code, printed, told) = ballast(&print).await;
    assert_eq!(code, Some(0), "{told}");
    std::fs::write(&file, printed).expect("written");
    let (code, shown, told) = ballast(&["status", "--kubeconfig", path]).await;
    assert_eq!((code, shown.as_str()), (Some(1), "no source yet\n"), "{told}");
    let address = format!("https://localhost:{}", served.address.port());
    let (code, _, told) = ballast(&["status", "--server", &address]).await;
    assert_eq!(code, Some(2), "{told}");
    for name in ["ada", "bob"] {
        let (code, _, told) = ballast(&["token", "revoke", name, "--data-dir", &dir]).await;
        assert_eq!(code, Some(0), "{told}");
    }
    assert!(served.ask(pods, &bearer(token)).await.starts_with("HTTP/1.1 401"));
    let (code, _, told) = ballast(&["status", "--kubeconfig", path]).await;
    assert_eq!(code, Some(2));
    assert!(told.contains("wants a credential that counts"), "{told}");
    let (code, _, told) = ballast(&["token", "revoke", "ada", "--data-dir", &dir]).await;
    assert_eq!(code, Some(2));
    assert!(told.contains("there is no credential ada"), "{told}");
    served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_cannot_be_is_refused_with_the_next_step() {
    let served = Secured::start(false).await;
    let dir = served.fixture.folder().to_str().expect("text").to_owned();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let no_daemons = elsewhere.path().to_str().expect("text").to_owned();
    let viewer = ["--role", "viewer"];
    let wishes: [(&[&str], &str); 8] = [
        (&["--role", "king"], "possible values: viewer, operator, node"),
        (&[], "--role <ROLE>"),
        (&[&viewer[..], &["--ttl", "soon"]].concat(), "is no time to live such as 12h or 30d"),
        (&[&viewer[..], &["--ttl", "0s"]].concat(), "is no time to live such as 12h or 30d"),
        (&[&viewer[..], &["--ttl", "9999d"]].concat(), "at most 3650d"),
        (&[&viewer[..], &["--name", "Ada!"]].concat(), "\"Ada!\" is no name of a credential"),
        (&["--role", "node"], "give --node"),
        (&["--role", "operator"], "set `operator: true` in its config file"),
    ];
    for command in [&["token", "create"][..], &["kubeconfig"]] {
        // A kubeconfig is a viewer's where no role is named.
        let named = |wish: &[&str]| command == ["token", "create"] || !wish.is_empty();
        for (wish, wanted) in wishes.iter().filter(|(wish, _)| named(wish)) {
            let line = [command, wish, &["--data-dir", &dir]].concat();
            let (code, printed, told) = ballast(&line).await;
            assert_eq!((code, printed.as_str()), (Some(2), ""), "{line:?}: {told}");
            assert!(told.contains(wanted), "{line:?}: {told}");
        }
        let line = [command, &viewer[..], &["--data-dir", &no_daemons]].concat();
        let (code, _, told) = ballast(&line).await;
        assert_eq!(code, Some(2));
        assert!(told.contains("is no data directory of a daemon: give --data-dir"), "{told}");
    }
    let (code, list, _) = ballast(&["token", "list", "--data-dir", &dir]).await;
    assert_eq!((code, list.lines().count()), (Some(0), 1), "nothing was made: {list}");
    served.fixture.end().await;
}
