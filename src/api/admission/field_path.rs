//! Pure: where in an object a check stands, and the faults it can find there.
//!
//! A path is a chain of borrowed parts and becomes text only when a fault is found: an object
//! without faults is validated without building a single path.

use std::fmt;

use serde::Serialize;

use super::admit::{Fault, FaultType};
use crate::object::go_text;

/// `spec.containers[0].resources.limits[cpu]`, part by part.
#[derive(Clone, Copy, Debug)]
pub struct FieldPath<'a> {
    parent: Option<&'a FieldPath<'a>>,
    part: Part<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> FieldPath<'a> {
    pub const fn root(name: &'a str) -> Self {
        Self { parent: None, part: Part::Field(name) }
    }

    pub const fn child(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), part: Part::Field(name) }
    }

    pub const fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), part: Part::Index(index) }
    }

    pub const fn key(&'a self, key: &'a str) -> Self {
        Self { parent: Some(self), part: Part::Key(key) }
    }

    fn fault(&self, fault: FaultType, value: String, detail: impl Into<String>) -> Fault {
        Fault { field: self.to_string(), fault, detail: detail.into(), value }
    }

    pub fn required(&self, detail: impl Into<String>) -> Fault {
        self.fault(FaultType::Required, String::new(), detail)
    }

    /// `value` as [`quoted`] or [`shown`] print it.
    pub fn invalid(&self, value: String, detail: impl Into<String>) -> Fault {
        self.fault(FaultType::Invalid, value, detail)
    }

    pub fn not_supported(&self, value: &str, supported: &[&str]) -> Fault {
        let list: Vec<String> = supported.iter().map(|word| quoted(word)).collect();
        let detail = format!("supported values: {}", list.join(", "));
        self.fault(FaultType::NotSupported, quoted(value), detail)
    }

    pub fn duplicate(&self, value: String) -> Fault {
        self.fault(FaultType::Duplicate, value, "")
    }

    pub fn forbidden(&self, detail: impl Into<String>) -> Fault {
        self.fault(FaultType::Forbidden, String::new(), detail)
    }

    pub fn not_found(&self, value: String) -> Fault {
        self.fault(FaultType::NotFound, value, "")
    }

    pub fn too_long(&self, limit: usize) -> Fault {
        let unit = if limit == 1 { "byte" } else { "bytes" };
        let detail = format!("may not be more than {limit} {unit}");
        self.fault(FaultType::TooLong, String::new(), detail)
    }

    pub fn too_many(&self, count: usize, limit: usize) -> Fault {
        let unit = if limit == 1 { "item" } else { "items" };
        let detail = format!("must have at most {limit} {unit}");
        self.fault(FaultType::TooMany, count.to_string(), detail)
    }

    /// One `Invalid` for each sentence that a shape check of [`crate::object::name`] answers.
    pub fn each_invalid(&self, value: &str, sentences: Vec<String>) -> Vec<Fault> {
        sentences.into_iter().map(|sentence| self.invalid(quoted(value), sentence)).collect()
    }
}

impl fmt::Display for FieldPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.part {
            Part::Field(name) if self.parent.is_some() => write!(f, ".{name}"),
            Part::Field(name) => f.write_str(name),
            Part::Index(index) => write!(f, "[{index}]"),
            Part::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// Text as Go's `%q` prints it, bounded: a megabyte of bad input is not answered whole.
pub fn quoted(text: &str) -> String {
    /// Names are at most 253 and the reference prints a bad one whole; this is far above both.
    const LONGEST: usize = 4096;
    match text.char_indices().find(|(at, _)| *at > LONGEST) {
        None => go_text::quoted(text),
        Some((cut, _)) => {
            let mut out = go_text::quoted(&text[..cut]);
            out.pop();
            out.push_str("…\"");
            out
        }
    }
}

/// Any other value: as JSON, like the reference server since 1.34.
pub fn shown(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_kubernetes_writes_them() {
        let root = FieldPath::root("spec");
        let containers = root.child("containers");
        let first = containers.index(0);
        let limits = first.child("limits");
        assert_eq!(limits.key("cpu").to_string(), "spec.containers[0].limits[cpu]");
        assert_eq!(quoted("a\"\n\u{1}é"), "\"a\\\"\\n\\x01é\"");
    }
}
