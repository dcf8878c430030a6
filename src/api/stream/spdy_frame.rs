//! Pure: the frames of SPDY/3.1 (SPDY protocol, draft 3), read from bytes that come in any pieces,
//! and written. Control frames are read whole, up to [`MOST_CONTROL`] bytes. A data frame may be
//! 16 MiB: its bytes are handed on as they come, so that none waits for its end in memory.
//!
//! An unknown control frame is passed over, as the draft has it. Any other fault ends the session:
//! nobody knows where the next frame would begin, or what its headers mean.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::spdy_header_block::{HeaderBlockError, Headers, Packer, Unpacker};

/// A control frame's bytes after its head: its header block can be no smaller than unpacked.
const MOST_CONTROL: usize = 16 * 1024;
/// The longest data frame: its length has 24 bits.
const MOST_DATA: usize = (1 << 24) - 1;
const HEAD: usize = 8;
const CONTROL: u32 = 1 << 31;
const STREAM: u32 = CONTROL - 1;
const VERSION: u32 = 3;

const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
const CLEAR_SETTINGS: u8 = 1;

/// Why a stream is given up (draft 3, 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    ProtocolError = 1,
    RefusedStream = 3,
    Cancel = 5,
}

/// Why a session ends (draft 3, 2.6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    Well = 0,
    ProtocolError = 1,
}

/// One frame. Streams are numbered from 1, a client's are odd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    SynStream {
        stream: u32,
        associated: u32,
        /// 0 is the highest, 7 the lowest.
        priority: u8,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        stream: u32,
        status: u32,
    },
    Settings {
        clear: bool,
        values: Vec<Setting>,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last_good: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// Read: a part of a data frame, `fin` on its last.
    Data {
        stream: u32,
        fin: bool,
        bytes: Bytes,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub flags: u8,
    /// 24 bits.
    pub id: u32,
    pub value: u32,
}

/// Why the bytes are no SPDY/3.1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a control frame of SPDY version {0}, only 3 is spoken here")]
    Version(u32),
    #[error("a control frame of {0} bytes, at most {MOST_CONTROL} are read")]
    TooLarge(usize),
    #[error("a control frame of type {kind} with {length} bytes, which are too few or too many")]
    Length { kind: u32, length: usize },
    #[error("a frame of a stream with the number 0")]
    ZeroStream,
    #[error(transparent)]
    HeaderBlock(#[from] HeaderBlockError),
}

/// Reads frames.
pub(crate) struct Decoder {
    unpacker: Unpacker,
    /// What came and was not read yet.
    came: BytesMut,
    within: Within,
}

/// Where the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum Within {
    Head,
    Control {
        kind: u32,
        flags: u8,
        length: usize,
    },
    Data {
        stream: u32,
        fin: bool,
        left: usize,
    },
    /// A frame of a type that is not known.
    Unknown {
        left: usize,
    },
}

impl Decoder {
    pub fn new() -> Self {
        Self { unpacker: Unpacker::new(), came: BytesMut::new(), within: Within::Head }
    }

    /// Takes bytes. Whoever calls [`Self::next`] until it is `None` after each push has at most one
    /// control frame kept here beyond what was pushed last.
    pub fn push(&mut self, bytes: &[u8]) {
        self.came.extend_from_slice(bytes);
    }

    /// The next frame, or `None` until more bytes come.
    ///
    /// # Errors
    /// The session is over then.
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            match self.within {
                Within::Head if self.came.len() < HEAD => return Ok(None),
                Within::Head => self.within = self.head()?,
                Within::Control { length, .. } if self.came.len() < length => return Ok(None),
                Within::Control { kind, flags, length } => {
                    let body = self.came.split_to(length).freeze();
                    self.within = Within::Head;
                    return self.control(kind, flags, body).map(Some);
                }
                Within::Data { left, .. } if left > 0 && self.came.is_empty() => return Ok(None),
                Within::Data { stream, fin, left } => {
                    let part = left.min(self.came.len());
                    // A copy: a byte that waits in a queue must not keep the whole buffer.
                    let bytes = Bytes::copy_from_slice(&self.came[..part]);
                    self.came.advance(part);
                    let left = left - part;
                    self.within = match left {
                        0 => Within::Head,
                        _ => Within::Data { stream, fin, left },
                    };
                    return Ok(Some(Frame::Data { stream, fin: fin && left == 0, bytes }));
                }
                Within::Unknown { left: 0 } => self.within = Within::Head,
                Within::Unknown { .. } if self.came.is_empty() => return Ok(None),
                Within::Unknown { left } => {
                    let part = left.min(self.came.len());
                    self.came.advance(part);
                    self.within = Within::Unknown { left: left - part };
                }
            }
        }
    }

    fn head(&mut self) -> Result<Within, FrameError> {
        let (first, second) = (self.came.get_u32(), self.came.get_u32());
        let [flags, ..] = second.to_be_bytes();
        let length = (second & 0x00ff_ffff) as usize;
        if first & CONTROL == 0 {
            if first == 0 {
                return Err(FrameError::ZeroStream);
            }
            return Ok(Within::Data { stream: first, fin: flags & FIN != 0, left: length });
        }
        let (version, kind) = (first >> 16 & 0x7fff, first & 0xffff);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if !matches!(kind, 1..=4 | 6..=9) {
            return Ok(Within::Unknown { left: length });
        }
        if length > MOST_CONTROL {
            return Err(FrameError::TooLarge(length));
        }
        Ok(Within::Control { kind, flags, length })
    }

    fn control(&mut self, kind: u32, flags: u8, mut body: Bytes) -> Result<Frame, FrameError> {
        let length = body.len();
        let right = match kind {
            1 => length >= 10,
            2 | 8 => length >= 4,
            4 => length >= 4 && length % 8 == 4,
            6 => length == 4,
            _ => length == 8,
        };
        if !right {
            return Err(FrameError::Length { kind, length });
        }
        let fin = flags & FIN != 0;
        let first = body.get_u32();
        let stream = first & STREAM;
        if stream == 0 && matches!(kind, 1..=3 | 8) {
            return Err(FrameError::ZeroStream);
        }
        Ok(match kind {
            1 => {
                let associated = body.get_u32() & STREAM;
                let priority = body.get_u8() >> 5;
                let _credential_slot = body.get_u8();
                let unidirectional = flags & UNIDIRECTIONAL != 0;
                let headers = self.unpacker.unpack(&body)?;
                Frame::SynStream { stream, associated, priority, fin, unidirectional, headers }
            }
            2 => Frame::SynReply { stream, fin, headers: self.unpacker.unpack(&body)? },
            3 => Frame::RstStream { stream, status: body.get_u32() },
            4 => {
                // Counted by the length, which is bounded, and not by what the frame says.
                if (length - 4) / 8 != first as usize {
                    return Err(FrameError::Length { kind, length });
                }
                let mut values = Vec::new();
                while body.has_remaining() {
                    let id = body.get_u32();
                    let [flags, ..] = id.to_be_bytes();
                    values.push(Setting { flags, id: id & 0x00ff_ffff, value: body.get_u32() });
                }
                Frame::Settings { clear: flags & CLEAR_SETTINGS != 0, values }
            }
            6 => Frame::Ping { id: first },
            7 => Frame::GoAway { last_good: stream, status: body.get_u32() },
            8 => Frame::Headers { stream, fin, headers: self.unpacker.unpack(&body)? },
            // Of stream 0 it is the whole session's.
            _ => Frame::WindowUpdate { stream, delta: body.get_u32() & STREAM },
        })
    }
}

/// Writes frames.
pub(crate) struct Encoder {
    packer: Packer,
}

impl Encoder {
    pub fn new() -> Self {
        Self { packer: Packer::new() }
    }

    /// Appends the frame's bytes. The order of these calls is the order on the wire: header blocks
    /// build on each other.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::SynStream { stream, associated, priority, fin, unidirectional, headers } => {
                let block = self.packer.pack(headers);
                let one_way = if *unidirectional { UNIDIRECTIONAL } else { 0 };
                control(out, 1, (u8::from(*fin) * FIN) | one_way, 10 + block.len());
                out.put_u32(*stream);
                out.put_u32(*associated);
                out.put_u8(priority << 5);
                out.put_u8(0);
                out.put_slice(&block);
            }
            Frame::SynReply { stream, fin, headers } => {
                self.with_headers(out, 2, *stream, *fin, headers);
            }
            Frame::RstStream { stream, status } => pair(out, 3, *stream, *status),
            Frame::Settings { clear, values } => {
                control(out, 4, u8::from(*clear) * CLEAR_SETTINGS, 4 + 8 * values.len());
                out.put_u32(u32::try_from(values.len()).expect("a handful"));
                for setting in values {
                    out.put_u32(u32::from(setting.flags) << 24 | setting.id & 0x00ff_ffff);
                    out.put_u32(setting.value);
                }
            }
            Frame::Ping { id } => {
                control(out, 6, 0, 4);
                out.put_u32(*id);
            }
            Frame::GoAway { last_good, status } => pair(out, 7, *last_good, *status),
            Frame::Headers { stream, fin, headers } => {
                self.with_headers(out, 8, *stream, *fin, headers);
            }
            Frame::WindowUpdate { stream, delta } => pair(out, 9, *stream, *delta),
            Frame::Data { stream, fin, bytes } => data(out, *stream, *fin, bytes),
        }
    }

    fn with_headers(
        &mut self,
        out: &mut BytesMut,
        kind: u32,
        stream: u32,
        fin: bool,
        headers: &Headers,
    ) {
        let block = self.packer.pack(headers);
        control(out, kind, u8::from(fin) * FIN, 4 + block.len());
        out.put_u32(stream);
        out.put_slice(&block);
    }
}

fn control(out: &mut BytesMut, kind: u32, flags: u8, length: usize) {
    out.put_u32(CONTROL | VERSION << 16 | kind);
    flags_and_length(out, flags, length);
}

fn pair(out: &mut BytesMut, kind: u32, first: u32, second: u32) {
    control(out, kind, 0, 8);
    out.put_u32(first);
    out.put_u32(second);
}

fn data(out: &mut BytesMut, stream: u32, fin: bool, bytes: &[u8]) {
    let (part, rest) = bytes.split_at(bytes.len().min(MOST_DATA));
    out.put_u32(stream);
    flags_and_length(out, u8::from(fin && rest.is_empty()) * FIN, part.len());
    out.put_slice(part);
    if !rest.is_empty() {
        data(out, stream, fin, rest);
    }
}

fn flags_and_length(out: &mut BytesMut, flags: u8, length: usize) {
    let length = u32::try_from(length).expect("what we write is short");
    out.put_u32(u32::from(flags) << 24 | length);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::spdy_header_block::tests::any_headers;
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    /// All frames of these bytes, pushed in pieces of this size.
    fn decoded(bytes: &[u8], piece: usize) -> (Vec<Frame>, Result<(), FrameError>) {
        let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
        for piece in bytes.chunks(piece.max(1)) {
            decoder.push(piece);
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Err(error)),
                }
            }
            let waiting = decoder.came.len();
            assert!(waiting <= MOST_CONTROL + HEAD + piece.len(), "{waiting} bytes wait");
        }
        (frames, Ok(()))
    }

    fn encoded(frames: &[Frame]) -> Vec<u8> {
        let (mut encoder, mut out) = (Encoder::new(), BytesMut::new());
        for frame in frames {
            encoder.encode(frame, &mut out);
        }
        out.to_vec()
    }

    /// A data frame is read in parts: these are the whole frames again, empty parts left out.
    fn joined(frames: Vec<Frame>) -> Vec<Frame> {
        let mut whole: Vec<Frame> = Vec::new();
        for frame in frames {
            match (whole.last_mut(), frame) {
                (
                    Some(Frame::Data { stream: before, fin: ended @ false, bytes: had }),
                    Frame::Data { stream, fin, bytes },
                ) if *before == stream => {
                    *had = [&had[..], &bytes[..]].concat().into();
                    *ended = fin;
                }
                (_, frame) => whole.push(frame),
            }
        }
        whole.retain(
            |frame| !matches!(frame, Frame::Data { fin: false, bytes, .. } if bytes.is_empty()),
        );
        whole
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let id = || 1..=STREAM;
        prop_oneof![
            (id(), 0..=STREAM, 0_u8..8, any::<bool>(), any::<bool>(), any_headers()).prop_map(
                |(stream, associated, priority, fin, unidirectional, headers)| Frame::SynStream {
                    stream,
                    associated,
                    priority,
                    fin,
                    unidirectional,
                    headers
                }
            ),
            (id(), any::<bool>(), any_headers())
                .prop_map(|(stream, fin, headers)| Frame::SynReply { stream, fin, headers }),
            (id(), any::<u32>()).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
            (
                any::<bool>(),
                proptest::collection::vec((any::<u8>(), 0_u32..1 << 24, any::<u32>()), 0..5)
            )
                .prop_map(|(clear, values)| {
                    let setting = |(flags, id, value)| Setting { flags, id, value };
                    Frame::Settings { clear, values: values.into_iter().map(setting).collect() }
                }),
            any::<u32>().prop_map(|id| Frame::Ping { id }),
            (0..=STREAM, any::<u32>())
                .prop_map(|(last_good, status)| Frame::GoAway { last_good, status }),
            (id(), any::<bool>(), any_headers())
                .prop_map(|(stream, fin, headers)| Frame::Headers { stream, fin, headers }),
            (0..=STREAM, 0..=STREAM)
                .prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
            (id(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..200))
                .prop_map(|(stream, fin, bytes)| Frame::Data { stream, fin, bytes: bytes.into() }),
        ]
    }

    /// What kubectl 1.27 sent for two connections to port 8080, and when it was interrupted.
    const FROM_KUBECTL: &str = "800300010000003e0000000100000000000078f9e3c6a7c202253a703a2b294a4d\
        cc851625aca9a0808614cb45e01c60616061c0c0c0c0590489c64c50f2663400000000ffff8003000100000013\
        00000003000000000000a244b321000000ffff80030007000000080000000000000000";

    #[test]
    fn a_real_kubectl_is_read() {
        let bytes = hex::decode(FROM_KUBECTL).expect("hexadecimal");
        for piece in [1, 7, bytes.len()] {
            let (mut frames, fault) = decoded(&bytes, piece);
            assert_eq!((frames.len(), fault), (3, Ok(())));
            assert_eq!(frames.pop(), Some(Frame::GoAway { last_good: 0, status: 0 }));
            for (request, frame) in ["0", "1"].iter().zip(frames) {
                let Frame::SynStream { stream, fin: false, headers, .. } = frame else {
                    panic!("{frame:?}")
                };
                assert_eq!(headers.get("requestid"), Some(*request));
                assert_eq!(headers.get("streamtype"), Some("error"));
                assert_eq!((headers.get("port"), stream % 2), (Some("8080"), 1));
            }
        }
    }

    #[test]
    fn faults_are_told_apart() {
        let first = |text: &str| {
            let bytes = hex::decode(text.replace(' ', "")).expect("hexadecimal");
            decoded(&bytes, 3).1.expect_err("a fault")
        };
        assert_eq!(first("8002 0006 00000004 00000001"), FrameError::Version(2));
        assert_eq!(first("8003 0001 00ffffff"), FrameError::TooLarge(0xff_ffff));
        assert_eq!(first("8003 0006 00000003 000001"), FrameError::Length { kind: 6, length: 3 });
        assert_eq!(first("8003 0003 00000008 00000000 00000005"), FrameError::ZeroStream);
        assert_eq!(first("00000000 00000001 61"), FrameError::ZeroStream);
        // As many settings as would be 32 GiB.
        let many = first("8003 0004 00000004 ffffffff");
        assert_eq!(many, FrameError::Length { kind: 4, length: 4 });
        let block = first("8003 0002 00000006 00000001 ffff");
        assert_eq!(block, FrameError::HeaderBlock(HeaderBlockError::Compression));
    }

    #[test]
    fn an_unknown_frame_is_passed_over() {
        let bytes = hex::decode("8003000a00000003aabbcc800300050000000080030006000000040000002b");
        let (frames, fault) = decoded(&bytes.expect("hexadecimal"), 2);
        assert_eq!((frames, fault), (vec![Frame::Ping { id: 0x2b }], Ok(())));
    }

    #[test]
    fn long_data_is_several_frames_with_one_end() {
        let bytes: Bytes = vec![7; MOST_DATA + 5].into();
        let sent = Frame::Data { stream: 3, fin: true, bytes };
        let written = encoded(std::slice::from_ref(&sent));
        assert_eq!(written.len(), MOST_DATA + 5 + 2 * HEAD);
        let (parts, fault) = decoded(&written, 1 << 20);
        assert_eq!((joined(parts), fault), (vec![sent], Ok(())));
        assert_eq!(headers(&[]), Headers::default());
    }

    proptest! {
        #[test]
        fn every_frame_is_read_as_it_was_written(
            frames in proptest::collection::vec(any_frame(), 1..12),
            piece in 1_usize..400,
        ) {
            let (read, fault) = decoded(&encoded(&frames), piece);
            prop_assert_eq!(fault, Ok(()));
            prop_assert_eq!(joined(read), joined(frames));
        }

        #[test]
        fn any_bytes_are_frames_or_a_fault(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            piece in 1_usize..64,
        ) {
            let _ = decoded(&bytes, piece);
        }

        /// Heads that are right, so that what is behind them is reached.
        #[test]
        fn any_body_is_a_frame_or_a_fault(
            kind in 0_u8..12,
            flags in any::<u8>(),
            body in proptest::collection::vec(any::<u8>(), 0..80),
            piece in 1_usize..64,
        ) {
            let length = u8::try_from(body.len()).expect("short");
            let mut bytes = vec![0x80, 3, 0, kind, flags, 0, 0, length];
            bytes.extend(body);
            let _ = decoded(&bytes, piece);
        }
    }
}
