//! Server-side apply: field sets are what they print, and who applies again what was applied changes
//! nothing, not even whose a field is.

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use serde_json::{Value, json};

use super::corpus::{OBJECT_WORDS, kind_of, objects};
use super::mutate::mutated_json;
use super::run::fuzz;
use crate::api::access::Part;
use crate::api::admission::{
    Admit, CreateContext, FieldValidation, admit_create, admit_update, decode_body,
};
use crate::api::apply::Writer;
use crate::api::apply::field_set::FieldSet;
use crate::api::apply::tracking::{self, Application, Entries};
use crate::with_kind;

/// Who share this file's time.
const TARGETS: u32 = 2;

fn writer(manager: &str, second: i64) -> Writer<'_> {
    let now = Timestamp::from_second(second).expect("a time");
    Writer { manager, part: Part::Whole, now }
}

/// The fields of every golden object, as an apply of it owns them.
fn field_sets() -> Vec<Value> {
    let of = |object: Value| -> Option<Value> {
        let kind = kind_of(&object)?;
        let writer = writer("kubectl", 1);
        let asked = Application { config: &object, writer, force: false };
        let entries = with_kind!(kind, K => tracking::apply::<K>(None, &asked).ok()?.1)?;
        serde_json::to_value(entries.first()?.fields_v1.as_ref()?).ok()
    };
    objects().into_iter().filter_map(of).collect()
}

const ELEMENTS: &[&str] = &[
    ".",
    "f:spec",
    "f:",
    "k:{\"name\":\"web\"}",
    "k:{\"b\":1,\"a\":null}",
    "k:{",
    "v:\"x\"",
    "v:1.0",
    "v:1",
    "i:0",
    "i:-1",
    "i:00",
    "z:future",
    "nothing",
    "é:",
    "f:a.b/c",
];

#[test]
fn field_sets_are_what_they_print() {
    let sets = mutated_json(field_sets(), ELEMENTS);
    let show = |value: &Value| format!("FieldSet::from_json(&json!({value}))");
    fuzz(TARGETS, &sets, show, |value| {
        let Ok(set) = FieldSet::from_json(value) else { return Ok(()) };
        let printed = set.to_json();
        prop_assert_eq!(FieldSet::from_json(&printed), Ok(set.clone()), "{}", printed);
        let mut rebuilt = FieldSet::default();
        set.paths().iter().for_each(|path| rebuilt.insert(path));
        prop_assert_eq!(&rebuilt, &set);
        prop_assert_eq!(&set.union(&set), &set);
        prop_assert_eq!(&set.intersection(&set), &set);
        prop_assert!(set.difference(&set).is_empty());
        Ok(())
    });
}

fn untimed(entries: &Entries) -> Value {
    let mut all = json!(entries);
    for entry in all.as_array_mut().into_iter().flatten() {
        entry["time"] = Value::Null;
    }
    all
}

fn again_is_nothing<K: Admit>(live: &Value, config: &Value) -> TestCaseResult {
    let name = config["metadata"]["name"].as_str().unwrap_or_default();
    if tracking::check::<K>(config, "default", name).is_err() {
        return Ok(());
    }
    // What is stored was admitted.
    let Ok(live) = decode_body::<K>(live, FieldValidation::Ignore) else { return Ok(()) };
    let context = CreateContext::new("default", "u-1", "x", writer("", 0).now);
    let Ok(live) = admit_create(live.object, &context) else { return Ok(()) };
    let before = serde_json::to_value(&live).map_err(|error| fail(&error))?;
    let asked = |second, force| Application { config, writer: writer("fuzz", second), force };
    let (object, entries) = match tracking::apply::<K>(Some(&before), &asked(1, true)) {
        Ok(applied) => applied,
        Err(error) => {
            prop_assert_eq!(error.reason.code(), 400, "{:?}", error);
            return Ok(());
        }
    };
    let Ok(stored) = admit_update(object, &live) else { return Ok(()) };
    let mut text = serde_json::to_value(&stored).map_err(|error| fail(&error))?;
    text["metadata"]["managedFields"] = json!(entries);
    let again = tracking::apply::<K>(Some(&text), &asked(2, false));
    let (object, owners) = again.map_err(|error| fail(&error.message))?;
    let same = admit_update(object, &stored).map_err(|error| fail(&error.message))?;
    prop_assert_eq!(same, stored);
    prop_assert_eq!(untimed(&owners), untimed(&entries));
    Ok(())
}

fn fail(problem: &dyn std::fmt::Display) -> TestCaseError {
    TestCaseError::fail(problem.to_string())
}

#[test]
fn an_apply_again_is_nothing() {
    let cases = (any::<prop::sample::Index>(), mutated_json(objects(), OBJECT_WORDS));
    let all = objects();
    let live_of = |which: &prop::sample::Index, config: &Value| {
        let same: Vec<&Value> = all.iter().filter(|one| kind_of(one) == kind_of(config)).collect();
        (!same.is_empty()).then(|| (**which.get(&same)).clone())
    };
    let show = |(which, config): &(prop::sample::Index, Value)| {
        let live = live_of(which, config).unwrap_or_default();
        format!("tracking::apply(Some(&json!({live})), /* config: */ json!({config}))")
    };
    fuzz(TARGETS, &cases, show, |(which, config)| {
        let Some((kind, live)) = kind_of(config).zip(live_of(which, config)) else {
            return Ok(());
        };
        with_kind!(kind, K => again_is_nothing::<K>(&live, config))
    });
}
