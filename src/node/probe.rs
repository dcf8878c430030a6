//! Pure: what a probe's answers mean.
//!
//! Kubernetes' numbers: period 10 s, timeout 1 s, success 1, failure 3, no initial delay. Until the
//! first verdict a readiness probe counts as failed, a liveness probe as passed; a startup probe
//! gates the other two. The asking itself is in `prober.rs`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// `Readiness`, as Events name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What the thresholds made of the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// With the last answer's sentence.
    Failed(String),
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Success,
    /// A success that tells less than it seems to, with what it does not tell.
    Warning(String),
    Failure(String),
}

/// Counts answers against the thresholds.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    last: Option<bool>,
    run: i32,
}

impl Counter {
    /// The verdict that this answer completes, if it does: enough of the same kind in a row.
    pub fn hear(&mut self, answer: &Answer, probe: &Probe) -> Option<Verdict> {
        let success = !matches!(answer, Answer::Failure(_));
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { probe.success_threshold } else { probe.failure_threshold };
        let threshold = threshold.unwrap_or(if success { 1 } else { 3 }).max(1);
        (self.run >= threshold).then(|| match answer {
            Answer::Success | Answer::Warning(_) => Verdict::Passed,
            Answer::Failure(why) => Verdict::Failed(why.clone()),
        })
    }
}

/// The probes of a container, in the order they gate each other.
pub fn probes(container: &Container) -> Vec<(ProbeKind, &Probe)> {
    [
        (ProbeKind::Startup, &container.startup_probe),
        (ProbeKind::Liveness, &container.liveness_probe),
        (ProbeKind::Readiness, &container.readiness_probe),
    ]
    .into_iter()
    .filter_map(|(kind, probe)| Some((kind, probe.as_ref()?)))
    .collect()
}

fn seconds(written: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(written.and_then(|s| u64::try_from(s).ok()).unwrap_or(default))
}

pub fn period(probe: &Probe) -> Duration {
    seconds(probe.period_seconds, 10).max(Duration::from_secs(1))
}

pub fn time_limit(probe: &Probe) -> Duration {
    seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1))
}

/// What is left of `initialDelaySeconds`: it counts from the container's start, and a daemon that
/// starts later does not wait once more (kubelet `prober/worker.go`).
pub fn remaining_delay(probe: &Probe, started_at: Option<Timestamp>, now: Timestamp) -> Duration {
    let ran = started_at.map(|at| Duration::try_from(now.duration_since(at)).unwrap_or_default());
    seconds(probe.initial_delay_seconds, 0).saturating_sub(ran.unwrap_or_default())
}

/// What to ask, resolved against the container's named ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Http {
        https: bool,
        host: Option<String>,
        port: u16,
        path: String,
        headers: Vec<(String, String)>,
    },
    Tcp {
        host: Option<String>,
        port: u16,
    },
    Exec(Vec<String>),
    /// `grpc.health.v1` at the pod's own address.
    Grpc {
        port: u16,
        service: String,
    },
}

/// # Errors
/// A sentence, where a named port does not exist or the probe asks nothing.
pub fn question(probe: &Probe, container: &Container) -> Result<Question, String> {
    let port = |written: &IntOrString| match written {
        IntOrString::Int(number) => {
            u16::try_from(*number).map_err(|_| format!("{number} is not a port"))
        }
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_ref() == Some(name))
            .and_then(|port| u16::try_from(port.container_port).ok())
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("the container has no port named {name:?}")),
    };
    if let Some(http) = &probe.http_get {
        let headers = http.http_headers.iter().flatten();
        return Ok(Question::Http {
            https: http.scheme.as_deref() == Some("HTTPS"),
            host: http.host.clone().filter(|host| !host.is_empty()),
            port: port(&http.port)?,
            path: match http.path.as_deref().unwrap_or("/") {
                path if path.starts_with('/') => path.to_owned(),
                path => format!("/{path}"),
            },
            headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
        });
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = tcp.host.clone().filter(|host| !host.is_empty());
        return Ok(Question::Tcp { host, port: port(&tcp.port)? });
    }
    if let Some(grpc) = &probe.grpc {
        let port = port(&IntOrString::Int(grpc.port))?;
        return Ok(Question::Grpc { port, service: grpc.service.clone().unwrap_or_default() });
    }
    match &probe.exec {
        Some(exec) => Ok(Question::Exec(exec.command.clone().unwrap_or_default())),
        None => Err("the probe names no httpGet, tcpSocket, grpc or exec".to_owned()),
    }
}

/// What an HTTP status means: 200 to 399 is success.
pub fn judge_http(status: u16) -> Answer {
    if (200..400).contains(&status) {
        Answer::Success
    } else {
        Answer::Failure(format!("HTTP probe failed with statuscode: {status}"))
    }
}

/// What to do about a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirect {
    Follow {
        https: bool,
        /// `host:port`
        authority: String,
        path: String,
    },
    /// It counts as success (as in Kubernetes for another host), and this is what is not known then.
    Stop(&'static str),
}

/// Where a redirect of this authority leads. The same host is followed to any port and scheme.
pub fn redirect(location: &str, https: bool, authority: &str) -> Redirect {
    if location.starts_with('/') && !location.starts_with("//") {
        let (authority, path) = (authority.to_owned(), location.to_owned());
        return Redirect::Follow { https, authority, path };
    }
    let (https, rest) = if let Some(rest) = location.strip_prefix("https://") {
        (true, rest)
    } else if let Some(rest) = location.strip_prefix("http://") {
        (false, rest)
    } else if let Some(rest) = location.strip_prefix("//") {
        (https, rest)
    } else {
        return Redirect::Stop("the redirect cannot be read and was not followed");
    };
    let (there, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let usual = if https { "443" } else { "80" };
    let (host, port) = there.rsplit_once(':').unwrap_or((there, usual));
    if Some(host) != authority.rsplit_once(':').map(|(host, _)| host) {
        return Redirect::Stop("the redirect leads to another host and was not followed");
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Redirect::Follow { https, authority: format!("{host}:{port}"), path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_answers_in_a_row() {
        let probe =
            Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut counter = Counter::default();
        let bad = Answer::Failure("no".into());
        let mut hear = |answer: &Answer| counter.hear(answer, &probe);
        assert_eq!(hear(&Answer::Success), None);
        assert_eq!(hear(&bad), None);
        assert_eq!(hear(&Answer::Success), None);
        assert_eq!(hear(&Answer::Success), Some(Verdict::Passed));
        assert_eq!((hear(&bad), hear(&bad)), (None, None));
        assert_eq!(hear(&bad), Some(Verdict::Failed("no".into())));
        assert_eq!(hear(&bad), Some(Verdict::Failed("no".into())));
    }

    #[test]
    fn the_initial_delay_counts_from_the_containers_start() {
        let probe = Probe { initial_delay_seconds: Some(30), ..Probe::default() };
        let at = |second: i64| Timestamp::from_second(1_000_000 + second).expect("a time");
        let left = |started_at| remaining_delay(&probe, started_at, at(100)).as_secs();
        assert_eq!((left(Some(at(100))), left(Some(at(90))), left(Some(at(1)))), (30, 20, 0));
        // Not told, and a clock that stepped back: never longer than written.
        assert_eq!((left(None), left(Some(at(4000)))), (30, 30));
    }

    #[test]
    fn redirects_are_followed_on_the_same_host_only() {
        let from = |https: bool, location: &str| match redirect(location, https, "10.0.0.1:80") {
            Redirect::Follow { https, authority, path } => {
                format!("{}{authority}{path}", if https { "s " } else { "" })
            }
            Redirect::Stop(why) => why.split(" and ").next().unwrap_or_default().to_owned(),
        };
        let to = |location: &str| from(false, location);
        assert_eq!(to("/ok"), "10.0.0.1:80/ok");
        assert_eq!(to("http://10.0.0.1:80/x?y"), "10.0.0.1:80/x?y");
        assert_eq!(to("http://10.0.0.1"), "10.0.0.1:80/");
        assert_eq!(to("http://10.0.0.1?x"), "10.0.0.1:80/?x");
        assert_eq!(to("http://10.0.0.1:8080/x"), "10.0.0.1:8080/x");
        assert_eq!(to("https://10.0.0.1/"), "s 10.0.0.1:443/");
        assert_eq!(to("https://10.0.0.1:80/"), "s 10.0.0.1:80/");
        assert_eq!(from(true, "/ok"), "s 10.0.0.1:80/ok");
        assert_eq!(from(true, "//10.0.0.1/"), "s 10.0.0.1:443/");
        assert_eq!(from(true, "http://10.0.0.1/"), "10.0.0.1:80/");
        assert_eq!(to("http://elsewhere/x"), "the redirect leads to another host");
        assert_eq!(to("//elsewhere/x"), "the redirect leads to another host");
        assert_eq!(to("next"), "the redirect cannot be read");
        assert_eq!(judge_http(399), Answer::Success);
        assert_eq!(
            judge_http(500),
            Answer::Failure("HTTP probe failed with statuscode: 500".into())
        );
    }
}
