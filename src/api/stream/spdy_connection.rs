//! A SPDY/3.1 session over a connection: reads and writes its frames, and gives each stream that the
//! client opens to whoever serves it. What to do about a frame is decided in `spdy_session.rs`.
//!
//! Nobody keeps much: bytes that came and that nobody took yet are at most [`INBOUND`] a session, then
//! nothing is read any more, for any stream: SPDY as the reference server and its clients speak it
//! has no windows, the connection's own pace is the only one. Bytes on their way out are at most
//! [`OUTBOUND`] parts.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;

use super::spdy_frame::{Decoder, Encoder, Farewell, Frame, FrameError};
use super::spdy_header_block::Headers;
use super::spdy_session::{Admits, Effect, Session};
use super::upgrade::Connection;

/// Bytes of one session that came and were not taken: a quarter of a second of a 16 Mbit/s line. With
/// all 256 streams that one operator may have it is 128 MiB.
const INBOUND: usize = 512 * 1024;
/// What a part costs beside its bytes, so that a million parts of one byte are bounded too.
const PART: usize = 256;
/// Parts of all streams on their way out, each at most 16 KiB.
const OUTBOUND: usize = 16;
/// Answers on their way out: a client that sends pings and reads nothing is read no more then.
const REPLIES: usize = 64;
/// Streams that were opened and not yet taken up.
const OPENED: usize = 64;
/// Read at once; and written at once, where that much waits.
const AT_ONCE: usize = 16 * 1024;
/// Without a frame either way: the kubelet's `streamingConnectionIdleTimeout`. kubectl pings every few
/// seconds, so that this ends who has gone without a word.
const IDLE_TIME: Duration = Duration::from_secs(4 * 3600);

/// How long reading may wait for room before the client is written to: who is gone is noticed by
/// that, as nobody reads the connection's end then.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// For the last frame to go out.
const GOODBYE_TIME: Duration = Duration::from_secs(2);

/// Where a session's bytes come from.
pub(crate) trait Reads: Send {
    /// The next bytes; none at the end.
    fn read(&mut self) -> impl Future<Output = io::Result<Bytes>> + Send;
}

/// Where a session's bytes go to.
pub(crate) trait Writes: Send {
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = io::Result<()>> + Send;

    fn close(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// A stream that the client opened.
#[derive(Debug)]
pub(crate) struct Stream {
    pub id: u32,
    pub headers: Headers,
    pub inbound: Inbound,
    pub outbound: Outbound,
}

/// What the client sends on a stream.
#[derive(Debug)]
pub(crate) struct Inbound(mpsc::UnboundedReceiver<Part>);

#[derive(Debug)]
enum Part {
    Bytes(Chunk),
    End,
}

/// Bytes, and the room that they take in their session as long as they are here.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// The client gave the stream or the session up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client gave the stream up")]
pub(crate) struct GivenUp;

/// What we send on a stream. Dropped before [`Self::finish`], the stream is given up.
#[derive(Debug)]
pub(crate) struct Outbound {
    stream: u32,
    finished: bool,
    queue: mpsc::Sender<Outgoing>,
    given_up: mpsc::UnboundedSender<u32>,
}

#[derive(Debug)]
enum Outgoing {
    Bytes { stream: u32, bytes: Bytes },
    Finish { stream: u32 },
}

/// How a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the client is gone")]
    ByClient,
    #[error("no frame for {} hours", IDLE_TIME.as_secs() / 3600)]
    Idle,
    #[error("the session was called to its end")]
    Called,
    #[error("the client does not speak SPDY/3.1")]
    NotSpdy(#[source] FrameError),
    #[error("the connection broke")]
    Broken(#[source] io::Error),
}

impl Inbound {
    /// The next bytes; `None` when the client sends no more. Cancel safe.
    ///
    /// # Errors
    /// [`GivenUp`].
    pub async fn next(&mut self) -> Result<Option<Chunk>, GivenUp> {
        match self.0.recv().await {
            Some(Part::Bytes(chunk)) => Ok(Some(chunk)),
            Some(Part::End) => Ok(None),
            None => Err(GivenUp),
        }
    }
}

impl Outbound {
    /// Queues bytes, when there is room.
    ///
    /// # Errors
    /// [`GivenUp`] when the session is over. A stream that the client gave up takes bytes and drops
    /// them: its [`Inbound`] tells.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), GivenUp> {
        let part = Outgoing::Bytes { stream: self.stream, bytes };
        self.queue.send(part).await.map_err(|_| GivenUp)
    }

    /// Says that no more comes.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn finish(&mut self) -> Result<(), GivenUp> {
        if !self.finished {
            self.queue.send(Outgoing::Finish { stream: self.stream }).await.map_err(|_| GivenUp)?;
            self.finished = true;
        }
        Ok(())
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        if !self.finished {
            // Each stream once, and a stream counts until this has been read: bounded.
            let _ = self.given_up.send(self.stream);
        }
    }
}

/// What reading and writing share.
struct Shared {
    session: Mutex<Session>,
    last_frame: Mutex<Instant>,
}

impl Shared {
    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn saw_frame(&self) {
        *self.last_frame.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn idled(&self) {
        loop {
            let last = *self.last_frame.lock().unwrap_or_else(PoisonError::into_inner);
            let until = last + IDLE_TIME;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// Runs a session until it ends, or until `call`, and says goodbye. `serve` is given the streams that
/// `admits` lets in; it is dropped with the session, and with it all that the streams were for.
pub(crate) async fn converse<R: Reads, W: Writes, F: Future<Output = ()> + Send>(
    (reads, writes): (R, W),
    admits: Admits,
    call: impl Future<Output = ()> + Send,
    serve: impl FnOnce(mpsc::Receiver<Stream>) -> F,
) -> Ended {
    let shared = Shared {
        session: Mutex::new(Session::new(admits)),
        last_frame: Mutex::new(Instant::now()),
    };
    let (opened, taken_up) = mpsc::channel(OPENED);
    let (replies, to_reply) = mpsc::channel(REPLIES);
    let (queue, queued) = mpsc::channel(OUTBOUND);
    let (given_up, to_give_up) = mpsc::unbounded_channel();
    let (farewell, to_say) = mpsc::channel(1);
    let reader = Reader {
        shared: &shared,
        opened,
        replies,
        queue,
        given_up,
        inbound: BTreeMap::new(),
        room: Arc::new(Semaphore::new(INBOUND)),
    };
    let writer = Writer { shared: &shared, to_say, to_reply, to_give_up, queued };
    let mut writing = std::pin::pin!(writer.run(writes));
    let ended = tokio::select! {
        biased;
        // Cancel safe: it only calls.
        () = call => Ended::Called,
        // Dropped with the session.
        ended = reader.run(reads) => ended,
        // Polled on below, where it has not ended.
        failed = &mut writing => return Ended::Broken(failed.err().unwrap_or_else(gone)),
        // Dropped with the session.
        () = serve(taken_up) => Ended::Called,
        // Cancel safe: it only looks at the time.
        () = shared.idled() => Ended::Idle,
    };
    let why = match &ended {
        Ended::ByClient | Ended::Broken(_) => return ended,
        Ended::Idle | Ended::Called => Farewell::Well,
        Ended::NotSpdy(_) => Farewell::ProtocolError,
    };
    // The one message of this channel.
    let _ = farewell.send(why).await;
    match timeout(GOODBYE_TIME, writing).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => debug!(%failure, "no goodbye to the client"),
        Err(_) => debug!("the client does not take the goodbye"),
    }
    ended
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

struct Reader<'a> {
    shared: &'a Shared,
    opened: mpsc::Sender<Stream>,
    replies: mpsc::Sender<Frame>,
    queue: mpsc::Sender<Outgoing>,
    given_up: mpsc::UnboundedSender<u32>,
    inbound: BTreeMap<u32, mpsc::UnboundedSender<Part>>,
    room: Arc<Semaphore>,
}

impl Reader<'_> {
    async fn run<R: Reads>(mut self, mut reads: R) -> Ended {
        let mut decoder = Decoder::new();
        loop {
            match reads.read().await {
                Ok(bytes) if bytes.is_empty() => return Ended::ByClient,
                Ok(bytes) => decoder.push(&bytes),
                Err(failure) => return Ended::Broken(failure),
            }
            loop {
                let frame = match decoder.next() {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(fault) => return Ended::NotSpdy(fault),
                };
                self.shared.saw_frame();
                let effects = self.shared.session().receive(frame);
                for effect in effects {
                    if self.follow(effect).await.is_err() {
                        return Ended::ByClient;
                    }
                }
            }
        }
    }

    /// # Errors
    /// [`GivenUp`] when nothing more is to be read.
    async fn follow(&mut self, effect: Effect) -> Result<(), GivenUp> {
        match effect {
            Effect::Send(frame) => self.replies.send(frame).await.map_err(|_| GivenUp)?,
            Effect::Opened { stream, headers } => {
                // Those that we gave up are told of no more.
                self.inbound.retain(|_, parts| !parts.is_closed());
                let (parts, inbound) = mpsc::unbounded_channel();
                self.inbound.insert(stream, parts);
                let outbound = Outbound {
                    stream,
                    finished: false,
                    queue: self.queue.clone(),
                    given_up: self.given_up.clone(),
                };
                let stream = Stream { id: stream, headers, inbound: Inbound(inbound), outbound };
                self.opened.send(stream).await.map_err(|_| GivenUp)?;
            }
            Effect::Data { stream, bytes } => {
                let room = self.room_for(bytes.len()).await?;
                // Refused where nobody wants it any more.
                if let Some(parts) = self.inbound.get(&stream) {
                    let _ = parts.send(Part::Bytes(Chunk { bytes, _room: room }));
                }
            }
            Effect::Finished { stream } => {
                if let Some(parts) = self.inbound.remove(&stream) {
                    let _ = parts.send(Part::End);
                }
            }
            Effect::Dropped { stream } => drop(self.inbound.remove(&stream)),
            Effect::Over => return Err(GivenUp),
        }
        Ok(())
    }
}

impl Reader<'_> {
    /// Waits until a part of this length may be kept.
    async fn room_for(&self, length: usize) -> Result<OwnedSemaphorePermit, GivenUp> {
        let cost = u32::try_from((length + PART).min(INBOUND)).expect("a bound of 32 bits");
        let mut room = std::pin::pin!(self.room.clone().acquire_many_owned(cost));
        loop {
            tokio::select! {
                biased;
                // Polled on until it is there.
                room = &mut room => return room.map_err(|_| GivenUp),
                // Cancel safe: it holds nothing.
                () = sleep(SIGN_OF_LIFE) => {}
            }
            // Without a setting it says nothing, and nobody answers it.
            let nothing = Frame::Settings { clear: false, values: Vec::new() };
            self.replies.send(nothing).await.map_err(|_| GivenUp)?;
        }
    }
}

struct Writer<'a> {
    shared: &'a Shared,
    to_say: mpsc::Receiver<Farewell>,
    to_reply: mpsc::Receiver<Frame>,
    to_give_up: mpsc::UnboundedReceiver<u32>,
    queued: mpsc::Receiver<Outgoing>,
}

impl Writer<'_> {
    async fn run<W: Writes>(mut self, mut writes: W) -> io::Result<()> {
        let (mut encoder, mut out) = (Encoder::new(), BytesMut::new());
        loop {
            let frame = tokio::select! {
                biased;
                // Cancel safe, all: what was not received stays queued.
                Some(why) = self.to_say.recv() => {
                    let goodbye = self.shared.session().farewell(why);
                    encoder.encode(&goodbye, &mut out);
                    writes.write(out.split().freeze()).await?;
                    return writes.close().await;
                }
                Some(frame) = self.to_reply.recv() => Some(frame),
                Some(stream) = self.to_give_up.recv() => self.shared.session().drop_stream(stream),
                Some(outgoing) = self.queued.recv() => self.frame_of(outgoing),
                else => return Ok(()),
            };
            frame.iter().for_each(|frame| encoder.encode(frame, &mut out));
            while out.len() < AT_ONCE
                && let Ok(outgoing) = self.queued.try_recv()
            {
                let more = self.frame_of(outgoing);
                more.iter().for_each(|frame| encoder.encode(frame, &mut out));
            }
            if !out.is_empty() {
                writes.write(out.split().freeze()).await?;
                self.shared.saw_frame();
            }
        }
    }

    /// What of it goes out: nothing of a stream that is gone.
    fn frame_of(&self, outgoing: Outgoing) -> Option<Frame> {
        let mut session = self.shared.session();
        let (stream, fin, bytes) = match outgoing {
            Outgoing::Bytes { stream, bytes } => (stream, false, bytes),
            Outgoing::Finish { stream } => (stream, true, Bytes::new()),
        };
        let goes = if fin { session.finish(stream) } else { session.may_send(stream) };
        goes.then_some(Frame::Data { stream, fin, bytes })
    }
}

/// A session's bytes straight on the connection.
pub(crate) fn plain(
    connection: Connection,
) -> (Plain<ReadHalf<Connection>>, WriteHalf<Connection>) {
    let (reads, writes) = tokio::io::split(connection);
    (Plain { reads, buffer: BytesMut::new() }, writes)
}

/// The reading half.
pub(crate) struct Plain<R> {
    reads: R,
    buffer: BytesMut,
}

impl Reads for Plain<ReadHalf<Connection>> {
    async fn read(&mut self) -> io::Result<Bytes> {
        self.buffer.reserve(AT_ONCE);
        let mut buffer = (&mut self.buffer).limit(AT_ONCE);
        self.reads.read_buf(&mut buffer).await?;
        Ok(self.buffer.split().freeze())
    }
}

impl Writes for WriteHalf<Connection> {
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.write_all(&bytes).await?;
        self.flush().await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.shutdown().await
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use futures::FutureExt;

    impl Reads for mpsc::Receiver<Bytes> {
        async fn read(&mut self) -> io::Result<Bytes> {
            Ok(self.recv().await.unwrap_or_default())
        }
    }

    impl Writes for mpsc::Sender<Bytes> {
        async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
            self.send(bytes).await.map_err(|_| gone())
        }

        async fn close(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The other end of a session, without a connection.
    pub(crate) struct Client {
        encoder: Encoder,
        decoder: Decoder,
        to: mpsc::Sender<Bytes>,
        from: mpsc::Receiver<Bytes>,
    }

    impl Client {
        pub fn new() -> (Self, (mpsc::Receiver<Bytes>, mpsc::Sender<Bytes>)) {
            let (to, reads) = mpsc::channel(1);
            let (writes, from) = mpsc::channel(1);
            let (encoder, decoder) = (Encoder::new(), Decoder::new());
            (Self { encoder, decoder, to, from }, (reads, writes))
        }

        /// # Errors
        /// [`GivenUp`] when the session is over.
        pub async fn send(&mut self, frame: Frame) -> Result<(), GivenUp> {
            let mut out = BytesMut::new();
            self.encoder.encode(&frame, &mut out);
            self.to.send(out.freeze()).await.map_err(|_| GivenUp)
        }

        pub async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) {
            let pairs = headers.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            let headers = Headers(pairs.collect());
            let (associated, priority, fin, unidirectional) = (0, 0, false, false);
            let frame =
                Frame::SynStream { stream, associated, priority, fin, unidirectional, headers };
            self.send(frame).await.expect("a session");
        }

        pub async fn data(&mut self, stream: u32, fin: bool, text: &'static str) {
            let bytes = Bytes::from_static(text.as_bytes());
            self.send(Frame::Data { stream, fin, bytes }).await.expect("a session");
        }

        /// The next frame; `None` at the session's end.
        pub async fn next(&mut self) -> Option<Frame> {
            loop {
                if let Some(frame) = self.decoder.next().expect("SPDY") {
                    return Some(frame);
                }
                self.decoder.push(&self.from.recv().await?);
            }
        }

        /// The next frame, written in a line.
        pub async fn told(&mut self) -> String {
            match self.next().await {
                None => "over".to_owned(),
                Some(Frame::SynReply { stream, .. }) => format!("{stream} replied"),
                Some(Frame::RstStream { stream, status }) => format!("{stream} reset {status}"),
                Some(Frame::Data { stream, fin, bytes }) => {
                    let text = String::from_utf8_lossy(&bytes);
                    format!("{stream} {text:?}{}", if fin { " fin" } else { "" })
                }
                Some(other) => format!("{other:?}"),
            }
        }
    }

    fn anything(_: &Headers) -> bool {
        true
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_bounded() {
        let (mut client, wire) = Client::new();
        let serve = |mut opened: mpsc::Receiver<Stream>| async move {
            let _kept = opened.recv().await;
            std::future::pending::<()>().await;
        };
        let session = converse(wire, anything, std::future::pending(), serve);
        let sends = async {
            client.open(1, &[]).await;
            let bytes = Bytes::from(vec![7; AT_ONCE]);
            let mut sent = 0;
            loop {
                let frame = Frame::Data { stream: 1, fin: false, bytes: bytes.clone() };
                // All is waited for that can come without time: so long does nobody read on.
                match timeout(SIGN_OF_LIFE / 2, client.send(frame)).await {
                    Ok(sending) => sending.expect("a session"),
                    Err(_) => return sent,
                }
                sent += bytes.len();
            }
        };
        let mut session = std::pin::pin!(session);
        let sent = tokio::select! {
            ended = &mut session => panic!("{ended}"),
            sent = sends => sent,
        };
        assert!(sent > INBOUND / 2 && sent <= INBOUND + 4 * AT_ONCE, "{sent} bytes were read");
        // While reading waits, the client is written to: one that is gone is noticed.
        drop(client);
        assert!(matches!(session.await, Ended::Broken(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_client_does_not_read_is_bounded() {
        let (mut client, wire) = Client::new();
        let (count, mut counted) = mpsc::unbounded_channel();
        let serve = |mut opened: mpsc::Receiver<Stream>| async move {
            let mut stream = opened.recv().await.expect("a stream");
            while stream.outbound.send(vec![7; AT_ONCE].into()).await.is_ok() {
                let _ = count.send(());
            }
        };
        let mut session = std::pin::pin!(converse(wire, anything, std::future::pending(), serve));
        let waits = async {
            client.open(1, &[]).await;
            let mut parts = 0;
            while let Ok(Some(())) = timeout(Duration::from_secs(60), counted.recv()).await {
                parts += 1;
            }
            parts
        };
        let parts = tokio::select! {
            ended = &mut session => panic!("{ended}"),
            parts = waits => parts,
        };
        assert!((OUTBOUND..OUTBOUND + 8).contains(&parts), "{parts} parts were taken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_says_goodbye() {
        let serve = |_| std::future::pending::<()>();
        let (mut client, wire) = Client::new();
        let called = converse(wire, anything, async {}, serve);
        assert!(matches!(called.await, Ended::Called));
        assert_eq!(client.next().await, Some(Frame::GoAway { last_good: 0, status: 0 }));

        let (mut client, wire) = Client::new();
        client.to.try_send(Bytes::from_static(b"GET / HTTP/1.1\r\n")).expect("room");
        let session = converse(wire, anything, std::future::pending(), serve);
        let (ended, told) = tokio::join!(session, client.next());
        // It reads as the begin of a long data frame, of a stream that is not there.
        assert!(matches!(ended, Ended::Idle), "{ended}");
        assert!(matches!(told, Some(Frame::GoAway { .. })));

        let (mut client, wire) = Client::new();
        client.to.try_send(Bytes::from_static(&[0x80, 2, 0, 6, 0, 0, 0, 4])).expect("room");
        let session = converse(wire, anything, std::future::pending(), serve);
        let (ended, told) = tokio::join!(session, client.next());
        assert!(matches!(ended, Ended::NotSpdy(FrameError::Version(2))), "{ended}");
        assert_eq!(told, Some(Frame::GoAway { last_good: 0, status: 1 }));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_for_hours_is_gone() {
        let (mut client, wire) = Client::new();
        let begun = Instant::now();
        let serve = |_| std::future::pending::<()>();
        let mut session = std::pin::pin!(converse(wire, anything, std::future::pending(), serve));
        assert!((&mut session).now_or_never().is_none());
        let pings = async {
            sleep(IDLE_TIME / 2).await;
            client.send(Frame::Ping { id: 1 }).await.expect("a session");
            while client.next().await.is_some() {}
        };
        let (ended, ()) = tokio::join!(session, pings);
        assert!(matches!(ended, Ended::Idle), "{ended}");
        assert_eq!(begun.elapsed().as_secs(), (IDLE_TIME + IDLE_TIME / 2).as_secs());
    }
}
