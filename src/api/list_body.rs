//! A list on its way out: the stored bodies themselves, one after the other, with commas between
//! them. Nothing is copied and nothing is put together in advance: a list of everything costs a
//! pointer an object however slowly its client reads, and is of one revision, for a body never changes.
//!
//! Its length is known before it begins, so that it is an answer like any other to who counts
//! streams, compresses, or is asked by HEAD.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// `{…,"items":[` `{…}` `,` `{…}` `]}`
pub(crate) struct ListBody {
    head: Option<Bytes>,
    items: std::vec::IntoIter<Bytes>,
    /// An item was sent and no comma after it.
    within: bool,
    tail: Option<Bytes>,
    /// Bytes still to come.
    left: u64,
}

impl ListBody {
    /// `head` ends with the bracket that the items stand in.
    pub fn new(head: Bytes, items: Vec<Bytes>) -> Self {
        let tail = Bytes::from_static(b"]}");
        let commas = items.len().saturating_sub(1);
        let all = items.iter().map(Bytes::len).sum::<usize>() + commas + head.len() + tail.len();
        Self {
            head: Some(head),
            items: items.into_iter(),
            within: false,
            tail: Some(tail),
            left: all as u64,
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        if self.within && self.items.len() > 0 {
            self.within = false;
            return Some(Bytes::from_static(b","));
        }
        let item = self.items.next();
        self.within = item.is_some();
        item.or_else(|| self.tail.take())
    }
}

impl HttpBody for ListBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.next();
        self.left -= next.as_ref().map_or(0, |bytes| bytes.len() as u64);
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[Bytes]) -> ListBody {
        ListBody::new(Bytes::from_static(b"{\"items\":["), items.to_vec())
    }

    #[test]
    fn a_list_is_its_items_and_knows_how_long_it_is() {
        for (names, text) in [
            (vec![], r#"{"items":[]}"#),
            (vec!["1"], r#"{"items":[1]}"#),
            (vec!["1", "22", "333"], r#"{"items":[1,22,333]}"#),
        ] {
            let items: Vec<Bytes> = names.into_iter().map(Bytes::from).collect();
            let mut list = list(&items);
            assert_eq!(list.size_hint().exact(), Some(text.len() as u64));
            let mut sent = Vec::new();
            while let Some(bytes) = list.next() {
                sent.extend(bytes);
            }
            assert_eq!(String::from_utf8(sent).as_deref(), Ok(text));
        }
    }

    #[test]
    fn no_body_is_copied() {
        let items = [Bytes::from(vec![b'1'; 5000]), Bytes::from(vec![b'2'; 5000])];
        let mut list = list(&items);
        let sent: Vec<Bytes> = std::iter::from_fn(|| list.next()).collect();
        let places = |all: &[Bytes]| -> Vec<_> { all.iter().map(|bytes| bytes.as_ptr()).collect() };
        assert_eq!(places(&[sent[1].clone(), sent[3].clone()]), places(&items));
    }
}
