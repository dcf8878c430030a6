//! A list on its way out: the stored bodies themselves, one after the other, with commas between
//! them. Nothing is put together in advance: a list of everything costs a pointer an object however
//! slowly its client reads, and is of one revision, for a body never changes. What is sent next is
//! copied into pieces of [`PIECE`]: a body is in parts (see `store/body.rs`), and a write to a socket for
//! each part costs more than the copy.
//!
//! Its length is known before it begins, so that it is an answer like any other to who counts
//! streams, compresses, or is asked by HEAD.

use std::convert::Infallible;
use std::iter::Peekable;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use crate::store::Record;

/// Bytes sent at once, unless a single object is larger.
const PIECE: usize = 64 * 1024;

/// One object of a list.
pub(crate) enum Item {
    /// As it is stored.
    Stored(Arc<Record>),
    /// As it is shown.
    Text(Bytes),
}

impl Item {
    fn len(&self) -> usize {
        match self {
            Self::Stored(record) => record.body.len(),
            Self::Text(text) => text.len(),
        }
    }

    fn append_to(&self, piece: &mut Vec<u8>) {
        match self {
            Self::Stored(record) => {
                record.body.pieces().iter().for_each(|part| piece.extend_from_slice(part));
            }
            Self::Text(text) => piece.extend_from_slice(text),
        }
    }
}

/// `{…,"items":[` `{…}` `,` `{…}` `]}`
pub(crate) struct ListBody {
    head: Bytes,
    items: Peekable<std::vec::IntoIter<Item>>,
    /// Bytes still to come.
    left: u64,
}

const TAIL: &[u8] = b"]}";

impl ListBody {
    /// `head` ends with the bracket that the items stand in.
    pub fn new(head: Bytes, items: Vec<Item>) -> Self {
        let commas = items.len().saturating_sub(1);
        let all = items.iter().map(Item::len).sum::<usize>() + commas + head.len() + TAIL.len();
        Self { head, items: items.into_iter().peekable(), left: all as u64 }
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let mut piece = Vec::with_capacity(PIECE.min(self.left as usize));
        piece.extend_from_slice(&mem::take(&mut self.head));
        while let Some(item) =
            self.items.next_if(|item| piece.is_empty() || piece.len() + item.len() < PIECE)
        {
            item.append_to(&mut piece);
            piece.extend_from_slice(if self.items.peek().is_some() { b"," } else { b"" });
        }
        if self.items.peek().is_none() {
            piece.extend_from_slice(TAIL);
        }
        self.left -= piece.len() as u64;
        Some(piece.into())
    }
}

impl HttpBody for ListBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next().map(|bytes| Ok(Frame::data(bytes))))
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
    use proptest::prelude::*;

    use super::*;
    use crate::object::{Key, Kind};
    use crate::store::Header;

    fn stored(text: &str) -> Item {
        let (key, header) = (Key::new("default", "a"), Arc::new(Header::default()));
        Item::Stored(Arc::new(Record::new(Kind::Pod, key, 1, Bytes::from(text.to_owned()), header)))
    }

    fn sent(items: Vec<Item>) -> Vec<Bytes> {
        let mut list = ListBody::new(Bytes::from_static(b"{\"items\":["), items);
        let promised = list.size_hint().exact();
        let sent: Vec<Bytes> = std::iter::from_fn(|| list.next()).collect();
        assert_eq!(promised, Some(sent.iter().map(|piece| piece.len() as u64).sum()));
        assert!(list.is_end_stream());
        sent
    }

    proptest! {
        /// Short items share a piece, a long one has its own, and what is sent is the list.
        #[test]
        fn a_list_is_its_items_and_knows_how_long_it_is(
            lengths in proptest::collection::vec(prop_oneof![0_usize..9, 0..3 * PIECE], 0..8),
        ) {
            let texts: Vec<String> = lengths.iter().map(|length| "1".repeat(*length)).collect();
            let item = |(at, text): (usize, &String)| match at % 2 {
                0 => stored(text),
                _ => Item::Text(Bytes::from(text.clone())),
            };
            let pieces = sent(texts.iter().enumerate().map(item).collect());
            let whole = format!("{{\"items\":[{}]}}", texts.join(","));
            prop_assert_eq!(pieces.concat(), whole.as_bytes());
            let longest = texts.iter().map(String::len).max().unwrap_or_default();
            for piece in &pieces {
                prop_assert!(!piece.is_empty() && piece.len() <= PIECE.max(longest) + 40);
            }
        }
    }
}
