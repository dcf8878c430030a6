//! Pure: the name and value pairs of a SPDY/3.1 frame, packed and unpacked. All blocks of one
//! direction of a session are one zlib stream that knows SPDY's dictionary, cut at a flush after each
//! block: a block can only be read after all before it, so whoever reads them keeps one [`Unpacker`]
//! and whoever writes them one [`Packer`] for the session's life.
//!
//! What a block may become when it is unpacked is bounded: a few hundred bytes can stand for
//! megabytes. kubectl's are under a hundred bytes.

use std::sync::LazyLock;

use bytes::{Buf, BufMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What one block may be unpacked, as a request's head (`Limits::header_bytes`).
pub(crate) const MOST_UNPACKED: usize = 16 * 1024;

/// The dictionary's words, each told with its length (SPDY protocol, draft 3, 2.6.10.1).
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
    accept-language accept-ranges age allow authorization cache-control connection content-base \
    content-encoding content-language content-length content-location content-md5 content-range \
    content-type date etag expect expires from host if-match if-modified-since if-none-match \
    if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate \
    proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url \
    public set-cookie keep-alive origin";

/// What follows the words in the dictionary, without lengths.
const PHRASES: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415\
    416417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad \
    Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not \
    Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,\
    deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::new();
    for word in WORDS.split(' ') {
        put_text(&mut dictionary, &word.replace('_', " "));
    }
    dictionary.extend_from_slice(PHRASES.as_bytes());
    dictionary
});

/// Names in lower case, each once. A value of several parts has a NUL between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub Vec<(String, String)>);

/// Why a block is none. The session is over: what follows it cannot be unpacked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderBlockError {
    #[error("a header block that is not compressed as SPDY/3.1 does it")]
    Compression,
    #[error("a header block of more than {MOST_UNPACKED} bytes")]
    TooLarge,
    #[error("a header block that ends within a header, or after its last one")]
    Shape,
    #[error("a header that is no text, or whose name has capital letters or stands twice")]
    Text,
}

impl Headers {
    /// The first value under this name, which is in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(other, _)| other == name)?;
        value.split('\0').next()
    }
}

/// Reads the blocks of one direction.
pub(crate) struct Unpacker {
    inflate: Decompress,
}

impl Unpacker {
    pub fn new() -> Self {
        Self { inflate: Decompress::new(true) }
    }

    /// The block's headers.
    ///
    /// # Errors
    /// [`HeaderBlockError`]: the session is over then.
    pub fn unpack(&mut self, packed: &[u8]) -> Result<Headers, HeaderBlockError> {
        let plain = self.inflated(packed)?;
        read_headers(&plain)
    }

    fn inflated(&mut self, packed: &[u8]) -> Result<Vec<u8>, HeaderBlockError> {
        // One byte more than may be used: a block that fills it is too large.
        let mut plain = Vec::with_capacity(MOST_UNPACKED + 1);
        let mut rest = packed;
        let mut knows_dictionary = false;
        while !rest.is_empty() {
            let before = (self.inflate.total_in(), plain.len());
            let step = self.inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.inflate.total_in() - before.0)
                .map_err(|_| HeaderBlockError::Compression)?;
            rest = &rest[taken..];
            match step {
                Ok(Status::Ok | Status::BufError) => {}
                // A session's blocks are one stream, which ends with the session.
                Ok(Status::StreamEnd) => return Err(HeaderBlockError::Compression),
                Err(error) if error.needs_dictionary().is_some() && !knows_dictionary => {
                    knows_dictionary = true;
                    let set = self.inflate.set_dictionary(&DICTIONARY);
                    set.map_err(|_| HeaderBlockError::Compression)?;
                    continue;
                }
                Err(_) => return Err(HeaderBlockError::Compression),
            }
            if plain.len() > MOST_UNPACKED {
                return Err(HeaderBlockError::TooLarge);
            }
            if (taken, plain.len()) == (0, before.1) {
                return Err(HeaderBlockError::Compression);
            }
        }
        Ok(plain)
    }
}

/// Writes the blocks of one direction.
pub(crate) struct Packer {
    deflate: Compress,
}

impl Packer {
    pub fn new() -> Self {
        // The smallest window that holds the dictionary: what we write are short answers.
        let mut deflate = Compress::new_with_window_bits(Compression::fast(), true, 11);
        deflate.set_dictionary(&DICTIONARY).expect("a dictionary is taken before any input");
        Self { deflate }
    }

    /// The headers as the session's next block.
    pub fn pack(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(length(headers.0.len()));
        for (name, value) in &headers.0 {
            put_text(&mut plain, name);
            put_text(&mut plain, value);
        }
        let mut packed = Vec::new();
        let mut rest = &plain[..];
        loop {
            packed.reserve(plain.len() + 64);
            let before = self.deflate.total_in();
            let step = self.deflate.compress_vec(rest, &mut packed, FlushCompress::Sync);
            step.expect("deflate takes all input");
            let taken = usize::try_from(self.deflate.total_in() - before).expect("a short block");
            rest = &rest[taken..];
            // Room that is left says that the flush is whole.
            if rest.is_empty() && packed.len() < packed.capacity() {
                return packed;
            }
        }
    }
}

fn read_headers(mut plain: &[u8]) -> Result<Headers, HeaderBlockError> {
    let count = plain.try_get_u32().map_err(|_| HeaderBlockError::Shape)?;
    let mut headers: Vec<(String, String)> = Vec::new();
    for _ in 0..count {
        let name = take_text(&mut plain)?;
        let value = take_text(&mut plain)?;
        let lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
        if name.is_empty() || !lower || headers.iter().any(|(other, _)| *other == name) {
            return Err(HeaderBlockError::Text);
        }
        headers.push((name, value));
    }
    if plain.is_empty() { Ok(Headers(headers)) } else { Err(HeaderBlockError::Shape) }
}

fn take_text(plain: &mut &[u8]) -> Result<String, HeaderBlockError> {
    let length = plain.try_get_u32().map_err(|_| HeaderBlockError::Shape)?;
    let length = usize::try_from(length).map_err(|_| HeaderBlockError::Shape)?;
    let text = plain.get(..length).ok_or(HeaderBlockError::Shape)?;
    *plain = &plain[length..];
    String::from_utf8(text.to_vec()).map_err(|_| HeaderBlockError::Text)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_u32(length(text.len()));
    out.extend_from_slice(text.as_bytes());
}

fn length(of: usize) -> u32 {
    u32::try_from(of).expect("what we write is short")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_headers() -> impl Strategy<Value = Headers> {
        let name = "[a-z][a-z0-9-]{0,12}";
        let value = "[ -~\u{e9}\u{0}]{0,40}";
        proptest::collection::btree_map(name, value, 0..6)
            .prop_map(|pairs| Headers(pairs.into_iter().collect()))
    }

    #[test]
    fn the_dictionary_is_the_drafts() {
        // The checksum by which zlib names it, in each session's first bytes: 78 bb e3 c6 a7 c2.
        let (mut low, mut high) = (1_u32, 0_u32);
        for byte in DICTIONARY.iter() {
            low = (low + u32::from(*byte)) % 65_521;
            high = (high + low) % 65_521;
        }
        assert_eq!((DICTIONARY.len(), high << 16 | low), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn a_bomb_is_refused_before_it_goes_off() {
        let bomb = Headers(vec![("a".to_owned(), "x".repeat(4_000_000))]);
        let packed = Packer::new().pack(&bomb);
        assert!(packed.len() < 40_000, "{} bytes stand for four million", packed.len());
        assert_eq!(Unpacker::new().unpack(&packed), Err(HeaderBlockError::TooLarge));
        let fits = Headers(vec![("a".to_owned(), "x".repeat(MOST_UNPACKED - 13))]);
        assert_eq!(Unpacker::new().unpack(&Packer::new().pack(&fits)), Ok(fits));
    }

    #[test]
    fn a_stream_that_ends_or_knows_another_dictionary_is_refused() {
        let mut ended = Vec::with_capacity(64);
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.compress_vec(&[0, 0, 0, 0], &mut ended, FlushCompress::Finish).expect("deflated");
        assert_eq!(Unpacker::new().unpack(&ended), Err(HeaderBlockError::Compression));
        let mut other = Vec::with_capacity(64);
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(b"another").expect("a dictionary");
        deflate.compress_vec(&[0, 0, 0, 0], &mut other, FlushCompress::Sync).expect("deflated");
        assert_eq!(Unpacker::new().unpack(&other), Err(HeaderBlockError::Compression));
    }

    #[test]
    fn names_are_lower_case_and_stand_once() {
        let packed = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            Packer::new().pack(&Headers(pairs.collect()))
        };
        for pairs in [&[("Port", "80")][..], &[("", "80")], &[("port", "80"), ("port", "81")]] {
            assert_eq!(Unpacker::new().unpack(&packed(pairs)), Err(HeaderBlockError::Text));
        }
        let two = Unpacker::new().unpack(&packed(&[("port", "80\x0081")])).expect("headers");
        assert_eq!((two.get("port"), two.get("requestid")), (Some("80"), None));
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(blocks in proptest::collection::vec(any_headers(), 1..6)) {
            let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
            for block in blocks {
                prop_assert_eq!(unpacker.unpack(&packer.pack(&block)), Ok(block));
            }
        }

        #[test]
        fn any_bytes_are_headers_or_refused(
            begun in any::<bool>(),
            packed in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut unpacker = Unpacker::new();
            if begun {
                unpacker.unpack(&Packer::new().pack(&Headers::default())).expect("headers");
            }
            let _ = unpacker.unpack(&packed);
        }

        #[test]
        fn any_plain_bytes_are_headers_or_refused(
            plain in proptest::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..64),
        ) {
            let _ = read_headers(&plain);
        }
    }
}
