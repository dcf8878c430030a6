//! `Warning` headers, which kubectl prints: of fields that a body has and its kind has not, and of what
//! admission takes and warns of.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::{HeaderValue, header};
use axum::response::Response;

use crate::api::access::Part;
use crate::api::admission::Admit;
use crate::api::verbs::Api;
use crate::object::Key;
use crate::store::Store;

/// What a change replaces, to tell its warnings by. Read apart from the change: where somebody else
/// comes in between, a warning may be told twice or not at all.
pub(crate) fn stored<S: Store, K: Admit>(api: &Api<S>, part: Part, key: &Key) -> Option<Arc<K>> {
    let record = api.store().get(K::OBJECT_KIND, key).filter(|_| is_judged(part))?;
    api.typed(&record).ok()
}

/// The parts that people write.
fn is_judged(part: Part) -> bool {
    matches!(part, Part::Whole | Part::EphemeralContainers)
}

/// What admission warns of; the status of an object is nobody's by hand.
pub(crate) fn told<S: Store, K: Admit>(
    api: &Api<S>,
    part: Part,
    object: &K,
    old: Option<&K>,
) -> Vec<String> {
    if !is_judged(part) {
        return Vec::new();
    }
    [object.warnings(old), api.policy_warnings(object, old)].concat()
}

/// `Warning: 299 - "unknown field \"dta\""`, one header a warning: once each, and no more in all than
/// a client takes as headers (the reference server's bounds, in characters).
pub(crate) fn warned(mut response: Response, warnings: &[String]) -> Response {
    const MOST: usize = 4096;
    const MOST_OF_ONE: usize = 256;
    let all: usize = warnings.iter().map(|warning| warning.chars().count()).sum();
    let (mut left, mut said) = (MOST, BTreeSet::new());
    for warning in warnings.iter().filter(|warning| said.insert(warning.as_str())) {
        let shown = if all > MOST { MOST_OF_ONE } else { MOST };
        let text: String = warning.chars().take(shown).collect();
        let Some(rest) = left.checked_sub(text.chars().count()) else { break };
        left = rest;
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}
