//! The last lines of watches, rendered once for all that want the same one. An event wakes every
//! watch of its kind; a row of a Table, decoded and printed, would cost two hundred dashboards two
//! hundred times as much as one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use crate::api::reply::Form;
use crate::api::table::Include;

/// As many events as a watch takes at one look into the ring; watches of live events are no further
/// apart. With pods of 5 kB 1.4 MB.
const KEPT: usize = 256;
/// Larger objects are rendered by each watch, so that all lines together stay below 8 MiB.
const LARGEST: usize = 32 * 1024;

/// What makes two lines the same. Who asks is no part of it: Secrets, the one kind that is shown
/// differently to different people, are not shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LineKey {
    /// No two events have the same one.
    pub revision: u64,
    /// `ADDED` for one watch may be `MODIFIED` for another one with another selector.
    pub event: &'static str,
    pub form: Form,
    pub include: Include,
    /// The first line of a Table carries the columns.
    pub columns: bool,
    /// A row tells ages in whole seconds: the second that it was rendered in.
    pub second: i64,
}

/// `None` for what cannot be decoded, which is also found out once.
type Line = Arc<OnceLock<Option<Bytes>>>;

/// The lines, newest last.
#[derive(Debug, Default)]
pub(super) struct WatchLines(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    lines: HashMap<LineKey, Line>,
    order: VecDeque<LineKey>,
}

impl WatchLines {
    /// The line of an object of this size; whoever comes first renders it, and who comes meanwhile
    /// waits the microseconds that this takes.
    pub fn get(
        &self,
        key: LineKey,
        object_bytes: usize,
        render: impl FnOnce() -> Option<Bytes>,
    ) -> Option<Bytes> {
        if object_bytes > LARGEST {
            return render();
        }
        self.line(key).get_or_init(render).clone()
    }

    fn line(&self, key: LineKey) -> Line {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *guard;
        if let Some(line) = kept.lines.get(&key) {
            return line.clone();
        }
        let line = Line::default();
        kept.lines.insert(key, line.clone());
        kept.order.push_back(key);
        let oldest = if kept.order.len() > KEPT { kept.order.pop_front() } else { None };
        let oldest = oldest.and_then(|oldest| kept.lines.remove(&oldest));
        // Freed after the others are let in.
        drop(guard);
        drop(oldest);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(revision: u64) -> LineKey {
        LineKey {
            revision,
            event: "ADDED",
            form: Form::Json,
            include: Include::Metadata,
            columns: false,
            second: 0,
        }
    }

    /// The line, and how often it was rendered for this.
    fn got(lines: &WatchLines, key: LineKey, bytes: usize) -> (Option<Bytes>, usize) {
        let mut rendered = 0;
        let line = lines.get(key, bytes, || {
            rendered += 1;
            Some(Bytes::from(format!("{key:?}")))
        });
        (line, rendered)
    }

    #[test]
    fn the_same_line_is_rendered_once_and_another_one_is_another() {
        let lines = WatchLines::default();
        let (first, rendered) = got(&lines, key(1), 100);
        assert_eq!(rendered, 1);
        let (again, rendered) = got(&lines, key(1), 100);
        assert_eq!((again.map(|line| line.as_ptr()), rendered), (first.map(|l| l.as_ptr()), 0));
        for other in [
            key(2),
            LineKey { event: "DELETED", ..key(1) },
            LineKey { form: Form::Table, ..key(1) },
            LineKey { include: Include::None, ..key(1) },
            LineKey { columns: true, ..key(1) },
            LineKey { second: 1, ..key(1) },
        ] {
            assert_eq!(got(&lines, other, 100).1, 1, "{other:?}");
        }
    }

    #[test]
    fn the_oldest_and_the_large_are_not_kept() {
        let lines = WatchLines::default();
        for _ in 0..2 {
            assert_eq!(got(&lines, key(1), LARGEST + 1).1, 1);
        }
        for revision in 0..=KEPT as u64 {
            assert_eq!(got(&lines, key(revision), 100).1, 1);
        }
        assert_eq!(got(&lines, key(1), 100).1, 0);
        assert_eq!(got(&lines, key(0), 100).1, 1);
    }
}
