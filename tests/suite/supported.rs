//! The table of supported fields against the types themselves: a walk through every field that
//! Kubernetes' types have, so that none is left undecided when they grow.

use std::cell::RefCell;
use std::collections::BTreeSet;

use ballast::api::admission::supported::{Part, Row, Support, table};
use ballast::object::Kind;
use ballast::with_kind;
use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

/// A deserializer that answers every field with something, and writes down where it was asked.
struct Walk<'a> {
    path: String,
    kind: Option<Kind>,
    leaves: &'a RefCell<BTreeSet<String>>,
}

impl Walk<'_> {
    fn leaf(&self) {
        self.leaves.borrow_mut().insert(self.path.trim_end_matches("[]").to_owned());
    }

    fn text(&self) -> String {
        match (self.path.as_str(), self.kind) {
            ("apiVersion", Some(kind)) => kind.api_version(),
            ("kind", Some(kind)) => kind.row().name.to_owned(),
            _ => "2026-01-01T00:00:00.000000Z".to_owned(),
        }
    }
}

macro_rules! scalars {
    ($($method:ident => $visit:ident $value:expr),*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.leaf();
            visitor.$visit($value)
        }
    )* };
}

impl<'de> Deserializer<'de> for Walk<'_> {
    type Error = Error;

    scalars!(
        deserialize_bool => visit_bool true, deserialize_i8 => visit_i8 1,
        deserialize_i16 => visit_i16 1, deserialize_i32 => visit_i32 1,
        deserialize_i64 => visit_i64 1, deserialize_u8 => visit_u8 1,
        deserialize_u16 => visit_u16 1, deserialize_u32 => visit_u32 1,
        deserialize_u64 => visit_u64 1, deserialize_f32 => visit_f32 1.0,
        deserialize_f64 => visit_f64 1.0, deserialize_char => visit_char 'a',
        deserialize_bytes => visit_bytes b"", deserialize_byte_buf => visit_bytes b""
    );

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        let text = self.text();
        visitor.visit_str(&text)
    }
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Once(Some(Walk { path: format!("{}[]", self.path), ..self })))
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }
    /// Keys of a map are the user's: the map is one field.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_map(Fields { fields: &[], at: 0, walk: self })
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if fields.is_empty() {
            self.leaf();
        }
        visitor.visit_map(Fields { fields, at: 0, walk: self })
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.leaf();
        let first: StrDeserializer<'_, Error> = variants[0].into_deserializer();
        visitor.visit_enum(first)
    }
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

struct Once<'a>(Option<Walk<'a>>);

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Error;
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0.take().map(|walk| seed.deserialize(walk)).transpose()
    }
}

struct Fields<'a> {
    fields: &'static [&'static str],
    at: usize,
    walk: Walk<'a>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.fields.get(self.at) else { return Ok(None) };
        let name: StrDeserializer<'_, Error> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let name = self.fields[self.at];
        self.at += 1;
        let path = match self.walk.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        seed.deserialize(Walk { path, kind: self.walk.kind, leaves: self.walk.leaves })
    }
}

/// Every field of a type, as the wire names it.
fn fields_of<T: for<'de> Deserialize<'de>>(kind: Option<Kind>) -> BTreeSet<String> {
    let leaves = RefCell::default();
    T::deserialize(Walk { path: String::new(), kind, leaves: &leaves }).expect("answers fit");
    leaves.into_inner()
}

fn covers(row: &Row, leaf: &str) -> bool {
    leaf.strip_prefix(row.path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with("[]"))
}

fn check(part: Part, leaves: &BTreeSet<String>) {
    let rows: Vec<&Row> = table().filter(|row| row.part == part).collect();
    let undecided: Vec<&String> =
        leaves.iter().filter(|leaf| !rows.iter().any(|row| covers(row, leaf))).collect();
    assert!(undecided.is_empty(), "{part:?}: no row decides {undecided:#?}");
    let of_nothing: Vec<&str> = rows
        .iter()
        .filter(|row| !leaves.iter().any(|leaf| covers(row, leaf)))
        .map(|row| row.path)
        .collect();
    assert!(of_nothing.is_empty(), "{part:?}: no field is at {of_nothing:#?}");
}

#[test]
fn every_field_of_a_pod_is_decided() {
    check(Part::PodSpec, &fields_of::<PodSpec>(None));
}

#[test]
fn every_field_of_every_kind_is_decided() {
    for kind in Kind::all() {
        // Ours: every field of them is ours and runs.
        if matches!(kind, Kind::Source | Kind::Inventory | Kind::Drift) {
            continue;
        }
        let own = |leaf: &String| {
            let first = leaf.split(['.', '[']).next().unwrap_or_default();
            let elsewhere = matches!(first, "apiVersion" | "kind" | "metadata" | "status");
            let pod = kind == Kind::Pod || leaf.starts_with("spec.template.spec.");
            !elsewhere && !pod
        };
        let all = with_kind!(kind, K => fields_of::<K>(Some(kind)));
        let leaves: BTreeSet<String> = all.into_iter().filter(own).collect();
        check(Part::Object(kind), &leaves);
    }
}

/// A subtree may run as a whole only where its parts mean nothing apart.
#[test]
fn what_runs_is_decided_field_by_field() {
    let whole = ["involvedObject", "related", "series", "source", "endpoints[].targetRef"];
    let of_pods = fields_of::<PodSpec>(None);
    for row in table().filter(|row| row.support == Support::Runs) {
        let is_field = match row.part {
            Part::PodSpec => of_pods.contains(row.path),
            Part::Object(kind) => {
                with_kind!(kind, K => fields_of::<K>(Some(kind))).contains(row.path)
            }
        };
        assert!(is_field || whole.contains(&row.path), "{} is no single field", row.path);
    }
}
