//! Selectors: what is parsed and printed is parsed again as the same, and selects what a dull reading
//! of the same words selects.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::corpus::{SELECTOR_WORDS, field_selectors, label_selectors};
use super::mutate::mutated_text;
use super::run::fuzz;
use crate::api::selector_text::{FieldTerm, Selection, label_selector};
use crate::object::selector::{Requirement, Selector};
use crate::object::{Key, Kind};
use crate::store::Pairs;

/// Who share this file's time.
const TARGETS: u32 = 3;

/// A label selector as the reference server prints it (`labels.Selector.String`).
fn label_text(selector: &Selector) -> String {
    let one = |requirement: &Requirement| match requirement {
        Requirement::Exists(key) => key.clone(),
        Requirement::DoesNotExist(key) => format!("!{key}"),
        Requirement::In(key, values) if values.len() == 1 => format!("{key}={}", values[0]),
        Requirement::NotIn(key, values) if values.len() == 1 => format!("{key}!={}", values[0]),
        Requirement::In(key, values) => format!("{key} in ({})", values.join(",")),
        Requirement::NotIn(key, values) => format!("{key} notin ({})", values.join(",")),
        Requirement::Greater(key, bound) => format!("{key}>{bound}"),
        Requirement::Less(key, bound) => format!("{key}<{bound}"),
    };
    selector.requirements.iter().map(one).collect::<Vec<_>>().join(",")
}

fn field_text(terms: &[FieldTerm]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
    let one = |term: &FieldTerm| {
        let operator = if term.negated { "!=" } else { "=" };
        format!("{}{operator}{}", term.field, escaped(&term.value))
    };
    terms.iter().map(one).collect::<Vec<_>>().join(",")
}

#[test]
fn label_selectors_print_what_they_parse() {
    let texts = mutated_text(label_selectors(), SELECTOR_WORDS);
    let show = |text: &String| format!("label_selector({text:?})");
    fuzz(TARGETS, &texts, show, |text| {
        match label_selector(text) {
            Ok(selector) => {
                let printed = label_text(&selector);
                let again = label_selector(&printed);
                prop_assert_eq!(again.as_ref(), Ok(&selector), "printed as {:?}", printed);
                prop_assert_eq!(label_text(&selector), printed);
            }
            Err(problem) => {
                prop_assert!(!problem.is_empty());
                prop_assert!(problem.len() <= 2 * text.len() + 1000, "{} bytes", problem.len());
            }
        }
        Ok(())
    });
}

#[test]
fn field_selectors_print_what_they_parse() {
    let texts =
        mutated_text(field_selectors(), &["metadata.name", "spec.nodeName", "status.phase"]);
    let show = |text: &String| format!("Selection::parse(Kind::Pod, None, Some({text:?}))");
    fuzz(TARGETS, &texts, show, |text| {
        match Selection::parse(Kind::Pod, None, Some(text)) {
            Ok(selection) => {
                let printed = field_text(&selection.fields);
                let again = Selection::parse(Kind::Pod, None, Some(&printed));
                prop_assert_eq!(again.as_ref(), Ok(&selection), "printed as {:?}", printed);
            }
            Err(error) => prop_assert_eq!(error.reason.code(), 400),
        }
        Ok(())
    });
}

/// A requirement in words, each a test of its own: what the text says, not what the parser made.
#[derive(Clone, Debug)]
enum Said {
    Is(String, String),
    IsNot(String, String),
    Among(String, Vec<String>),
    NotAmong(String, Vec<String>),
    Has(String),
    Lacks(String),
    Above(String, i64),
    Below(String, i64),
}

impl Said {
    fn text(&self, space: &str) -> String {
        match self {
            Self::Is(key, value) => format!("{space}{key}{space}={space}{value}"),
            Self::IsNot(key, value) => format!("{key}{space}!={value}{space}"),
            Self::Among(key, values) => {
                format!("{key} in{space}({space}{}{space})", values.join(&format!("{space},")))
            }
            Self::NotAmong(key, values) => format!("{key} notin ({})", values.join(",")),
            Self::Has(key) => format!("{space}{key}"),
            Self::Lacks(key) => format!("!{space}{key}"),
            Self::Above(key, bound) => format!("{key}{space}>{space}{bound}"),
            Self::Below(key, bound) => format!("{key}<{bound}"),
        }
    }

    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let number = |key: &String| labels.get(key).and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::Is(key, value) => labels.get(key) == Some(value),
            Self::IsNot(key, value) => labels.get(key) != Some(value),
            Self::Among(key, values) => values.iter().any(|one| labels.get(key) == Some(one)),
            Self::NotAmong(key, values) => values.iter().all(|one| labels.get(key) != Some(one)),
            Self::Has(key) => labels.contains_key(key),
            Self::Lacks(key) => !labels.contains_key(key),
            Self::Above(key, bound) => number(key).is_some_and(|value| value > *bound),
            Self::Below(key, bound) => number(key).is_some_and(|value| value < *bound),
        }
    }
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "in", "notin", "x.y/c", "A_1"]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "1", "2", "9", "007", "in", "web", "a.b"]).prop_map(str::to_owned)
}

fn said() -> impl Strategy<Value = Said> {
    // `()` is no set in the grammar, `(,)` is one of the empty value.
    let some = || {
        vec(value(), 1..4).prop_map(|values| match values.as_slice() {
            [one] if one.is_empty() => vec![String::new(), String::new()],
            _ => values,
        })
    };
    prop_oneof![
        (key(), value()).prop_map(|(key, value)| Said::Is(key, value)),
        (key(), value()).prop_map(|(key, value)| Said::IsNot(key, value)),
        (key(), some()).prop_map(|(key, values)| Said::Among(key, values)),
        (key(), some()).prop_map(|(key, values)| Said::NotAmong(key, values)),
        key().prop_map(Said::Has),
        key().prop_map(Said::Lacks),
        (key(), -9..20_i64).prop_map(|(key, bound)| Said::Above(key, bound)),
        (key(), -9..20_i64).prop_map(|(key, bound)| Said::Below(key, bound)),
    ]
}

#[test]
fn selectors_select_what_they_say() {
    let labels = btree_map(key(), value(), 0..4);
    let space = prop::sample::select(vec!["", " ", "\t", "  "]);
    let cases = (vec(said(), 0..4), labels, space);
    let text = |said: &[Said], space: &str| {
        said.iter().map(|one| one.text(space)).collect::<Vec<_>>().join(",")
    };
    let show = |(said, labels, space): &(Vec<Said>, BTreeMap<String, String>, &str)| {
        format!("label_selector({:?}).unwrap().matches(&{labels:?})", text(said, space))
    };
    fuzz(TARGETS, &cases, show, |(said, labels, space)| {
        let text = text(said, space);
        let selector = label_selector(&text).map_err(TestCaseError::fail)?;
        let wanted = said.iter().all(|one| one.holds(labels));
        prop_assert_eq!(selector.matches(labels), wanted);
        // The same through the whole selection, beside a field.
        let selection = Selection::parse(Kind::Pod, Some(&text), Some("metadata.name!=gone"))
            .map_err(|error| TestCaseError::fail(error.message))?;
        let (labels, none) = (Pairs::from(labels), Pairs::default());
        let matches = |name| selection.matches(&Key::new("default", name), &labels, &none);
        prop_assert_eq!((matches("web"), matches("gone")), (wanted, false));
        Ok(())
    });
}
