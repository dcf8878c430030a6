//! Pure: which streams of a session make a forwarded connection. As the kubelet pairs them
//! (`kubelet/pkg/cri/streaming/portforward/httpstream.go`): one stream of type `error` and one of type
//! `data` with the same `requestID`, each with a `port`; a half that stays alone is given up after
//! 30 s; messages are the kubelet's.

use std::collections::BTreeMap;
use std::time::Duration;

use super::spdy_header_block::Headers;

/// `DefaultStreamCreationTimeout` of the kubelet.
pub(crate) const PAIR_TIME: Duration = Duration::from_secs(30);

/// The halves that wait for their other one. Times are since the session's begin; `S` is a stream.
#[derive(Debug)]
pub(crate) struct Pairs<S> {
    waiting: BTreeMap<String, Half<S>>,
}

#[derive(Debug)]
struct Half<S> {
    stream: S,
    kind: Kind,
    port: u16,
    until: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Error,
    Data,
}

/// What became of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Paired<S> {
    Waits,
    Whole(Pair<S>),
    /// It is no half of anything: why. It is to be given up.
    Refused(S, String),
}

/// A forwarded connection's streams.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pair<S> {
    pub request: String,
    pub port: u16,
    pub error: S,
    pub data: S,
}

/// A half whose other one did not come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Alone<S> {
    pub stream: S,
    /// For the client, where the half is an error stream.
    pub message: Option<String>,
}

impl<S> Default for Pairs<S> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new() }
    }
}

impl<S> Pairs<S> {
    /// Takes a stream with its number and headers.
    pub fn add(&mut self, stream: S, id: u32, headers: &Headers, now: Duration) -> Paired<S> {
        let (kind, port) = match meant(headers) {
            Ok(meant) => meant,
            Err(why) => return Paired::Refused(stream, why),
        };
        // Clients from before Kubernetes 1.2 name no request: their error stream comes first, their
        // data stream has the next number.
        let named = headers.get("requestid").filter(|request| !request.is_empty());
        let request = named.map(str::to_owned).unwrap_or_else(|| match kind {
            Kind::Error => id.to_string(),
            Kind::Data => id.saturating_sub(2).to_string(),
        });
        match self.waiting.remove(&request) {
            None => {
                let until = now + PAIR_TIME;
                self.waiting.insert(request, Half { stream, kind, port, until });
                Paired::Waits
            }
            Some(half) if half.kind == kind => {
                let kind = if kind == Kind::Error { "error" } else { "data" };
                let why = format!(
                    "error processing stream for request {request}: {kind} stream already assigned"
                );
                self.waiting.insert(request, half);
                Paired::Refused(stream, why)
            }
            // The kubelet forwards to the port that the data stream names.
            Some(half) => Paired::Whole(match kind {
                Kind::Data => Pair { request, port, error: half.stream, data: stream },
                Kind::Error => Pair { request, port: half.port, error: stream, data: half.stream },
            }),
        }
    }

    /// When the first of them has waited long enough.
    pub fn next_due(&self) -> Option<Duration> {
        self.waiting.values().map(|half| half.until).min()
    }

    /// The halves whose time is over.
    pub fn expire(&mut self, now: Duration) -> Vec<Alone<S>> {
        let due = self.waiting.extract_if(.., |_, half| half.until <= now);
        due.map(|(request, half)| {
            let words = || format!("(request={request}) timed out waiting for streams");
            Alone { message: (half.kind == Kind::Error).then(words), stream: half.stream }
        })
        .collect()
    }
}

/// Whether a stream may be opened: the kubelet's `httpStreamReceived`.
pub(crate) fn admits(headers: &Headers) -> bool {
    meant(headers).is_ok()
}

/// What a stream says that it is.
fn meant(headers: &Headers) -> Result<(Kind, u16), String> {
    let text = |name| headers.get(name).unwrap_or_default();
    let port = match text("port") {
        "" => return Err("\"port\" header is required".to_owned()),
        port => match port.parse::<u16>() {
            Ok(0) => return Err(format!("port {port:?} must be > 0")),
            Ok(port) => port,
            Err(_) => return Err(format!("unable to parse {port:?} as a port")),
        },
    };
    match text("streamtype") {
        "error" => Ok((Kind::Error, port)),
        "data" => Ok((Kind::Data, port)),
        "" => Err("\"streamType\" header is required".to_owned()),
        other => Err(format!("invalid stream type {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn headers(kind: &str, port: &str, request: &str) -> Headers {
        let pairs = [("streamtype", kind), ("port", port), ("requestid", request)];
        let told = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        Headers(told.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn add(pairs: &mut Pairs<u32>, id: u32, kind: &str, port: &str, request: &str) -> Paired<u32> {
        pairs.add(id, id, &headers(kind, port, request), NOW)
    }

    fn whole(request: &str, port: u16, error: u32, data: u32) -> Paired<u32> {
        Paired::Whole(Pair { request: request.into(), port, error, data })
    }

    #[test]
    fn two_halves_of_one_request_are_a_connection_in_any_order() {
        let mut pairs = Pairs::default();
        assert_eq!(add(&mut pairs, 1, "error", "80", "0"), Paired::Waits);
        assert_eq!(add(&mut pairs, 3, "data", "81", "1"), Paired::Waits);
        assert_eq!(add(&mut pairs, 5, "error", "81", "1"), whole("1", 81, 5, 3));
        assert_eq!(add(&mut pairs, 7, "data", "80", "0"), whole("0", 80, 1, 7));
        assert_eq!(pairs.next_due(), None);
        assert_eq!(add(&mut pairs, 9, "error", "80", "0"), Paired::Waits, "a number is used again");
    }

    #[test]
    fn an_old_client_is_known_by_its_stream_numbers() {
        let mut pairs = Pairs::default();
        assert_eq!(add(&mut pairs, 5, "error", "80", ""), Paired::Waits);
        assert_eq!(add(&mut pairs, 7, "data", "80", ""), whole("5", 80, 5, 7));
    }

    #[test]
    fn a_half_that_stays_alone_is_given_up() {
        let mut pairs = Pairs::default();
        assert_eq!(add(&mut pairs, 1, "error", "80", "0"), Paired::Waits);
        assert_eq!(add(&mut pairs, 3, "data", "80", "1"), Paired::Waits);
        assert_eq!(pairs.next_due(), Some(NOW + PAIR_TIME));
        assert_eq!(pairs.expire(NOW + PAIR_TIME - Duration::from_millis(1)), []);
        let message = Some("(request=0) timed out waiting for streams".to_owned());
        let alone = [Alone { stream: 1, message }, Alone { stream: 3, message: None }];
        assert_eq!(pairs.expire(NOW + PAIR_TIME), alone);
        assert_eq!((pairs.next_due(), pairs.expire(NOW * 2)), (None, Vec::new()));
    }

    #[test]
    fn what_is_no_half_is_refused_in_the_kubelets_words() {
        let mut pairs = Pairs::default();
        assert_eq!(add(&mut pairs, 1, "error", "80", "0"), Paired::Waits);
        for (kind, port, why) in [
            ("error", "80", "error processing stream for request 0: error stream already assigned"),
            ("data", "", "\"port\" header is required"),
            ("data", "http", "unable to parse \"http\" as a port"),
            ("data", "65536", "unable to parse \"65536\" as a port"),
            ("data", "0", "port \"0\" must be > 0"),
            ("", "80", "\"streamType\" header is required"),
            ("stdin", "80", "invalid stream type \"stdin\""),
        ] {
            assert_eq!(add(&mut pairs, 3, kind, port, "0"), Paired::Refused(3, why.to_owned()));
        }
        assert_eq!(add(&mut pairs, 3, "data", "80", "0"), whole("0", 80, 1, 3));
        assert!(admits(&headers("data", "65535", "")) && !admits(&Headers::default()));
    }
}
