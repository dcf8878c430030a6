//! The example server: std only, static, `FROM scratch`.
//!
//! `/` prints version, pod and greeting; `/readyz` is 200 until SIGTERM and 503 after it; `/healthz`
//! is always 200; `/hold?ms=N` answers after N milliseconds. On SIGTERM its readiness fails, it
//! serves on for three seconds (the time in which every proxy learns that it is leaving), asks
//! kept-alive clients to close, and exits 0. With NEVER_READY set it is never ready (tag v3).
//!
//! Environment: VERSION (baked into the image), POD_NAME, GREETING, LISTEN (0.0.0.0), PORT (8080),
//! LEAVING_SECONDS (3).

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a request under way may take after that.
const LAST_REQUEST: Duration = Duration::from_secs(2);
const SIGTERM: i32 = 15;
const SIGINT: i32 = 2;

static TERMINATED: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
}

/// Async-signal safe: one atomic store.
extern "C" fn on_signal(_: i32) {
    TERMINATED.store(true, Ordering::SeqCst);
}

struct Server {
    version: String,
    pod: String,
    greeting: String,
    never_ready: bool,
    /// Requests being answered.
    busy: AtomicUsize,
}

fn main() {
    unsafe {
        signal(SIGTERM, on_signal);
        signal(SIGINT, on_signal);
    }
    let variable =
        |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let server = Arc::new(Server {
        version: variable("VERSION", "dev"),
        pod: variable("POD_NAME", "unknown"),
        greeting: variable("GREETING", "hello"),
        never_ready: env::var_os("NEVER_READY").is_some(),
        busy: AtomicUsize::new(0),
    });
    let leaving = variable("LEAVING_SECONDS", "3").parse::<u64>().unwrap_or_else(|error| {
        eprintln!("LEAVING_SECONDS: {error}");
        std::process::exit(1);
    });
    let address = format!("{}:{}", variable("LISTEN", "0.0.0.0"), variable("PORT", "8080"));
    let listener = TcpListener::bind(&address).unwrap_or_else(|error| {
        eprintln!("cannot listen on {address}: {error}");
        std::process::exit(1);
    });
    println!("listening on {address}, version {}", server.version);
    let accepting = server.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = accepting.clone();
            thread::spawn(move || serve(&server, stream));
        }
    });
    while !TERMINATED.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(20));
    }
    println!("SIGTERM: not ready any more, serving on for {leaving} s");
    thread::sleep(Duration::from_secs(leaving));
    let deadline = Instant::now() + LAST_REQUEST;
    while server.busy.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    println!("closed");
}

/// One connection, request after request.
fn serve(server: &Server, stream: TcpStream) {
    // A kept-alive client that says nothing for long is let go.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let _ = stream.set_nodelay(true);
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Some((path, wants_close)) = read_request(&mut reader) {
        server.busy.fetch_add(1, Ordering::SeqCst);
        let (status, body) = answer(server, &path);
        // A leaving server says so, and the client opens its next connection elsewhere.
        let close = wants_close || TERMINATED.load(Ordering::SeqCst);
        let connection = if close { "close" } else { "keep-alive" };
        let reply = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{body}",
            body.len()
        );
        let sent = writer.write_all(reply.as_bytes());
        server.busy.fetch_sub(1, Ordering::SeqCst);
        if sent.is_err() || close {
            return;
        }
    }
}

/// The path of the next request and whether the client wants the connection closed after it.
fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(String, bool)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
    let mut words = line.split_whitespace();
    let (_method, path, version) = (words.next()?, words.next()?.to_owned(), words.next()?);
    let mut close = version == "HTTP/1.0";
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|bytes| *bytes > 0)?;
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        match header.split_once(':').map(|(name, value)| (name, value.trim())) {
            Some(("connection", "close")) => close = true,
            Some(("connection", "keep-alive")) => close = false,
            Some(("content-length", value)) => length = value.parse().ok()?,
            _ => {}
        }
    }
    // A body is read past: the next request begins behind it.
    std::io::copy(&mut std::io::Read::take(reader, length), &mut std::io::sink()).ok()?;
    Some((path, close))
}

fn answer(server: &Server, path: &str) -> (&'static str, String) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    match path {
        "/" => ("200 OK", format!("{} {} {}\n", server.version, server.pod, server.greeting)),
        "/healthz" => ("200 OK", "ok\n".to_owned()),
        "/readyz" if server.never_ready => ("503 Service Unavailable", "never ready\n".to_owned()),
        "/readyz" if TERMINATED.load(Ordering::SeqCst) => {
            ("503 Service Unavailable", "leaving\n".to_owned())
        }
        "/readyz" => ("200 OK", "ready\n".to_owned()),
        "/hold" => {
            let ms = query.strip_prefix("ms=").and_then(|ms| ms.parse().ok()).unwrap_or(0);
            thread::sleep(Duration::from_millis(ms));
            ("200 OK", format!("held {ms} ms\n"))
        }
        _ => ("404 Not Found", "not found\n".to_owned()),
    }
}
