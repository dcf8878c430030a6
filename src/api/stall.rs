//! A connection that gives up on a client which does not read.
//!
//! What a client does not take stays in the kernel's buffers, and behind them an answer, a watch and
//! one of the listener's few connections wait for it. From the moment that a write has to wait, the
//! client has a stated time for every [`ENOUGH`] bytes; then the write fails and the connection with
//! it. A watch without news writes nothing, waits for nothing and stays open.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::api::gate::connections::{Busy, Place};

/// Whoever takes a byte now and then is as bad as one who takes none: 16 KiB in 30 s is slower than
/// any line that a person would use.
const ENOUGH: usize = 16 * 1024;

/// A stream with such a bound on its writes.
#[derive(Debug)]
pub(crate) struct Stalling<S> {
    stream: S,
    patience: Duration,
    /// Since a write had to wait.
    waiting: Option<Waiting>,
    /// Counts the client, once, when it is given up.
    given_up: Option<Counter>,
    place: Option<Arc<Place>>,
    /// From a write until all that was written has gone out: an answer that is still being sent is no
    /// idleness, also when it was made long ago.
    sending: Option<Busy>,
}

#[derive(Debug)]
struct Waiting {
    until: Pin<Box<Sleep>>,
    taken: usize,
}

impl<S> Stalling<S> {
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, waiting: None, given_up: None, place: None, sending: None }
    }

    /// Counts a client that is given up here.
    pub fn counting(self, given_up: Counter) -> Self {
        Self { given_up: Some(given_up), ..self }
    }

    /// The connection keeps its place until what it writes has gone out.
    pub fn keeping(self, place: Arc<Place>) -> Self {
        Self { place: Some(place), ..self }
    }

    fn sends(&mut self) {
        if self.sending.is_none() {
            self.sending = self.place.as_ref().map(Place::busy);
        }
    }

    /// The client took some; `whole`: all that there was.
    fn took(&mut self, bytes: usize, whole: bool) {
        if let Some(waiting) = &mut self.waiting {
            waiting.taken += bytes;
            if whole || waiting.taken >= ENOUGH {
                self.waiting = None;
            }
        }
    }

    /// The client takes nothing now.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let until = Instant::now() + self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Waiting { until: Box::pin(sleep_until(until)), taken: 0 });
        ready!(waiting.until.as_mut().poll(context));
        if let Some(given_up) = self.given_up.take() {
            given_up.inc();
        }
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client does not read")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.sends();
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Ready(Ok(count)) => {
                self.took(count, count == bytes.len());
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(failure)) => Poll::Ready(Err(failure)),
            Poll::Pending => self.wait(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.sends();
        let length: usize = parts.iter().map(|part| part.len()).sum();
        match Pin::new(&mut self.stream).poll_write_vectored(context, parts) {
            Poll::Ready(Ok(count)) => {
                self.took(count, count == length);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(failure)) => Poll::Ready(Err(failure)),
            Poll::Pending => self.wait(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => self.wait(context),
            done => {
                self.sending = None;
                done
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(context) {
            Poll::Pending => self.wait(context),
            done => done,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::sleep;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_given_up() {
        let (server, _client) = duplex(64);
        let mut stalling = Stalling::new(server, PATIENCE);
        let begun = Instant::now();
        let failure = stalling.write_all(&[0; 1000]).await.expect_err("nobody reads");
        assert_eq!(failure.kind(), ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_a_byte_now_and_then_is_given_up_too() {
        let (server, mut client) = duplex(64);
        let mut stalling = Stalling::new(server, PATIENCE);
        let drip = async {
            for _ in 0..1_000_000 {
                sleep(Duration::from_secs(1)).await;
                client.read_u8().await.expect("there is more");
            }
        };
        let failure = tokio::select! {
            biased;
            written = stalling.write_all(&[0; 1_000_000]) => written.expect_err("too slow"),
            () = drip => unreachable!("it drips for eleven days"),
        };
        assert_eq!(failure.kind(), ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_and_steadily_gets_everything() {
        let (server, mut client) = duplex(4096);
        let mut stalling = Stalling::new(server, PATIENCE);
        let reading = async {
            let mut got = 0;
            let mut buffer = [0; 1024];
            while got < 200_000 {
                sleep(Duration::from_secs(1)).await;
                got += client.read(&mut buffer).await.expect("there is more");
            }
        };
        let (written, ()) = tokio::join!(stalling.write_all(&[0; 200_000]), reading);
        written.expect("a kilobyte a second is enough");
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_without_anything_to_write_is_no_stall() {
        let (server, mut client) = duplex(64);
        let mut stalling = Stalling::new(server, PATIENCE);
        let mut buffer = [0; 64];
        for _ in 0..3 {
            // It has to wait a little each time, and is then taken whole.
            let reading = async {
                sleep(Duration::from_secs(20)).await;
                let mut got = 0;
                while got < 100 {
                    got += client.read(&mut buffer).await.expect("there is more");
                }
            };
            let (written, ()) = tokio::join!(stalling.write_all(&[0; 100]), reading);
            written.expect("it was read in time");
            sleep(Duration::from_secs(3600)).await;
        }
    }
}
