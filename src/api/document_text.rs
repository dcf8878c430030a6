//! Pure: from a body's bytes to a JSON value, with the fields that stand twice in it: a value holds
//! one of the two, and `fieldValidation` wants to tell.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::options::DuplicateKeyPolicy;

use crate::object::yaml;

/// A document as it was sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// Of two values of one field the later.
    pub value: Value,
    /// `duplicate field "spec.replicas"`, once a field, in the order of the text.
    pub twice: Vec<String>,
}

/// More of them say nothing new.
const MOST_TWICE: usize = 32;
/// Values of one document, however it is written: the text of an object of 3 MiB is names and words
/// for the most part, and what is nothing but brackets costs a hundred times its text once it is typed
/// (a body of 900,000 managed fields: 390 MB).
const MAX_VALUES: usize = yaml::MAX_NODES;

/// # Errors
/// What is no JSON document, or has more than [`MAX_VALUES`] values.
pub fn json(bytes: &[u8]) -> Result<Document, serde_json::Error> {
    let mut seen = Seen::default();
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Reading(&mut seen).deserialize(&mut reader)?;
    reader.end()?;
    Ok(Document { value, twice: seen.twice })
}

/// One YAML document, read as `sync/document.rs` reads a manifest, but for fields that stand twice.
/// Aliases expand within the budget.
///
/// # Errors
/// What is no YAML, more than one document, and more than the budget.
pub fn yaml(bytes: &[u8]) -> Result<Document, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let options = yaml::reading(DuplicateKeyPolicy::PassThrough);
    let mut seen = Seen::default();
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |reader| {
        Reading(&mut seen).deserialize(reader)
    });
    let value = read.map_err(|error| error.without_snippet().to_string())?;
    Ok(Document { value, twice: seen.twice })
}

#[derive(Default)]
struct Seen {
    values: usize,
    path: String,
    twice: Vec<String>,
}

struct Reading<'s>(&'s mut Seen);

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.values += 1;
        if self.0.values > MAX_VALUES {
            return Err(D::Error::custom(format!("more than {MAX_VALUES} values")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("the number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let length = self.0.path.len();
        let mut list = Vec::new();
        loop {
            self.0.path.push_str(&format!("[{}]", list.len()));
            let item = items.next_element_seed(Reading(&mut *self.0))?;
            self.0.path.truncate(length);
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let length = self.0.path.len();
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            if length > 0 {
                self.0.path.push('.');
            }
            self.0.path.push_str(&name);
            if map.contains_key(&name) && self.0.twice.len() < MOST_TWICE {
                let told = format!("duplicate field {:?}", self.0.path);
                if !self.0.twice.contains(&told) {
                    self.0.twice.push(told);
                }
            }
            let value = entries.next_value_seed(Reading(&mut *self.0))?;
            self.0.path.truncate(length);
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stands_twice_is_told_with_its_place() {
        let text = br#"{"a": 1, "b": [{"c": 1, "c": 2}], "a": {"d": 1, "d": 2}}"#;
        let read = json(text).unwrap();
        assert_eq!(read.value, json!({"a": {"d": 2}, "b": [{"c": 2}]}));
        assert_eq!(
            read.twice,
            ["duplicate field \"b[0].c\"", "duplicate field \"a\"", "duplicate field \"a.d\""]
        );
        let read = yaml(b"a: 1\nb:\n- c: yes\na: x\n").unwrap();
        assert_eq!(read.value, json!({"a": "x", "b": [{"c": true}]}));
        assert_eq!(read.twice, ["duplicate field \"a\""]);
    }

    #[test]
    fn yaml_is_one_document_within_its_budget() {
        let read = yaml(b"base: &b {x: 1}\nuse:\n  <<: *b\n  y: 2\n").unwrap();
        assert_eq!(read.value["use"], json!({"x": 1, "y": 2}));
        assert!(yaml(b"a: 1\n---\nb: 2\n").is_err());
        assert!(yaml(b"a: [\n").is_err());
        assert!(yaml(&[0xff, 0xfe]).is_err());
        let deep = "[".repeat(10_000);
        assert!(yaml(deep.as_bytes()).is_err() && json(deep.as_bytes()).is_err());
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let before = format!("*a{}, ", n - 1).repeat(8);
            bomb.push_str(&format!("a{n}: &a{n} [{}]\n", before.trim_end_matches(", ")));
        }
        assert!(yaml(bomb.as_bytes()).is_err());
    }

    #[test]
    fn a_document_has_so_many_values_and_no_more() {
        let list = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        assert!(json(list(MAX_VALUES - 1).as_bytes()).is_ok());
        let error = json(list(MAX_VALUES).as_bytes()).expect_err("too many");
        assert!(error.to_string().starts_with("more than 200000 values at line 1"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_bad(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let ours = json(&bytes).ok().map(|read| read.value);
            prop_assert_eq!(ours, serde_json::from_slice::<Value>(&bytes).ok());
            drop(yaml(&bytes));
        }
    }
}
