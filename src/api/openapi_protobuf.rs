//! Pure: the OpenAPI document of version 2 as `openapi.v2.Document`, which kubectl up to 1.28 takes in
//! no other form. Field numbers are those of `OpenAPIv2.proto` of google/gnostic; of a schema, what
//! [`openapi`](super::openapi) makes is written and nothing else exists.

use serde_json::Value;

use crate::api::protobuf::Message;

/// What kubectl asks for.
pub const ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// What the answer says it is: the reference server writes a dot for the `@`, which no media type may
/// have and which kubectl would not parse.
pub const ANSWERED: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The document in protobuf.
pub fn encoded(document: &Value) -> Vec<u8> {
    let mut message = Message::default();
    message.text(1, text(document, "swagger"));
    let mut info = Message::default();
    info.text(1, text(&document["info"], "title"));
    info.text(2, text(&document["info"], "version"));
    message.message(2, &info);
    message.message(8, &named(2, &document["paths"], path_item));
    message.message(9, &named(1, &document["definitions"], schema));
    message.into_bytes()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// A message whose field `number` repeats for every entry of a map, as a name and what `of` makes.
fn named(number: u64, map: &Value, of: impl Fn(&Value) -> Message) -> Message {
    let mut all = Message::default();
    for (name, value) in map.as_object().into_iter().flatten() {
        let mut entry = Message::default();
        entry.text(1, name);
        entry.message(2, &of(value));
        all.message(number, &entry);
    }
    all
}

/// What begins with `x-`, as YAML, which JSON is.
fn extensions(message: &mut Message, number: u64, value: &Value) {
    let all = value.as_object().into_iter().flatten();
    for (name, extension) in all.filter(|(name, _)| name.starts_with("x-")) {
        let mut any = Message::default();
        any.text(2, &extension.to_string());
        let mut entry = Message::default();
        entry.text(1, name);
        entry.message(2, &any);
        message.message(number, &entry);
    }
}

fn path_item(item: &Value) -> Message {
    let mut message = Message::default();
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if item[method].is_object() {
            message.message(number, &operation(&item[method]));
        }
    }
    message
}

fn operation(operation: &Value) -> Message {
    let mut message = Message::default();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let mut query = Message::default();
        query.text(2, text(parameter, "in"));
        query.text(4, text(parameter, "name"));
        query.text(6, text(parameter, "type"));
        // ParametersItem > Parameter > NonBodyParameter > QueryParameterSubSchema
        message.message(8, &within(1, &within(2, &within(3, &query))));
    }
    let responses = named(1, &operation["responses"], |response| {
        let mut plain = Message::default();
        plain.text(1, text(response, "description"));
        if response["schema"].is_object() {
            plain.message(2, &within(1, &schema(&response["schema"])));
        }
        within(1, &plain)
    });
    message.message(9, &responses);
    extensions(&mut message, 13, operation);
    message
}

fn within(number: u64, inner: &Message) -> Message {
    let mut outer = Message::default();
    outer.message(number, inner);
    outer
}

fn schema(schema_value: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, text(schema_value, "$ref"));
    message.text(2, text(schema_value, "format"));
    message.text(4, text(schema_value, "description"));
    for name in schema_value["required"].as_array().into_iter().flatten() {
        message.text(19, name.as_str().unwrap_or_default());
    }
    for word in schema_value["enum"].as_array().into_iter().flatten() {
        let mut any = Message::default();
        any.text(2, &word.to_string());
        message.message(20, &any);
    }
    match &schema_value["additionalProperties"] {
        Value::Bool(any) => {
            let mut item = Message::default();
            item.flag(2, *any);
            message.message(21, &item);
        }
        Value::Object(_) => {
            let values = schema(&schema_value["additionalProperties"]);
            message.message(21, &within(1, &values));
        }
        _ => {}
    }
    let mut kind = Message::default();
    kind.text(1, text(schema_value, "type"));
    if schema_value["type"].is_string() {
        message.message(22, &kind);
    }
    if schema_value["items"].is_object() {
        message.message(23, &within(1, &schema(&schema_value["items"])));
    }
    if schema_value["properties"].is_object() {
        message.message(25, &named(1, &schema_value["properties"], schema));
    }
    extensions(&mut message, 31, schema_value);
    message
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::api::openapi;
    use crate::api::protobuf::part;

    /// The words of a schema that are written, beside those that begin with `x-`.
    const WRITTEN: [&str; 8] = [
        "$ref",
        "additionalProperties",
        "description",
        "enum",
        "format",
        "items",
        "properties",
        "required",
    ];

    fn words<'a>(schema: &'a Value, found: &mut BTreeSet<&'a str>) {
        for (word, value) in schema.as_object().into_iter().flatten() {
            found.insert(word);
            match (word.as_str(), value) {
                ("properties", Value::Object(fields)) => {
                    fields.values().for_each(|field| words(field, found));
                }
                ("items" | "additionalProperties", Value::Object(_)) => words(value, found),
                _ => {}
            }
        }
    }

    #[test]
    fn no_word_of_a_schema_is_lost() {
        let document = openapi::version_2();
        let mut found = BTreeSet::new();
        for schema in document["definitions"].as_object().expect("definitions").values() {
            words(schema, &mut found);
        }
        // A bound that no client of this form checks.
        let known = |word: &&&str| WRITTEN.contains(*word) || ["type", "minimum"].contains(*word);
        let lost: Vec<&&str> =
            found.iter().filter(|word| !known(word) && !word.starts_with("x-")).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }

    #[test]
    fn a_schema_is_at_its_numbers() {
        let document = json!({"swagger": "2.0", "definitions": {"a.Pod": {
            "type": "object", "description": "A pod.", "properties": {"spec": {"$ref": "#/x"}}}}});
        let bytes = encoded(&document);
        assert_eq!(part(&bytes, 1), Ok(&b"2.0"[..]));
        let entry = part(part(&bytes, 9).expect("definitions"), 1).expect("an entry");
        assert_eq!(part(entry, 1), Ok(&b"a.Pod"[..]));
        let schema = part(entry, 2).expect("a schema");
        assert_eq!(part(schema, 4), Ok(&b"A pod."[..]));
        assert_eq!(part(part(schema, 22).expect("a type"), 1), Ok(&b"object"[..]));
        let field = part(part(schema, 25).expect("fields"), 1).expect("a field");
        assert_eq!(part(field, 1), Ok(&b"spec"[..]));
        assert_eq!(part(part(field, 2).expect("a schema"), 1), Ok(&b"#/x"[..]));
    }
}
