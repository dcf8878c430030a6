//! Pure: the query of a request, with the reference server's errors: which objects, read at which
//! revision, how much of them, and the manner of a delete. The other writes' is `write_options.rs`.

use std::num::{IntErrorKind, ParseIntError};
use std::time::Duration;

use base64::Engine;
use serde::{Deserialize, Serialize};

use crate::api::admission::{Fault, FaultType, quoted};
use crate::api::selector_text::Selection;
use crate::api::table::Include;
use crate::api::write_options::{fault, refuse_options};
use crate::object::{ApiError, Key, Kind, Propagation, name};

/// The query parameters of any request; each verb reads what is its own.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub selection: Selection,
    pub watch: bool,
    /// 0 is no limit.
    pub limit: usize,
    pub continued: Option<Continue>,
    /// `resourceVersion` as sent; `None` where absent or empty.
    pub revision: Option<u64>,
    pub exact: bool,
    pub not_older: bool,
    pub timeout_seconds: Option<u64>,
    pub bookmarks: bool,
    /// `sendInitialEvents`: whether a watch begins with the state, where the request says.
    pub initial_events: Option<bool>,
    pub include: Include,
    pub propagation: Option<Propagation>,
    pub grace_seconds: Option<i64>,
}

/// Where a list goes on: which revision, behind which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continue {
    /// `None` is the newest state there is (-1 in the token), which may be another than before.
    pub revision: Option<u64>,
    pub after: Key,
}

/// The reference server's own token, so that what clients know of it holds.
#[derive(Serialize, Deserialize)]
struct Token {
    #[serde(default)]
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";
/// What is said of a token whose revision this server cannot have given.
const BAD_START: &str = "incorrect encoded start resourceVersion (version meta.k8s.io/v1)";

impl Continue {
    /// The token that names this place.
    pub fn encode(&self) -> String {
        let start = if self.after.namespace.is_empty() {
            format!("{}\0", self.after.name)
        } else {
            format!("{}/{}\0", self.after.namespace, self.after.name)
        };
        let token = Token {
            v: TOKEN_VERSION.to_owned(),
            rv: self.revision.map_or(-1, |revision| i64::try_from(revision).unwrap_or(i64::MAX)),
            start,
        };
        let json = serde_json::to_vec(&token).expect("a token has no keys but strings");
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json)
    }

    fn decode(text: &str) -> Result<Self, String> {
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(text)
            .or_else(|_| lenient_base64(text))
            .map_err(|at| format!("illegal base64 data at input byte {at}"))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|error| match bytes.first() {
            Some(byte) if *byte != b'{' => {
                format!("invalid character '{}' looking for beginning of value", char::from(*byte))
            }
            _ => error.to_string(),
        })?;
        if token.v != TOKEN_VERSION {
            return Err(format!("server does not recognize this encoded version \"{}\"", token.v));
        }
        let revision = match token.rv {
            -1 => None,
            revision => Some(u64::try_from(revision).ok().filter(|one| *one > 0).ok_or(BAD_START)?),
        };
        let start = token.start.trim_end_matches('\0');
        let after = match start.split_once('/') {
            Some((namespace, name)) => Key::new(namespace, name),
            None => Key::cluster(start),
        };
        if start.is_empty() {
            return Err(format!("encoded start key empty (version {TOKEN_VERSION})"));
        }
        // A place that no key of ours can be: the reference server looks for paths that climb.
        let no_place = |word: &str| word.is_empty() || name::segment_fault(word).is_some();
        if no_place(&after.name) || (start.contains('/') && no_place(&after.namespace)) {
            return Err(token.start);
        }
        Ok(Self { revision, after })
    }
}

/// Go's decoder ignores the unused low bits of the last character, and so must a reader of its
/// tokens; the error is the offset of the first byte that is in no alphabet.
fn lenient_base64(text: &str) -> Result<Vec<u8>, usize> {
    let config = base64::engine::general_purpose::GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone);
    let engine =
        base64::engine::general_purpose::GeneralPurpose::new(&base64::alphabet::URL_SAFE, config);
    engine.decode(text).map_err(|error| match error {
        base64::DecodeError::InvalidByte(at, _) => at,
        _ => text.len(),
    })
}

fn bad_token(problem: &str) -> ApiError {
    let sentence = format!("invalid continue token: continue key is not valid: {problem}");
    ApiError::bad_request(sentence)
}

/// The refusal of a token that names a revision which is not there yet: it was made by somebody else.
pub fn forged_token() -> ApiError {
    bad_token(BAD_START)
}

impl Query {
    /// # Errors
    /// The first parameter that cannot be understood, in the reference server's words.
    pub fn parse(kind: Kind, pairs: &[(String, String)]) -> Result<Self, ApiError> {
        let get =
            |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let some = |name: &str| get(name).filter(|value| !value.is_empty());
        let mut query = Self {
            selection: Selection::parse(kind, some("labelSelector"), some("fieldSelector"))?,
            watch: flag(get("watch")),
            bookmarks: flag(get("allowWatchBookmarks")),
            initial_events: some("sendInitialEvents").map(|text| flag(Some(text))),
            ..Self::default()
        };
        query.limit = usize::try_from(integer(some("limit"))?.unwrap_or(0).max(0)).unwrap_or(0);
        query.timeout_seconds = integer(some("timeoutSeconds"))?
            .and_then(|seconds| u64::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0);
        query.revision = revision(some("resourceVersion"))?;
        query.read_match(some("resourceVersionMatch"), some("continue"))?;
        query.delete_manner(&get)?;
        query.include = Include::of_query(get("includeObject")).ok_or_else(|| {
            ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', 'None', or empty",
                quoted(get("includeObject").unwrap_or_default())
            ))
        })?;
        Ok(query)
    }

    /// Which of the parameters go together, and the place that a list goes on from. A watch has no
    /// such place: it lets the token be, as the reference server does.
    fn read_match(&mut self, how: Option<&str>, continued: Option<&str>) -> Result<(), ApiError> {
        let faults = if self.watch {
            self.watch_faults(how, continued.is_some())
        } else {
            self.list_faults(how, continued.is_some())
        };
        refuse_options("ListOptions", &faults)?;
        self.exact = how == Some("Exact");
        self.not_older = how == Some("NotOlderThan");
        let continued = continued.filter(|_| !self.watch);
        self.continued =
            continued.map(Continue::decode).transpose().map_err(|problem| bad_token(&problem))?;
        if self.continued.is_some() && self.revision.is_some_and(|revision| revision > 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        Ok(())
    }

    /// The rules of `ValidateListOptions` for a list.
    fn list_faults(&self, how: Option<&str>, continues: bool) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Some(how) = how {
            if self.revision.is_none() {
                let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                faults.push(forbidden(MATCH, why));
            }
            if continues {
                faults.push(forbidden(MATCH, CONTINUES));
            }
            if !matches!(how, "Exact" | "NotOlderThan") {
                faults.push(unsupported(MATCH, how, "\"Exact\", \"NotOlderThan\", \"\""));
            }
            if how == "Exact" && self.revision == Some(0) {
                let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                faults.push(forbidden(MATCH, why));
            }
        }
        if self.initial_events.is_some() {
            faults.push(forbidden(INITIAL_EVENTS, "sendInitialEvents is forbidden for list"));
        }
        faults
    }

    /// The same for a watch.
    fn watch_faults(&self, how: Option<&str>, continues: bool) -> Vec<Fault> {
        let mut faults = Vec::new();
        let initial = self.initial_events.is_some();
        if initial && how != Some("NotOlderThan") {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            faults.push(forbidden(MATCH, why));
        }
        if let Some(how) = how {
            if !initial {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                faults.push(forbidden(MATCH, why));
            }
            if how != "NotOlderThan" {
                faults.push(unsupported(MATCH, how, "\"NotOlderThan\""));
            }
            if continues {
                faults.push(forbidden(MATCH, CONTINUES));
            }
        }
        faults
    }

    fn delete_manner<'a>(
        &mut self,
        get: &impl Fn(&str) -> Option<&'a str>,
    ) -> Result<(), ApiError> {
        self.propagation = propagation(get("propagationPolicy"))?;
        if flag(get("orphanDependents")) {
            self.propagation = Some(Propagation::Orphan);
        }
        self.grace_seconds = integer(get("gracePeriodSeconds").filter(|text| !text.is_empty()))?;
        Ok(())
    }
}

/// # Errors
/// `Invalid` for a word that is no policy.
pub fn propagation(text: Option<&str>) -> Result<Option<Propagation>, ApiError> {
    match text {
        None | Some("") => Ok(None),
        Some("Background") => Ok(Some(Propagation::Background)),
        Some("Foreground") => Ok(Some(Propagation::Foreground)),
        Some("Orphan") => Ok(Some(Propagation::Orphan)),
        Some(other) => {
            let known = "\"Background\", \"Foreground\", \"Orphan\", \"nil\"";
            let faults = [unsupported("propagationPolicy", other, known)];
            refuse_options("DeleteOptions", &faults).map(|()| None)
        }
    }
}

const MATCH: &str = "resourceVersionMatch";
const INITIAL_EVENTS: &str = "sendInitialEvents";
const CONTINUES: &str = "resourceVersionMatch is forbidden when continue is provided";

fn forbidden(field: &str, why: &str) -> Fault {
    fault(field, FaultType::Forbidden, "", why)
}

fn unsupported(field: &str, value: &str, known: &str) -> Fault {
    let detail = format!("supported values: {known}");
    fault(field, FaultType::NotSupported, &quoted(value), &detail)
}

/// Go's reading of a boolean query parameter: present and neither `false` nor `0`.
fn flag(text: Option<&str>) -> bool {
    text.is_some_and(|text| !text.eq_ignore_ascii_case("false") && text != "0")
}

fn integer(text: Option<&str>) -> Result<Option<i64>, ApiError> {
    text.map(|text| {
        text.parse().map_err(|error: ParseIntError| {
            let problem = go_problem(&error);
            ApiError::bad_request(format!("strconv.ParseInt: parsing {}: {problem}", quoted(text)))
        })
    })
    .transpose()
}

/// What Go says of a text that is no number of 64 bits.
fn go_problem(error: &ParseIntError) -> &'static str {
    match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    }
}

/// # Errors
/// `BadRequest` for what is no unsigned number.
pub fn revision(text: Option<&str>) -> Result<Option<u64>, ApiError> {
    text.filter(|text| !text.is_empty())
        .map(|text| {
            let bad = |problem: &str| {
                let said = quoted(text);
                ApiError::bad_request(format!(
                    "invalid resource version: resourceVersion: Invalid value: {said}: strconv.ParseUint: parsing {said}: {problem}"
                ))
            };
            // Go's unsigned numbers have no sign, Rust's may have a plus.
            if text.starts_with('+') {
                return Err(bad("invalid syntax"));
            }
            text.parse().map_err(|error: ParseIntError| bad(go_problem(&error)))
        })
        .transpose()
}

/// The place that a request's continue token names, if it has one that is understood.
pub fn continued(raw: &str) -> Option<Continue> {
    let pairs = pairs(raw);
    let token = pairs.iter().find(|(key, _)| key == "continue")?;
    Continue::decode(&token.1).ok()
}

/// What a request may take (`RequestTimeout` of the reference server).
const LONGEST_REQUEST: Duration = Duration::from_secs(60);

/// The time that a request gives itself with `timeout=32s`, at most a minute. It ends no watch: that
/// has `timeoutSeconds`.
///
/// # Errors
/// `BadRequest` for what is no duration of Go's.
pub fn request_time(raw: &str) -> Result<Duration, ApiError> {
    let pairs = pairs(raw);
    let asked = pairs.iter().find(|(key, value)| key == "timeout" && !value.is_empty());
    let Some((_, text)) = asked else { return Ok(LONGEST_REQUEST) };
    let asked = go_duration(text).ok_or_else(|| {
        ApiError::bad_request(format!(
            "invalid timeout specified in the request URL - time: invalid duration {text:?}"
        ))
    })?;
    Ok(if asked.is_zero() { LONGEST_REQUEST } else { asked.min(LONGEST_REQUEST) })
}

/// `1h2m3.5s`, `300ms`, `0`; none that is negative.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text.strip_prefix('+').unwrap_or(text), 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number * unit;
        rest = &rest[letters..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

/// The pairs of a raw query string, percent-decoded; `+` is a space.
pub fn pairs(raw: &str) -> Vec<(String, String)> {
    raw.split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decoded(key), decoded(value))
        })
        .collect()
}

/// Whether the query asks for a watch.
pub fn asks_for_watch(raw: Option<&str>) -> bool {
    let pairs = pairs(raw.unwrap_or_default());
    flag(pairs.iter().find(|(key, _)| key == "watch").map(|(_, value)| value.as_str()))
}

/// Percent-decoding of a query's word; a `%` that begins no byte stays as it is, invalid UTF-8 becomes
/// U+FFFD, `+` is a space.
pub fn decoded(text: &str) -> String {
    percent_decoded(text, b' ')
}

/// The same of a path's segment, in which `+` is itself.
pub fn decoded_segment(text: &str) -> String {
    percent_decoded(text, b'+')
}

fn percent_decoded(text: &str, plus: u8) -> String {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|one| u8::try_from(one).ok());
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        out.push(match (first, after) {
            (b'%', [high, low, after @ ..]) => match (digit(high), digit(low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high * 16 + low
                }
                _ => b'%',
            },
            (b'+', _) => plus,
            (other, _) => *other,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &str) -> Result<Query, ApiError> {
        Query::parse(Kind::Pod, &pairs(raw))
    }

    #[test]
    fn a_continue_token_names_its_place_and_a_bad_one_says_why() {
        let place = Continue { revision: Some(7), after: Key::new("default", "web") };
        assert_eq!(Continue::decode(&place.encode()), Ok(place));
        let error = parse("limit=1&continue=zzz").expect_err("no token");
        assert_eq!(
            error.message,
            "invalid continue token: continue key is not valid: invalid character 'Ï' looking for beginning of value"
        );
        assert!(parse("continue=%21%21").is_err());
        let forged = |rv: i64, start: &str| {
            let token = Token { v: TOKEN_VERSION.to_owned(), rv, start: start.to_owned() };
            let json = serde_json::to_vec(&token).expect("strings and a number");
            Continue::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json))
        };
        assert_eq!(forged(0, "a/b\0"), Err(BAD_START.to_owned()));
        assert_eq!(forged(-7, "a/b\0"), Err(BAD_START.to_owned()));
        let empty = "encoded start key empty (version meta.k8s.io/v1)";
        assert_eq!(forged(7, "\0"), Err(empty.to_owned()));
        for climbs in ["../../b", "a/../b", "./b", "/b", "a/", "a//b", "a/b/c"] {
            assert_eq!(forged(7, climbs), Err(climbs.to_owned()));
        }
    }

    #[test]
    fn which_parameters_go_together() {
        assert!(parse("resourceVersionMatch=Exact").is_err());
        assert!(parse("resourceVersionMatch=Exact&resourceVersion=0").is_err());
        assert!(parse("resourceVersionMatch=Exact&resourceVersion=4").expect("valid").exact);
        assert!(parse("watch=1&resourceVersionMatch=NotOlderThan").is_err());
        assert!(parse("watch=1&sendInitialEvents=true").is_err());
        assert!(
            parse("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan")
                .expect("valid")
                .initial_events
                .expect("said")
        );
        let later = "watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
        assert_eq!(parse(later).expect("valid").initial_events, Some(false));
        assert!(parse("sendInitialEvents=false").is_err(), "a list has no initial events");
        assert!(!parse("watch=false").expect("valid").watch);
        assert!(parse("watch").expect("valid").watch);
    }

    #[test]
    fn every_fault_of_the_options_is_told() {
        let error =
            parse("resourceVersionMatch=Most&continue=x&sendInitialEvents=1").expect_err("no");
        let begins = "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided, resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided, resourceVersionMatch: Unsupported value: \"Most\": supported values: \"Exact\", \"NotOlderThan\", \"\", sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list]";
        assert_eq!(error.message, begins);
        let details = error.details.expect("details");
        assert_eq!(details.kind.as_deref(), Some("ListOptions"));
        assert_eq!(details.group.as_deref(), Some("meta.k8s.io"));
        let reasons: Vec<String> =
            details.causes.into_iter().flatten().filter_map(|cause| cause.reason).collect();
        let (forbidden, other) = ("FieldValueForbidden", "FieldValueNotSupported");
        assert_eq!(reasons, [forbidden, forbidden, other, forbidden]);
        let error =
            parse("watch=1&sendInitialEvents=1&resourceVersionMatch=Exact").expect_err("no");
        assert!(
            error.message.ends_with("supported values: \"NotOlderThan\"]"),
            "{}",
            error.message
        );
        assert_eq!(parse("watch=1&continue=zzz").expect("no matter").continued, None);
    }

    #[test]
    fn a_request_gives_itself_a_time() {
        let seconds = |raw: &str| request_time(raw).map(|time| time.as_secs_f64());
        assert_eq!(seconds("limit=1"), Ok(60.0));
        assert_eq!(seconds("timeout=32s"), Ok(32.0));
        assert_eq!(seconds("timeout=1m0.5s"), Ok(60.0), "at most a minute");
        assert_eq!(seconds("timeout=300ms"), Ok(0.3));
        assert_eq!(seconds("timeout=0"), Ok(60.0));
        for bad in ["5", "s", "-1s", "1x", "1.2.3s", "."] {
            let error = seconds(&format!("timeout={bad}")).expect_err(bad);
            let words = "invalid timeout specified in the request URL - time: invalid duration";
            assert!(error.message.starts_with(words), "{}", error.message);
        }
    }

    #[test]
    fn percent_decoding_never_fails() {
        assert_eq!(decoded("a%20b+c%3D%zz%f"), "a b c=%zz%f");
        assert_eq!(decoded("%ff"), "\u{fffd}");
        assert_eq!(decoded("%+f"), "% f", "a sign is no digit");
        assert_eq!(decoded_segment("a+b%2B"), "a+b+");
    }

    #[test]
    fn numbers_have_gos_bounds() {
        for (raw, problem) in [
            ("limit=99999999999999999999", "value out of range"),
            ("timeoutSeconds=-99999999999999999999", "value out of range"),
            ("timeoutSeconds=1.5", "invalid syntax"),
            ("resourceVersion=18446744073709551616", "value out of range"),
            ("resourceVersion=%2B5", "invalid syntax"),
            ("resourceVersion=-5", "invalid syntax"),
        ] {
            let error = parse(raw).expect_err(raw);
            assert!(error.message.ends_with(problem), "{raw}: {}", error.message);
        }
        assert!(parse("limit=-1&timeoutSeconds=9223372036854775807").is_ok());
    }
}
