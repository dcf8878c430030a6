//! Large answers are compressed for those who say that they read it, as the reference server does it
//! (`responsewriters/writers.go`): gzip, from 128 KiB on, at the fastest level. What has no length,
//! a watch or a log, goes out as it comes.

use std::io::Write;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::BodyExt;

/// Beside an answer whose length is not known though it has an end: compressed, an answer is no more
/// of a stream than it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compressed;

/// `defaultGzipThresholdBytes`
const SMALLEST: u64 = 128 * 1024;
/// Compressed between two turns of the runtime: about half a millisecond.
const PIECE: usize = 64 * 1024;
/// Compressed bytes that are worth a write.
const ENOUGH: usize = 16 * 1024;

/// The answer, compressed where it is large and the client reads gzip: piece by piece as the client
/// takes it, so that neither form of it is ever in memory as a whole.
pub(crate) fn compressed(asked: &HeaderMap, response: Response) -> Response {
    let large = response.body().size_hint().exact().is_some_and(|size| size >= SMALLEST);
    if !large || !reads_gzip(asked) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let gzip = HeaderValue::from_static("gzip");
    parts.headers.insert(header::CONTENT_ENCODING, gzip);
    parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.extensions.insert(Compressed);
    let encoder = GzEncoder::new(Vec::with_capacity(PIECE), Compression::fast());
    let rest = Rest { encoder, body, bytes: Bytes::new() };
    let pieces = futures::stream::try_unfold(Some(rest), next);
    Response::from_parts(parts, Body::from_stream(pieces))
}

/// The header names gzip; a weight of it is not read, as in the reference server.
fn reads_gzip(asked: &HeaderMap) -> bool {
    let values = asked.get_all(header::ACCEPT_ENCODING).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .any(|encoding| encoding.trim() == "gzip")
}

struct Rest {
    encoder: GzEncoder<Vec<u8>>,
    body: Body,
    /// Taken from the body and not compressed yet.
    bytes: Bytes,
}

/// The next compressed bytes, and what is left to compress. Dropped only with the answer.
async fn next(rest: Option<Rest>) -> Result<Option<(Bytes, Option<Rest>)>, axum::Error> {
    let Some(mut rest) = rest else { return Ok(None) };
    loop {
        let mut taken = 0;
        while taken < PIECE {
            if rest.bytes.is_empty() {
                let Some(frame) = rest.body.frame().await else {
                    let last = rest.encoder.finish().expect("a Vec takes everything");
                    return Ok(Some((last.into(), None)));
                };
                rest.bytes = frame?.into_data().unwrap_or_default();
            }
            let piece = rest.bytes.split_to(rest.bytes.len().min(PIECE - taken));
            taken += piece.len();
            rest.encoder.write_all(&piece).expect("a Vec takes everything");
        }
        if rest.encoder.get_ref().len() >= ENOUGH {
            let ready = std::mem::replace(rest.encoder.get_mut(), Vec::with_capacity(PIECE));
            return Ok(Some((ready.into(), Some(rest))));
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Read;

    use super::*;

    fn asking(encoding: &str) -> HeaderMap {
        let value = HeaderValue::from_str(encoding).expect("a header");
        HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)])
    }

    #[tokio::test]
    async fn a_large_answer_is_compressed_for_who_reads_it() {
        let text: String = (0..100_000).map(|number| format!("line {number}\n")).collect();
        let answer = || Response::new(Body::from(text.clone()));
        let response = compressed(&asking("deflate, gzip"), answer());
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        assert_eq!(response.headers()[header::VARY], "Accept-Encoding");
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        // The fastest level: how far it gets is the backend's matter.
        assert!(bytes.len() < text.len() / 2);
        let mut plain = String::new();
        flate2::read::GzDecoder::new(&*bytes).read_to_string(&mut plain).expect("gzip");
        assert!(plain == text, "other bytes came back");

        for asked in [HeaderMap::new(), asking("br"), asking("identity")] {
            let response = compressed(&asked, answer());
            assert!(!response.headers().contains_key(header::CONTENT_ENCODING), "{asked:?}");
        }
    }

    #[tokio::test]
    async fn what_is_small_or_endless_stays_as_it_is() {
        let small = Response::new(Body::from("x".repeat(100_000)));
        let pieces = futures::stream::iter(std::iter::repeat_n(
            Ok::<_, Infallible>(Bytes::from("x".repeat(100_000))),
            9,
        ));
        for response in [small, Response::new(Body::from_stream(pieces))] {
            let response = compressed(&asking("gzip"), response);
            assert!(!response.headers().contains_key(header::CONTENT_ENCODING));
        }
    }
}
