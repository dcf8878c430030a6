//! Mutations, of bytes and of JSON documents. They are values, so that what fails shrinks to as few
//! of them as needed, and to the entry of the corpus that fails with them.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};

use super::run::LARGEST_INPUT;

/// One change of a text. Every place is a share of the text's length.
#[derive(Clone, Debug)]
enum Edit {
    Flip {
        at: Index,
        bits: u8,
    },
    Put {
        at: Index,
        word: Index,
    },
    Remove {
        at: Index,
        length: u8,
    },
    Repeat {
        at: Index,
        length: u8,
        times: u16,
    },
    /// Takes the rest from another entry.
    Cross {
        at: Index,
        other: Index,
        from: Index,
    },
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        3 => (at(), 1..=u8::MAX).prop_map(|(at, bits)| Edit::Flip { at, bits }),
        6 => (at(), at()).prop_map(|(at, word)| Edit::Put { at, word }),
        3 => (at(), 1..20_u8).prop_map(|(at, length)| Edit::Remove { at, length }),
        1 => (at(), 1..8_u8, 1..2_000_u16)
            .prop_map(|(at, length, times)| Edit::Repeat { at, length, times }),
        2 => (at(), at(), at()).prop_map(|(at, other, from)| Edit::Cross { at, other, from }),
    ]
}

/// What stands in no alphabet of its own, or at the edge of one.
const ODD: [&[u8]; 34] = [
    b"%00",
    b"%2F",
    b"%2e%2e",
    b"%252F",
    b"%c0%ae",
    b"%",
    b"%+f",
    b"+",
    b"\0",
    b"\xff",
    b"\xc0\xaf",
    "\u{202e}".as_bytes(),
    "\u{fffd}".as_bytes(),
    "é".as_bytes(),
    b"..",
    b"/",
    b"//",
    b",",
    b"=",
    b"!=",
    b"!",
    b"(",
    b")",
    b" in (",
    b" notin (",
    b"&",
    b"\\",
    b"\"",
    b"-1",
    b"0",
    b"9223372036854775808",
    b"18446744073709551616",
    b"99999999999999999999",
    b"1e999",
];

/// Entries of the corpus, changed a few times; `words` are put in beside [`ODD`].
pub fn mutated(
    corpus: Vec<Vec<u8>>,
    words: &'static [&'static str],
) -> impl Strategy<Value = Vec<u8>> {
    (any::<Index>(), vec(edit(), 0..6)).prop_map(move |(which, edits)| {
        let mut text = which.get(&corpus).clone();
        for edit in &edits {
            apply(&mut text, edit, &corpus, words);
            text.truncate(LARGEST_INPUT);
        }
        text
    })
}

/// The same as text; what is no UTF-8 is replaced as the reader of a URL replaces it.
pub fn mutated_text(
    corpus: Vec<String>,
    words: &'static [&'static str],
) -> impl Strategy<Value = String> {
    let corpus = corpus.into_iter().map(String::into_bytes).collect();
    mutated(corpus, words).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn apply(text: &mut Vec<u8>, edit: &Edit, corpus: &[Vec<u8>], words: &[&str]) {
    let place = |at: &Index, length: usize| at.index(length + 1);
    match edit {
        Edit::Flip { at, bits } => {
            if !text.is_empty() {
                let at = at.index(text.len());
                text[at] ^= bits;
            }
        }
        Edit::Put { at, word } => {
            let word = word.index(ODD.len() + words.len());
            let word = ODD.get(word).copied().unwrap_or_else(|| words[word - ODD.len()].as_bytes());
            let at = place(at, text.len());
            text.splice(at..at, word.iter().copied());
        }
        Edit::Remove { at, length } => {
            let at = place(at, text.len());
            let end = text.len().min(at + usize::from(*length));
            text.drain(at..end);
        }
        Edit::Repeat { at, length, times } => {
            let at = place(at, text.len());
            let end = text.len().min(at + usize::from(*length));
            let part = text[at..end].repeat(usize::from(*times));
            text.splice(at..at, part);
        }
        Edit::Cross { at, other, from } => {
            let other = other.get(corpus);
            text.truncate(place(at, text.len()));
            text.extend(&other[place(from, other.len())..]);
        }
    }
}

/// One change of a document. Every place is a share of all the document's values.
#[derive(Clone, Debug)]
enum Change {
    Put {
        at: Index,
        value: Value,
    },
    Remove {
        at: Index,
    },
    /// Puts a part of the document, or of another one, somewhere else in it.
    Move {
        from: Index,
        other: Option<Index>,
        to: Index,
    },
    Rename {
        at: Index,
        word: Index,
    },
    /// Adds a field or an element.
    Add {
        at: Index,
        word: Index,
        value: Value,
    },
    /// A list's element twice.
    Twice {
        at: Index,
    },
    Wrap {
        at: Index,
        depth: u8,
    },
}

/// A value of any shape, small.
pub fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..70_000).prop_map(Value::from),
        prop::sample::select(vec![
            json!(i64::MIN),
            json!(i64::MAX),
            json!(u64::MAX),
            json!(1e300),
            json!(-0.0),
            json!(""),
            json!("a"),
            json!("b"),
            json!("web"),
            json!("1Gi"),
            json!("50%"),
            json!("-1"),
            json!("9E99"),
            json!("\u{0}é"),
            json!("x".repeat(300)),
            json!("Never"),
            json!("replace"),
            json!("delete"),
            json!("merge"),
            json!("10.97.0.1"),
            json!("../.."),
            json!({}),
            json!([]),
        ]),
        "[ -~]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), any_value()).prop_map(|(at, value)| Change::Put { at, value }),
        2 => at().prop_map(|at| Change::Remove { at }),
        3 => (at(), proptest::option::of(at()), at())
            .prop_map(|(from, other, to)| Change::Move { from, other, to }),
        2 => (at(), at()).prop_map(|(at, word)| Change::Rename { at, word }),
        4 => (at(), at(), any_value()).prop_map(|(at, word, value)| Change::Add { at, word, value }),
        1 => at().prop_map(|at| Change::Twice { at }),
        1 => (at(), 1..90_u8).prop_map(|(at, depth)| Change::Wrap { at, depth }),
    ]
}

/// Documents of the corpus, changed a few times; `words` become names of fields.
pub fn mutated_json(
    corpus: Vec<Value>,
    words: &'static [&'static str],
) -> impl Strategy<Value = Value> {
    (any::<Index>(), vec(change(), 0..5)).prop_map(move |(which, changes)| {
        let mut document = which.get(&corpus).clone();
        for one in &changes {
            change_one(&mut document, one, &corpus, words);
        }
        document
    })
}

/// The pointers of all values, the root's first.
fn places(value: &Value) -> Vec<String> {
    fn go(value: &Value, at: &str, out: &mut Vec<String>) {
        out.push(at.to_owned());
        match value {
            Value::Object(map) => {
                for (name, inner) in map {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    go(inner, &format!("{at}/{name}"), out);
                }
            }
            Value::Array(list) => {
                for (index, inner) in list.iter().enumerate() {
                    go(inner, &format!("{at}/{index}"), out);
                }
            }
            _ => {}
        }
    }
    let mut out = Vec::new();
    go(value, "", &mut out);
    out
}

fn change_one(document: &mut Value, change: &Change, corpus: &[Value], words: &[&str]) {
    let all = places(document);
    let at = |index: &Index| index.get(&all).as_str();
    let word = |index: &Index| (*index.get(words)).to_owned();
    match change {
        Change::Put { at: place, value } => set(document, at(place), value.clone()),
        Change::Remove { at: place } => drop(take(document, at(place))),
        Change::Move { from, other, to } => {
            let part = match other {
                None => document.pointer(at(from)).cloned(),
                Some(other) => {
                    let other = other.get(corpus);
                    let all = places(other);
                    let place: &String = from.get(&all);
                    other.pointer(place).cloned()
                }
            };
            set(document, at(to), part.unwrap_or_default());
        }
        Change::Rename { at: place, word: to } => {
            let place = at(place);
            if let Some(value) = take(document, place)
                && let Some((parent, _)) = place.rsplit_once('/')
                && let Some(Value::Object(map)) = document.pointer_mut(parent)
            {
                map.insert(word(to), value);
            }
        }
        Change::Add { at: place, word: name, value } => match document.pointer_mut(at(place)) {
            Some(Value::Object(map)) => drop(map.insert(word(name), value.clone())),
            Some(Value::Array(list)) => list.push(value.clone()),
            _ => {}
        },
        Change::Twice { at: place } => {
            if let Some(Value::Array(list)) = document.pointer_mut(at(place)) {
                list.extend(list.first().cloned());
            }
        }
        Change::Wrap { at: place, depth } => {
            if let Some(value) = document.pointer_mut(at(place)) {
                for turn in 0..*depth {
                    let inner = value.take();
                    *value = if turn % 2 == 0 { json!([inner]) } else { json!({"a": inner}) };
                }
            }
        }
    }
}

fn set(document: &mut Value, place: &str, value: Value) {
    if let Some(there) = document.pointer_mut(place) {
        *there = value;
    }
}

fn take(document: &mut Value, place: &str) -> Option<Value> {
    let (parent, name) = place.rsplit_once('/')?;
    match document.pointer_mut(parent)? {
        Value::Object(map) => map.remove(&name.replace("~1", "/").replace("~0", "~")),
        Value::Array(list) => {
            let index: usize = name.parse().ok()?;
            (index < list.len()).then(|| list.remove(index))
        }
        _ => None,
    }
}
