//! Pure: a value that is not what its field holds, said in words of YAML. The decoder names types of
//! Rust (`invalid type: string "three", expected i32`), which nobody who writes manifests knows.

use crate::sync::source::printable;

/// The sentence for people and the next step (empty where nothing is sure) for one of the
/// decoder's. A sentence of another form is left as it is.
pub fn explain(sentence: &str) -> (String, &'static str) {
    let rest = sentence
        .strip_prefix("invalid type: ")
        .or_else(|| sentence.strip_prefix("invalid value: "));
    // What was found may itself contain the word: what is expected never does.
    let Some((found, expected)) = rest.and_then(|rest| rest.rsplit_once(", expected ")) else {
        return (printable(sentence), "");
    };
    let (found, wanted) = (Found::of(found), Wanted::of(expected));
    let message = if found.is_number() && wanted == Wanted::Whole && !found.is_fraction() {
        format!("{} is out of range", found.words())
    } else {
        format!("{} stands where {} is expected", found.words(), wanted.words())
    };
    (message, hint(&found, &wanted))
}

fn hint(found: &Found<'_>, wanted: &Wanted<'_>) -> &'static str {
    match (found, wanted) {
        (Found::Number(_) | Found::Truth(_), Wanted::Text) => "quote the value",
        (Found::Text(text), Wanted::Whole) if text.parse::<i64>().is_ok() => "remove the quotes",
        (Found::Text(text), Wanted::Number) if text.parse::<f64>().is_ok() => "remove the quotes",
        (Found::Text("true" | "false"), Wanted::Truth) => "remove the quotes",
        (Found::Text(_), Wanted::Truth) => "write true or false",
        (Found::Text(_), Wanted::Whole) => "write digits",
        (Found::Object, Wanted::List) => "begin each item with '- '",
        (Found::List, Wanted::Object) => "remove the '-': this is one object, not a list",
        (Found::Nothing, _) => "give the field a value, or remove it",
        _ => "",
    }
}

enum Found<'a> {
    Text(&'a str),
    Number(&'a str),
    Truth(&'a str),
    List,
    Object,
    Nothing,
    Other(&'a str),
}

impl<'a> Found<'a> {
    /// serde's `Unexpected`, as it prints itself.
    fn of(text: &'a str) -> Self {
        let ticked =
            |start: &str| text.strip_prefix(start).map(|rest| rest.trim_start().trim_matches('`'));
        if let Some(text) = text.strip_prefix("string ") {
            Self::Text(
                text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text),
            )
        } else if let Some(number) = ticked("integer").or_else(|| ticked("floating point")) {
            Self::Number(number)
        } else if let Some(word) = ticked("boolean") {
            Self::Truth(word)
        } else {
            match text {
                "sequence" => Self::List,
                "map" => Self::Object,
                "null" | "unit value" | "Option value" => Self::Nothing,
                other => Self::Other(other),
            }
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Number(_))
    }

    fn is_fraction(&self) -> bool {
        matches!(self, Self::Number(digits) if digits.contains('.'))
    }

    fn words(&self) -> String {
        match self {
            Self::Text(text) => format!("the text \"{}\"", printable(text)),
            Self::Number(digits) => format!("the number {digits}"),
            Self::Truth(word) => (*word).to_owned(),
            Self::List => "a list".to_owned(),
            Self::Object => "an object".to_owned(),
            Self::Nothing => "nothing".to_owned(),
            Self::Other(other) => printable(other),
        }
    }
}

#[derive(PartialEq)]
enum Wanted<'a> {
    Whole,
    Number,
    Text,
    Truth,
    List,
    Object,
    Other(&'a str),
}

impl<'a> Wanted<'a> {
    /// What a type's visitor expects, as it prints itself.
    fn of(text: &'a str) -> Self {
        match text {
            "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" => Self::Whole,
            "f32" | "f64" => Self::Number,
            "a string" | "a borrowed string" => Self::Text,
            "a boolean" => Self::Truth,
            "a sequence" => Self::List,
            "a map" => Self::Object,
            // `struct Container`, `Container`: the name of a type, which Kubernetes' are.
            other if other.starts_with("struct ") => Self::Object,
            other if !other.is_empty() && other.chars().all(char::is_alphanumeric) => Self::Object,
            other => Self::Other(other),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Whole => "a whole number".to_owned(),
            Self::Number => "a number".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Truth => "true or false".to_owned(),
            Self::List => "a list".to_owned(),
            Self::Object => "an object".to_owned(),
            Self::Other(other) => printable(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::{Value, json};

    use super::*;
    use crate::object::decode::{DecodeFaultKind, decode};

    /// What the decoder says of a Deployment with this in its container, explained.
    fn explained(spec: Value) -> Vec<(String, &'static str)> {
        let document = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": spec});
        let faults = decode::<Deployment>(&document).expect_err("a wrong type");
        let sentence = |what: DecodeFaultKind| match what {
            DecodeFaultKind::WrongType(sentence) => explain(&sentence),
            DecodeFaultKind::UnknownField => panic!("no field is unknown here"),
        };
        faults.into_iter().map(|fault| sentence(fault.what)).collect()
    }

    #[test]
    fn a_wrong_type_is_said_in_words_of_yaml() {
        let container = |field: &str, value: Value| json!({"selector": {}, "template": {"spec": {"containers": [{"name": "a", field: value}]}}});
        let rows = [
            (
                json!({"replicas": "three"}),
                "the text \"three\" stands where a whole number is expected",
                "write digits",
            ),
            (
                json!({"replicas": "3"}),
                "the text \"3\" stands where a whole number is expected",
                "remove the quotes",
            ),
            (json!({"replicas": 2_147_483_648_u64}), "the number 2147483648 is out of range", ""),
            (
                json!({"replicas": 1.5}),
                "the number 1.5 stands where a whole number is expected",
                "",
            ),
            (
                json!({"paused": "yes"}),
                "the text \"yes\" stands where true or false is expected",
                "write true or false",
            ),
            (
                json!({"paused": null, "selector": [1]}),
                "a list stands where an object is expected",
                "remove the '-': this is one object, not a list",
            ),
            (
                container("image", json!(5)),
                "the number 5 stands where text is expected",
                "quote the value",
            ),
            (
                container("ports", json!({"containerPort": 80})),
                "an object stands where a list is expected",
                "begin each item with '- '",
            ),
            (
                container("command", json!("a, expected b")),
                "the text \"a, expected b\" stands where a list is expected",
                "",
            ),
        ];
        for (spec, message, hint) in rows {
            assert_eq!(explained(spec.clone()), [(message.to_owned(), hint)], "{spec}");
        }
        assert_eq!(explain("something else"), ("something else".to_owned(), ""));
    }
}
