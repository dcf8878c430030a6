//! 200 watchers of all pods and 100 changes a second: how far behind the answer of a write, and
//! behind its request, its line is at each of them, and what of a core the server needs for it. The
//! floor sends the same line to as many connections, and has nothing to write down.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use ballast::api::Identity;
use ballast::object::{Cluster as _, Patch};
use ballast::store::Store as _;
use bytes::Bytes;
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::client::Client;
use super::ground::Ground;
use super::pods::key;
use crate::process::busy;
use crate::report::Report;

const ROUNDS: usize = 3;
const WATCHERS: usize = 200;
/// Of one round: ten seconds.
const CHANGES: usize = 1000;
const EVERY: Duration = Duration::from_millis(10);
/// Nothing that works takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// When a change was asked for, and when it was made.
type Made = (Instant, Instant);

pub async fn run(ground: &Ground) {
    let title = format!("{WATCHERS} watchers, {} changes a second", 1000 / EVERY.as_millis());
    let mut behind = Report::against_first(&format!("{title}: behind the answer"));
    let mut since = Report::against_first(&format!("{title}: since the request"));
    let mut cpu = Report::against_first(&format!("{title}: the server's processor"));
    let line = line(ground).await;
    for _ in 0..ROUNDS {
        for (who, address) in [("floor", ground.floor), ("Ballast", ground.ours)] {
            let uri = format!("/api/v1/pods?watch=1&resourceVersion={}", revision(ground));
            let watchers = open(address, &uri).await;
            let client = format!("/proc/self/task/{}", rustix::thread::gettid().as_raw_nonzero());
            let (begun, before) = (Instant::now(), busy("/proc/self") - busy(&client));
            let made = match who {
                "floor" => ground.runtime.spawn(repeat(ground.lines.clone(), line.clone())),
                _ => ground.runtime.spawn(change(ground.cluster.api.local(Identity::Admin))),
            };
            let mut seen = Vec::new();
            for watcher in watchers {
                seen.push(timeout(PATIENCE, watcher).await.expect("in time").expect("watches"));
            }
            let made = made.await.expect("changes");
            let used = busy("/proc/self") - busy(&client) - before;
            let share = used.as_secs_f64() / begun.elapsed().as_secs_f64();
            cpu.sample(who, "% of a core", share * 100.0);
            for (asked, answered, arrived) in lags(&made, &seen) {
                behind.milliseconds(who, [arrived.saturating_duration_since(answered)]);
                since.milliseconds(who, [arrived - asked]);
            }
        }
    }
    behind.print();
    since.print();
    cpu.print();
}

fn revision(ground: &Ground) -> u64 {
    ground.cluster.store().revision()
}

/// Each watcher sees each change, in order: the n-th line is the n-th change.
fn lags<'a>(
    made: &'a [Made],
    seen: &'a [Vec<Instant>],
) -> impl Iterator<Item = (Instant, Instant, Instant)> + 'a {
    seen.iter().flat_map(|arrived| {
        assert_eq!(arrived.len(), made.len(), "every watcher saw every change");
        made.iter().zip(arrived).map(|((asked, answered), arrived)| (*asked, *answered, *arrived))
    })
}

type Watcher = tokio::task::JoinHandle<Vec<Instant>>;

/// Connections that watch: the head of each answer is there.
async fn open(address: SocketAddr, uri: &str) -> Vec<Watcher> {
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut client = Client::connect(address).await;
        let request = Request::get(uri).body(Body::empty()).expect("a request");
        let mut body = client.send(request).await.into_body();
        watchers.push(tokio::spawn(async move {
            let mut seen = Vec::with_capacity(CHANGES);
            while seen.len() < CHANGES {
                let frame = body.frame().await.expect("a watch goes on").expect("it goes on");
                let bytes = frame.into_data().unwrap_or_default();
                let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
                seen.extend(std::iter::repeat_n(Instant::now(), lines));
            }
            drop(client);
            seen
        }));
    }
    watchers
}

/// The line of such a change, for the floor.
async fn line(ground: &Ground) -> Bytes {
    let uri = format!("/api/v1/pods?watch=1&resourceVersion={}", revision(ground));
    let mut client = Client::connect(ground.ours).await;
    let request = Request::get(uri).body(Body::empty()).expect("a request");
    let mut body = client.send(request).await.into_body();
    let api = ground.cluster.api.local(Identity::Admin);
    let patch = Patch::Merge(json!({"status": {"message": "first"}}));
    let written = ground.runtime.spawn(async move {
        api.patch_status::<Pod>(&key(0), &patch).await.expect("written");
    });
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let frame = body.frame().await.expect("a watch goes on").expect("it goes on");
        line.extend(frame.into_data().unwrap_or_default());
    }
    written.await.expect("written");
    line.into()
}

/// A status a tick, each of another pod.
async fn change(api: impl ballast::object::Cluster) -> Vec<Made> {
    let mut made = Vec::with_capacity(CHANGES);
    let mut ticks = ticks();
    for number in 0..CHANGES {
        ticks.tick().await;
        let told = format!("{:?}", Instant::now());
        let patch = Patch::Merge(json!({"status": {"message": told}}));
        let asked = Instant::now();
        api.patch_status::<Pod>(&key(number), &patch).await.expect("written");
        made.push((asked, Instant::now()));
    }
    made
}

/// The line a tick.
async fn repeat(lines: tokio::sync::broadcast::Sender<Bytes>, line: Bytes) -> Vec<Made> {
    let mut made = Vec::with_capacity(CHANGES);
    let mut ticks = ticks();
    for _ in 0..CHANGES {
        ticks.tick().await;
        let asked = Instant::now();
        lines.send(line.clone()).expect("somebody watches");
        made.push((asked, Instant::now()));
    }
    made
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
