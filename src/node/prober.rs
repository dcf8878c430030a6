//! Asks the probes' questions: over HTTP, gRPC or TCP to the pod's address, or by a command inside the
//! container. What the answers mean is decided in `probe.rs`.
//!
//! One task a probe of a running instance. Until a readiness or startup probe first succeeds it is
//! asked again after 100 ms, doubling to its period: such early failures are not counted and make no
//! Event, they only let a container be ready as soon as it is.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::node::grpc_health;
use crate::node::http_get::{AskError, Url, dial, exchange};
use crate::node::probe::{
    Answer, Counter, ProbeKind, Question, Redirect, Verdict, judge_http, period, question,
    redirect, remaining_delay, time_limit,
};
use crate::node::runtime::{ExecOutcome, Runtime, RuntimeError};
use crate::task::Tasks;

const REDIRECTS: usize = 10;
const QUICK: Duration = Duration::from_millis(100);

/// What a probe's task tells its pod's worker.
pub struct Told {
    pub instance: String,
    pub container: String,
    pub kind: ProbeKind,
    /// A new verdict, if this answer completed one that differs from the last.
    pub verdict: Option<Verdict>,
    /// A counted failure, for an Event.
    pub failure: Option<String>,
    /// What a success does not tell, for an Event; told when it is new.
    pub warning: Option<String>,
}

/// The probes of one pod's running instances.
#[derive(Default)]
pub struct Probers {
    running: HashMap<(String, ProbeKind), CancellationToken>,
}

/// One probe to be asked.
pub struct Asked<'a> {
    pub instance: &'a str,
    pub started_at: Option<Timestamp>,
    pub kind: ProbeKind,
    /// It passed already, before an earlier run of the daemon ended: only counted failures change that.
    pub passed: bool,
    pub probe: &'a Probe,
    pub container: &'a Container,
    pub pod_ip: Ipv4Addr,
}

impl Probers {
    /// Starts the tasks of probes that are wanted and ends those that are not. `born` is when the
    /// agent began.
    pub fn keep<R: Runtime>(
        &mut self,
        wanted: &[Asked<'_>],
        runtime: &R,
        tasks: &Tasks,
        (born, now): (Timestamp, Timestamp),
        tell: &Arc<dyn Fn(Told) + Send + Sync>,
    ) {
        self.running.retain(|(instance, kind), stop| {
            let kept = wanted.iter().any(|ask| ask.instance == instance && ask.kind == *kind);
            if !kept {
                stop.cancel();
            }
            kept
        });
        for ask in wanted {
            let id = (ask.instance.to_owned(), ask.kind);
            if self.running.contains_key(&id) {
                continue;
            }
            let stop = tasks.stop().child_token();
            self.running.insert(id, stop.clone());
            let asker = Asker {
                instance: ask.instance.to_owned(),
                container: ask.container.name.clone(),
                kind: ask.kind,
                passed: ask.passed,
                delay: remaining_delay(ask.probe, ask.started_at, now)
                    .max(first_pause(ask, born, now)),
                probe: ask.probe.clone(),
                question: question(ask.probe, ask.container),
                pod_ip: ask.pod_ip,
                runtime: runtime.clone(),
                tell: tell.clone(),
            };
            tasks.spawn_short("probe", async move {
                // Cancel safe: a probe that is cut off has told nothing yet.
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = asker.run() => {}
                }
            });
        }
    }
}

impl Drop for Probers {
    fn drop(&mut self) {
        for stop in self.running.values() {
            stop.cancel();
        }
    }
}

struct Asker<R> {
    instance: String,
    container: String,
    kind: ProbeKind,
    passed: bool,
    delay: Duration,
    probe: Probe,
    question: Result<Question, String>,
    pod_ip: Ipv4Addr,
    runtime: R,
    tell: Arc<dyn Fn(Told) + Send + Sync>,
}

impl<R: Runtime> Asker<R> {
    async fn run(self) {
        let period = self.spread(period(&self.probe));
        let mut counter = Counter::default();
        let mut last = self.passed.then_some(Verdict::Passed);
        let mut warned: Option<String> = None;
        let waits = self.kind != ProbeKind::Liveness && !self.passed;
        let mut quick = waits.then_some(QUICK);
        sleep(self.delay).await;
        loop {
            if let Some(answer) = self.ask().await {
                let (failure, warning) = match &answer {
                    Answer::Success => (None, None),
                    Answer::Warning(what) => (None, Some(what.clone())),
                    Answer::Failure(why) => (Some(why.clone()), None),
                };
                if failure.is_none() {
                    quick = None;
                }
                if quick.is_none() {
                    let verdict = counter.hear(&answer, &self.probe);
                    let news = verdict.filter(|verdict| !same(last.as_ref(), verdict));
                    last = news.clone().or(last);
                    let new = (warned != warning).then(|| warning.clone()).flatten();
                    warned = warning;
                    if news.is_some() || failure.is_some() || new.is_some() {
                        (self.tell)(Told {
                            instance: self.instance.clone(),
                            container: self.container.clone(),
                            kind: self.kind,
                            verdict: news,
                            failure,
                            warning: new,
                        });
                    }
                    if self.kind == ProbeKind::Startup && last == Some(Verdict::Passed) {
                        return;
                    }
                }
            }
            match quick {
                Some(pause) if pause < period => {
                    quick = Some(pause * 2);
                    sleep(pause).await;
                }
                _ => {
                    quick = None;
                    sleep(period).await;
                }
            }
        }
    }

    /// Within 5 % of the period, the same for the same instance: probes of many pods that started
    /// together do not stay together.
    fn spread(&self, period: Duration) -> Duration {
        period.mul_f64(0.95 + 0.1 * share(&self.instance, self.kind))
    }

    /// `None`: the engine could not be asked, which says nothing about the container.
    async fn ask(&self) -> Option<Answer> {
        let limit = time_limit(&self.probe);
        let question = match &self.question {
            Ok(question) => question,
            Err(why) => return Some(Answer::Failure(why.clone())),
        };
        match question {
            Question::Tcp { host, port } => {
                let address = format!("{}:{port}", self.host(host.as_deref()));
                Some(match timeout(limit, dial(&address)).await {
                    Ok(Ok(_)) => Answer::Success,
                    Ok(Err(error)) => Answer::Failure(error.to_string()),
                    Err(_) => Answer::Failure(format!("dial tcp {address}: i/o timeout")),
                })
            }
            Question::Http { https, host, port, path, headers } => {
                let authority = format!("{}:{port}", self.host(host.as_deref()));
                let url = Url { https: *https, authority, path: path.clone() };
                Some(match timeout(limit, get(url.clone(), headers)).await {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(error)) => Answer::Failure(format!("Get \"{url}\": {error}")),
                    Err(_) => Answer::Failure(format!(
                        "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
                    )),
                })
            }
            Question::Grpc { port, service } => {
                let authority = format!("{}:{port}", self.pod_ip);
                let asked = timeout(limit, grpc_health::check(&authority, service)).await;
                Some(asked.unwrap_or_else(|_| {
                    let limit = limit.as_secs();
                    Answer::Failure(format!("timeout: health rpc did not complete within {limit}s"))
                }))
            }
            Question::Exec(command) => {
                match self.runtime.exec(&self.instance, command, limit).await {
                    Ok(ExecOutcome::Ended { exit_code: 0, .. }) => Some(Answer::Success),
                    Ok(ExecOutcome::Ended { output, .. }) => Some(Answer::Failure(output)),
                    Ok(ExecOutcome::Late) => Some(Answer::Failure(format!(
                        "command timed out: \"{}\" timed out after {}s",
                        command.join(" "),
                        limit.as_secs()
                    ))),
                    Err(RuntimeError::Unreachable(_)) => None,
                    Err(error) => Some(Answer::Failure(error.to_string())),
                }
            }
        }
    }

    fn host(&self, written: Option<&str>) -> String {
        written.map_or_else(|| self.pod_ip.to_string(), str::to_owned)
    }
}

/// From 0 to 1, by chance, and always the same for the same probe.
fn share(instance: &str, kind: ProbeKind) -> f64 {
    let mut hasher = DefaultHasher::new();
    (instance, kind).hash(&mut hasher);
    f64::from(u32::try_from(hasher.finish() >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

/// A new agent finds many containers at once: their first probes are spread over the period (the
/// kubelet's `prober/worker.go`, for as long as it is younger than one).
fn first_pause(ask: &Asked<'_>, born: Timestamp, now: Timestamp) -> Duration {
    let period = period(ask.probe);
    let age = Duration::try_from(now.duration_since(born)).unwrap_or_default();
    let found = ask.started_at.is_some_and(|at| at < born);
    if found && age < period {
        period.mul_f64(share(ask.instance, ask.kind))
    } else {
        Duration::ZERO
    }
}

/// Two failures are the same verdict, whatever their sentences.
fn same(last: Option<&Verdict>, new: &Verdict) -> bool {
    matches!(
        (last, new),
        (Some(Verdict::Passed), Verdict::Passed) | (Some(Verdict::Failed(_)), Verdict::Failed(_))
    )
}

/// One GET, following redirects as far as [`redirect`] says.
async fn get(url: Url, headers: &[(String, String)]) -> Result<Answer, AskError> {
    let mut url = url;
    for _ in 0..=REDIRECTS {
        let answered = exchange(&url, "kube-probe", headers).await?;
        let is_redirect = (300..400).contains(&answered.status);
        match answered.location.filter(|_| is_redirect) {
            Some(location) => match redirect(&location, url.https, &url.authority) {
                Redirect::Follow { https, authority, path } => {
                    url = Url { https, authority, path };
                }
                Redirect::Stop(why) => return Ok(Answer::Warning(format!("{why} ({location})"))),
            },
            None => return Ok(judge_http(answered.status)),
        }
    }
    Err(format!("stopped after {REDIRECTS} redirects").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn at(authority: &str) -> Url {
        Url { https: false, authority: authority.to_owned(), path: "/".to_owned() }
    }

    #[test]
    fn the_first_probes_of_an_agent_that_was_restarted_are_spread() {
        let time = |second: i64| Timestamp::from_second(1_000_000 + second).expect("a time");
        let (probe, container) = (Probe::default(), Container::default());
        let pause = |instance: &str, started: i64, now: i64| {
            let ask = Asked {
                instance,
                started_at: Some(time(started)),
                kind: ProbeKind::Liveness,
                passed: true,
                probe: &probe,
                container: &container,
                pod_ip: Ipv4Addr::LOCALHOST,
            };
            first_pause(&ask, time(0), time(now))
        };
        let names: Vec<String> = (0..200).map(|number| format!("c{number}")).collect();
        let pauses: Vec<f64> = names.iter().map(|name| pause(name, -5, 0).as_secs_f64()).collect();
        assert!(pauses.iter().all(|pause| (0.0..=10.0).contains(pause)));
        for tenth in 0..10 {
            let within = pauses.iter().filter(|pause| **pause as i64 == tenth).count();
            assert!(within > 5, "{within} of 200 in second {tenth}");
        }
        // What starts later waits for nothing, and so does what an older agent finds.
        assert_eq!((pause("c1", 1, 2), pause("c1", -5, 10)), (Duration::ZERO, Duration::ZERO));
    }

    async fn server(replies: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        tokio::spawn(async move {
            for reply in replies {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                stream.write_all(reply.as_bytes()).await.expect("written");
            }
        });
        address
    }

    #[tokio::test]
    async fn http_probes_follow_their_own_host_only() {
        let address = server(&[
            "HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nbusy",
        ])
        .await;
        assert_eq!(get(at(&address), &[]).await.expect("an answer"), Answer::Success);
        let Ok(Answer::Warning(what)) = get(at(&address), &[]).await else {
            panic!("another host is not asked")
        };
        assert!(what.contains("another host") && what.contains("elsewhere.example"), "{what}");
        assert_eq!(
            get(at(&address), &[]).await.expect("an answer"),
            Answer::Failure("HTTP probe failed with statuscode: 503".into())
        );
        let closed = get(at("127.0.0.1:1"), &[]).await.expect_err("nobody is there");
        assert_eq!(closed.to_string(), "dial tcp 127.0.0.1:1: connect: connection refused");
    }

    /// As nginx answers on port 80 of a host that wants https, with a certificate of nobody.
    #[tokio::test]
    async fn https_is_asked_whoever_signed_it() {
        let signed = rcgen::generate_simple_self_signed(["somebody.example".to_owned()]);
        let rcgen::CertifiedKey { cert, signing_key } = signed.expect("a certificate");
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key.into())
            .expect("a server");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let secure = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a client");
                let mut stream = acceptor.accept(stream).await.expect("TLS");
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                stream.write_all(reply).await.expect("written");
                let _ = stream.shutdown().await;
            }
        });
        let url = Url { https: true, ..at(&secure.to_string()) };
        assert_eq!(get(url, &[]).await.expect("an answer"), Answer::Success);
        let reply = format!(
            "HTTP/1.1 301 Moved\r\nLocation: https://{secure}/\r\nContent-Length: 0\r\n\r\n"
        );
        let plain =
            server(vec![reply].leak().iter().map(|reply| &**reply).collect::<Vec<_>>().leak())
                .await;
        assert_eq!(get(at(&plain), &[]).await.expect("an answer"), Answer::Success);
    }
}
