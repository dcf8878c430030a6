//! URLs: what is encoded is decoded as it was, every parameter has its bound or its 4xx, and what a
//! path names is named by the path made from it.

use std::time::Duration;

use proptest::prelude::*;

use super::corpus::{QUERY_WORDS, urls};
use super::mutate::mutated_text;
use super::run::fuzz;
use crate::api::access::Part;
use crate::api::query::{self, Continue, Query, decoded, pairs};
use crate::api::request::{Target, part, target};
use crate::api::write_options::{WriteOptions, WriteVerb};
use crate::object::{Kind, Reason};

/// Who share this file's time.
const TARGETS: u32 = 3;

/// Every byte but letters and digits as `%xx`.
fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02x}"),
    };
    text.bytes().map(one).collect()
}

fn path_of(target: &Target) -> Option<String> {
    let (kind, namespace, rest) = match target {
        Target::Collection { kind, namespace } => (kind, namespace.clone(), String::new()),
        Target::Object { kind, key, part } => {
            let words =
                ["status", "scale", "binding", "log", "exec", "attach", "portforward", "finalize"];
            let below = words.into_iter().find(|word| self::part(*kind, word) == Some(*part));
            let below = match part {
                Part::Whole => String::new(),
                _ => format!("/{}", below.expect("a part has a name")),
            };
            let namespace = kind.row().namespaced.then(|| key.namespace.clone());
            (kind, namespace, format!("/{}{below}", encoded(&key.name)))
        }
        Target::Unknown => return None,
    };
    let row = kind.row();
    let group = if row.group.is_empty() { "api".into() } else { format!("apis/{}", row.group) };
    let namespace = namespace.map(|name| format!("namespaces/{}/", encoded(&name)));
    Some(format!("/{group}/{}/{}{}{rest}", row.version, namespace.unwrap_or_default(), row.plural))
}

#[test]
fn what_a_path_names_is_named_by_its_own_path() {
    let show = |url: &String| format!("target({url:?})");
    fuzz(TARGETS, &mutated_text(urls(), QUERY_WORDS), show, |url| {
        let path = url.split('?').next().unwrap_or_default();
        let Some(named) = target(path) else { return Ok(()) };
        if let Some(printed) = path_of(&named) {
            prop_assert_eq!(target(&printed), Some(named), "printed as {}", printed);
        }
        Ok(())
    });
}

#[test]
fn queries_are_bounded_or_refused() {
    let cases = (mutated_text(urls(), QUERY_WORDS), any::<prop::sample::Index>());
    let show = |(url, _): &(String, prop::sample::Index)| {
        format!("Query::parse(Kind::Pod, &pairs({:?}))", url.split_once('?').unwrap_or_default().1)
    };
    fuzz(TARGETS, &cases, show, |(url, kind)| {
        let raw = url.split_once('?').map_or(url.as_str(), |(_, raw)| raw);
        let all: Vec<Kind> = Kind::all().collect();
        let read = pairs(raw);
        if let Err(error) = Query::parse(*kind.get(&all), &read) {
            prop_assert!(matches!(error.reason.code(), 400 | 422), "{:?}", error);
            prop_assert!(error.message.len() <= 4 * raw.len() + 1000, "{}", error.message.len());
        }
        for verb in [WriteVerb::Create, WriteVerb::Update, WriteVerb::Apply, WriteVerb::Delete] {
            match WriteOptions::parse(verb, &read, raw) {
                Ok(options) => {
                    // A deletion has no manager, whatever its query says.
                    let named = options.manager.filter(|_| verb != WriteVerb::Delete);
                    prop_assert!(named.is_none_or(|manager| manager.len() <= 128));
                }
                Err(error) => prop_assert_eq!(error.reason, Reason::Invalid),
            }
        }
        match query::request_time(raw) {
            Ok(time) => prop_assert!(time <= Duration::from_secs(60), "{:?}", time),
            Err(error) => prop_assert_eq!(error.reason, Reason::BadRequest),
        }
        if let Some(place) = query::continued(raw) {
            let again = query::continued(&format!("continue={}", place.encode()));
            prop_assert_eq!(again.as_ref(), Some(&place));
            prop_assert!(place.revision != Some(0) && !place.after.name.is_empty());
        }
        let _ = query::asks_for_watch(Some(raw));
        Ok(())
    });
}

#[test]
fn percent_encoding_is_undone_exactly() {
    let texts = mutated_text(urls(), QUERY_WORDS);
    fuzz(
        TARGETS,
        &texts,
        |text| format!("decoded({text:?})"),
        |text| {
            prop_assert_eq!(&decoded(&encoded(text)), text);
            let query = format!("{}={}", encoded(text), encoded("a&b=c d+e"));
            prop_assert_eq!(pairs(&query), vec![(text.clone(), "a&b=c d+e".to_owned())]);
            // A dull reading: only `%` and two hexadecimal digits are a byte.
            let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
            while let Some((first, after)) = rest.split_first() {
                rest = after;
                match (first, after) {
                    (b'%', [high, low, after @ ..])
                        if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
                    {
                        let digit =
                            |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
                        bytes.push(digit(*high) * 16 + digit(*low));
                        rest = after;
                    }
                    (b'+', _) => bytes.push(b' '),
                    (other, _) => bytes.push(*other),
                }
            }
            prop_assert_eq!(decoded(text), String::from_utf8_lossy(&bytes).into_owned());
            let place = Continue { revision: Some(7), after: crate::object::Key::new("a", "b") };
            prop_assert_eq!(query::continued(&format!("continue={}", place.encode())), Some(place));
            Ok(())
        },
    );
}
