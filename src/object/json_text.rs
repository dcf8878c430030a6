//! Pure: where things stand in compact JSON text, without decoding it. Of text that is not as serde
//! writes it (white space, an unfinished value) the answer is that nothing is there.

use std::ops::Range;

/// The offset of a member's value in the object that begins at `at`; compact JSON as serde writes it.
pub fn member(json: &[u8], at: usize, name: &[u8]) -> Option<usize> {
    let mut at = (json.get(at) == Some(&b'{')).then_some(at + 1)?;
    loop {
        if json.get(at) != Some(&b'"') {
            return None;
        }
        let key_end = string_end(json, at)?;
        let value = (json.get(key_end) == Some(&b':')).then_some(key_end + 1)?;
        if &json[at + 1..key_end - 1] == name {
            return Some(value);
        }
        at = value_end(json, value)?;
        at = (json.get(at) == Some(&b',')).then_some(at + 1)?;
    }
}

/// Behind the closing quote of the string that begins at `at`.
fn string_end(json: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match json.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Behind the value that begins at `at`.
pub fn value_end(json: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match json.get(at)? {
            b'"' => at = string_end(json, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            b',' | b':' if depth > 0 => {
                at += 1;
                continue;
            }
            _ => {
                while !matches!(json.get(at)?, b',' | b'}' | b']') {
                    at += 1;
                }
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The longest of the values of the top level's members, and, where these are objects, of their
/// members: a pod's containers, a ReplicaSet's template, a ConfigMap's largest file. In one pass.
pub fn longest_value(json: &[u8]) -> Option<Range<usize>> {
    let mut longest = 0..0;
    let mut note = |at: usize| {
        let end = value_end(json, at)?;
        if end - at > longest.len() {
            longest = at..end;
        }
        Some(end)
    };
    each_member(json, 0, &mut |at| match json.get(at) {
        Some(b'{') => each_member(json, at, &mut note),
        _ => note(at),
    })?;
    Some(longest).filter(|range| !range.is_empty())
}

/// Shows where each value of the object at `at` begins; `value` answers where it ends. Answers where
/// the object ends.
fn each_member(
    json: &[u8],
    at: usize,
    value: &mut dyn FnMut(usize) -> Option<usize>,
) -> Option<usize> {
    let mut at = (json.get(at) == Some(&b'{')).then_some(at + 1)?;
    if json.get(at) == Some(&b'}') {
        return Some(at + 1);
    }
    loop {
        let key_end = (json.get(at) == Some(&b'"')).then(|| string_end(json, at))??;
        at = (json.get(key_end) == Some(&b':')).then(|| value(key_end + 1))??;
        match json.get(at)? {
            b',' => at += 1,
            b'}' => return Some(at + 1),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn longest(value: &Value) -> Option<String> {
        let text = value.to_string();
        longest_value(text.as_bytes()).map(|range| text[range].to_owned())
    }

    #[test]
    fn the_longest_value_stands_one_or_two_levels_deep() {
        let pod = json!({"kind": "Pod", "metadata": {"name": "a,}\"{"},
            "spec": {"containers": [{"name": "c", "image": "i:1"}], "x": {}}, "status": {}});
        assert_eq!(longest(&pod).as_deref(), Some(r#"[{"image":"i:1","name":"c"}]"#));
        assert_eq!(longest(&json!({"a": {}, "b": "x"})).as_deref(), Some("\"x\""));
        assert_eq!(longest(&json!({})), None);
        for text in
            ["", "[]", "{", r#"{"a""#, r#"{ "a":1}"#, r#"{"a":1"#, r#"{"a":{"b":}"#, r#"{"a":"\"#]
        {
            assert_eq!(longest_value(text.as_bytes()), None, "{text}");
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[ -~\u{e4}]{0,9}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-c\"\\\\]{1,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// The same as decoding everything and asking each value how long its text is.
        #[test]
        fn it_agrees_with_decoding(value in values()) {
            let inner = |value: &Value| match value {
                Value::Object(map) => map.values().cloned().collect(),
                other => vec![other.clone()],
            };
            let wanted = value.as_object().and_then(|map| {
                map.values().flat_map(inner).map(|value| value.to_string().len()).max()
            });
            let found = longest(&value);
            prop_assert_eq!(found.as_ref().map(String::len), wanted);
            if let Some(text) = found {
                prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
            }
        }
    }
}
