//! Patches: a merge patch is RFC 7396's, a JSON patch happens whole or not at all and is the crate's,
//! a strategic merge is a merge patch where it has no list and no directive, and says twice what it
//! says once.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::corpus::{OBJECT_WORDS, json_patches, kind_of, objects, strategic};
use super::mutate::mutated_json;
use super::run::fuzz;
use crate::api::admission::patch::apply;
use crate::api::admission::{CreateContext, FieldValidation, admit_create, decode_body};
use crate::object::{Kind, Patch};

/// Who share this file's time.
const TARGETS: u32 = 3;

/// RFC 7396, as it is written there.
fn merged(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = match target {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    for (name, value) in patch {
        let old = target.remove(name);
        if !value.is_null() {
            target.insert(name.clone(), merged(old.unwrap_or_default(), value));
        }
    }
    Value::Object(target)
}

fn shown(how: &'static str) -> impl Fn(&(Value, Value)) -> String {
    move |(object, patch)| {
        format!("apply(Kind::Pod, &json!({object}), &Patch::{how}(json!({patch})))")
    }
}

fn pods() -> Vec<Value> {
    objects().into_iter().filter(|one| kind_of(one) == Some(Kind::Pod)).collect()
}

#[test]
fn a_merge_patch_is_rfc_7396() {
    let of = |corpus| mutated_json(corpus, OBJECT_WORDS);
    let mut patches = objects();
    patches.extend([json!({"metadata": {"labels": null, "a": {"b": null}}}), json!([1])]);
    fuzz(TARGETS, &(of(objects()), of(patches)), shown("Merge"), |(object, patch)| {
        match apply(Kind::Pod, object, &Patch::Merge(patch.clone())) {
            Err(error) => prop_assert_eq!((error.reason.code(), patch.is_object()), (400, false)),
            Ok(patched) => {
                prop_assert_eq!(&patched, &merged(object.clone(), patch));
                let again = apply(Kind::Pod, &patched, &Patch::Merge(patch.clone()));
                prop_assert_eq!(again, Ok(patched));
            }
        }
        Ok(())
    });
}

#[test]
fn a_json_patch_happens_whole_or_not_at_all() {
    let patches = mutated_json(json_patches(), OBJECT_WORDS);
    fuzz(
        TARGETS,
        &(mutated_json(pods(), OBJECT_WORDS), patches),
        shown("Json"),
        |(object, patch)| {
            let ours = apply(Kind::Pod, object, &Patch::Json(patch.clone()));
            let theirs =
                serde_json::from_value::<json_patch::Patch>(patch.clone()).map(|operations| {
                    let mut patched = object.clone();
                    // Its `patch` panics at times when it takes back what it did; this is a copy.
                    json_patch::patch_unsafe(&mut patched, &operations).map(|()| patched)
                });
            match (ours, theirs) {
                (Ok(ours), Ok(Ok(theirs))) => prop_assert_eq!(ours, theirs),
                (Err(error), Err(_)) => prop_assert_eq!(error.reason.code(), 400),
                (Err(error), Ok(Err(_))) => prop_assert!(matches!(error.reason.code(), 413 | 422)),
                (Err(error), Ok(Ok(_))) => prop_assert_eq!(error.reason.code(), 413),
                (Ok(ours), theirs) => {
                    return Err(TestCaseError::fail(format!("{ours}, the crate: {theirs:?}")));
                }
            }
            Ok(())
        },
    );
}

/// Whether a patch says maps and leaves alone.
fn is_plain(patch: &Value) -> bool {
    match patch {
        Value::Object(fields) => {
            fields.iter().all(|(name, value)| !name.starts_with('$') && is_plain(value))
        }
        Value::Array(_) => false,
        _ => true,
    }
}

/// As it is read and written again; `None` for what is no pod.
fn decoded(object: &Value) -> Option<Value> {
    let read = decode_body::<Pod>(object, FieldValidation::Ignore).ok()?;
    serde_json::to_value(read.object).ok()
}

/// Whether it would be stored: a list's item that has null for its key is not.
fn is_admitted(object: &Value) -> bool {
    let context = CreateContext::new("default", "u-1", "x", Timestamp::UNIX_EPOCH);
    decode_body::<Pod>(object, FieldValidation::Ignore)
        .and_then(|read| admit_create(read.object, &context))
        .is_ok()
}

#[test]
fn a_strategic_merge_says_twice_what_it_says_once() {
    let patches: Vec<Value> = strategic().into_iter().map(|(_, patch)| patch).collect();
    let cases = (
        mutated_json(pods(), OBJECT_WORDS),
        mutated_json([patches, pods()].concat(), OBJECT_WORDS),
    );
    fuzz(TARGETS, &cases, shown("Strategic"), |(object, patch)| {
        // What is stored was decoded once.
        let Some(object) = decoded(object) else { return Ok(()) };
        match apply(Kind::Pod, &object, &Patch::Strategic(patch.clone())) {
            Err(error) => prop_assert!(matches!(error.reason.code(), 400 | 422), "{:?}", error),
            Ok(patched) => {
                if is_plain(patch) {
                    prop_assert_eq!(&patched, &merged(object, patch));
                }
                let Some(patched) = decoded(&patched).filter(is_admitted) else { return Ok(()) };
                let again = apply(Kind::Pod, &patched, &Patch::Strategic(patch.clone()));
                let again = again.map_err(|error| TestCaseError::fail(error.message))?;
                prop_assert_eq!(decoded(&again), Some(patched));
            }
        }
        Ok(())
    });
}
