//! A load client for the tour and the host tests: std only, static, `FROM scratch`.
//!
//! `client <url> <seconds> <keep-alive|new> [pause-ms]` requests the URL one after the other and
//! prints one line at the end: `requests=N failed=M versions=v1:10,v2:20`. Exit 0 even when requests
//! failed: the caller judges. SIGTERM ends it early, with the same line. `client get <url>` prints the body of one request, exit 1 on failure.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A request that takes longer has failed: longer than any retransmission of a lost SYN.
const TIMEOUT: Duration = Duration::from_secs(5);

const SIGTERM: i32 = 15;

static TERMINATED: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
}

/// Async-signal safe: one atomic store.
extern "C" fn on_signal(_: i32) {
    TERMINATED.store(true, Ordering::SeqCst);
}

struct Target {
    host: String,
    path: String,
}

fn parse(url: &str) -> Target {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) =
        rest.split_once('/').map_or((rest, String::new()), |(host, path)| (host, path.to_owned()));
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    Target { host, path: format!("/{path}") }
}

fn connect(target: &Target) -> std::io::Result<BufReader<TcpStream>> {
    let address = target.host.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::NotFound)?;
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// One request; `true` beside the body when the server keeps the connection open.
fn request(
    connection: &mut BufReader<TcpStream>,
    target: &Target,
    keep: bool,
) -> std::io::Result<(String, bool)> {
    let connection_header = if keep { "keep-alive" } else { "close" };
    write!(
        connection.get_mut(),
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: {connection_header}\r\n\r\n",
        target.path,
        target.host
    )?;
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    if !line.contains(" 200 ") {
        return Err(std::io::Error::other(line));
    }
    let (mut length, mut open) = (None, keep);
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse::<usize>().ok();
        }
        if header == "connection: close" {
            open = false;
        }
    }
    let mut body = vec![0; length.ok_or_else(|| std::io::Error::other("no content-length"))?];
    connection.read_exact(&mut body)?;
    Ok((String::from_utf8_lossy(&body).into_owned(), open))
}

fn main() {
    unsafe {
        signal(SIGTERM, on_signal);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["get", url] => {
            let target = parse(url);
            match connect(&target)
                .and_then(|mut connection| request(&mut connection, &target, false))
            {
                Ok((body, _)) => print!("{body}"),
                Err(error) => {
                    eprintln!("{url}: {error}");
                    std::process::exit(1);
                }
            }
        }
        [url, seconds, mode, rest @ ..] => {
            let pause = rest.first().and_then(|text| text.parse().ok()).unwrap_or(5);
            run(
                &parse(url),
                seconds.parse().expect("seconds is a number"),
                *mode == "keep-alive",
                Duration::from_millis(pause),
            );
        }
        _ => {
            eprintln!(
                "usage: client <url> <seconds> <keep-alive|new> [pause-ms] | client get <url>"
            );
            std::process::exit(2);
        }
    }
}

fn run(target: &Target, seconds: u64, keep: bool, pause: Duration) {
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut requests, mut failed) = (0_u64, 0_u64);
    let mut versions: BTreeMap<String, u64> = BTreeMap::new();
    let mut connection: Option<BufReader<TcpStream>> = None;
    while Instant::now() < end && !TERMINATED.load(Ordering::SeqCst) {
        requests += 1;
        let result = match connection.take() {
            Some(open) => Ok(open),
            None => connect(target),
        }
        .and_then(|mut open| {
            request(&mut open, target, keep).map(|(body, reusable)| (open, body, reusable))
        });
        match result {
            Ok((open, body, reusable)) => {
                let version = body.split_whitespace().next().unwrap_or("none").to_owned();
                *versions.entry(version).or_default() += 1;
                if reusable {
                    connection = Some(open);
                }
            }
            Err(error) => {
                failed += 1;
                eprintln!("request {requests} failed: {error}");
            }
        }
        std::thread::sleep(pause);
    }
    let versions: Vec<String> =
        versions.iter().map(|(version, count)| format!("{version}:{count}")).collect();
    println!("requests={requests} failed={failed} versions={}", versions.join(","));
}
