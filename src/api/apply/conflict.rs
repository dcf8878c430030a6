//! Pure: fields that an apply would take from others, in the reference server's words.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{StatusCause, StatusDetails};

use super::field_set::{Element, path_text};
use super::owners::{Operation, Owner};
use crate::object::{ApiError, Kind, Reason};

/// A field that the apply changes and somebody else owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub owner: Owner,
    pub path: Vec<Element>,
}

/// `Apply failed with 1 conflict: conflict with "t1": .data.d`, with a cause for each field.
pub fn refusal(kind: Kind, conflicts: &[Conflict]) -> ApiError {
    let version = kind.api_version();
    let named: Vec<(String, String)> = conflicts
        .iter()
        .map(|conflict| (owner_text(&conflict.owner, &version), path_text(&conflict.path)))
        .collect();
    let message = match named.as_slice() {
        [(owner, path)] => format!("Apply failed with 1 conflict: conflict with {owner}: {path}"),
        many => {
            let mut lines = Vec::new();
            for (index, (owner, path)) in many.iter().enumerate() {
                if index == 0 || many[index - 1].0 != *owner {
                    lines.push(format!("conflicts with {owner}:"));
                }
                lines.push(format!("- {path}"));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let cause = |(owner, path): &(String, String)| StatusCause {
        reason: Some("FieldManagerConflict".to_owned()),
        message: Some(format!("conflict with {owner}")),
        field: Some(path.clone()),
    };
    let details = StatusDetails {
        causes: Some(named.iter().map(cause).collect()),
        ..StatusDetails::default()
    };
    ApiError { details: Some(Box::new(details)), ..ApiError::new(Reason::Conflict, message) }
}

fn owner_text(owner: &Owner, version: &str) -> String {
    let mut text = format!("{:?}", owner.manager);
    if !owner.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", owner.subresource));
    }
    if owner.operation == Operation::Update {
        text.push_str(&format!(" using {version}"));
    }
    text
}
