//! Pure: the manner of a write, as its query says it: `dryRun`, `fieldManager`, `fieldValidation` and
//! `force`, checked as the reference server checks its Create-, Update-, Patch- and DeleteOptions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{StatusCause, StatusDetails};

use crate::api::admission::{Fault, FaultType, FieldValidation, quoted};
use crate::object::{ApiError, Reason};

/// `FieldManagerMaxLength`, in bytes.
const LONGEST_MANAGER: usize = 128;

/// How a write is made. The default is a room's: for good, by whoever writes, unknown fields told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Everything but the write: the answer shows what it would have come to.
    pub dry_run: bool,
    pub validation: FieldValidation,
    /// The `fieldManager` that the client names: the owner of what it writes.
    pub manager: Option<String>,
    /// Who owns it where the client names none: its program, off the `User-Agent`.
    pub agent: String,
    /// An apply takes fields from other managers.
    pub force: bool,
}

/// Whose options: not every write has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteVerb {
    Create,
    Update,
    Patch,
    Apply,
    Delete,
}

impl WriteVerb {
    fn options(self) -> &'static str {
        match self {
            Self::Create => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Patch | Self::Apply => "PatchOptions",
            Self::Delete => "DeleteOptions",
        }
    }
}

impl WriteOptions {
    /// # Errors
    /// Invalid, with every parameter at fault.
    pub fn parse(
        verb: WriteVerb,
        pairs: &[(String, String)],
        agent: &str,
    ) -> Result<Self, ApiError> {
        let all = |name: &str| -> Vec<&str> {
            let named = pairs.iter().filter(|(key, _)| key == name);
            named.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty()).collect()
        };
        let mut faults = Vec::new();
        let manager = all("fieldManager").first().map(|name| (*name).to_owned());
        let force = pairs.iter().find(|(key, _)| key == "force").map(|(_, value)| value.as_str());
        match (verb, &manager, force) {
            (WriteVerb::Apply, None, _) => {
                let detail = "is required for apply patch";
                faults.push(fault("fieldManager", FaultType::Required, "", detail));
            }
            (WriteVerb::Patch, _, Some(_)) => {
                let detail = "may not be specified for non-apply patch";
                faults.push(fault("force", FaultType::Forbidden, "", detail));
            }
            _ => {}
        }
        if verb != WriteVerb::Delete {
            faults.extend(manager.iter().flat_map(|name| manager_faults(name)));
        }
        let dry_run = all("dryRun");
        if dry_run.iter().any(|value| *value != "All") {
            faults.push(unknown_dry_run(&dry_run));
        }
        let mut validation = FieldValidation::default();
        if verb != WriteVerb::Delete {
            let word = all("fieldValidation").first().copied().unwrap_or_default();
            match FieldValidation::of_query(word) {
                Some(known) => validation = known,
                None => {
                    let detail = "supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"";
                    let value = quoted(word);
                    faults.push(fault("fieldValidation", FaultType::NotSupported, &value, detail));
                }
            }
        }
        refuse(verb, &faults)?;
        Ok(Self {
            dry_run: !dry_run.is_empty(),
            validation,
            manager,
            agent: program(agent),
            force: force.is_some_and(|text| !matches!(text, "false" | "0")),
        })
    }
}

/// Whether a request says that it changes nothing, known before its body is read.
pub fn says_dry_run(pairs: &[(String, String)]) -> bool {
    pairs.iter().any(|(key, value)| key == "dryRun" && !value.is_empty())
}

/// A `dryRun` out of the body of a delete.
///
/// # Errors
/// As [`WriteOptions::parse`].
pub fn body_dry_run(values: &[&str]) -> Result<bool, ApiError> {
    if values.iter().any(|value| *value != "All") {
        refuse(WriteVerb::Delete, &[unknown_dry_run(values)])?;
    }
    Ok(!values.is_empty())
}

fn unknown_dry_run(values: &[&str]) -> Fault {
    let shown = serde_json::to_string(values).unwrap_or_default();
    fault("dryRun", FaultType::NotSupported, &shown, "supported values: \"All\"")
}

fn manager_faults(name: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    if name.len() > LONGEST_MANAGER {
        let detail = format!("may not be more than {LONGEST_MANAGER} bytes");
        faults.push(fault("fieldManager", FaultType::TooLong, "", &detail));
    }
    for (at, c) in name.char_indices().filter(|(_, c)| !is_printable(*c)) {
        let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        faults.push(fault("fieldManager", FaultType::Invalid, &quoted(name), &detail));
    }
    faults
}

fn is_printable(c: char) -> bool {
    c == ' ' || !(c.is_control() || c.is_whitespace())
}

/// The program of a `User-Agent`: what stands before the first slash (`prefixFromUserAgent`).
fn program(agent: &str) -> String {
    let head = agent.split('/').next().unwrap_or_default();
    let mut name = String::new();
    for c in head.chars().filter(|c| is_printable(*c)) {
        if name.len() + c.len_utf8() > LONGEST_MANAGER {
            break;
        }
        name.push(c);
    }
    name
}

/// One parameter at fault.
pub fn fault(field: &str, fault: FaultType, value: &str, detail: &str) -> Fault {
    Fault { field: field.to_owned(), fault, detail: detail.to_owned(), value: value.to_owned() }
}

fn refuse(verb: WriteVerb, faults: &[Fault]) -> Result<(), ApiError> {
    refuse_options(verb.options(), faults)
}

/// Options of `meta.k8s.io` with all of their faults: `ListOptions.meta.k8s.io "" is invalid: …`.
///
/// # Errors
/// Invalid, where there is a fault.
pub fn refuse_options(options: &str, faults: &[Fault]) -> Result<(), ApiError> {
    if faults.is_empty() {
        return Ok(());
    }
    let causes: Vec<StatusCause> = faults.iter().map(Fault::to_cause).collect();
    let sentence = |cause: &StatusCause| {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        format!("{}: {}", text(&cause.field), text(&cause.message))
    };
    let told = match causes.as_slice() {
        [only] => sentence(only),
        many => format!("[{}]", many.iter().map(sentence).collect::<Vec<_>>().join(", ")),
    };
    let message = format!("{options}.meta.k8s.io \"\" is invalid: {told}");
    let details = StatusDetails {
        group: Some("meta.k8s.io".to_owned()),
        kind: Some(options.to_owned()),
        causes: Some(causes),
        ..StatusDetails::default()
    };
    Err(ApiError { details: Some(Box::new(details)), ..ApiError::new(Reason::Invalid, message) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::query::pairs;

    fn parse(verb: WriteVerb, raw: &str) -> Result<WriteOptions, String> {
        WriteOptions::parse(verb, &pairs(raw), "kubectl/v1.33.0 (linux/amd64)")
            .map_err(|error| error.message)
    }

    #[test]
    fn the_manner_of_a_write() {
        let raw = "dryRun=All&fieldManager=t1&fieldValidation=Strict&force=true";
        let options = parse(WriteVerb::Apply, raw).expect("valid");
        assert!(options.dry_run && options.force);
        assert_eq!(options.validation, FieldValidation::Strict);
        assert_eq!((options.manager.as_deref(), options.agent.as_str()), (Some("t1"), "kubectl"));
        let plain = parse(WriteVerb::Create, "").expect("valid");
        assert_eq!(plain, WriteOptions { agent: "kubectl".to_owned(), ..WriteOptions::default() });
        assert!(!parse(WriteVerb::Apply, "fieldManager=a&force=false").expect("valid").force);
    }

    #[test]
    fn the_reference_servers_refusals() {
        for (verb, raw, wanted) in [
            (
                WriteVerb::Apply,
                "",
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ),
            (
                WriteVerb::Patch,
                "force=true",
                "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
            ),
            (
                WriteVerb::Create,
                "dryRun=Some",
                "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
            ),
            (
                WriteVerb::Update,
                "fieldValidation=Loose&fieldManager=a%0Ab",
                "UpdateOptions.meta.k8s.io \"\" is invalid: [fieldManager: Invalid value: \"a\\nb\": invalid character U+000A (at position 1), fieldValidation: Unsupported value: \"Loose\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"]",
            ),
        ] {
            assert_eq!(parse(verb, raw).unwrap_err(), wanted);
        }
        let long = format!("fieldManager={}", "x".repeat(129));
        assert!(parse(WriteVerb::Create, &long).is_err());
        assert_eq!(body_dry_run(&["All"]), Ok(true));
        assert_eq!(body_dry_run(&[]), Ok(false));
        assert!(body_dry_run(&["None"]).is_err());
    }
}
