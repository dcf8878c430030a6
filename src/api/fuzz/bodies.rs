//! Bodies: JSON as `serde_json` reads it, YAML that is JSON as JSON, objects that are what their text
//! says or a 4xx, protobuf reviews that are answered or malformed.

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use serde_json::Value;

use super::corpus::{OBJECT_WORDS, kind_of, objects, writes};
use super::mutate::{mutated, mutated_json, mutated_text};
use super::run::{fuzz, literal};
use crate::api::access::Identity;
use crate::api::admission::{Admit, FieldValidation, decode_body, decode_text};
use crate::api::document_text;
use crate::api::protobuf::Message;
use crate::api::reviews;
use crate::object::Object;
use crate::with_kind;

/// Who share this file's time.
const TARGETS: u32 = 3;

const TEXT_WORDS: &[&str] = &[
    "{", "}", "[", "]", ":", "null", "\\u0000", "\\ud800", "- ", "\n", "&a ", "*a", "<<: ",
    "!!str ", "---\n", "? ", "|\n", "#",
];

/// Bodies that were sent, as they were and as YAML.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = writes().into_iter().map(|(_, _, _, body)| body).collect();
    texts.extend(objects().iter().filter_map(|object| serde_yaml::to_string(object).ok()));
    texts.push("a: &a [x, y]\nb: *a\nc: {<<: {d: 1}, e: 0o17}\n".to_owned());
    texts
}

fn no_floats(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(list) => list.iter().all(no_floats),
        Value::Object(map) => map.values().all(no_floats),
        _ => true,
    }
}

#[test]
fn text_is_read_as_others_read_it() {
    let show = |text: &String| format!("document_text::json({text:?}.as_bytes())");
    fuzz(TARGETS, &mutated_text(texts(), TEXT_WORDS), show, |text| {
        let bytes = text.as_bytes();
        match (document_text::json(bytes), serde_json::from_slice::<Value>(bytes)) {
            (Ok(ours), Ok(theirs)) => {
                prop_assert_eq!(&ours.value, &theirs);
                // What is written by a JSON writer means the same as YAML, wherever YAML takes it.
                if no_floats(&theirs)
                    && let Ok(as_yaml) = document_text::yaml(theirs.to_string().as_bytes())
                {
                    prop_assert_eq!(as_yaml.value, theirs);
                }
            }
            (Err(_), Err(_)) => {}
            (ours, theirs) => {
                return Err(TestCaseError::fail(format!("{ours:?}, serde_json: {theirs:?}")));
            }
        }
        if let Err(problem) = document_text::yaml(bytes) {
            prop_assert!(problem.len() <= 2 * text.len() + 1000, "{} bytes", problem.len());
        }
        Ok(())
    });
}

fn is_read_or_refused<K: Admit + Object>(body: &Value) -> TestCaseResult {
    for validation in [FieldValidation::Ignore, FieldValidation::Warn, FieldValidation::Strict] {
        match decode_text::<K>(body, &[], validation) {
            Err(error) => prop_assert_eq!(error.reason.code(), 400, "{}", error.message),
            Ok(decoded) => {
                let text = serde_json::to_value(&decoded.object).map_err(fail)?;
                let again = decode_body::<K>(&text, FieldValidation::Strict);
                let again = again.map_err(|error| fail(error.message))?;
                prop_assert_eq!(again.object, decoded.object);
            }
        }
    }
    Ok(())
}

fn fail(problem: impl std::fmt::Display) -> TestCaseError {
    TestCaseError::fail(problem.to_string())
}

#[test]
fn objects_are_what_their_text_says() {
    let show = |body: &Value| format!("json!({body})");
    fuzz(TARGETS, &mutated_json(objects(), OBJECT_WORDS), show, |body| {
        let Some(kind) = kind_of(body) else { return Ok(()) };
        with_kind!(kind, K => is_read_or_refused::<K>(body))
    });
}

/// Reviews as kubectl sends them.
fn protobufs() -> Vec<Vec<u8>> {
    let mut attributes = Message::default();
    for (number, text) in [(1, "default"), (2, "create"), (5, "pods"), (6, "exec"), (7, "web")] {
        attributes.text(number, text);
    }
    let mut path = Message::default();
    path.text(1, "/metrics");
    path.text(2, "get");
    let specs = [(1, attributes), (2, path), (1, Message::default())];
    let envelope = |(number, inner): &(u64, Message)| {
        let (mut spec, mut review, mut unknown) =
            (Message::default(), Message::default(), Message::default());
        spec.message(*number, inner);
        review.message(2, &spec);
        unknown.message(1, &Message::default());
        unknown.message(2, &review);
        [b"k8s\0".to_vec(), unknown.into_bytes()].concat()
    };
    specs.iter().map(envelope).collect()
}

#[test]
fn protobuf_reviews_are_answered_or_malformed() {
    let paths = [
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
    ];
    let show = |body: &Vec<u8>| format!("Review::Access.spec_of_protobuf({})", literal(body));
    fuzz(TARGETS, &mutated(protobufs(), &["k8s\0", "\u{1}", "\n\u{2}"]), show, |body| {
        for path in paths {
            let (review, version) = reviews::at(path).expect("a review");
            let Ok(spec) = review.spec_of_protobuf(body) else { continue };
            prop_assert!(spec.to_string().len() <= 8 * body.len() + 100);
            if let Err(error) = review.answer(version, &spec, &Identity::Reader, "no") {
                prop_assert_eq!(error.reason.code(), 422);
            }
        }
        Ok(())
    });
}
