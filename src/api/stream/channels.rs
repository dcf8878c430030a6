//! Pure: the messages of `v4.channel.k8s.io` and `v5.channel.k8s.io`. A message is a byte that says
//! which channel, and what goes over it. The fifth version can end a channel; in the fourth, standard
//! input ends with the connection.

use bytes::{BufMut, Bytes, BytesMut};

use crate::api::stream::client::{Heard, Told};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Followed by the channel that ends.
const CLOSE: u8 = 255;

/// The version that was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V5,
}

impl Version {
    pub fn of(name: &str) -> Option<Self> {
        [Self::V5, Self::V4].into_iter().find(|version| version.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4.channel.k8s.io",
            Self::V5 => "v5.channel.k8s.io",
        }
    }

    /// What a client's message says; `None` for what is passed over: an empty message, a channel that
    /// is not there or that a client does not write to.
    pub fn heard(self, mut message: Bytes) -> Option<Heard> {
        if message.is_empty() {
            return None;
        }
        let channel = message.split_to(1)[0];
        match (channel, self) {
            (STDIN, _) if !message.is_empty() => Some(Heard::Stdin(message)),
            (RESIZE, _) => Some(Heard::Resize(message)),
            (CLOSE, Self::V5) => match *message {
                [STDIN] => Some(Heard::StdinEnd),
                [STDOUT..=RESIZE] => None,
                // The reference server closes the connection too.
                _ => Some(Heard::Fault("a close signal names one channel".to_owned())),
            },
            _ => None,
        }
    }

    /// `None` for what is not told by a message.
    pub fn told(told: &Told) -> Option<Bytes> {
        let (channel, bytes) = match told {
            Told::Stdout(bytes) => (STDOUT, bytes),
            Told::Stderr(bytes) => (STDERR, bytes),
            Told::Status(bytes) => (ERROR, bytes),
            Told::Alive | Told::End => return None,
        };
        let mut message = BytesMut::with_capacity(1 + bytes.len());
        message.put_u8(channel);
        message.extend_from_slice(bytes);
        Some(message.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(version: Version, message: &'static [u8]) -> Option<Heard> {
        version.heard(Bytes::from_static(message))
    }

    #[test]
    fn the_first_byte_is_the_channel() {
        for version in [Version::V4, Version::V5] {
            let stdin = Some(Heard::Stdin(Bytes::from_static(b"ls\n")));
            assert_eq!(heard(version, b"\x00ls\n"), stdin);
            let resize = Some(Heard::Resize(Bytes::from_static(b"{}")));
            assert_eq!(heard(version, b"\x04{}"), resize);
            for nothing in [&b""[..], b"\x00", b"\x01out", b"\x02err", b"\x03bad", b"\x05?"] {
                assert_eq!(heard(version, nothing), None, "{nothing:?}");
            }
        }
        let told = Version::told(&Told::Stderr(Bytes::from_static(b"no")));
        assert_eq!(told.as_deref(), Some(&b"\x02no"[..]));
        assert_eq!(Version::told(&Told::Stdout(Bytes::new())).as_deref(), Some(&b"\x01"[..]));
        assert_eq!(Version::told(&Told::Status(Bytes::new())).as_deref(), Some(&b"\x03"[..]));
    }

    #[test]
    fn only_the_fifth_version_ends_a_channel() {
        assert_eq!(heard(Version::V5, b"\xff\x00"), Some(Heard::StdinEnd));
        assert_eq!(heard(Version::V4, b"\xff\x00"), None);
        assert_eq!(heard(Version::V5, b"\xff\x04"), None);
        for wrong in [&b"\xff"[..], b"\xff\x05", b"\xff\x00\x00"] {
            assert!(matches!(heard(Version::V5, wrong), Some(Heard::Fault(_))), "{wrong:?}");
        }
    }

    #[test]
    fn versions_have_names() {
        assert_eq!(Version::of("v5.channel.k8s.io"), Some(Version::V5));
        assert_eq!(Version::of("v4.channel.k8s.io"), Some(Version::V4));
        assert_eq!(Version::of("channel.k8s.io"), None);
        assert_eq!(Version::of("v4.base64.channel.k8s.io"), None);
    }
}
