//! A client of exec or attach that speaks SPDY/3.1, as kubectl does up to 1.29: of the fourth version
//! of the protocol, in which each channel is a stream that says in its `streamType` which one it is.
//! The kubelet's counterpart is `kubelet/pkg/cri/streaming/remotecommand/httpstream.go`.

use std::io::{self, ErrorKind};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use crate::api::stream::client::{Client, Heard, Told};
use crate::api::stream::spdy_connection::{Outbound, Stream};
use crate::api::stream::spdy_header_block::Headers;
use crate::object::streams::Channels;

/// For all streams to be there: the kubelet's `streamCreationTimeout`.
const STREAM_TIME: Duration = Duration::from_secs(30);

const KINDS: [&str; 5] = ["error", "stdin", "stdout", "stderr", "resize"];

/// Whether a stream may be opened.
pub(crate) fn admits(headers: &Headers) -> bool {
    headers.get("streamtype").is_some_and(|kind| KINDS.contains(&kind))
}

/// The streams of a client that are there already.
#[derive(Default)]
struct Ends {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Ends {
    fn take(&mut self, stream: Stream) {
        let end = match stream.headers.get("streamtype") {
            Some("error") => &mut self.error,
            Some("stdin") => &mut self.stdin,
            Some("stdout") => &mut self.stdout,
            Some("stderr") => &mut self.stderr,
            _ => &mut self.resize,
        };
        // A second one of a kind is given up.
        end.get_or_insert(stream);
    }

    fn are_whole(&self, channels: Channels) -> bool {
        let Channels { stdin, stdout, stderr, tty } = channels;
        self.error.is_some()
            && (self.stdin.is_some() || !stdin)
            && (self.stdout.is_some() || !stdout)
            && (self.stderr.is_some() || !stderr)
            && (self.resize.is_some() || !tty)
    }
}

/// The client, when all of its streams are there; `None` where they do not come. Who opens more of
/// them then ends the session: nobody takes them up.
pub(crate) async fn client(
    mut opened: mpsc::Receiver<Stream>,
    channels: Channels,
) -> Option<Client> {
    let mut ends = Ends::default();
    let whole = async {
        while !ends.are_whole(channels) {
            ends.take(opened.recv().await?);
        }
        Some(())
    };
    match timeout(STREAM_TIME, whole).await {
        Ok(whole) => whole?,
        Err(_) => {
            debug!("timed out waiting for the client to create streams");
            return None;
        }
    }
    let Ends { error, stdin, stdout, stderr, resize } = ends;
    let (stdin, resize) = (read(stdin, Heard::Stdin), read(resize, Heard::Resize));
    // What a terminal's sizes end with is nothing to a process.
    let resize = resize.filter(|heard| {
        let resizes = matches!(heard, Heard::Resize(_));
        futures::future::ready(resizes)
    });
    let heard = futures::stream::select(stdin, resize).boxed();
    let voices = [error, stdout, stderr].map(|end| end.map(|stream| stream.outbound));
    let telling = futures::sink::unfold(voices, |mut voices, told| async move {
        tell(&mut voices, told).await?;
        Ok(voices)
    });
    Some(Client { heard, telling: Box::pin(telling) })
}

/// What comes on a stream. It goes on after its end: the client is gone when its session is over, and
/// then nobody asks here. The stream is kept whole until then: dropped, it would be given up.
fn read(stream: Option<Stream>, of: fn(Bytes) -> Heard) -> BoxStream<'static, Heard> {
    let open = stream.is_some();
    let parts = futures::stream::unfold((stream, open), move |end| next(end, of));
    parts.boxed()
}

type End = (Option<Stream>, bool);

async fn next((mut stream, open): End, of: fn(Bytes) -> Heard) -> Option<(Heard, End)> {
    match &mut stream {
        Some(Stream { inbound, .. }) if open => match inbound.next().await {
            Ok(Some(chunk)) => Some((of(chunk.bytes.clone()), (stream, true))),
            // Given up or ended: no more comes.
            Ok(None) | Err(_) => Some((Heard::StdinEnd, (stream, false))),
        },
        _ => std::future::pending().await,
    }
}

/// `[error, stdout, stderr]`
async fn tell(voices: &mut [Option<Outbound>; 3], told: Told) -> io::Result<()> {
    let [error, stdout, stderr] = voices;
    let (voice, bytes) = match told {
        Told::Status(bytes) => (error, bytes),
        Told::Stdout(bytes) => (stdout, bytes),
        Told::Stderr(bytes) => (stderr, bytes),
        // kubectl pings by itself.
        Told::Alive => return Ok(()),
        Told::End => {
            for voice in [stdout, stderr, error].into_iter().flatten() {
                voice.finish().await.map_err(gone)?;
            }
            return Ok(());
        }
    };
    match voice {
        Some(voice) if !bytes.is_empty() => voice.send(bytes).await.map_err(gone),
        _ => Ok(()),
    }
}

fn gone(failure: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(ErrorKind::BrokenPipe, failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::stream::spdy_connection::{converse, tests::Client as Peer};
    use futures::SinkExt;

    const ALL: Channels = Channels { stdin: true, stdout: true, stderr: true, tty: false };

    #[tokio::test(start_paused = true)]
    async fn each_channel_is_a_stream() {
        let (mut peer, wire) = Peer::new();
        let serve = |opened: mpsc::Receiver<Stream>| async move {
            let Client { mut heard, mut telling } = client(opened, ALL).await.expect("whole");
            assert_eq!(heard.next().await, Some(Heard::Stdin(Bytes::from_static(b"in"))));
            assert_eq!(heard.next().await, Some(Heard::StdinEnd));
            for told in [
                Told::Stdout(Bytes::new()),
                Told::Stdout(Bytes::from_static(b"out")),
                Told::Alive,
                Told::Stderr(Bytes::from_static(b"err")),
                Told::Status(Bytes::from_static(b"{}")),
                Told::End,
            ] {
                telling.send(told).await.expect("told");
            }
            assert!(timeout(STREAM_TIME, heard.next()).await.is_err(), "nothing more is heard");
        };
        let session = converse(wire, admits, std::future::pending(), serve);
        let kubectl = async move {
            for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
                peer.open(stream, &[("streamtype", kind)]).await;
                assert_eq!(peer.told().await, format!("{stream} replied"));
            }
            peer.data(3, true, "in").await;
            let mut told = Vec::new();
            for _ in 0..6 {
                told.push(peer.told().await);
            }
            let ends = ["5 \"\" fin", "7 \"\" fin", "1 \"\" fin"];
            let said = ["5 \"out\"", "7 \"err\"", "1 \"{}\""];
            assert_eq!(told, [said, ends].concat());
            // Its session ends with the conversation.
            assert!(peer.told().await.starts_with("GoAway"));
        };
        tokio::join!(session, kubectl);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_does_not_come_ends_the_wait() {
        let (mut peer, wire) = Peer::new();
        let serve = |opened: mpsc::Receiver<Stream>| async move {
            assert!(client(opened, ALL).await.is_none());
        };
        let session = converse(wire, admits, std::future::pending(), serve);
        let kubectl = async move {
            peer.open(1, &[("streamtype", "stdout")]).await;
            assert_eq!(peer.told().await, "1 replied");
            peer.open(3, &[("streamtype", "data")]).await;
            assert_eq!(peer.told().await, "3 reset 5");
            assert!(peer.told().await.starts_with("GoAway"));
        };
        tokio::join!(session, kubectl);
    }
}
