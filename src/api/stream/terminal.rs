//! Pure: the sizes of a client's terminal, as JSON values one after another:
//! `{"Width":80,"Height":24}`.

use bytes::BytesMut;
use serde::Deserialize;

use crate::object::streams::TerminalSize;

/// A size has 30 bytes; what grows beyond this is none.
const LONGEST: usize = 1024;

/// Reads a client's sizes, however they are cut into messages.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    unread: BytesMut,
    /// Something that is no size came: what follows means nothing either.
    broken: bool,
}

/// Go reads the names of fields whatever their case.
#[derive(Deserialize)]
struct Size {
    #[serde(default, rename = "Width", alias = "width")]
    width: u16,
    #[serde(default, rename = "Height", alias = "height")]
    height: u16,
}

impl Sizes {
    /// The last whole size, if there is a new one.
    pub fn read(&mut self, bytes: &[u8]) -> Option<TerminalSize> {
        if self.broken {
            return None;
        }
        self.unread.extend_from_slice(bytes);
        let mut sizes = serde_json::Deserializer::from_slice(&self.unread).into_iter::<Size>();
        let mut last = None;
        let ends_within = loop {
            match sizes.next() {
                Some(Ok(size)) => last = Some(size),
                Some(Err(error)) => break error.is_eof(),
                None => break true,
            }
        };
        let read = sizes.byte_offset();
        let _ = self.unread.split_to(read);
        self.broken = !ends_within || self.unread.len() > LONGEST;
        let size = last.map(|size| TerminalSize { width: size.width, height: size.height });
        // As the kubelet: a window that is not shown is no size.
        size.filter(|size| size.width > 0 && size.height > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: u16, height: u16) -> Option<TerminalSize> {
        Some(TerminalSize { width, height })
    }

    #[test]
    fn the_last_whole_size_counts() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.read(b"{\"Width\":80,\"Height\":24}\n"), size(80, 24));
        assert_eq!(sizes.read(b"{\"Width\":81,\"Height\":24}\n{\"Width\":82,\"Hei"), size(81, 24));
        assert_eq!(sizes.read(b"ght\":25}"), size(82, 25));
        assert_eq!(sizes.read(b"\n"), None);
        assert_eq!(sizes.read(b"{\"width\":1,\"height\":2}"), size(1, 2));
        assert_eq!(sizes.read(b"{\"Width\":0,\"Height\":0}"), None);
        assert_eq!(sizes.read(b"{\"Width\":5,\"Height\":6}"), size(5, 6));
    }

    #[test]
    fn what_is_no_size_ends_them() {
        let good = b"{\"Width\":80,\"Height\":24}";
        for bad in [&b"{\"Width\":-1}"[..], b"{\"Width\":70000,\"Height\":1}", b"hello", b"\xff"] {
            let mut sizes = Sizes::default();
            assert_eq!(sizes.read(bad), None, "{bad:?}");
            assert_eq!(sizes.read(good), None, "{bad:?}");
        }
        let mut sizes = Sizes::default();
        for _ in 0..100 {
            assert_eq!(sizes.read(&[b'['; 100]), None);
        }
        assert!(sizes.unread.len() < 2 * LONGEST, "it is not kept");
    }
}
