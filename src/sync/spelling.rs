//! Pure: which field somebody may have meant. The candidates are the real ones: a type's own
//! deserializer names its fields when it is walked to the place of the unknown one.

use std::cell::Cell;

use serde::de::value::{Error, StrDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor,
};
use strsim::osa_distance;

/// The field of `T` most like the last part of `path`, if one is close enough.
pub fn suggest<T: DeserializeOwned>(path: &str) -> Option<&'static str> {
    let parts = split(path);
    let (wrong, around) = parts.split_last()?;
    let found = Cell::new(None);
    // The walk always ends in an error: at the place, or where the type has no such way.
    let _ = T::deserialize(Walk { way: around, fields: &found });
    nearest(wrong, found.get()?.iter().copied())
}

/// The word most like `wrong`: at most one edit (insert, delete, replace, swap of neighbours) for
/// each three letters, two at least.
pub fn nearest<'a>(wrong: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A word longer than any field is nobody's slip, and the distance costs the product of the two.
    let wrong: String = wrong.to_lowercase().chars().take(64).collect();
    let allowed = (wrong.chars().count() / 3).max(2);
    words
        .map(|word| (osa_distance(&wrong, &word.to_lowercase()), word))
        .filter(|(edits, _)| *edits <= allowed)
        .min()
        .map(|(_, word)| word)
}

/// `spec.containers[0].image` as its steps; an index is a step of its own, written `[0]`.
fn split(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('.') {
        let (name, indexes) = part.split_at(part.find('[').unwrap_or(part.len()));
        if !name.is_empty() {
            parts.push(name);
        }
        parts.extend(indexes.split_inclusive(']').filter(|index| !index.is_empty()));
    }
    parts
}

/// A document that consists of one way down, and nothing beside it.
struct Walk<'a> {
    way: &'a [&'a str],
    fields: &'a Cell<Option<&'static [&'static str]>>,
}

fn end<T>() -> Result<T, Error> {
    Err(de::Error::custom("the walk ends here"))
}

impl<'de> Deserializer<'de> for Walk<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.way.first() {
            None => end(),
            Some(step) if step.starts_with('[') => visitor.visit_seq(Step(Some(self))),
            Some(_) => visitor.visit_map(Step(Some(self))),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.way.is_empty() {
            self.fields.set(Some(fields));
            return end();
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The next step as the only entry of a map or sequence.
struct Step<'a>(Option<Walk<'a>>);

impl<'de> MapAccess<'de> for Step<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        match &self.0 {
            Some(walk) => {
                let name = walk.way.first().copied().unwrap_or_default();
                let key: StrDeserializer<'_, Error> = de::IntoDeserializer::into_deserializer(name);
                seed.deserialize(key).map(Some)
            }
            None => Ok(None),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        match self.0.take() {
            Some(walk) => seed.deserialize(Walk { way: &walk.way[1..], fields: walk.fields }),
            None => end(),
        }
    }
}

impl<'de> SeqAccess<'de> for Step<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        match self.0.take() {
            Some(walk) => {
                seed.deserialize(Walk { way: &walk.way[1..], fields: walk.fields }).map(Some)
            }
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;

    use super::*;

    #[test]
    fn the_candidates_are_the_fields_of_that_place() {
        let rows = [
            ("spec.template.spec.containers[0].imagee", Some("image")),
            ("spec.template.spec.containers[2].volumeMount", Some("volumeMounts")),
            ("spec.replica", Some("replicas")),
            ("metadata.nmae", Some("name")),
            ("specc", Some("spec")),
            ("spec.template.spec.containers[0].livenessprobe", Some("livenessProbe")),
            ("spec.somethingElseEntirely", None),
            ("nowhere.to.go", None),
        ];
        for (path, expected) in rows {
            assert_eq!(suggest::<Deployment>(path), expected, "{path}");
        }
    }
}
