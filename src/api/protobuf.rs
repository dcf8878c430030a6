//! Pure: the protobuf wire format, as much of it as two readers need: the bodies of `kubectl auth`,
//! which come in nothing else from 1.32 on, and the OpenAPI document, which kubectl up to 1.28 takes
//! in nothing else. Two message trees do not pay for a generator and its build step.

use serde_json::{Value, json};

/// What a body of Kubernetes' protobuf begins with, before a `runtime.Unknown`.
const ENVELOPE: &[u8] = b"k8s\0";

/// One field of a message: its number, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    Number(u64),
    /// A string, a message or bytes: the reader knows which.
    Bytes(&'a [u8]),
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the body does not begin with Kubernetes' protobuf envelope")]
    NoEnvelope,
    #[error("the protobuf message ends inside a field")]
    Truncated,
    #[error("the protobuf message has a field of no known wire type")]
    WireType,
    #[error("a protobuf string is no UTF-8")]
    Text,
}

/// The fields of a message, in their order; fixed-width ones, which nothing here has, are skipped.
///
/// # Errors
/// Bytes that are no message.
pub fn fields(mut bytes: &[u8]) -> Result<Vec<(u64, Field<'_>)>, Malformed> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let number = tag >> 3;
        match tag & 7 {
            0 => found.push((number, Field::Number(varint(&mut bytes)?))),
            1 => skip(&mut bytes, 8)?,
            2 => {
                let length = varint(&mut bytes)?;
                let length = usize::try_from(length).map_err(|_| Malformed::Truncated)?;
                found.push((number, Field::Bytes(take(&mut bytes, length)?)));
            }
            5 => skip(&mut bytes, 4)?,
            _ => return Err(Malformed::WireType),
        }
    }
    Ok(found)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Malformed::Truncated)?;
    *bytes = rest;
    Ok(taken)
}

fn skip(bytes: &mut &[u8], length: usize) -> Result<(), Malformed> {
    take(bytes, length).map(|_| ())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    // Seven bits a byte: ten bytes at most.
    for shift in (0..u64::BITS).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed::Truncated)
}

/// A message's last field of that number as bytes; empty where it is absent.
///
/// # Errors
/// Bytes that are no message.
pub fn part(message: &[u8], number: u64) -> Result<&[u8], Malformed> {
    let all = fields(message)?;
    let found = all.into_iter().rev().find_map(|(at, field)| match field {
        Field::Bytes(bytes) if at == number => Some(bytes),
        _ => None,
    });
    Ok(found.unwrap_or_default())
}

/// A message of strings as a JSON object, by the names of its fields; absent ones are left out.
///
/// # Errors
/// Bytes that are no message, or no strings.
pub fn strings(message: &[u8], names: &[(u64, &str)]) -> Result<Value, Malformed> {
    let mut object = json!({});
    for (number, name) in names {
        let text = std::str::from_utf8(part(message, *number)?).map_err(|_| Malformed::Text)?;
        if !text.is_empty() {
            object[*name] = json!(text);
        }
    }
    Ok(object)
}

/// The message inside Kubernetes' envelope: `k8s\0`, then a `runtime.Unknown` whose second field it is.
///
/// # Errors
/// A body without the envelope, or whose envelope is malformed.
pub fn enveloped(body: &[u8]) -> Result<&[u8], Malformed> {
    part(body.strip_prefix(ENVELOPE).ok_or(Malformed::NoEnvelope)?, 2)
}

/// A message being written.
#[derive(Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// An empty string is an absent field.
    pub fn text(&mut self, number: u64, text: &str) {
        if !text.is_empty() {
            self.bytes(number, text.as_bytes());
        }
    }

    pub fn flag(&mut self, number: u64, flag: bool) {
        if flag {
            self.varint(number << 3);
            self.varint(1);
        }
    }

    /// Written even where it is empty: it says that there is one.
    pub fn message(&mut self, number: u64, message: &Self) {
        self.bytes(number, &message.0);
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut inner = Message::default();
        inner.text(1, "pods");
        inner.text(2, "");
        let mut outer = Message::default();
        outer.message(3, &inner);
        outer.flag(300, true);
        outer.flag(4, false);
        outer.text(5, &"x".repeat(300));
        let bytes = outer.into_bytes();
        let read = fields(&bytes).expect("a message");
        assert_eq!(read.len(), 3);
        assert_eq!(read[1], (300, Field::Number(1)));
        assert_eq!(part(&bytes, 5).expect("a message").len(), 300);
        let names = [(1, "resource"), (2, "verb")];
        let inner = part(&bytes, 3).expect("a message");
        assert_eq!(strings(inner, &names), Ok(json!({"resource": "pods"})));
    }

    #[test]
    fn what_is_no_message_is_said() {
        assert_eq!(enveloped(b"{}"), Err(Malformed::NoEnvelope));
        assert_eq!(fields(&[0x0a, 5, 1]), Err(Malformed::Truncated));
        assert_eq!(fields(&[0x0b]), Err(Malformed::WireType));
        assert_eq!(fields(&[0xff; 11]), Err(Malformed::Truncated));
        assert_eq!(strings(&[0x0a, 1, 0xff], &[(1, "a")]), Err(Malformed::Text));
        assert_eq!(fields(&[0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0x0d, 0, 0, 0, 0]), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = fields(&bytes);
            let _ = enveloped(&bytes);
        }
    }
}
