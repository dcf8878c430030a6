//! Pure: an object's text as it is kept in memory. Most objects are one of many made of one template:
//! of a pod's 5.5 kB its containers are 4.5, and a hundred replicas have the same. The longest value of
//! a body is therefore held once for all bodies that have it, whatever it means.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::object::json_text::longest_value;
use crate::object::shared::Pool;

/// Values that are shorter are not looked for: what is known of a share is 60 bytes.
const SHORT: usize = 512;

/// The values that bodies have in common.
pub(super) type Values = Pool<[u8]>;

/// A whole object as JSON, `resourceVersion` included. Immutable.
#[derive(Clone)]
pub struct Body {
    /// All of it, but for the common value.
    own: Box<[u8]>,
    /// Where in `own` the common value belongs, and it.
    common: Option<(usize, Arc<[u8]>)>,
}

impl Body {
    /// A body that shares nothing.
    pub fn whole(text: impl Into<Box<[u8]>>) -> Self {
        Self { own: text.into(), common: None }
    }

    /// A body whose longest value is the one of `values` that is equal to it.
    pub(super) fn sharing(text: Vec<u8>, values: &mut Values) -> Self {
        let longest = (text.len() > SHORT).then(|| longest_value(&text)).flatten();
        let Some(range) = longest.filter(|range| range.len() > SHORT) else {
            return Self::whole(text);
        };
        let value = values.share_ref(&text[range.clone()]);
        let own = [&text[..range.start], &text[range.end..]].concat();
        Self { own: own.into(), common: Some((range.start, value)) }
    }

    /// Bytes of the text.
    pub fn len(&self) -> usize {
        self.own.len() + self.common.as_ref().map_or(0, |(_, value)| value.len())
    }

    /// No JSON text is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text in at most three pieces.
    pub fn pieces(&self) -> [&[u8]; 3] {
        match &self.common {
            None => [&self.own, &[], &[]],
            Some((at, value)) => [&self.own[..*at], value, &self.own[*at..]],
        }
    }

    /// The text; copied where a part of it is shared.
    pub fn text(&self) -> Cow<'_, [u8]> {
        match &self.common {
            None => Cow::Borrowed(&self.own),
            Some(_) => Cow::Owned(self.pieces().concat()),
        }
    }

    /// A copy of the text.
    pub fn to_bytes(&self) -> Bytes {
        self.text().into_owned().into()
    }
}

impl From<Bytes> for Body {
    fn from(text: Bytes) -> Self {
        Self::whole(Vec::from(text))
    }
}

/// The text counts, not what is shared of it.
impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.text() == other.text()
    }
}

impl Eq for Body {}

impl fmt::Debug for Body {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.text()).fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, image: &str) -> Vec<u8> {
        let env: Vec<_> = (0..40).map(|n| json!({"name": format!("N{n}"), "value": "v"})).collect();
        let pod = json!({"kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": image, "env": env}], "nodeName": "n"}});
        pod.to_string().into_bytes()
    }

    fn value(body: &Body) -> &Arc<[u8]> {
        &body.common.as_ref().expect("a pod shares").1
    }

    #[test]
    fn pods_of_one_template_have_their_containers_once() {
        let mut values = Values::default();
        let mut body = |name, image| Body::sharing(pod(name, image), &mut values);
        let (one, two, other) = (body("a", "i:1"), body("b", "i:1"), body("a", "i:2"));
        assert!(Arc::ptr_eq(value(&one), value(&two)));
        assert!(!Arc::ptr_eq(value(&one), value(&other)));
        assert!(one.own.len() < 150 && one.len() > 1000, "{} of {}", one.own.len(), one.len());
        assert_eq!(*one.text(), pod("a", "i:1"));
        assert_eq!(one, Body::whole(pod("a", "i:1")));
        assert_ne!(one, two);
    }

    #[test]
    fn short_bodies_and_what_is_no_compact_json_are_kept_whole() {
        let mut values = Values::default();
        let spaced = format!("{{ \"a\": \"{}\" }}", "x".repeat(2 * SHORT));
        for text in [b"{}".to_vec(), b"".to_vec(), vec![b'x'; 2 * SHORT], spaced.into_bytes()] {
            let body = Body::sharing(text.clone(), &mut values);
            assert!(body.common.is_none());
            assert_eq!(body.to_bytes(), text);
        }
        assert!(values.is_empty());
    }

    proptest! {
        /// Whatever the bytes are, they come back.
        #[test]
        fn the_text_is_what_came(
            text in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                (0_usize..1200, "[a-z\"{}:,]{0,8}").prop_map(|(length, rest)| {
                    format!("{{\"a\":{{\"b\":\"{}\"}},\"c\":{rest}}}", "x".repeat(length)).into_bytes()
                }),
            ],
        ) {
            let mut values = Values::default();
            let body = Body::sharing(text.clone(), &mut values);
            prop_assert_eq!(body.len(), text.len());
            prop_assert_eq!(&body.pieces().concat(), &text);
            prop_assert_eq!(&*body.text(), &text[..]);
        }
    }
}
