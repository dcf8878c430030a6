//! Pure: one object on its way into the store: what is known of it, and its text without revision.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::store::Pairs;

/// What the store must know of an object without decoding it. Extracted by the API at each write.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub uid: String,
    #[serde(default, skip_serializing_if = "Pairs::is_empty")]
    pub labels: Pairs,
    /// The kind's selectable fields (`spec.nodeName`), absent ones as empty strings.
    #[serde(default, skip_serializing_if = "Pairs::is_empty")]
    pub fields: Pairs,
    /// Uids of the owners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
    /// `deletionTimestamp` is set.
    #[serde(default)]
    pub deleting: bool,
    /// What this object has to itself in the whole store (`clusterip/10.43.0.5`,
    /// `nodeport/tcp/30080`): a second record with the same claim is refused by the transaction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
}

/// A body on its way into the store: JSON text with `"resourceVersion":""` at a known place, into
/// which the writer puts the revision that the write gets.
#[derive(Clone, Debug)]
pub struct Draft {
    /// JSON text; the quotes of the empty resourceVersion stand around `revision_at`.
    pub json: Vec<u8>,
    /// Byte offset between the two quotes.
    pub revision_at: usize,
}

impl Draft {
    /// Whether the two quotes stand where `revision_at` says. The writer asks before it writes
    /// anything, so that a draft made wrongly costs one refused write and not the store.
    pub(super) fn is_sound(&self) -> bool {
        self.revision_at > 0
            && self.json.get(self.revision_at - 1..=self.revision_at) == Some(b"\"\"".as_slice())
    }

    /// The body with the revision in its place; of a sound draft.
    pub(super) fn stamp(&self, revision: u64) -> Vec<u8> {
        replace(&self.json, self.revision_at, self.revision_at, revision)
    }
}

/// The body with its `metadata.resourceVersion` replaced: what a deleted object's last state looks
/// like. A body without one stays as it is.
pub(super) fn restamp(body: &[u8], revision: u64) -> Vec<u8> {
    #[derive(Deserialize)]
    struct Whole<'a> {
        #[serde(borrow)]
        metadata: Metadata<'a>,
    }
    #[derive(Deserialize)]
    struct Metadata<'a> {
        #[serde(borrow, rename = "resourceVersion")]
        resource_version: &'a RawValue,
    }
    let Ok(whole) = serde_json::from_slice::<Whole<'_>>(body) else { return body.to_vec() };
    let raw = whole.metadata.resource_version.get();
    // The raw value is borrowed from the body, so its address tells where it stands.
    let start = raw.as_ptr() as usize - body.as_ptr() as usize;
    if !raw.starts_with('"') {
        return body.to_vec();
    }
    replace(body, start + 1, start + raw.len() - 1, revision)
}

/// One allocation of exactly the new length: bodies are kept as long as the object lives.
fn replace(text: &[u8], start: usize, end: usize, revision: u64) -> Vec<u8> {
    let digits = revision.to_string();
    let mut body = Vec::with_capacity(text.len() - (end - start) + digits.len());
    body.extend_from_slice(&text[..start]);
    body.extend_from_slice(digits.as_bytes());
    body.extend_from_slice(&text[end..]);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_goes_between_the_quotes() {
        let json = br#"{"metadata":{"resourceVersion":"","name":"a"}}"#.to_vec();
        let revision_at = json.windows(2).position(|pair| pair == b"\"\"").expect("quotes") + 1;
        let draft = Draft { json, revision_at };
        assert!(draft.is_sound());
        let body = draft.stamp(42);
        assert_eq!(&body[..], br#"{"metadata":{"resourceVersion":"42","name":"a"}}"#);
    }

    #[test]
    fn a_draft_with_a_wrong_offset_is_unsound() {
        for revision_at in [0, 1, 5, 100] {
            assert!(!Draft { json: b"{\"a\":\"\"}".to_vec(), revision_at }.is_sound());
        }
    }

    #[test]
    fn only_the_objects_own_revision_is_replaced() {
        let body = br#"{"involvedObject":{"resourceVersion":"7"},"metadata":{"name":"\"resourceVersion\":\"7\"", "resourceVersion" : "7"}}"#;
        assert_eq!(
            &restamp(body, 1234)[..],
            br#"{"involvedObject":{"resourceVersion":"7"},"metadata":{"name":"\"resourceVersion\":\"7\"", "resourceVersion" : "1234"}}"#,
        );
    }

    #[test]
    fn a_body_without_a_revision_stays() {
        for text in ["{}", "not json", r#"{"metadata":{"resourceVersion":7}}"#] {
            assert_eq!(restamp(text.as_bytes(), 9), text.as_bytes());
        }
    }
}
