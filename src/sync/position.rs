//! Pure: where in a file the fields of a document stand, so that a fault of a field can be shown
//! at a place a person can open.

use std::collections::BTreeMap;
use std::ops::Bound;

/// 1-based line and column, the column in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

/// A field's key and its value. List items have no key of their own: both are the item's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    key: Place,
    value: Place,
}

/// The places of one document's fields, by path as Kubernetes writes paths
/// (`spec.template.spec.containers[0].image`); the empty path is the document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions(BTreeMap<Box<str>, Field>);

impl Positions {
    /// The first place told for a path stays.
    pub fn record(&mut self, path: &str, key: Place, value: Place) {
        self.0.entry(path.into()).or_insert(Field { key, value });
    }

    /// Where the document begins.
    pub fn start(&self) -> Place {
        self.0.get("").map_or(Place { line: 1, column: 1 }, |field| field.key)
    }

    /// Where a field's key and its value stand; `None` for one that is not written.
    pub fn written(&self, path: &str) -> Option<(Place, Place)> {
        self.0.get(path).map(|field| (field.key, field.value))
    }

    /// The key of a field that should not be there, or of the nearest field around it.
    pub fn key(&self, path: &str) -> Place {
        self.nearest(path).map_or_else(|| self.start(), |(field, _)| field.key)
    }

    /// The value at fault; for a field that is missing, the key of the nearest field around it.
    pub fn value(&self, path: &str) -> Place {
        match self.nearest(path) {
            Some((field, true)) => field.value,
            Some((field, false)) => field.key,
            None => self.start(),
        }
    }

    /// The field, or the nearest one around it and `false`.
    fn nearest(&self, path: &str) -> Option<(Field, bool)> {
        let plain = plain(path);
        let mut part = plain.as_str();
        loop {
            if let Some(field) = self.0.get(part) {
                return Some((*field, part.len() == plain.len()));
            }
            // Keys may contain dots (`data.app.conf`): cutting at each dot still finds the parent.
            part = &part[..part.rfind(['.', '['])?];
        }
    }

    /// The part of these positions below a path, as a document of its own (an item of a List).
    pub fn below(&self, prefix: &str) -> Positions {
        let fields = self
            .0
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(path, _)| path.starts_with(prefix))
            .filter_map(|(path, field)| {
                let rest = &path[prefix.len()..];
                let rest = if rest.is_empty() { rest } else { rest.strip_prefix('.')? };
                Some((rest.into(), *field))
            });
        Self(fields.collect())
    }
}

/// `data[app.conf]` and `metadata.labels[app]` as this table writes them: `data.app.conf`.
fn plain(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(open) = rest.find('[') {
        let Some(close) = rest[open..].find(']').map(|at| open + at) else { break };
        let inside = &rest[open + 1..close];
        out.push_str(&rest[..open]);
        if inside.bytes().all(|byte| byte.is_ascii_digit()) && !inside.is_empty() {
            out.push_str(&rest[open..=close]);
        } else {
            out.push('.');
            out.push_str(inside.trim_matches('"'));
        }
        rest = &rest[close + 1..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u32) -> Place {
        Place { line, column: 1 }
    }

    #[test]
    fn a_missing_field_is_shown_at_the_nearest_one_around_it() {
        let mut positions = Positions::default();
        positions.record("", at(1), at(1));
        positions.record("spec", at(2), at(3));
        positions.record("spec.items[0]", at(4), at(4));
        positions.record("spec.items[0].data.app.conf", at(5), at(6));
        assert_eq!(positions.value("spec.items[0].data[app.conf]"), at(6));
        assert_eq!(positions.value("spec.items[0].image"), at(4));
        assert_eq!(positions.value("spec.selector.x"), at(2));
        assert_eq!(positions.value("metadata.name"), at(1));
        assert_eq!(positions.below("spec.items[0]").value("data.app.conf"), at(6));
        assert_eq!(positions.below("spec.items[0]").start(), at(4));
    }
}
