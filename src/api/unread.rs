//! Whether a request was read to its end before it was answered.
//!
//! Most refusals need no body, and what is left of one would be taken for the next request: hyper then
//! ends the connection, after the answer and without a word. A client that keeps connections open sends
//! its next request into that end and fails where nothing was wrong (Python's says `Remote end closed
//! connection without response`). So the answer says `Connection: close`. Go's server reads up to 256
//! KiB of such a rest instead; a refused write is rare enough to pay with a new connection.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};

/// A request's body, and whether its end was seen.
#[derive(Debug)]
pub(crate) struct Watched<B> {
    body: B,
    ended: Arc<AtomicBool>,
}

/// What is asked when the answer is there.
#[derive(Debug)]
pub(crate) struct End(Arc<AtomicBool>);

impl<B: Body> Watched<B> {
    pub fn new(body: B) -> (Self, End) {
        // Most requests have no body at all.
        let ended = Arc::new(AtomicBool::new(body.is_end_stream()));
        (Self { body, ended: ended.clone() }, End(ended))
    }
}

impl End {
    /// The answer; where something was left unread, the last one of its connection, which it says. What
    /// follows on a switch of protocols is no body any more.
    pub fn told<A>(&self, mut answer: Response<A>) -> Response<A> {
        let switches = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        if !switches && !self.0.load(Ordering::Relaxed) {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(header::CONNECTION, close);
        }
        answer
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.ended.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body as Whole, to_bytes};

    use super::*;

    fn says_close(end: &End) -> bool {
        let answer = end.told(Response::new(()));
        answer.headers().get(header::CONNECTION).is_some_and(|value| value == "close")
    }

    #[tokio::test]
    async fn only_an_unread_rest_closes() {
        let (_, end) = Watched::new(Whole::empty());
        assert!(!says_close(&end), "there was nothing to read");
        let (body, end) = Watched::new(Whole::from("ab"));
        assert!(says_close(&end), "nobody has read it");
        assert_eq!(to_bytes(Whole::new(body), 9).await.expect("read"), "ab");
        assert!(!says_close(&end), "it was read");
        let parts = futures::stream::iter(["ab", "cd"].map(Ok::<_, std::io::Error>));
        let (body, end) = Watched::new(Whole::from_stream(parts));
        to_bytes(Whole::new(body), 3).await.expect_err("too long");
        assert!(says_close(&end), "a part of it was read");
    }
}
