//! Pure: the `apiVersion` and `kind` of our own kinds, as values that can only be right.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! constant_word {
    ($(#[$doc:meta])* $name:ident, $field:literal, $text:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name;

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str($text)
            }
        }

        /// A plain string in a schema, as Kubernetes' own are.
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string"})
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                if text == $text {
                    return Ok(Self);
                }
                Err(serde::de::Error::custom(format!("{} is {text:?}, expected {:?}", $field, $text)))
            }
        }
    };
}

constant_word!(
    /// `apiVersion: ballast.dev/v1alpha1`
    OwnVersion, "apiVersion", "ballast.dev/v1alpha1"
);
constant_word!(
    /// `kind: Source`
    SourceWord, "kind", "Source"
);
constant_word!(
    /// `kind: Inventory`
    InventoryWord, "kind", "Inventory"
);
constant_word!(
    /// `kind: Drift`
    DriftWord, "kind", "Drift"
);
