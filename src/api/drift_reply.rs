//! `GET /api/v1/drift`: every difference in one JSON document, open ones first, beside the three
//! facts of every source, so that an empty list can be told from one that nobody computed.

use serde_json::{Value, json};

use crate::api::access::Identity;
use crate::api::verbs::Api;
use crate::object::Kind;
use crate::object::drift::{Drift, Phase};
use crate::object::source::Source;
use crate::store::{ListRequest, Store};

/// `{open: […], closed: […], facts: […]}`, each newest first.
pub(crate) fn drifts<S: Store>(api: &Api<S>, who: &Identity) -> Value {
    let request =
        ListRequest { namespace: None, limit: 0, after: None, at: None, select: &|_| true };
    let all = |kind| api.store().list(kind, &request).map(|page| page.items).unwrap_or_default();
    let mut drifts = api.all_shown::<Drift>(who, &all(Kind::Drift));
    drifts
        .sort_by_key(|drift| std::cmp::Reverse(drift.status.as_ref().map(|status| status.since.0)));
    let (open, closed): (Vec<_>, Vec<_>) = drifts
        .into_iter()
        .partition(|drift| drift.status.as_ref().is_none_or(|status| status.phase == Phase::Open));
    let facts: Vec<Value> = api
        .all_shown::<Source>(who, &all(Kind::Source))
        .iter()
        .map(|source| {
            let status = source.status.clone().unwrap_or_default();
            json!({
                "source": source.metadata.name,
                "fetched": status.fetched,
                "fetchError": status.fetch_error,
                "fetchTriedAt": status.fetch_tried_at,
                "applied": status.applied,
                "refused": status.refused,
                "held": status.held,
                "converged": status.converged,
            })
        })
        .collect();
    json!({"open": open, "closed": closed, "facts": facts})
}
