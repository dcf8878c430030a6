//! Pure: the `apiVersion` of our own kinds, as a value that can only be right.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `ballast.dev/v1alpha1`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnVersion;

const TEXT: &str = "ballast.dev/v1alpha1";

impl Serialize for OwnVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(TEXT)
    }
}

impl<'de> Deserialize<'de> for OwnVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == TEXT {
            Ok(Self)
        } else {
            Err(serde::de::Error::custom(format!("apiVersion is {text:?}, expected {TEXT:?}")))
        }
    }
}
