//! The six guarantees of a watch, in the words of etcd and KEP-2340, each as one check of one
//! watcher's history against the log of committed transactions.
//!
//! A *span* begins with a list and goes on over cuts and resumes until the next list: a watcher that
//! was told 410 lists again, and is owed nothing of what was in between.

use std::collections::BTreeSet;

use super::history::{History, Log, Note, Told};

/// What a check goes by.
pub struct Case<'a> {
    pub log: &'a Log,
    pub history: &'a History,
    /// What the log has to say to this watcher, in order.
    relevant: Vec<Told>,
}

/// What is wrong, with the place in the history.
pub type Verdict = Result<(), String>;

pub type Check = fn(&Case<'_>) -> Verdict;

/// All six, by name.
pub const GUARANTEES: [(&str, Check); 6] = [
    ("ordered", ordered),
    ("unique", unique),
    ("reliable", reliable),
    ("atomic", atomic),
    ("resumable", resumable),
    ("bookmarkable", bookmarkable),
];

impl<'a> Case<'a> {
    pub fn new(log: &'a Log, history: &'a History) -> Self {
        Self { log, history, relevant: log.relevant(&history.interest) }
    }

    /// The first relevant event behind a revision.
    fn next(&self, revision: u64) -> Option<&Told> {
        self.relevant.get(self.relevant.partition_point(|told| told.revision <= revision))
    }

    fn notes(&self) -> impl Iterator<Item = (usize, &'a Note)> {
        self.history.notes.iter().enumerate()
    }
}

fn fault(at: usize, what: impl std::fmt::Display) -> Verdict {
    Err(format!("note {at}: {what}"))
}

/// Events are ordered by revision: none comes behind one that happened later.
fn ordered(case: &Case<'_>) -> Verdict {
    let mut last = 0;
    for (at, note) in case.notes() {
        match note {
            Note::Listed { revision, .. } => last = *revision,
            Note::Told { told, .. } if told.revision < last => {
                return fault(at, format_args!("{} behind {last}", told.revision));
            }
            Note::Told { told, .. } => last = told.revision,
            _ => {}
        }
    }
    Ok(())
}

/// No event comes twice, and none that the list before it had in it.
fn unique(case: &Case<'_>) -> Verdict {
    let (mut listed, mut seen) = (0, BTreeSet::new());
    for (at, note) in case.notes() {
        match note {
            Note::Listed { revision, .. } => (listed, seen) = (*revision, BTreeSet::new()),
            Note::Told { told, .. } if told.revision <= listed || !seen.insert(told.revision) => {
                return fault(at, format_args!("{} is known already", told.revision));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Of what happened nothing is left out and nothing is invented: between two events that come every
/// event comes that happened between them, and whoever waits is told all there is.
fn reliable(case: &Case<'_>) -> Verdict {
    let mut position = None;
    for (at, note) in case.notes() {
        match (note, position) {
            (Note::Listed { revision, .. }, _) => position = Some(*revision),
            (Note::Refused { .. } | Note::Lost { .. }, _) => position = None,
            (Note::Told { told, .. }, Some(reached)) if told.revision > reached => {
                match case.next(reached) {
                    Some(next) if next == told => position = Some(told.revision),
                    Some(next) if next.revision < told.revision => {
                        return fault(at, format_args!("{} is left out", next.revision));
                    }
                    _ => return fault(at, format_args!("{told:?} never happened")),
                }
            }
            (Note::Quiet { visible }, Some(reached)) => {
                if let Some(next) = case.next(reached).filter(|next| next.revision <= *visible) {
                    return fault(at, format_args!("{} is held back", next.revision));
                }
            }
            _ => {}
        }
    }
    let Some(reached) = position else { return fault(case.history.notes.len(), "no list at last") };
    match case.next(reached) {
        Some(next) => fault(case.history.notes.len(), format_args!("{} never came", next.revision)),
        None => Ok(()),
    }
}

/// A transaction is seen whole or not at all: no list and no bookmark stands within one, a list is
/// the state at its revision, and with a transaction's first event all of it can be read.
fn atomic(case: &Case<'_>) -> Verdict {
    for (at, note) in case.notes() {
        match note {
            Note::Listed { revision, items } => {
                if !case.log.is_end(*revision) {
                    return fault(at, format_args!("a list within a transaction, at {revision}"));
                }
                let wanted = case.log.state(&case.history.interest, *revision);
                if *items != wanted {
                    let text = format!("the list at {revision} is {items:?}, not {wanted:?}");
                    return fault(at, text);
                }
            }
            Note::Bookmark(revision) if !case.log.is_end(*revision) => {
                return fault(at, format_args!("a bookmark within a transaction, at {revision}"));
            }
            Note::Told { told, visible } => {
                let end = case.log.at(told.revision).map_or(told.revision, |one| one.end);
                if *visible < end {
                    let text = format!("{} of a transaction to {end} at {visible}", told.revision);
                    return fault(at, text);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A watch begins right behind the revision it names, wherever the history reaches back to it, and
/// is refused only where it does not; who is refused lists again.
fn resumable(case: &Case<'_>) -> Verdict {
    let (mut position, mut begun, mut must_list) = (0, None, false);
    for (at, note) in case.notes() {
        if must_list && !matches!(note, Note::Listed { .. }) {
            return fault(at, "no list after a 410");
        }
        must_list = matches!(note, Note::Refused { .. } | Note::Lost { .. });
        match note {
            Note::Listed { revision, .. } => position = *revision,
            Note::Opened { from, floor } if from < floor => {
                return fault(at, format_args!("a watch from {from}, the history is from {floor}"));
            }
            Note::Opened { from, .. } if *from != position => {
                return fault(at, format_args!("a watch from {from}, not from {position}"));
            }
            Note::Opened { from, .. } => begun = Some(*from),
            Note::Told { told, .. } => {
                if let Some(next) = begun.take().and_then(|from| case.next(from))
                    && next.revision != told.revision
                {
                    let text = format!("it goes on with {}, not {}", told.revision, next.revision);
                    return fault(at, text);
                }
                position = told.revision;
            }
            Note::Bookmark(revision) => position = *revision,
            Note::Refused { from, floor } if from >= floor => {
                return fault(at, format_args!("{from} refused, the history is from {floor}"));
            }
            Note::Lost { floor } if position >= *floor => {
                return fault(at, format_args!("lost at {position}, the history is from {floor}"));
            }
            Note::Cut => begun = None,
            Note::Refused { .. } | Note::Lost { .. } | Note::Quiet { .. } => {}
        }
    }
    Ok(())
}

/// A bookmark says that everything up to its revision has come, goes never back, and comes to whoever
/// asked for it alone.
fn bookmarkable(case: &Case<'_>) -> Verdict {
    let (mut listed, mut bookmark, mut seen) = (0, 0, BTreeSet::new());
    for (at, note) in case.notes() {
        match note {
            Note::Listed { revision, .. } => {
                (listed, bookmark, seen) = (*revision, 0, BTreeSet::new());
            }
            Note::Told { told, .. } => {
                if told.revision <= bookmark {
                    return fault(at, format_args!("{} behind {bookmark}", told.revision));
                }
                seen.insert(told.revision);
            }
            Note::Bookmark(_) if !case.history.bookmarks => return fault(at, "nobody asked"),
            Note::Bookmark(revision) if *revision < bookmark => {
                return fault(at, format_args!("{revision} behind the bookmark {bookmark}"));
            }
            Note::Bookmark(revision) => {
                bookmark = *revision;
                let mut owed = case.relevant.iter().map(|told| told.revision);
                let missing =
                    owed.find(|one| *one > listed && one <= revision && !seen.contains(one));
                if let Some(missing) = missing {
                    return fault(at, format_args!("{missing} had not come at {revision}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
