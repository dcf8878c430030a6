//! Pure: from a request's body to a typed object, refusing in the reference server's words what
//! cannot be one: another kind, unknown fields, wrong types, bad quantities and bad base64.

use serde_json::Value;

use super::admit::Admit;
use super::quantities;
use crate::object::decode::{DecodeFault, DecodeFaultKind, decode};
use crate::object::{ApiError, Kind};

/// `?fieldValidation=`: what happens with fields that the kind does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    /// A `Warning` header each; the server's default.
    #[default]
    Warn,
    /// The request fails.
    Strict,
}

impl FieldValidation {
    /// `None` for a word that is none of the three.
    pub fn of_query(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Body<K> {
    pub object: K,
    /// `unknown field "dta"`, for the answer's `Warning` headers.
    pub warnings: Vec<String>,
}

/// Decodes a JSON body as an object of one kind. `apiVersion` and `kind` may be absent: the URL says them.
///
/// # Errors
/// BadRequest: `Pod in version "v1" cannot be handled as a Pod: …`.
pub fn decode_body<K: Admit>(
    value: &Value,
    validation: FieldValidation,
) -> Result<Body<K>, ApiError> {
    decode_text(value, &[], validation)
}

/// As [`decode_body`], for a body whose text names these fields twice.
///
/// # Errors
/// As [`decode_body`].
pub fn decode_text<K: Admit>(
    value: &Value,
    twice: &[String],
    validation: FieldValidation,
) -> Result<Body<K>, ApiError> {
    let kind = K::OBJECT_KIND;
    let row = kind.row();
    let Value::Object(fields) = value else {
        return Err(unrecognized(kind, value.to_string().as_bytes()));
    };
    let word = |field: &str| fields.get(field).and_then(Value::as_str).unwrap_or_default();
    let (said_kind, said_version) = (word("kind"), word("apiVersion"));
    let said_kind = if said_kind.is_empty() { row.name } else { said_kind };
    let own_version = kind.api_version();
    let said_version = if said_version.is_empty() { &own_version } else { said_version };
    let version = said_version.rsplit('/').next().unwrap_or(said_version);
    let bad = |what: String| {
        let name = row.name;
        let message =
            format!("{said_kind} in version {version:?} cannot be handled as a {name}: {what}");
        ApiError::bad_request(message)
    };
    if said_kind != row.name || said_version != own_version {
        return Err(bad(wrong_kind(kind, said_kind, said_version)));
    }
    let mut value = value.clone();
    value["kind"] = Value::from(row.name);
    value["apiVersion"] = Value::from(own_version.as_str());
    if let Some(offset) = bad_base64(kind, &value) {
        return Err(bad(format!("illegal base64 data at input byte {offset}")));
    }
    let mut decoded = match decode::<K>(&value) {
        Ok(decoded) => decoded,
        Err(faults) => return Err(bad(wrong_type(&value, &faults))),
    };
    quantities::check(&mut decoded.object).map_err(|sentence| bad(sentence.to_owned()))?;
    let unknown = decoded.unknown.iter().map(|path| format!("unknown field {path:?}"));
    let unknown: Vec<String> = twice.iter().cloned().chain(unknown).collect();
    if validation == FieldValidation::Strict && !unknown.is_empty() {
        return Err(bad(format!("strict decoding error: {}", unknown.join(", "))));
    }
    let warnings = if validation == FieldValidation::Warn { unknown } else { Vec::new() };
    Ok(Body { object: decoded.object, warnings })
}

fn wrong_kind(wanted: Kind, said_kind: &str, said_version: &str) -> String {
    match Kind::of_manifest(said_version, said_kind) {
        Some(said) => format!(
            "converting ({}.{}) to ({}.{}): unknown conversion",
            said.row().version,
            said.row().name,
            go_package(wanted),
            wanted.row().name
        ),
        None => format!("no kind {said_kind:?} is registered for version {said_version:?}"),
    }
}

/// The Go package of the reference server's internal types.
pub fn go_package(kind: Kind) -> &'static str {
    match kind.row().group {
        "" => "core",
        group => group.split('.').next().unwrap_or(group),
    }
}

/// A body that is no JSON object, or no JSON at all.
pub fn unrecognized(kind: Kind, body: &[u8]) -> ApiError {
    let cause = match serde_json::from_slice::<Value>(body) {
        Ok(value) => format!(
            "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
            json_word(&value)
        ),
        Err(error) if error.is_eof() => "unexpected end of JSON input".to_owned(),
        Err(error) => error.to_string(),
    };
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {cause} ({})",
        kind.row().name,
        summary(body)
    ))
}

fn summary(body: &[u8]) -> String {
    /// As many bytes as the reference server shows.
    const SHOWN: usize = 30;
    let (head, tail) = match body.get(..SHOWN) {
        Some(head) if body.len() > SHOWN => (head, " ..."),
        _ => (body, ""),
    };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{tail}", String::from_utf8_lossy(head)),
        Some(_) => format!("{}{tail}", hex::encode(head)),
    }
}

fn json_word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Go names the type where serde names the expectation; the path is the same.
fn wrong_type(value: &Value, faults: &[DecodeFault]) -> String {
    let wrong = faults.iter().find_map(|fault| match &fault.what {
        DecodeFaultKind::WrongType(sentence) => Some((&fault.path, sentence)),
        DecodeFaultKind::UnknownField => None,
    });
    let Some((path, sentence)) = wrong else { return "cannot be decoded".to_owned() };
    let pointer: String = path
        .replace(['[', '.'], "/")
        .replace(']', "")
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| format!("/{part}"))
        .collect();
    match value.pointer(&pointer) {
        Some(found) if !path.is_empty() => {
            let number = if found.is_number() { format!(" {found}") } else { String::new() };
            format!(
                "json: cannot unmarshal {}{number} into field {path}: {sentence}",
                json_word(found)
            )
        }
        _ => sentence.clone(),
    }
}

/// The offset at which Go's decoder stops, for the first bad value of `data` or `binaryData`.
fn bad_base64(kind: Kind, value: &Value) -> Option<usize> {
    let field = match kind {
        Kind::Secret => "data",
        Kind::ConfigMap => "binaryData",
        _ => return None,
    };
    let values = value.get(field)?.as_object()?.values();
    values.filter_map(Value::as_str).find_map(go_base64_fault)
}

/// Where `base64.StdEncoding` finds the first corrupt byte; line ends are skipped.
fn go_base64_fault(text: &str) -> Option<usize> {
    let digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    let bytes: Vec<(usize, u8)> =
        text.bytes().enumerate().filter(|(_, byte)| *byte != b'\n' && *byte != b'\r').collect();
    for quantum in bytes.chunks(4) {
        let start = quantum[0].0;
        let good = quantum.iter().take_while(|(_, byte)| digit(*byte)).count();
        if good == 4 {
            continue;
        }
        let Some(&(at, byte)) = quantum.get(good) else {
            // The input ends inside a quantum: Go reports where the quantum began.
            return Some(start);
        };
        if byte != b'=' || good < 2 {
            return Some(at);
        }
        if good == 2 {
            match quantum.get(3) {
                None => return Some(text.len()),
                Some(&(at, byte)) if byte != b'=' => return Some(at),
                Some(_) => {}
            }
        }
        // Padding ends the text.
        let end = quantum.last().map_or(at, |(at, _)| *at);
        return bytes.iter().find(|(at, _)| *at > end).map(|(at, _)| *at);
    }
    None
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
    use serde_json::json;

    use super::*;

    fn message<K: Admit>(value: Value, validation: FieldValidation) -> String {
        decode_body::<K>(&value, validation).unwrap_err().message
    }

    #[test]
    fn the_reference_servers_sentences() {
        let unknown = json!({"metadata": {"name": "s"}, "dta": {}});
        assert_eq!(
            message::<ConfigMap>(unknown.clone(), FieldValidation::Strict),
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dta\""
        );
        let body = decode_body::<ConfigMap>(&unknown, FieldValidation::Warn).unwrap();
        assert_eq!(body.warnings, ["unknown field \"dta\""]);
        let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
        assert_eq!(
            message::<ConfigMap>(other, FieldValidation::Warn),
            "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion"
        );
        assert_eq!(
            message::<Secret>(json!({"data": {"a": "***"}}), FieldValidation::Warn),
            "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 0"
        );
        assert_eq!(
            message::<ConfigMap>(json!("{{{"), FieldValidation::Warn),
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: json: cannot unmarshal string into Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" } (227b7b7b22)"
        );
    }

    #[test]
    fn wrong_types_name_their_field() {
        let pod = json!({"spec": {"containers": [{"name": "c", "image": 5}]}});
        let text = message::<Pod>(pod, FieldValidation::Warn);
        assert!(text.contains("number 5") && text.contains("spec.containers[0].image"), "{text}");
    }

    #[test]
    fn base64_faults_are_where_go_finds_them() {
        for (text, fault) in [
            ("", None),
            ("MQ==", None),
            ("MQ=\n=", None),
            ("***", Some(0)),
            ("M", Some(0)),
            ("MTIz\nM*", Some(6)),
            ("MQ==x", Some(4)),
            ("M===", Some(1)),
        ] {
            assert_eq!(go_base64_fault(text), fault, "{text:?}");
        }
    }
}
