//! What strangers send over a real socket: each row of hostile or broken input ends in a 4xx (a
//! Status where the request could be read at all, HTTP's own words where it could not), the server's
//! memory stays where it was, and somebody else who asks all the while is answered all the while.
//!
//! The server is a process of its own, this test's program started again: its peak of memory is the
//! kernel's figure and nobody else's. Crowds, drips and readers that do not read are in `listener.rs`
//! and `slow_readers.rs`.

use std::io::Read;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use ballast::api::Identity;
use ballast::api::server::{Limits, Surface, bind, serve};
use ballast::object::Cluster;
use base64::Engine;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::fixture::{Fixture, PATIENCE, config};
use crate::golden;

/// Set in the process that serves.
const SERVES: &str = "BALLAST_TEST_SERVES";
const LISTENING: &str = "listening on ";
/// One stranger at a time: a body of 3 MiB, and an object of the worst shape (199,000 managed fields,
/// 90 MB) once it is typed.
const MOST_GROWTH_KIB: u64 = 160 * 1024;

async fn listen(fixture: &Fixture) -> SocketAddr {
    let any = "127.0.0.1:0".parse().expect("an address");
    let listener = bind(any, Surface::Everything).await.expect("binds");
    let address = listener.local_addr().expect("an address");
    // With every right, so that no row is refused for who asks.
    let router = fixture.api.router_as(Identity::Admin);
    let serving = serve(listener, router, Limits::new(Surface::Everything), fixture.tasks.clone());
    fixture.tasks.spawn("listener", serving);
    address
}

/// The other process: serves until its input ends.
async fn serve_alone() {
    let fixture = Fixture::new();
    fixture.admin().create(&config("g", "1")).await.expect("created");
    println!("{LISTENING}{}", listen(&fixture).await);
    let ended = || std::io::stdin().read_to_end(&mut Vec::new());
    tokio::task::spawn_blocking(ended).await.expect("no panic").expect("the end");
    fixture.end().await;
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    async fn start(test: &str) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args([test, "--exact", "--nocapture"])
            .env(SERVES, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        loop {
            let line = lines.next_line().await.expect("readable").expect("it says where");
            if let Some((_, address)) = line.split_once(LISTENING) {
                let address = address.parse().expect("an address");
                // What the test harness says at its end finds somebody who reads it.
                tokio::spawn(
                    async move { while lines.next_line().await.is_ok_and(|l| l.is_some()) {} },
                );
                return Self { address, child };
            }
        }
    }

    /// The most memory it has held since [`Server::forget`], in KiB.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.split_ascii_whitespace().next().and_then(|n| n.parse().ok()).expect("KiB")
    }

    /// Begins the peak anew (`proc(5)`: 5 to `clear_refs`).
    fn forget(&self) {
        std::fs::write(self.proc("clear_refs"), "5").expect("our own process");
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id().expect("it runs"))
    }

    /// Ends in order: nothing in it had died.
    async fn end(mut self) {
        drop(self.child.stdin.take());
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends");
        let ended = ended.expect("waited");
        assert!(ended.success(), "the server did not end well: {ended}");
    }
}

/// What is sent: a text, and behind it more of the same until it is so much.
struct Sent {
    text: Vec<u8>,
    more: Vec<u8>,
    until: usize,
}

/// What comes back.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// A Status of this code that says this.
    Status(u16, &'static str),
    /// One answer of this code, in HTTP's own words: what was sent is no request.
    Http(u16),
    /// Nothing: it speaks another protocol, and is hung up on.
    Silence,
    /// 404 in the reference server's plain text.
    NoPage,
}

struct Row {
    name: &'static str,
    sent: Sent,
    wanted: Wanted,
}

fn row(name: &'static str, text: impl Into<Vec<u8>>, wanted: Wanted) -> Row {
    Row { name, sent: Sent { text: text.into(), more: Vec::new(), until: 0 }, wanted }
}

const HEAD: &str = "Host: localhost\r\nConnection: close\r\n";

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{HEAD}\r\n")
}

fn send(method: &str, path: &str, content: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\n{HEAD}Content-Type: {content}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = "/api/v1/namespaces/default/configmaps/g";
const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";
const OPERATIONS: &str = "application/json-patch+json";

/// Names that lead out of their folder, in every spelling.
fn paths() -> Vec<Row> {
    use Wanted::{NoPage, Status};
    let name = |name: &str| get(&format!("{MAPS}/{name}"));
    let climbs = Status(400, "Name parameter invalid: \"..\": may not be '..'");
    let slash = "Name parameter invalid: \"../../etc/passwd\": may not contain '/'";
    vec![
        row("..", name(".."), climbs),
        row(".. encoded", name("%2e%2E"), climbs),
        row(". encoded", name("%2e"), Status(400, "may not be '.'")),
        row("../.. encoded", name("%2e%2e%2f%2e%2e%2fetc%2fpasswd"), Status(400, slash)),
        row(
            ".. encoded twice",
            name("%252e%252e%252f"),
            Status(400, "Name parameter invalid: \"%2e%2e%2f\": may not contain '%'"),
        ),
        row("NUL", name("g%00"), Status(404, "not found")),
        row("NUL and a path", name("g%00%2f..%2fx"), Status(400, "may not contain '/'")),
        row("overlong UTF-8", name("%c0%ae%c0%ae"), Status(404, "not found")),
        row("half a byte", name("g%"), Status(400, "may not contain '%'")),
        row("a plus is a plus", name("g+g"), Status(404, "configmaps \"g+g\" not found")),
        row("name of 10 kB", name(&"n".repeat(10_000)), Status(404, "not found")),
        row(
            ".. as a namespace",
            get("/api/v1/namespaces/%2e%2e/configmaps/g"),
            Status(404, "configmaps \"g\" not found"),
        ),
        row(
            "namespace that climbs into another",
            get("/api/v1/namespaces/x%2f..%2fdefault/configmaps/g"),
            Status(404, "not found"),
        ),
        row(
            "a write into ..",
            send(
                "POST",
                "/api/v1/namespaces/%2e%2e/configmaps",
                JSON,
                "{\"metadata\":{\"name\":\"x\"}}",
            ),
            Status(404, "namespaces \"..\" not found"),
        ),
        row("/../../etc/passwd", get("/../../etc/passwd"), NoPage),
        row("out of the documents", get("/openapi/v3/../../../etc/passwd"), NoPage),
        row(
            "out of a group",
            get("/apis/apps/v1/../../../api/v1/pods"),
            Status(404, "could not find"),
        ),
    ]
}

fn token(json: &str) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json)
}

fn queries() -> Vec<Row> {
    use Wanted::Status;
    let list = |query: &str| get(&format!("{MAPS}?{query}"));
    let forged = |token_text: &str| list(&format!("limit=1&continue={}", token(token_text)));
    let start = "invalid continue token: continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)";
    let (huge, most) = ("9".repeat(40), "9223372036854775808");
    vec![
        row(
            "limit of 40 digits",
            list(&format!("limit={huge}")),
            Status(400, "value out of range"),
        ),
        row(
            "limit of 8 kB",
            list(&format!("limit={}", "9".repeat(8000))),
            Status(400, "value out of range"),
        ),
        row(
            "timeoutSeconds overflows",
            list(&format!("watch=1&timeoutSeconds={most}")),
            Status(400, "strconv.ParseInt: parsing \"9223372036854775808\": value out of range"),
        ),
        row("timeout overflows", list("timeout=9e99h"), Status(400, "invalid timeout specified")),
        row("a negative timeout", list("timeout=-1s"), Status(400, "invalid timeout specified")),
        row(
            "resourceVersion overflows",
            list("resourceVersion=18446744073709551616"),
            Status(400, "strconv.ParseUint: parsing \"18446744073709551616\": value out of range"),
        ),
        row(
            "a token of 10 kB",
            list(&format!("continue={}", "A".repeat(10_000))),
            Status(400, "continue key is not valid"),
        ),
        row(
            "a token of revision 0",
            forged(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a/b"}"#),
            Status(400, start),
        ),
        row(
            "a token of the future",
            forged(r#"{"v":"meta.k8s.io/v1","rv":9223372036854775807,"start":"a/b"}"#),
            Status(400, start),
        ),
        row(
            "a token of another server",
            forged(r#"{"v":"meta.k8s.io/v9","rv":7,"start":"a/b"}"#),
            Status(400, "does not recognize this encoded version"),
        ),
        row(
            "a token that climbs",
            forged(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../../secrets/b"}"#),
            Status(400, "continue key is not valid: ../../secrets/b"),
        ),
        row(
            "a token without a place",
            forged(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#),
            Status(400, "encoded start key empty"),
        ),
        row("a token that is a list", forged("[[[["), Status(400, "continue key is not valid")),
        row(
            "5,000 requirements that end in none",
            list(&format!("labelSelector={}", "a,".repeat(5000))),
            Status(400, "expected: identifier after ','"),
        ),
        row(
            "no field selector",
            list(&format!("fieldSelector=metadata.name%3D{}", "%5C".repeat(1001))),
            Status(400, "invalid escape sequence"),
        ),
        row(
            "two parameters that exclude each other",
            list("resourceVersionMatch=Exact&resourceVersion=0"),
            Status(422, "forbidden for resourceVersion \"0\""),
        ),
    ]
}

fn bodies() -> Vec<Row> {
    use Wanted::Status;
    let post = |body: &str| send("POST", MAPS, JSON, body);
    let annotated = json!({"metadata": {"name": "x", "annotations": {"a": "x".repeat(1 << 20)}}});
    let endless = |head: &str| {
        let head = format!("POST {MAPS} HTTP/1.1\r\n{HEAD}Content-Type: {JSON}\r\n{head}\r\n\r\n");
        head.into_bytes()
    };
    let gibibyte = 1 << 30;
    let too_large = Status(413, "Request entity too large: limit is 3145728");
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    let apply = |body: &str| send("PATCH", &format!("{MAP}?fieldManager=t"), APPLY, body);
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let uses = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{uses}]\n"));
    }
    let mut zipped = send("POST", MAPS, JSON, "\u{1f}\u{8b}\u{8}no gzip");
    zipped = zipped.replace("Content-Length", "Content-Encoding: gzip\r\nContent-Length");
    let values = format!("{{\"x\":[{}[]]}}", "[],".repeat(900_000));
    let fields = "{},".repeat(199_000);
    let fields = format!("{{\"metadata\":{{\"name\":\"g\",\"managedFields\":[{fields}{{}}]}}}}");
    vec![
        Row {
            name: "1 GiB, declared",
            sent: Sent {
                text: endless(&format!("Content-Length: {gibibyte}")),
                more: vec![b' '; 1 << 16],
                until: gibibyte,
            },
            wanted: too_large,
        },
        Row {
            name: "1 GiB in chunks",
            sent: Sent {
                text: endless("Transfer-Encoding: chunked"),
                more: chunk,
                until: gibibyte,
            },
            wanted: too_large,
        },
        row(
            "annotations of 1 MiB",
            post(&annotated.to_string()),
            Status(
                422,
                "ConfigMap \"x\" is invalid: metadata.annotations: Too long: may not be more than 262144 bytes",
            ),
        ),
        row("lists 100,000 deep", post(&"[".repeat(100_000)), Status(400, "recursion limit")),
        row(
            "objects 100,000 deep",
            post(&"{\"a\":".repeat(100_000)),
            Status(400, "recursion limit"),
        ),
        row("900,000 values", post(&values), Status(400, "more than 200000 values")),
        row(
            "199,000 managed fields",
            post(&fields),
            Status(409, "configmaps \"g\" already exists"),
        ),
        row(
            "a delete with 900,000 values",
            send("DELETE", &format!("{MAPS}/none"), JSON, &values),
            Status(400, "more than 200000 values"),
        ),
        row(
            "YAML 100,000 deep",
            apply(&"{a: ".repeat(100_000)),
            Status(400, "error decoding patch"),
        ),
        row(
            "YAML 10,000 lists deep",
            apply(&"- ".repeat(10_000)),
            Status(400, "error decoding patch"),
        ),
        row("YAML alias bomb", apply(&bomb), Status(400, "error decoding patch")),
        row("no gzip", zipped, Status(400, "no JSON document")),
        row(
            "a form",
            send("POST", MAPS, "application/x-www-form-urlencoded", "a=b"),
            Status(415, "415: Unsupported Media Type"),
        ),
        row(
            "protobuf",
            send("POST", MAPS, "application/vnd.kubernetes.protobuf", "k8s\0"),
            Status(415, "send application/json"),
        ),
        row(
            "no content type of a patch",
            send("PATCH", MAP, JSON, "{}"),
            Status(415, "415: Unsupported Media Type"),
        ),
        row(
            "half a body's text",
            post("{\"metadata\":{\"name\":"),
            Status(400, "no JSON document"),
        ),
        row("UTF-16", post("\u{0}{\u{0}}"), Status(400, "no JSON document")),
        row(
            "a number for a name",
            post("{\"metadata\":{\"name\":7}}"),
            Status(400, "cannot be handled as a ConfigMap"),
        ),
        row(
            "a name that climbs",
            post("{\"metadata\":{\"name\":\"../x\"}}"),
            Status(422, "metadata.name: Invalid value: \"../x\""),
        ),
        row(
            "an owner that is nobody",
            post(
                "{\"metadata\":{\"name\":\"x\",\"ownerReferences\":[{\"kind\":\"\",\"uid\":\"\"}]}}",
            ),
            Status(422, "metadata.ownerReferences"),
        ),
    ]
}

fn patches() -> Vec<Row> {
    use Wanted::Status;
    let patch = |value: Value| send("PATCH", MAP, OPERATIONS, &value.to_string());
    let undecoded = Status(400, "error decoding patch");
    let unfit = Status(422, "the server rejected our request due to an error in our request");
    let many: Vec<Value> =
        (0..10_001).map(|_| json!({"op": "test", "path": "/kind", "value": "ConfigMap"})).collect();
    let double: Vec<Value> =
        (0..64).map(|n| json!({"op": "copy", "from": "", "path": format!("/x{n}")})).collect();
    vec![
        row("an object", patch(json!({"op": "add"})), undecoded),
        row("no operations but numbers", patch(json!([1, 2])), undecoded),
        row("an unknown operation", patch(json!([{"op": "melt", "path": "/a"}])), undecoded),
        row("no path", patch(json!([{"op": "remove"}])), undecoded),
        row("no value", patch(json!([{"op": "add", "path": "/a"}])), undecoded),
        row("a path without a slash", patch(json!([{"op": "remove", "path": "a"}])), undecoded),
        row("a tilde of nothing", patch(json!([{"op": "remove", "path": "/data/~2"}])), undecoded),
        row("nothing to remove", patch(json!([{"op": "remove", "path": "/data/none"}])), unfit),
        row(
            "a test that fails",
            patch(json!([{"op": "test", "path": "/data/a", "value": 2}])),
            unfit,
        ),
        row(
            "into itself",
            patch(json!([{"op": "move", "from": "/data", "path": "/data/a"}])),
            unfit,
        ),
        row(
            "an index that overflows",
            patch(
                json!([{"op": "add", "path": "/metadata/finalizers/99999999999999999999", "value": 1}]),
            ),
            unfit,
        ),
        row(
            "10,001 operations",
            patch(Value::Array(many)),
            Status(413, "The allowed maximum operations in a JSON patch is 10000, got 10001"),
        ),
        row(
            "a copy of all, 64 times",
            patch(Value::Array(double)),
            Status(413, "the patched object is too large"),
        ),
        row(
            "a merge patch that is a list",
            send("PATCH", MAP, "application/merge-patch+json", "[]"),
            undecoded,
        ),
        row(
            "an unknown directive",
            send("PATCH", MAP, "application/strategic-merge-patch+json", "{\"$patch\":\"melt\"}"),
            Status(400, "unknown patch type \"melt\" in map"),
        ),
        row(
            "an apply without a manager",
            send("PATCH", MAP, APPLY, "{}"),
            Status(422, "fieldManager: Required value"),
        ),
    ]
}

/// What is no HTTP, or two requests in one.
fn shapes() -> Vec<Row> {
    use Wanted::Http;
    let head = |more: &str| format!("POST {MAPS} HTTP/1.1\r\n{HEAD}{more}\r\n");
    let flood: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    let hidden = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let kept = |one: &str, other: &str| {
        let host = "Host: localhost\r\nContent-Type: application/json";
        let body = "2\r\n{}\r\n0\r\n\r\n";
        format!("POST {MAPS} HTTP/1.1\r\n{host}\r\n{one}\r\n{other}\r\n\r\n{body}{hidden}")
    };
    let named = Wanted::Status(422, "name or generateName is required");
    vec![
        row("two lengths", head("Content-Length: 0\r\nContent-Length: 44\r\n") + hidden, Http(400)),
        row("a list of lengths", head("Content-Length: 0, 44\r\n") + hidden, Http(400)),
        row("a length with a sign", head("Content-Length: +2\r\n") + "{}", Http(400)),
        row("a length that overflows", head("Content-Length: 99999999999999999999\r\n"), Http(400)),
        // The chunks count, as in the reference's HTTP server, and nothing behind them is answered.
        row("a length and chunks", kept("Content-Length: 44", "Transfer-Encoding: chunked"), named),
        row("chunks and a length", kept("Transfer-Encoding: chunked", "Content-Length: 5"), named),
        row("chunks, then as it is", head("Transfer-Encoding: chunked, identity\r\n"), Http(400)),
        row("a coding nobody knows", head("Transfer-Encoding: xchunked\r\n"), Http(400)),
        row("a space before the colon", head("Transfer-Encoding : chunked\r\n"), Http(400)),
        row("a folded line", head("X: a\r\n b: c\r\n"), Http(400)),
        row("a NUL in a head", head("X: a\0b\r\n"), Http(400)),
        row("a carriage return in a head", head("X: a\rY: b\r\n"), Http(400)),
        row("no host", "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", Http(403)),
        row("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Wanted::Silence),
        row("a TLS hello", &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], Http(400)),
        row("no verb", " /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", Http(400)),
        row("a space in the path", format!("GET /a b HTTP/1.1\r\n{HEAD}\r\n"), Http(400)),
        row("200 lines of head", head(&flood), Http(431)),
        row("a head of 1 MiB", head(&format!("X: {}\r\n", "x".repeat(1 << 20))), Http(431)),
        row("a path of 1 MiB", get(&format!("/{}", "x".repeat(1 << 20))), Http(431)),
    ]
}

/// Everything that comes back until the server hangs up.
async fn answer(address: SocketAddr, sent: &Sent) -> String {
    let stream = TcpStream::connect(address).await.expect("connects");
    let (mut reading, mut writing) = stream.into_split();
    let write = async {
        let mut count = sent.text.len();
        // A refused request may be answered and closed before all of it is sent.
        let mut open = writing.write_all(&sent.text).await.is_ok();
        while open && count < sent.until {
            open = writing.write_all(&sent.more).await.is_ok();
            count += sent.more.len();
        }
        assert!(sent.until == 0 || !open, "all of it was taken");
        // Not shut down: the server's word is waited for.
        std::future::pending::<()>().await;
    };
    let read = async {
        let mut answer = Vec::new();
        let _ = reading.read_to_end(&mut answer).await;
        answer
    };
    let both = async {
        tokio::select! {
            biased;
            // Dropped with the connection, which is over then.
            answer = read => answer,
            () = write => Vec::new(),
        }
    };
    let answer = tokio::time::timeout(PATIENCE, both).await.expect("the server hangs up");
    String::from_utf8_lossy(&answer).into_owned()
}

/// What is wrong with an answer.
fn fault(answer: &str, wanted: Wanted) -> Option<String> {
    let shown: String = answer.chars().take(600).collect();
    let code = |code: u16| answer.starts_with(&format!("HTTP/1.1 {code} "));
    let one =
        answer.matches("HTTP/1.1 ").count() == usize::from(!matches!(wanted, Wanted::Silence));
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let right = one
        && match wanted {
            Wanted::Http(wanted) => code(wanted),
            Wanted::Silence => answer.is_empty(),
            Wanted::NoPage => code(404) && body == "404 page not found\n",
            Wanted::Status(wanted, words) => {
                let status: Value = serde_json::from_str(body).unwrap_or_default();
                code(wanted)
                    && status["kind"] == "Status"
                    && status["status"] == "Failure"
                    && status["code"] == wanted
                    && status["message"].as_str().is_some_and(|said| said.contains(words))
            }
        };
    (!right).then(|| format!("wanted {wanted:?}, got {shown}"))
}

/// Somebody else, on one connection, who asks the same all the while: how often he was answered, and
/// how long that took at most.
async fn neighbour(
    address: SocketAddr,
    mut over: tokio::sync::watch::Receiver<bool>,
) -> (usize, Duration) {
    let mut stream = BufReader::new(TcpStream::connect(address).await.expect("connects"));
    let (mut answers, mut longest) = (0, Duration::ZERO);
    while !*over.borrow_and_update() {
        let begun = Instant::now();
        let request = format!("GET {MAP} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let (mut line, mut length) = (String::new(), 0);
        stream.read_line(&mut line).await.expect("answered");
        assert_eq!(line, "HTTP/1.1 200 OK\r\n");
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).await.expect("a head");
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("a body");
        let map: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(map["data"], json!({"a": "1"}), "nobody changed it");
        answers += 1;
        longest = longest.max(begun.elapsed());
        // Cancel safe: the wait for an end, or a little time.
        let _ = tokio::time::timeout(Duration::from_millis(5), over.changed()).await;
    }
    (answers, longest)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_send_ends_in_a_4xx_and_costs_nobody_else() {
    if std::env::var_os(SERVES).is_some() {
        return serve_alone().await;
    }
    let name = "bad_requests::what_strangers_send_ends_in_a_4xx_and_costs_nobody_else";
    let server = Server::start(name).await;
    let (finish, over) = tokio::sync::watch::channel(false);
    let neighbour = tokio::spawn(neighbour(server.address, over));
    server.forget();
    let before = server.peak();
    let (mut wrong, mut largest) = (Vec::new(), (0, ""));
    for Row { name, sent, wanted } in
        [paths(), queries(), bodies(), patches(), shapes()].into_iter().flatten()
    {
        let answer = answer(server.address, &sent).await;
        wrong.extend(fault(&answer, wanted).map(|fault| format!("{name}: {fault}")));
        let growth = server.peak().saturating_sub(before);
        largest = largest.max((growth, name));
        if growth > MOST_GROWTH_KIB {
            wrong.push(format!("{name}: {growth} KiB more than before"));
        }
        server.forget();
    }
    finish.send_replace(true);
    let (answers, longest) = neighbour.await.expect("the neighbour was answered");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (growth, by) = largest;
    println!("at most {growth} KiB more ({by}); {answers} answers to another, {longest:?} at most");
    server.end().await;
    assert!(answers > 50, "the neighbour was answered {answers} times");
    assert!(longest < Duration::from_secs(5), "once he waited {longest:?}");
}

/// The same from many at once costs little more than from one: each has 600 kB under way, and one after
/// the other is decoded. Without turns this is a gigabyte.
#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_from_many_at_once_take_turns() {
    if std::env::var_os(SERVES).is_some() {
        return serve_alone().await;
    }
    let server = Server::start("bad_requests::large_bodies_from_many_at_once_take_turns").await;
    server.forget();
    let before = server.peak();
    let worst = || bodies().into_iter().find(|row| row.name == "199,000 managed fields");
    let strangers = (0..12).map(|_| async {
        let Row { sent, wanted, .. } = worst().expect("it is among them");
        fault(&answer(server.address, &sent).await, wanted)
    });
    let faults: Vec<String> =
        futures::future::join_all(strangers).await.into_iter().flatten().collect();
    let growth = server.peak().saturating_sub(before);
    server.end().await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(growth < 2 * MOST_GROWTH_KIB, "{growth} KiB more than before");
}

fn parts(answer: &str) -> (Value, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let code: u16 = head.get(9..12).and_then(|code| code.parse().ok()).expect("a code");
    let body = serde_json::from_str(body).unwrap_or_else(|_| json!(body));
    (json!(code), body)
}

/// Every recorded refusal, over a socket: `admission.rs` and `api_golden.rs` compare the same without
/// one. What this version does not run is told behind the reference server's own causes.
#[tokio::test(flavor = "multi_thread")]
async fn recorded_refusals_are_the_same_over_a_socket() {
    let fixture = Fixture::new();
    fixture.namespaces(&["default", "team-a"]).await;
    let address = listen(&fixture).await;
    let ask = async |text: String| {
        answer(address, &Sent { text: text.into_bytes(), more: Vec::new(), until: 0 }).await
    };
    let mut compared = (0, 0);
    for file in golden::names("objects") {
        let recorded = golden::value(&format!("objects/{file}"));
        if recorded["code"].as_u64().is_none_or(|code| code < 400) {
            continue;
        }
        let (code, mut body) = parts(&ask(get(recorded["path"].as_str().expect("a path"))).await);
        let mut wanted = recorded["body"].clone();
        for status in [&mut body, &mut wanted] {
            // The current revision is each server's own.
            if let Some((said, _)) =
                status["message"].as_str().and_then(|m| m.split_once(", current"))
            {
                status["message"] = json!(said);
            }
        }
        assert_eq!((code, body), (recorded["code"].clone(), wanted), "{file}");
        compared.0 += 1;
    }
    for file in golden::names("rejections") {
        let recorded = golden::value(&format!("rejections/{file}"));
        let request = &recorded["request"];
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = ballast::object::Kind::of_manifest(
            &word(&request["apiVersion"]),
            &word(&request["kind"]),
        );
        let Some(row) = kind.map(ballast::object::Kind::row) else { continue };
        let group = if row.group.is_empty() { "api".into() } else { format!("apis/{}", row.group) };
        let namespace = word(&request["metadata"]["namespace"]);
        let namespace = if namespace.is_empty() { "default" } else { &namespace };
        let namespace = row.namespaced.then(|| format!("namespaces/{namespace}/"));
        let path =
            format!("/{group}/{}/{}{}", row.version, namespace.unwrap_or_default(), row.plural);
        let (code, body) = parts(&ask(send("POST", &path, JSON, &request.to_string())).await);
        let wanted = recorded
            .as_object()
            .and_then(|fields| fields.values().find(|value| value["kind"] == "Status").cloned());
        let wanted = wanted.unwrap_or_else(|| panic!("{file}: no Status recorded"));
        if body != wanted {
            let (ours, theirs) = (&body["details"]["causes"], &wanted["details"]["causes"]);
            let (ours, theirs) =
                (ours.as_array().expect("causes"), theirs.as_array().expect("causes"));
            assert!(ours.starts_with(theirs), "{file}: {body:#} {wanted:#}");
            assert_eq!(body["reason"], wanted["reason"], "{file}");
        }
        assert_eq!(code, wanted["code"], "{file}");
        compared.1 += 1;
    }
    assert_eq!(compared, (8, 26), "refusals of queries and of objects");
    fixture.end().await;
}
