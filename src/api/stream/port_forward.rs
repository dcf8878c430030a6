//! `kubectl port-forward`: a SPDY/3.1 session, in which each connection to a local port of the client
//! is a pair of streams, one for its bytes and one for what went wrong. kubectl up to 1.30 speaks
//! SPDY on the connection, later ones in the messages of a WebSocket first.
//!
//! What is asked and answered, and in which words, is the kubelet's
//! (`kubelet/pkg/cri/streaming/portforward/httpstream.go`). Two things are better than there, where
//! the container runtime cuts a connection a second after its first half has ended and a reset
//! connection ends the whole session: here the other half has its time, and a reset is one
//! connection's end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::api::stream::opening::Call;
use crate::api::stream::port_pairs::{Pair, Paired, Pairs, admits};
use crate::api::stream::spdy_connection::{Ended, GivenUp, Reads, Stream, Writes, converse, plain};
use crate::api::stream::spdy_handshake::agreed;
use crate::api::stream::spdy_tunnel::tunnelled;
use crate::api::stream::upgrade::{Ending, Upgrade, Use};
use crate::api::stream::websocket::{self, Handshake, socket};
use crate::object::streams::{PortConnection, Streams};
use crate::object::{ApiError, Key, reference};
use crate::store::Store;

/// The one protocol in SPDY.
const PROTOCOL: &str = "portforward.k8s.io";
/// The same in a WebSocket.
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";

/// After one half of a connection has ended, for a byte of the other one. A kernel keeps a socket
/// that is closed on one side as long (`tcp_fin_timeout`, 60 s). Whoever closed both looks the same
/// as who closed one until the pod sends something.
const QUIET_TIME: Duration = Duration::from_secs(60);

/// Where a session's connections go.
struct Target {
    streams: Arc<dyn Streams>,
    pod: Key,
    uid: String,
}

/// # Errors
/// `BadRequest` for a request that asks for no upgrade; `Forbidden` for protocols that are not
/// spoken here, in the reference server's words.
pub(crate) async fn open<S: Store>(call: Call<'_, S>) -> Result<Response, ApiError> {
    let upgrade = Upgrade::of(call.parts)?;
    let headers = &call.parts.headers;
    let about = reference(&*call.pod);
    let used = Use { part: call.part, about, what: "forwards ports".to_owned() };
    let uid = call.pod.metadata.uid.clone().unwrap_or_default();
    let target = Target { streams: call.streams, pod: call.key, uid };
    if websocket::asked(headers) {
        let answer = Handshake::of(call.parts, &[TUNNELLED])?.headers();
        let run = |connection, ending| async move {
            session(tunnelled(socket(connection).await), target, ending).await;
        };
        return Ok(upgrade.switch(call.api, used, "websocket", &answer, run));
    }
    let answer = agreed(headers, PROTOCOL)?;
    let run = |connection, ending| session(plain(connection), target, ending);
    Ok(upgrade.switch(call.api, used, "SPDY/3.1", answer.as_slice(), run))
}

/// The whole session, over whatever carries it.
async fn session<R: Reads, W: Writes>(wire: (R, W), target: Target, ending: Ending) {
    let call = async move {
        ending.come().await;
    };
    report(&converse(wire, admits, call, |opened| serve(target, opened)).await);
}

fn report(ended: &Ended) {
    let cause = std::error::Error::source(ended).map(ToString::to_string);
    debug!(%ended, cause, "a port-forward ended");
}

/// Pairs streams and runs what they are for, until the session is over.
async fn serve(target: Target, mut opened: mpsc::Receiver<Stream>) {
    let begun = Instant::now();
    let mut pairs = Pairs::default();
    let mut running = FuturesUnordered::new();
    loop {
        let due = pairs.next_due();
        tokio::select! {
            biased;
            // Cancel safe: what was not received stays queued.
            stream = opened.recv() => {
                let Some(stream) = stream else { return };
                let (id, headers) = (stream.id, stream.headers.clone());
                match pairs.add(stream, id, &headers, begun.elapsed()) {
                    Paired::Waits => {}
                    Paired::Whole(pair) => running.push(futures::future::Either::Left(forward(&target, pair))),
                    Paired::Refused(_, why) => debug!(why, "a stream is given up"),
                }
            }
            // Cancel safe: it only looks at the time.
            () = sleep_until(begun + due.unwrap_or_default()), if due.is_some() => {
                for alone in pairs.expire(begun.elapsed()) {
                    if let Some(message) = alone.message {
                        running.push(futures::future::Either::Right(tell(alone.stream, message)));
                    }
                }
            }
            // Cancel safe: what has not ended stays.
            Some(()) = running.next() => {}
        }
    }
}

/// The last words of an error stream.
async fn tell(mut error: Stream, message: String) {
    let told = async {
        error.outbound.send(message.into()).await?;
        error.outbound.finish().await
    };
    // Where the session is over, nobody is there to be told.
    let _: Result<(), GivenUp> = told.await;
}

/// One connection, from its first byte to its last.
async fn forward(target: &Target, pair: Pair<Stream>) {
    let Pair { port, error, mut data, request } = pair;
    match target.streams.connect(target.pod.clone(), port).await {
        Ok(connection) => match carry(connection, &mut data, error).await {
            Carried::Broken(failure) => {
                debug!(request, port, %failure, "a forwarded connection broke");
            }
            carried => debug!(request, port, ?carried, "a forwarded connection ended"),
        },
        Err(failure) => {
            let message = format!(
                "error forwarding port {port} to pod {}, uid {}: {}",
                target.pod.name, target.uid, failure.message
            );
            debug!(request, message);
            tell(error, message).await;
            let _ = data.outbound.finish().await;
        }
    }
}

/// Why a connection is over.
#[derive(Debug)]
enum Carried {
    BothEnded,
    /// The client gave it up.
    GivenUp,
    /// The pod's side broke; the client's local connection is closed, as the pod's was.
    Broken(ApiError),
    /// One half has ended, and the other one says nothing.
    Quiet,
}

impl From<GivenUp> for Carried {
    fn from(_: GivenUp) -> Self {
        Self::GivenUp
    }
}

impl From<ApiError> for Carried {
    fn from(failure: ApiError) -> Self {
        Self::Broken(failure)
    }
}

/// Carries bytes both ways until both have ended. What the client is told when the pod's side breaks
/// is the end of its bytes: kubectl ends the whole session for one word on the error stream.
async fn carry(
    connection: PortConnection<ApiError>,
    data: &mut Stream,
    mut error: Stream,
) -> Carried {
    let PortConnection { mut input, mut output } = connection;
    let half = CancellationToken::new();
    let Stream { inbound, outbound, .. } = data;
    let to_pod = async {
        while let Some(chunk) = heard(inbound.next(), &half).await?? {
            // The chunk's room is free when its bytes are written.
            input.send(chunk.bytes.clone()).await?;
        }
        input.close().await?;
        half.cancel();
        Ok::<_, Carried>(())
    };
    let to_client = async {
        while let Some(bytes) = heard(output.next(), &half).await? {
            outbound.send(bytes?).await?;
        }
        outbound.finish().await?;
        // kubectl closes the local connection when both streams have ended.
        error.outbound.finish().await?;
        half.cancel();
        Ok::<_, Carried>(())
    };
    let carried = match futures::future::try_join(to_pod, to_client).await {
        Ok(_) => Carried::BothEnded,
        Err(carried) => carried,
    };
    // Nothing goes out of a stream that the client gave up.
    let _ = outbound.finish().await;
    let _ = error.outbound.finish().await;
    carried
}

/// What a half has next; where the other one has ended, only for a while.
async fn heard<T>(next: impl Future<Output = T>, half: &CancellationToken) -> Result<T, Carried> {
    tokio::select! {
        biased;
        // Cancel safe as a queue and a stream are: what was not heard stays.
        next = next => Ok(next),
        // Cancel safe: it holds nothing.
        () = async {
            half.cancelled().await;
            sleep(QUIET_TIME).await;
        } => Err(Carried::Quiet),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::stream::spdy_connection::tests::Client;
    use crate::api::stream::spdy_frame::Frame;
    use crate::object::ports::BoxFuture;
    use crate::object::streams::{AttachQuery, ExecQuery, Process};
    use bytes::Bytes;
    use futures::channel::mpsc as pipe;

    type In = pipe::Receiver<Bytes>;
    type Out = pipe::Sender<Result<Bytes, ApiError>>;

    /// A pod whose port 80 is the test's, and nobody listens on any other.
    struct Pod(pipe::UnboundedSender<(In, Out)>);

    impl Streams for Pod {
        fn exec(&self, _: Key, _: ExecQuery) -> BoxFuture<Result<Process<ApiError>, ApiError>> {
            panic!("nobody asks for it")
        }

        fn attach(&self, _: Key, _: AttachQuery) -> BoxFuture<Result<Process<ApiError>, ApiError>> {
            panic!("nobody asks for it")
        }

        fn connect(
            &self,
            _: Key,
            port: u16,
        ) -> BoxFuture<Result<PortConnection<ApiError>, ApiError>> {
            let (to_pod, ours) = pipe::channel(1);
            let (theirs, from_pod) = pipe::channel(1);
            let _ = self.0.unbounded_send((ours, theirs));
            let broken = |_| ApiError::internal("connection reset by peer");
            let connection = PortConnection {
                input: Box::pin(to_pod.sink_map_err(broken)),
                output: from_pod.boxed(),
            };
            Box::pin(async move {
                if port == 80 {
                    Ok(connection)
                } else {
                    Err(ApiError::internal("connection refused"))
                }
            })
        }
    }

    /// Runs a test's client against a session.
    async fn with_session<F: Future<Output = ()>>(
        test: impl FnOnce(Client, pipe::UnboundedReceiver<(In, Out)>) -> F,
    ) {
        let (client, wire) = Client::new();
        let (pod, connections) = pipe::unbounded();
        let target = Target {
            streams: Arc::new(Pod(pod)),
            pod: Key::new("default", "web"),
            uid: "u-1".to_owned(),
        };
        let session =
            converse(wire, admits, std::future::pending(), |opened| serve(target, opened));
        // The client's end is the session's.
        let (ended, ()) = tokio::join!(session, test(client, connections));
        assert!(matches!(ended, Ended::ByClient | Ended::Broken(_)), "{ended}");
    }

    /// Opens both streams of a request, `error` first, as kubectl does.
    async fn open(client: &mut Client, first: u32, port: &str) {
        for (stream, kind) in [(first, "error"), (first + 2, "data")] {
            let request = first.to_string();
            let headers = [("streamtype", kind), ("port", port), ("requestid", &*request)];
            client.open(stream, &headers).await;
            assert_eq!(client.told().await, format!("{stream} replied"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn halves_close_one_by_one() {
        with_session(|mut client, mut connections| async move {
            open(&mut client, 1, "80").await;
            let (mut heard, mut says) = connections.next().await.expect("connected");
            client.data(3, true, "question").await;
            assert_eq!(heard.next().await, Some(Bytes::from_static(b"question")));
            assert_eq!(heard.next().await, None, "the client's end is told");
            says.send(Ok(Bytes::from_static(b"answer"))).await.expect("the other half is open");
            assert_eq!(client.told().await, "3 \"answer\"");
            drop(says);
            let ends = [client.told().await, client.told().await];
            assert_eq!(ends, ["3 \"\" fin", "1 \"\" fin"]);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_told_on_the_error_stream_and_hurts_nobody_else() {
        with_session(|mut client, mut connections| async move {
            open(&mut client, 1, "80").await;
            open(&mut client, 5, "81").await;
            let words = "5 \"error forwarding port 81 to pod web, uid u-1: connection refused\"";
            assert_eq!(client.told().await, words);
            assert_eq!([client.told().await, client.told().await], ["5 \"\" fin", "7 \"\" fin"]);
            let (mut heard, _says) = connections.next().await.expect("connected");
            client.data(3, false, "still there").await;
            assert_eq!(heard.next().await, Some(Bytes::from_static(b"still there")));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_break_is_one_connections_end_without_a_word() {
        with_session(|mut client, mut connections| async move {
            open(&mut client, 1, "80").await;
            let (_heard, mut says) = connections.next().await.expect("connected");
            says.send(Err(ApiError::internal("connection reset by peer"))).await.expect("open");
            assert_eq!([client.told().await, client.told().await], ["3 \"\" fin", "1 \"\" fin"]);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_a_stream_up_closes_the_connection() {
        with_session(|mut client, mut connections| async move {
            open(&mut client, 1, "80").await;
            let (mut heard, says) = connections.next().await.expect("connected");
            client.send(Frame::RstStream { stream: 3, status: 5 }).await.expect("a session");
            assert_eq!(heard.next().await, None);
            assert_eq!(client.told().await, "1 \"\" fin");
            assert!(says.is_closed());
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_that_stays_alone_is_told_after_30_seconds() {
        with_session(|mut client, _connections| async move {
            let begun = Instant::now();
            client.open(1, &[("streamtype", "error"), ("port", "80"), ("requestid", "0")]).await;
            assert_eq!(client.told().await, "1 replied");
            assert_eq!(client.told().await, "1 \"(request=0) timed out waiting for streams\"");
            assert_eq!(client.told().await, "1 \"\" fin");
            assert_eq!(begun.elapsed().as_secs(), 30);
            client.open(3, &[("streamtype", "error")]).await;
            assert_eq!(client.told().await, "3 reset 5", "it names no port");
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_open_connection_may_be_quiet_for_a_minute() {
        with_session(|mut client, mut connections| async move {
            open(&mut client, 1, "80").await;
            let (_heard, mut says) = connections.next().await.expect("connected");
            client.data(3, true, "").await;
            for _ in 0..3 {
                sleep(QUIET_TIME - Duration::from_secs(1)).await;
                says.send(Ok(Bytes::from_static(b"x"))).await.expect("open");
                assert_eq!(client.told().await, "3 \"x\"");
            }
            let quiet = Instant::now();
            assert_eq!([client.told().await, client.told().await], ["3 \"\" fin", "1 \"\" fin"]);
            assert_eq!(quiet.elapsed().as_secs(), QUIET_TIME.as_secs());
            assert!(says.is_closed());
        })
        .await;
    }
}
