//! Pure: the engine's framing of a process's two outputs in one connection: eight bytes say which and
//! how long, then that many follow. A terminal's output has none of it.
//!
//! Parts are handed on as they come, without waiting for the end of a frame: a frame's length is the
//! engine's word, and no reason to keep so much.

use bytes::{Buf, Bytes, BytesMut};

use crate::object::streams::Said;

/// Bytes before each frame: the output's number, three zeros, the length.
const HEAD: usize = 8;
/// Of a message of the engine's own, which is an error.
const LONGEST_MESSAGE: usize = 4096;

/// Reads an output, part by part.
#[derive(Debug)]
pub enum Reading {
    /// A terminal's: as it comes.
    Raw,
    Framed(Frames),
}

/// Where in the frames it is.
#[derive(Debug, Default)]
pub struct Frames {
    head: BytesMut,
    /// Of the frame that is being read: which output, and bytes to come.
    frame: Option<(Channel, usize)>,
    message: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Stdout,
    Stderr,
    /// What the engine itself has to say.
    Engine,
}

/// Why an output cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the engine's output has no frame where one begins: {0:02x?}")]
    Malformed([u8; HEAD]),
    #[error("{0}")]
    Engine(String),
    #[error("the engine's output ends within a frame, {0} bytes before its end")]
    Short(usize),
}

impl Reading {
    /// What is said in the next bytes of a connection.
    ///
    /// # Errors
    /// What is no frame, and what the engine says of itself.
    pub fn read(&mut self, bytes: Bytes) -> Result<Vec<Said>, FrameError> {
        match self {
            Self::Raw if bytes.is_empty() => Ok(Vec::new()),
            Self::Raw => Ok(vec![Said::Stdout(bytes)]),
            Self::Framed(frames) => frames.read(bytes),
        }
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// Within a frame.
    pub fn end(&self) -> Result<(), FrameError> {
        match self {
            Self::Framed(Frames { frame: Some((_, left)), .. }) => Err(FrameError::Short(*left)),
            Self::Framed(Frames { head, .. }) if !head.is_empty() => {
                Err(FrameError::Short(HEAD - head.len()))
            }
            _ => Ok(()),
        }
    }
}

impl Frames {
    fn read(&mut self, mut bytes: Bytes) -> Result<Vec<Said>, FrameError> {
        let mut said = Vec::new();
        while !bytes.is_empty() {
            let Some((channel, left)) = self.frame else {
                let part = bytes.split_to(bytes.len().min(HEAD - self.head.len()));
                self.head.extend_from_slice(&part);
                if self.head.len() == HEAD {
                    self.begin()?;
                }
                continue;
            };
            let part = bytes.split_to(bytes.len().min(left));
            let left = left - part.len();
            self.frame = (left > 0).then_some((channel, left));
            match channel {
                Channel::Stdout => said.push(Said::Stdout(part)),
                Channel::Stderr => said.push(Said::Stderr(part)),
                Channel::Engine => {
                    let room = LONGEST_MESSAGE.saturating_sub(self.message.len());
                    self.message.extend_from_slice(&part[..part.len().min(room)]);
                    if left == 0 {
                        let message = String::from_utf8_lossy(&self.message).into_owned();
                        return Err(FrameError::Engine(message));
                    }
                }
            }
        }
        Ok(said)
    }

    /// A head is whole.
    fn begin(&mut self) -> Result<(), FrameError> {
        let mut head = [0; HEAD];
        self.head.copy_to_slice(&mut head);
        self.head.clear();
        // moby's stdcopy: 0 is standard input echoed, 3 an error of the engine's.
        let channel = match head {
            [0 | 1, 0, 0, 0, ..] => Channel::Stdout,
            [2, 0, 0, 0, ..] => Channel::Stderr,
            [3, 0, 0, 0, ..] => Channel::Engine,
            _ => return Err(FrameError::Malformed(head)),
        };
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        self.frame = (length > 0).then_some((channel, length));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(channel: u8, text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len()).expect("short").to_be_bytes();
        [&[channel, 0, 0, 0], &length[..], text].concat()
    }

    /// Everything said on the two outputs, however the bytes were cut.
    fn heard(parts: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>), FrameError> {
        let mut reading = Reading::Framed(Frames::default());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for part in parts {
            for said in reading.read(Bytes::copy_from_slice(part))? {
                match said {
                    Said::Stdout(bytes) => out.extend_from_slice(&bytes),
                    Said::Stderr(bytes) => err.extend_from_slice(&bytes),
                }
            }
        }
        reading.end()?;
        Ok((out, err))
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_is_the_same(
            frames in prop::collection::vec((1u8..=2, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            cut in 1usize..20,
        ) {
            let wire: Vec<u8> = frames.iter().flat_map(|(to, text)| frame(*to, text)).collect();
            let of = |channel| -> Vec<u8> {
                let mine = frames.iter().filter(|(to, _)| *to == channel);
                mine.flat_map(|(_, text)| text.clone()).collect()
            };
            let parts: Vec<&[u8]> = wire.chunks(cut).collect();
            prop_assert_eq!(heard(&parts), Ok((of(1), of(2))));
        }
    }

    #[test]
    fn a_terminal_says_every_byte() {
        let all: Vec<u8> = (0..=255).collect();
        let said = Reading::Raw.read(Bytes::from(all.clone()));
        assert_eq!(said, Ok(vec![Said::Stdout(Bytes::from(all))]));
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        assert_eq!(heard(&[b"hello world"]), Err(FrameError::Malformed(*b"hello wo")));
        assert_eq!(
            heard(&[&frame(3, b"no such exec")]),
            Err(FrameError::Engine("no such exec".into()))
        );
        assert_eq!(heard(&[&frame(1, b"hello")[..10]]), Err(FrameError::Short(3)));
        assert_eq!(heard(&[&frame(1, b"hello")[..5]]), Err(FrameError::Short(3)));
    }
}
