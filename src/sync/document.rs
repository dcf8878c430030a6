//! Pure: from a file's bytes to JSON values with positions. YAML is read as Kubernetes reads it
//! (1.1 booleans and octals), and stricter where leniency hides mistakes: a duplicate key is an
//! error, an unknown tag is an error, `.inf` and integers beyond 64 bits are errors.
//!
//! Stated behaviour: a UTF-8 byte order mark is skipped; UTF-16 and other encodings are errors that
//! say so; CRLF is a line end; a tab as indentation is an error at its place; empty documents and
//! documents of comments only are nothing; aliases and `<<` are expanded within the budget below.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;
use serde_saphyr::options::DuplicateKeyPolicy;

use crate::object::yaml::{self, MAX_DEPTH, MAX_NODES};
use crate::sync::position::{Place, Positions};
use crate::sync::source::printable;

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub value: Value,
    pub positions: Positions,
}

/// What is wrong with the text itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFault {
    pub place: Place,
    pub message: String,
    pub hint: String,
}

/// Everything that could be read, beside everything that could not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Documents {
    pub documents: Vec<Document>,
    pub faults: Vec<TextFault>,
}

/// Faults told for one file; more of them say nothing new.
const MAX_FAULTS: usize = 20;

/// Reads every document of a file; `name` tells JSON from YAML.
pub fn read(name: &str, bytes: &[u8]) -> Documents {
    let text = match text_of(bytes) {
        Ok(text) => text,
        Err(fault) => return Documents { documents: Vec::new(), faults: vec![fault] },
    };
    if name.to_ascii_lowercase().ends_with(".json") { read_json(text) } else { read_yaml(text) }
}

fn text_of(bytes: &[u8]) -> Result<&str, TextFault> {
    let fault = |place, message: &str| TextFault {
        place,
        message: message.to_owned(),
        hint: "save the file as UTF-8".to_owned(),
    };
    let start = Place { line: 1, column: 1 };
    let zero_interleaved = bytes.len() >= 4 && (bytes[0] == 0 || bytes[1] == 0);
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || zero_interleaved {
        return Err(fault(start, "the file is UTF-16 or UTF-32, not UTF-8"));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let place_at = |offset: usize| {
        let before = String::from_utf8_lossy(&bytes[..offset]);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        Place { line: number(line), column: number(column) }
    };
    let text = std::str::from_utf8(bytes)
        .map_err(|error| fault(place_at(error.valid_up_to()), "a byte here is not UTF-8 text"))?;
    match text.find('\0') {
        Some(at) => Err(fault(place_at(at), "a NUL byte stands in the text")),
        None => Ok(text),
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn read_yaml(text: &str) -> Documents {
    let options = yaml::reading(DuplicateKeyPolicy::Error);
    let mut out = Documents::default();
    let mut reader = text.as_bytes();
    for item in serde_saphyr::read_with_options::<_, Spanned<Node>>(&mut reader, options) {
        match item {
            Ok(node) if matches!(node.value, Node::Scalar(Value::Null)) => {}
            Ok(node) => {
                let mut positions = Positions::default();
                let key = place(node.referenced);
                let value = flatten(node, key, &mut String::new(), &mut positions);
                out.documents.push(Document { value, positions });
            }
            Err(error) => {
                out.faults.push(yaml_fault(&error, text));
                if out.faults.len() >= MAX_FAULTS {
                    break;
                }
            }
        }
    }
    out
}

fn place(location: serde_saphyr::Location) -> Place {
    Place {
        line: u32::try_from(location.line()).unwrap_or(u32::MAX),
        column: u32::try_from(location.column()).unwrap_or(u32::MAX),
    }
}

fn yaml_fault(error: &serde_saphyr::Error, text: &str) -> TextFault {
    let place = error.location().map(place).unwrap_or_default();
    let line = text.lines().nth(place.line.saturating_sub(1) as usize).unwrap_or_default();
    let indentation = &line[..line.len() - line.trim_start().len()];
    let (message, hint) = sentence(error.without_snippet());
    let hint = if indentation.contains('\t') || message.contains("found a tab") {
        "YAML is indented with spaces: replace the tab"
    } else if text.contains("{{") {
        "this looks like a template: render it before committing, Ballast reads plain manifests"
    } else {
        hint
    };
    TextFault { place, message, hint: hint.to_owned() }
}

/// What is wrong, for who wrote the text, and the next step. The library's own words are for who
/// programs with it; they are kept where the text is no YAML at all.
fn sentence(error: &serde_saphyr::Error) -> (String, &'static str) {
    use serde_saphyr::Error;
    use serde_saphyr::budget::BudgetBreach;
    let too_large = "split the file, or write the values out";
    match error {
        Error::AliasError { error, .. } => sentence(error),
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().unwrap_or_default();
            (format!("the key {:?} stands twice", printable(key)), "keep one of the two")
        }
        Error::UnknownAnchor { .. } => (
            "the alias refers to no anchor above it in this document".to_owned(),
            "an anchor ends with its document (---): write the value out",
        ),
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            ("the alias refers to the value it stands in".to_owned(), "write the value out")
        }
        Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            ("the aliases expand to more than is read of one file".to_owned(), too_large)
        }
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            (format!("values are nested deeper than {MAX_DEPTH}"), "the deepest field is at 20")
        }
        Error::Budget {
            breach: BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. }, ..
        } => (format!("the file holds more than {MAX_NODES} values"), "split the file"),
        Error::Budget {
            breach: BudgetBreach::Aliases { .. } | BudgetBreach::Anchors { .. },
            ..
        } => ("the file holds more than 5000 anchors or aliases".to_owned(), too_large),
        Error::Budget { .. } => ("the file holds more than is read of one".to_owned(), too_large),
        // What follows an exclamation mark may be the value of a Secret: everybody reads the problems.
        Error::UnsupportedTag { .. } => (
            "this YAML tag is not supported".to_owned(),
            "quote the value if it is text that begins with '!'",
        ),
        Error::InvalidBinaryBase64 { .. }
        | Error::BinaryNotUtf8 { .. }
        | Error::BytesNotSupportedMissingBinaryTag { .. } => (
            "!!binary is not read".to_owned(),
            "put bytes into a Secret's data or a ConfigMap's binaryData, base64 without a tag",
        ),
        other => (plain(&other.to_string()), ""),
    }
}

/// The first sentence of the library's text, without the place (which is told apart) and without its
/// advice for programmers.
fn plain(text: &str) -> String {
    let mut first = text.lines().next().unwrap_or_default();
    for end in [" at line ", ": line ", ", set ", " rejected by the configured policy"] {
        first = first.split(end).next().unwrap_or_default();
    }
    printable(first)
}

/// JSON is checked by a JSON parser (YAML reads more, and joins no surrogate pairs); the YAML
/// reader then only tells where the fields stand.
fn read_json(text: &str) -> Documents {
    if text.trim().is_empty() {
        return Documents::default();
    }
    match serde_json::from_str::<Strict>(text) {
        Ok(Strict(value)) => {
            let positions = positions_of_json(text);
            if value.is_null() {
                return Documents::default();
            }
            Documents { documents: vec![Document { value, positions }], faults: Vec::new() }
        }
        Err(error) => {
            let sentence = error.to_string();
            let message = sentence.split(" at line ").next().unwrap_or_default().to_owned();
            let place = Place { line: number(error.line()), column: number(error.column().max(1)) };
            let fault = TextFault { place, message, hint: String::new() };
            Documents { documents: Vec::new(), faults: vec![fault] }
        }
    }
}

fn positions_of_json(text: &str) -> Positions {
    // Tabs are white space in JSON and an error in YAML; one space for each keeps the columns.
    let spaced = text.replace('\t', " ");
    let read = read_yaml(&spaced);
    read.documents.into_iter().next().map(|document| document.positions).unwrap_or_default()
}

/// A node of YAML with its place.
enum Node {
    Scalar(Value),
    Sequence(Vec<Spanned<Node>>),
    Mapping(Vec<(Spanned<String>, Spanned<Node>)>),
}

fn flatten(node: Spanned<Node>, key: Place, path: &mut String, positions: &mut Positions) -> Value {
    positions.record(path, key, place(node.referenced));
    let length = path.len();
    match node.value {
        Node::Scalar(value) => value,
        Node::Sequence(items) => {
            let mut values = Vec::with_capacity(items.len());
            for (index, item) in items.into_iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                let key = place(item.referenced);
                values.push(flatten(item, key, path, positions));
                path.truncate(length);
            }
            Value::Array(values)
        }
        Node::Mapping(entries) => {
            let mut map = Map::with_capacity(entries.len());
            for (name, value) in entries {
                if length > 0 {
                    path.push('.');
                }
                path.push_str(&name.value);
                let value = flatten(value, place(name.referenced), path, positions);
                path.truncate(length);
                map.insert(name.value, value);
            }
            Value::Object(map)
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

/// Whole numbers below this are exact in a double, so `1e3` is the integer 1000, as in kubectl.
const EXACT: f64 = 9.0e15;
/// Without the number: it may be the value of a Secret.
const TOO_LARGE: &str = "the integer does not fit into 64 bits: quote it if it is text";

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i128<E: de::Error>(self, _value: i128) -> Result<Node, E> {
        Err(E::custom(TOO_LARGE))
    }

    fn visit_u128<E: de::Error>(self, _value: u128) -> Result<Node, E> {
        Err(E::custom(TOO_LARGE))
    }

    #[expect(clippy::cast_possible_truncation, reason = "below EXACT a whole double is an i64")]
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        if value.fract() == 0.0 {
            if value.abs() < EXACT {
                return Ok(Node::Scalar((value as i64).into()));
            }
            return Err(E::custom("the number does not fit into 64 bits: quote it if it is text"));
        }
        match Number::from_f64(value) {
            Some(number) => Ok(Node::Scalar(Value::Number(number))),
            None => Err(E::custom("the number is not finite")),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(item) = items.next_element()? {
            nodes.push(item);
        }
        Ok(Node::Sequence(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            nodes.push(entry);
        }
        Ok(Node::Mapping(nodes))
    }
}

/// JSON that refuses a duplicate key, where `Value` lets the last one win.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Strict, E> {
        match NodeVisitor.visit_f64(value)? {
            Node::Scalar(value) => Ok(Strict(value)),
            Node::Sequence(_) | Node::Mapping(_) => Err(E::custom("a number is no collection")),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Strict, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(Strict(Value::Array(values)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Strict, A::Error> {
        let mut map = Map::new();
        while let Some((key, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format!("duplicate key {key:?}")));
            }
            map.insert(key, value);
        }
        Ok(Strict(Value::Object(map)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> Value {
        let read = read("a.yaml", text.as_bytes());
        assert_eq!(read.faults, vec![], "{text}");
        assert_eq!(read.documents.len(), 1, "{text}");
        read.documents.into_iter().next().expect("one").value
    }

    fn fault(name: &str, bytes: &[u8]) -> (u32, u32, String, String) {
        let read = read(name, bytes);
        let fault = read.faults.first().unwrap_or_else(|| panic!("{name} is wrong: {read:?}"));
        (fault.place.line, fault.place.column, fault.message.clone(), fault.hint.clone())
    }

    #[test]
    fn scalars_are_read_as_kubectl_reads_them() {
        let text = "a: no\nb: 017\nc: 1e3\nd: 12:30\ne: 2001-01-01\nf: ~\ng: 0x10\nh: 1.5\n1: x\n";
        let expected = json!({"a": false, "b": 15, "c": 1000, "d": "12:30", "e": "2001-01-01",
            "f": null, "g": 16, "h": 1.5, "1": "x"});
        assert_eq!(one(text), expected);
    }

    #[test]
    fn documents_are_separated_and_empty_ones_are_nothing() {
        let text = "---\n# only a comment\n---\n\n---\na: 1\n---\nb: 2\n...\n";
        let read = read("a.yaml", text.as_bytes());
        assert_eq!(read.faults, vec![]);
        assert_eq!(read.documents.len(), 2);
        assert_eq!(read.documents[1].positions.key("b"), Place { line: 8, column: 1 });
        let many = "---\n".repeat(100_000);
        assert_eq!(super::read("a.yaml", many.as_bytes()), Documents::default());
    }

    #[test]
    fn byte_order_mark_and_crlf_are_harmless() {
        assert_eq!(one("\u{feff}a: 1\r\nb:\r\n  c: x\r\n"), json!({"a": 1, "b": {"c": "x"}}));
    }

    #[test]
    fn json_is_json() {
        let text = "{\n\t\"a\": \"\\ud83d\\ude00\",\n\t\"b\": [1, {\"c\": \"\\/\"}]\n}\n";
        let read = read("a.json", text.as_bytes());
        assert_eq!(read.faults, vec![]);
        assert_eq!(read.documents[0].value, json!({"a": "😀", "b": [1, {"c": "/"}]}));
        assert_eq!(read.documents[0].positions.value("b[1].c").line, 3);
        let (line, column, message, _) = fault("a.json", b"{\"a\": 1,\n \"a\": 2}");
        assert_eq!((line, message.as_str()), (2, "duplicate key \"a\""), "column {column}");
        assert_eq!(fault("a.json", b"{\"a\": 1} trailing").2, "trailing characters");
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_place() {
        let rows: &[(&[u8], u32, &str)] = &[
            (b"a: 1\na: 2\n", 2, "the key \"a\" stands twice"),
            (b"a:\n\tb: 1\n", 2, ""),
            (b"a: [1, 2\n", 0, ""),
            (b"a: .inf\n", 1, ""),
            (b"a: 99999999999999999999\n", 1, ""),
            (b"a: !!python/object:os.system x\n", 1, ""),
            (b"a: *nothing\n", 1, "the alias refers to no anchor"),
            (b"? [a, b]\n: c\n", 1, ""),
            (b"a: \xff\n", 1, "a byte here is not UTF-8 text"),
            (b"\xff\xfea\x00:\x00", 1, "the file is UTF-16 or UTF-32, not UTF-8"),
            (b"ab\0: 1", 1, "a NUL byte"),
        ];
        for (bytes, line, message) in rows {
            let found = fault("a.yaml", bytes);
            let text = String::from_utf8_lossy(bytes);
            assert!(*line == 0 || found.0 == *line, "{text}: {found:?}");
            assert!(found.2.contains(message) && !found.2.is_empty(), "{text}: {found:?}");
        }
    }

    #[test]
    fn no_fault_repeats_a_value() {
        let rows: &[(&[u8], &str)] = &[
            (b"password: !5ecret x\n", "this YAML tag is not supported"),
            (b"password: !5ecret\n", "this YAML tag is not supported"),
            (b"password: !<5ecret> x\n", ""),
            (b"password: *5ecret\n", ""),
            (b"password: 5555555555555555555555ecret: b: c\n", ""),
            (b"password: 55555555555555555555555\n", "the number does not fit into 64 bits"),
            (b"password: '5ecret\n", ""),
            (b"password: \"\\q5ecret\"\n", ""),
        ];
        for (bytes, message) in rows {
            let (_, _, found, hint) = fault("a.yaml", bytes);
            assert!(found.contains(message), "{found}");
            let told = format!("{found} {hint}");
            assert!(!told.contains("5ecret") && !told.contains("55555"), "{told}");
        }
    }

    #[test]
    fn bombs_end_early() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..10 {
            let before = level - 1;
            let uses = vec![format!("*a{before}"); 9].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{uses}]\n"));
        }
        assert!(!fault("a.yaml", bomb.as_bytes()).2.is_empty());
        assert!(!fault("a.yaml", "[".repeat(10_000).as_bytes()).2.is_empty());
        let deep: String = (0..200).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        assert!(!fault("a.yaml", deep.as_bytes()).2.is_empty());
        let cycle = "a: &a\n  <<: *a\n";
        assert!(!fault("a.yaml", cycle.as_bytes()).2.is_empty());
    }
}
