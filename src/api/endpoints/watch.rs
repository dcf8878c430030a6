//! A watch of Endpoints: one of Services and EndpointSlices in one order, and what follows of it. Lines
//! are not shared with other watches as those of stored kinds are: few clients watch a legacy kind.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::api::access::Identity;
use crate::api::endpoints::changes::{Missed, Origin, Scope, Sources, Told};
use crate::api::endpoints::reply::{KIND, SOURCES, VERSION, in_form, made, sources};
use crate::api::reply::Form;
use crate::api::table::Include;
use crate::api::verbs::Api;
use crate::api::watch_reply::{Begun, Step, Watched, wrapped};
use crate::object::{ApiError, Reason};
use crate::store::{Store, WatchItem};

/// The Endpoints of a scope.
pub(super) struct OfScope<S: Store> {
    pub api: Api<S>,
    pub who: Identity,
    pub scope: Scope,
    pub form: Form,
    pub include: Include,
}

impl<S: Store> Watched for OfScope<S> {
    /// What they are made of, and their revision.
    type Object = (Origin, u64);

    fn names(&self) -> (&'static str, String) {
        (KIND, VERSION.to_owned())
    }

    fn begin(&self, resume: Option<u64>) -> Result<Begun<Self::Object>, ApiError> {
        let items = resume.map(|since| self.items_since(since)).transpose()?;
        // Behind the items: every change up to this state is among them.
        let (state, sources) = sources(&self.api, &self.who, &self.scope)?;
        let initial = match resume {
            Some(_) => VecDeque::new(),
            None => sources.selected().map(|origin| (origin, state)).collect(),
        };
        let items = match items {
            Some(items) => items,
            None => self.api.changes_of_both(&self.who, SOURCES, state)?,
        };
        let missed = resume.map(Missed::new);
        let api = self.api.clone();
        let mut following = Following { api, sources, state, missed };
        let steps = items.flat_map(move |item| futures::stream::iter(following.take(item)));
        let revision = resume.unwrap_or(state);
        Ok(Begun { initial, revision, steps: steps.boxed() })
    }

    fn line(
        &self,
        event: &'static str,
        (origin, revision): &Self::Object,
        _live: bool,
        columns: bool,
    ) -> Option<Bytes> {
        self.api.metrics().watch_line();
        self.api.metrics().watch_line_rendered();
        let mut one = made(&self.api, origin)?;
        one.metadata.resource_version = Some(revision.to_string());
        let object = in_form(&one, self.form, self.include, columns, self.api.now());
        object.ok().map(|object| wrapped(event, &object))
    }
}

impl<S: Store> OfScope<S> {
    /// Every change behind a revision, and those of the revision itself: see [`Missed::note`].
    fn items_since(&self, since: u64) -> Result<BoxStream<'static, WatchItem>, ApiError> {
        let behind = |revision| self.api.changes_of_both(&self.who, SOURCES, revision);
        // Refused as every watch is that history does not reach back to.
        let items = behind(since)?;
        match behind(since.saturating_sub(1)) {
            Ok(items) => Ok(items),
            // The newest state there is, whose own change is forgotten, is known to who has listed it.
            Err(error) if error.reason == Reason::Expired => {
                match self.api.store().revision() == since {
                    true => Ok(items),
                    false => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }
}

/// Where a watch stands.
struct Following<S: Store> {
    api: Api<S>,
    sources: Sources,
    /// The revision of the state that was found; what comes behind it is live.
    state: u64,
    /// What happened before that state, until all of it has come.
    missed: Option<Missed>,
}

impl<S: Store> Following<S> {
    fn take(&mut self, item: WatchItem) -> Vec<Step<(Origin, u64)>> {
        let step = |told: Told| Step::Told(told.event, (told.origin, told.revision));
        let mut steps = Vec::new();
        let (event, reached) = match item {
            WatchItem::Event(event) => {
                let revision = event.record.revision;
                let ends = event.ends_transaction.then_some(revision);
                (Some(event), ends)
            }
            WatchItem::Progress(revision) => (None, Some(revision)),
            WatchItem::Lost => return vec![Step::Lost],
        };
        let api = &self.api;
        let make = |origin: &Origin| made(api, origin);
        let event = event.filter(|event| {
            let is_live = event.record.revision > self.state;
            if let (false, Some(missed)) = (is_live, &mut self.missed) {
                missed.note(&self.sources.scope, event);
            }
            is_live
        });
        // A state ends a transaction: whatever is behind it tells that all before it has come.
        if (event.is_some() || reached.is_some_and(|reached| reached >= self.state))
            && let Some(missed) = self.missed.take()
        {
            steps.extend(missed.told(&self.sources, &make).into_iter().map(step));
        }
        if let Some(event) = event {
            steps.extend(self.sources.take(&event, &make).into_iter().map(step));
        }
        if let (Some(reached), None) = (reached, &self.missed) {
            steps.push(Step::Reached(reached));
        }
        steps
    }
}
