//! Pure: how a Source's status moves. Three facts that are never one word: *Fetched* (what the
//! branch is), *Applied* (what the store holds), *Converged* (whether the world is so). Times say
//! when a fact became true here; a fact that stays keeps its time.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::object::source::{Commit, Convergence, Held, Problem, SourceStatus};
use crate::sync::diff::Hold;
use crate::sync::source::CommitFacts;

/// Problems kept in a status; the count of the rest stands in the last one.
pub const MOST_PROBLEMS: usize = 100;
/// Workloads named in a verdict.
const MOST_WAITING: usize = 20;
/// A verdict is written again after this long, so that its age tells whether anyone still looks.
pub const VERDICT_SECONDS: i64 = 30;

fn commit(facts: &CommitFacts, earlier: Option<&Commit>, now: Timestamp) -> Commit {
    let at = earlier.filter(|earlier| earlier.id == facts.id).map_or(now, |earlier| earlier.at.0);
    Commit {
        id: facts.id.clone(),
        subject: facts.subject.clone(),
        author: facts.author.clone(),
        at: Time(at),
    }
}

/// A fetch worked.
pub fn fetched(status: &mut SourceStatus, head: &CommitFacts, now: Timestamp) {
    status.fetched = Some(commit(head, status.fetched.as_ref(), now));
    status.fetch_error = None;
    status.fetch_tried_at = Some(Time(now));
}

/// A fetch failed: what was fetched before stays.
pub fn fetch_failed(status: &mut SourceStatus, message: String, now: Timestamp) {
    status.fetch_error = Some(message);
    status.fetch_tried_at = Some(Time(now));
}

/// The store holds this commit, whole. The verdict about another commit goes.
pub fn applied(status: &mut SourceStatus, head: &CommitFacts, now: Timestamp) {
    status.applied = Some(commit(head, status.applied.as_ref(), now));
    status.converged.take_if(|verdict| verdict.commit != head.id);
    // Every object of the commit names this source now.
    status.formerly.clear();
    settled(status);
}

/// The fetched commit is the applied one: nothing is refused or held any more.
pub fn settled(status: &mut SourceStatus) {
    status.refused = None;
    status.problems.clear();
    status.held = None;
    status.delayed = None;
}

/// The commit could not enter now, and nothing is wrong with it: it is tried again.
pub fn delayed(status: &mut SourceStatus, why: String) {
    settled(status);
    status.delayed = Some(why);
}

/// The commit has problems; the applied one runs on.
pub fn refused(
    status: &mut SourceStatus,
    head: &CommitFacts,
    problems: Vec<Problem>,
    now: Timestamp,
) {
    status.refused = Some(commit(head, status.refused.as_ref(), now));
    status.problems = bounded(problems);
    status.held = None;
    status.delayed = None;
}

/// The commit waits for a confirmation; the applied one runs on.
pub fn held(status: &mut SourceStatus, head: &CommitFacts, hold: Hold, now: Timestamp) {
    let earlier = status.held.as_ref().map(|held| &held.commit);
    status.held = Some(Held {
        commit: commit(head, earlier, now),
        reason: hold.reason,
        removes: hold.removes,
    });
    status.refused = None;
    status.problems.clear();
    status.delayed = None;
}

/// The verdict about the applied commit. Without one there is none.
pub fn converged(
    status: &mut SourceStatus,
    mut waiting_for: Vec<String>,
    open_drifts: u32,
    now: Timestamp,
) {
    let Some(applied) = &status.applied else {
        status.converged = None;
        return;
    };
    waiting_for.truncate(MOST_WAITING);
    let verdict = waiting_for.is_empty() && open_drifts == 0;
    let before = status.converged.as_ref();
    let since = before
        .filter(|before| before.converged == verdict && before.commit == applied.id)
        .map_or(now, |before| before.since.0);
    status.converged = Some(Convergence {
        converged: verdict,
        since: Time(since),
        checked_at: Time(now),
        commit: applied.id.clone(),
        waiting_for,
        open_drifts,
    });
}

/// Whether a status is worth a write: anything but the times of looking changed, or those are old.
pub fn is_worth_writing(stored: &SourceStatus, new: &SourceStatus) -> bool {
    let without_looks = |status: &SourceStatus| {
        let mut status = status.clone();
        status.fetch_tried_at = None;
        if let Some(verdict) = &mut status.converged {
            verdict.checked_at = Time(Timestamp::UNIX_EPOCH);
        }
        status
    };
    if without_looks(stored) != without_looks(new) {
        return true;
    }
    let looked = |status: &SourceStatus| {
        let verdict = status.converged.as_ref().map(|verdict| verdict.checked_at.0);
        (status.fetch_tried_at.as_ref().map(|time| time.0), verdict)
    };
    let old = |before: Option<Timestamp>, now: Option<Timestamp>| match (before, now) {
        (Some(before), Some(now)) => now.duration_since(before).as_secs() >= VERDICT_SECONDS,
        (before, now) => before != now,
    };
    let (before, now) = (looked(stored), looked(new));
    old(before.0, now.0) || old(before.1, now.1)
}

fn bounded(mut problems: Vec<Problem>) -> Vec<Problem> {
    if problems.len() > MOST_PROBLEMS {
        let rest = problems.len() - MOST_PROBLEMS + 1;
        problems.truncate(MOST_PROBLEMS - 1);
        problems.push(Problem {
            message: format!("and {rest} more problems"),
            hint: "ballast validate shows all of them".to_owned(),
            ..Problem::default()
        });
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("in range")
    }

    fn facts(id: &str) -> CommitFacts {
        CommitFacts { id: id.into(), subject: "s".into(), author: "a".into() }
    }

    #[test]
    fn a_refused_commit_leaves_the_applied_one_and_its_verdict() {
        let mut status = SourceStatus::default();
        fetched(&mut status, &facts("1"), at(0));
        applied(&mut status, &facts("1"), at(1));
        converged(&mut status, vec![], 0, at(2));
        fetched(&mut status, &facts("2"), at(3));
        refused(&mut status, &facts("2"), vec![Problem::default(); 150], at(4));
        refused(&mut status, &facts("2"), vec![Problem::default()], at(5));
        assert_eq!(status.applied.as_ref().map(|commit| commit.id.as_str()), Some("1"));
        assert_eq!(status.refused.as_ref().map(|commit| commit.at.0), Some(at(4)));
        assert!(status.converged.as_ref().is_some_and(|verdict| verdict.converged));
        // The branch goes back: nothing is refused any more, and no time moves.
        fetched(&mut status, &facts("1"), at(6));
        settled(&mut status);
        assert_eq!((status.refused.clone(), status.problems.len()), (None, 0));
        assert_eq!(status.applied.as_ref().map(|commit| commit.at.0), Some(at(1)));
    }

    #[test]
    fn a_failed_fetch_hides_nothing() {
        let mut status = SourceStatus::default();
        fetched(&mut status, &facts("1"), at(0));
        fetch_failed(&mut status, "no route".into(), at(9));
        assert_eq!(status.fetched.as_ref().map(|commit| commit.at.0), Some(at(0)));
        assert_eq!(status.fetch_error.as_deref(), Some("no route"));
    }

    #[test]
    fn since_moves_with_the_verdict_only() {
        let mut status = SourceStatus::default();
        converged(&mut status, vec![], 0, at(0));
        assert_eq!(status.converged, None);
        applied(&mut status, &facts("1"), at(0));
        converged(&mut status, vec!["x".into(); 30], 0, at(1));
        converged(&mut status, vec!["y".into()], 0, at(5));
        let verdict = status.converged.clone().expect("there");
        assert_eq!((verdict.since.0, verdict.checked_at.0), (at(1), at(5)));
        converged(&mut status, vec![], 1, at(6));
        assert!(status.converged.as_ref().is_some_and(|verdict| !verdict.converged));
        converged(&mut status, vec![], 0, at(7));
        assert_eq!(status.converged.as_ref().map(|verdict| verdict.since.0), Some(at(7)));
        applied(&mut status, &facts("2"), at(8));
        assert_eq!(status.converged, None);
    }

    #[test]
    fn looking_alone_is_written_twice_a_minute() {
        let mut stored = SourceStatus::default();
        fetched(&mut stored, &facts("1"), at(0));
        let mut new = stored.clone();
        fetched(&mut new, &facts("1"), at(29));
        assert!(!is_worth_writing(&stored, &new));
        fetched(&mut new, &facts("1"), at(30));
        assert!(is_worth_writing(&stored, &new));
        fetched(&mut new, &facts("2"), at(1));
        assert!(is_worth_writing(&stored, &new));
    }
}
