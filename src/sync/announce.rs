//! What is told about a pass: to a person a line of the log and an Event on the Source, once for each
//! news and not at every retry; to the metrics every try.

use tracing::{error, info};

use crate::object::source::{Problem, Source, SourceStatus};
use crate::object::{Cluster, Note};
use crate::sync::apply::Counts;
use crate::sync::diff::Hold;
use crate::sync::metrics::Metrics;
use crate::sync::source::CommitFacts;
use crate::sync::source_status::MOST_PROBLEMS;

pub(super) const COMPONENT: &str = "sync";

/// Tells about one Source.
pub struct Announcer<'a, C> {
    pub cluster: &'a C,
    pub source: &'a Source,
    /// Before the news.
    pub status: &'a SourceStatus,
    pub metrics: &'a Metrics,
}

impl<C: Cluster> Announcer<'_, C> {
    pub fn rewritten(&self, head: &CommitFacts, old: &str) {
        let message = format!("the branch was rewritten: {} does not descend from {old}", head.id);
        info!(commit = %head.id, %old, "branch rewritten, following it");
        self.cluster.note(Note::normal(self.source, COMPONENT, "BranchRewritten", message));
    }

    pub fn applied(&self, head: &CommitFacts, counts: &Counts, left_alone: &[String]) {
        self.metrics.applied(self.name(), counts);
        let Counts { created, updated, unchanged, deleted } = *counts;
        info!(commit = %head.id, created, updated, unchanged, deleted, "commit applied");
        for reason in left_alone {
            info!(%reason, "object left alone");
        }
        let message = format!(
            "commit {}: {created} created, {updated} changed, {deleted} removed, {unchanged} as they were",
            head.id
        );
        self.cluster.note(Note::normal(self.source, COMPONENT, "Applied", message));
    }

    pub fn refused(&self, head: &CommitFacts, problems: &[Problem]) {
        self.metrics.refused(self.name(), problems.len());
        let known = self.status.refused.as_ref().is_some_and(|commit| commit.id == head.id)
            && self.status.problems.len() == problems.len().min(MOST_PROBLEMS);
        if !known {
            let first = problems.first().map(summary).unwrap_or_default();
            error!(commit = %head.id, problems = problems.len(), %first, "commit refused: a person is needed");
            let message = format!("commit {} has {} problems: {first}", head.id, problems.len());
            self.cluster.note(Note::warning(self.source, COMPONENT, "Refused", message));
        }
    }

    pub fn held(&self, head: &CommitFacts, hold: &Hold) {
        self.metrics.held(self.name());
        let held = self.status.held.as_ref();
        if held.is_none_or(|held| held.commit.id != head.id || held.reason != hold.reason) {
            let reason = hold.reason.clone();
            error!(commit = %head.id, %reason, "commit held: a person is needed");
            self.cluster.note(Note::warning(self.source, COMPONENT, "Held", reason));
        }
    }

    pub fn delayed(&self, head: &CommitFacts, why: &str) {
        self.metrics.delayed(self.name());
        if self.status.delayed.as_deref() != Some(why) {
            info!(commit = %head.id, %why, "commit delayed");
            let message = format!("commit {} waits: {why}", head.id);
            self.cluster.note(Note::normal(self.source, COMPONENT, "Delayed", message));
        }
    }

    fn name(&self) -> &str {
        self.source.metadata.name.as_deref().unwrap_or_default()
    }
}

/// `web.yaml:7:5: unknown field "imagee"`
fn summary(problem: &Problem) -> String {
    if problem.file.is_empty() {
        problem.message.clone()
    } else {
        format!("{}:{}:{}: {}", problem.file, problem.line, problem.column, problem.message)
    }
}
