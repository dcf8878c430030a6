//! What a watch guarantees, in the words of etcd and of KEP-2340: it is *ordered*, *unique*,
//! *reliable*, *atomic*, *resumable* and *bookmarkable*. A hundred watchers of different kinds,
//! namespaces and selectors, some of the store and some of the router, are cut at random and resume
//! from the last revision they know of, an event's or a bookmark's; meanwhile writers commit
//! transactions of several objects, the history is compacted behind them, and the server is stopped
//! and started again, so that a resume crosses from the log on disk to memory.
//!
//! The six checks go over what each watcher noted afterwards, and know the log of committed
//! transactions and nothing else. That each of them can fail is a test of its own.

mod checks;
mod history;
mod watcher;
mod world;

use std::sync::Arc;
use std::time::Duration;

use ballast::object::{Key, Kind};
use ballast::store::Store;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

use self::checks::{Case, GUARANTEES};
use self::history::{Change, Facts, Fields, History, Interest, Labels, Log, Note, Told, Written};
use self::watcher::{Watcher, Way};
use self::world::{KINDS, Ledger, Life, NAMES, NAMESPACES, Pace, write};
use crate::sim::chance::seeded;
use crate::watchdog::watch as watched;

const WATCHERS: u64 = 100;
const WRITERS: u64 = 4;
const LIVES: u64 = 3;
/// So short a history that a watcher which is away for a while is told 410.
const KEPT: u64 = 150;
/// Runs one seed again: the one that a failure printed.
const SEED_VARIABLE: &str = "BALLAST_WATCH_SEED";

fn interest(chance: &mut StdRng, way: Way) -> Interest {
    let kind = KINDS[chance.random_range(0..KINDS.len())];
    let everything = Interest { kind, namespace: None, labels: Labels::Any, fields: Fields::Any };
    if way == Way::Store {
        return everything;
    }
    let of = NAMESPACES[chance.random_range(0..NAMESPACES.len())];
    let namespace = (kind.row().namespaced && chance.random_bool(0.4)).then(|| of.to_owned());
    let labels = match chance.random_range(0..8) {
        0 => Labels::Is("a"),
        1 => Labels::IsNot("b"),
        2 => Labels::In("a", "c"),
        3 => Labels::Absent,
        _ => Labels::Any,
    };
    let fields = match (chance.random_range(0..6), kind) {
        (0, _) => Fields::Name(format!("o{}", chance.random_range(0..NAMES))),
        (1, Kind::Pod) => Fields::Node("n1"),
        (2, Kind::Pod) => Fields::NotNode("n2"),
        _ => Fields::Any,
    };
    Interest { namespace, labels, fields, ..everything }
}

/// A whole run: the log, and what everybody noted.
async fn run(seed: u64, pace: Pace, transactions: usize) -> (Log, Vec<History>) {
    let folder = tempfile::tempdir().expect("a folder");
    let chance = |of: u64| StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(of));
    let ledger = Arc::new(Ledger::default());
    let (shown, lives) = watch::channel(None);
    let (ended, end) = watch::channel(None);
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|number| {
            let mut chance = chance(number);
            let way = match number % 5 {
                0 | 1 => Way::Store,
                2 => Way::Http { metadata_only: true },
                _ => Way::Http { metadata_only: false },
            };
            let interest = interest(&mut chance, way);
            let bookmarks = way == Way::Store || chance.random_bool(0.6);
            let name = format!("watcher {number}, {way:?}, {interest:?}");
            let history = History { name, interest, bookmarks, notes: Vec::new() };
            let (lives, end) = (lives.clone(), end.clone());
            tokio::spawn(Watcher { history, way, pace, chance, lives, end }.run())
        })
        .collect();
    let mut first = None;
    for number in 0..LIVES {
        let life = Arc::new(Life::begin(folder.path(), pace, KEPT));
        first.get_or_insert(life.store.revision());
        shown.send_replace(Some(life.clone()));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let chance = chance(WATCHERS + number * WRITERS + writer);
                tokio::spawn(write(life.clone(), ledger.clone(), pace, chance, transactions))
            })
            .collect();
        for writer in writers {
            writer.await.expect("a writer ends");
        }
        if number + 1 < LIVES {
            shown.send_replace(None);
            life.end().await;
        }
    }
    let transactions = std::mem::take(&mut *ledger.lock().expect("no writer panicked"));
    let log = Arc::new(Log::of(first.expect("a life"), transactions));
    ended.send_replace(Some(log.clone()));
    let mut histories = Vec::new();
    for watcher in watchers {
        histories.push(watcher.await.expect("a watcher ends"));
    }
    drop((ended, shown, lives));
    (Arc::unwrap_or_clone(log), histories)
}

/// On one thread and a paused clock: everything that happens follows from the seed.
fn repeatable(seed: u64) -> (Log, Vec<History>) {
    seeded(seed, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(run(seed, Pace { unit: Duration::from_secs(1), paused: true }, 60))
    })
}

/// Holds everything against the guarantees, and tells how often what may go wrong was met: a run
/// without a resume or a 410 proves nothing.
fn judge(seed: u64, log: &Log, histories: &[History]) {
    for history in histories {
        let case = Case::new(log, history);
        for (guarantee, check) in GUARANTEES {
            if let Err(fault) = check(&case) {
                let name = &history.name;
                panic!("{SEED_VARIABLE}={seed}: not {guarantee}: {name}: {fault}");
            }
        }
    }
    let count = |is: &dyn Fn(&Note) -> bool| {
        histories.iter().flat_map(|history| &history.notes).filter(|note| is(note)).count()
    };
    let told = count(&|note| matches!(note, Note::Told { .. }));
    let opened = count(&|note| matches!(note, Note::Opened { .. }));
    let listed = count(&|note| matches!(note, Note::Listed { .. }));
    let bookmarks = count(&|note| matches!(note, Note::Bookmark(_)));
    let gone = count(&|note| matches!(note, Note::Refused { .. } | Note::Lost { .. }));
    let from_bookmarks: usize = histories
        .iter()
        .map(|history| {
            let pairs = history.notes.windows(3);
            let from = |notes: &&[Note]| {
                matches!(notes, [Note::Bookmark(at), Note::Cut, Note::Opened { from, .. }] if at == from)
            };
            pairs.filter(from).count()
        })
        .sum();
    let whole = log.entries.iter().filter(|one| one.end > one.revision).count();
    println!(
        "seed {seed}: {} writes, {told} events, {opened} watches, {listed} lists, {gone} times \
         410, {bookmarks} bookmarks, {from_bookmarks} resumes from one",
        log.entries.len()
    );
    for (what, count) in [
        ("events", told / 5_000),
        ("resumes", opened.saturating_sub(listed) / 300),
        ("bookmarks", bookmarks / 50),
        ("resumes from a bookmark", from_bookmarks / 5),
        ("410 and a list", gone / 20),
        ("transactions of several objects", whole / 100),
    ] {
        assert!(count > 0, "too few {what} to prove anything");
    }
}

fn asked_seed() -> Option<u64> {
    let text = std::env::var(SEED_VARIABLE).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE}={text} is no number")))
}

/// Twice: that the seed repeats itself note by note is what makes a failure's seed worth printing.
#[test]
fn a_hundred_watchers_have_all_six_guarantees() {
    watched();
    let seed = asked_seed().unwrap_or(1);
    let ((log, histories), (_, again)) = (repeatable(seed), repeatable(seed));
    judge(seed, &log, &histories);
    for (one, other) in histories.iter().zip(&again) {
        let differs = one.notes.iter().zip(&other.notes).position(|(one, other)| one != other);
        assert_eq!(differs, None, "{}", one.name);
        assert_eq!(one.notes.len(), other.notes.len(), "{}", one.name);
    }
}

/// The same with threads and a real disk: what a seed cannot hold still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guarantees_hold_on_threads() {
    watched();
    let pace = Pace { unit: Duration::from_millis(1), paused: false };
    let (log, histories) = run(7, pace, 60).await;
    for history in &histories {
        let case = Case::new(&log, history);
        for (guarantee, check) in GUARANTEES {
            if let Err(fault) = check(&case) {
                panic!("not {guarantee}: {}: {fault}", history.name);
            }
        }
    }
}

/// Three transactions: 11 and 12, 13, 14 to 16.
fn scene() -> (Log, History) {
    let write = |name: &str, tag: &str, app: Option<&str>| {
        let facts = app.map(|app| Facts { app: app.to_owned(), node: String::new() });
        let key = Key::new("red", name);
        Written { kind: Kind::Pod, key, tag: tag.to_owned(), facts }
    };
    let log = Log::of(
        10,
        vec![
            (vec![write("x", "1", Some("a")), write("y", "2", Some("b"))], vec![11, 12]),
            (vec![write("x", "3", Some("a"))], vec![13]),
            (
                vec![
                    write("y", "4", Some("a")),
                    write("x", "5", Some("b")),
                    write("z", "6", Some("a")),
                ],
                vec![14, 15, 16],
            ),
        ],
    );
    let interest =
        Interest { kind: Kind::Pod, namespace: None, labels: Labels::Is("a"), fields: Fields::Any };
    let told = |change, revision, name: &str, tag: &str| {
        let (key, tag) = (Key::new("red", name), tag.to_owned());
        Note::Told { told: Told { change, revision, key, tag }, visible: 16 }
    };
    let notes = vec![
        Note::Listed { revision: 12, items: [(Key::new("red", "x"), 11)].into() },
        Note::Opened { from: 12, floor: 10 },
        told(Change::Modified, 13, "x", "3"),
        Note::Bookmark(13),
        Note::Cut,
        Note::Opened { from: 13, floor: 12 },
        told(Change::Added, 14, "y", "4"),
        told(Change::Deleted, 15, "x", "5"),
        told(Change::Added, 16, "z", "6"),
        Note::Bookmark(16),
        Note::Quiet { visible: 16 },
        Note::Cut,
        Note::Refused { from: 16, floor: 17 },
        Note::Listed {
            revision: 16,
            items: [(Key::new("red", "y"), 14), (Key::new("red", "z"), 16)].into(),
        },
    ];
    let name = "a scene".to_owned();
    (log, History { name, interest, bookmarks: true, notes })
}

type Mutation = fn(&mut History);

/// Each guarantee, what breaks it, and the history broken in that way.
const BROKEN: [(&str, &str, Mutation); 19] = [
    ("ordered", "two events change places", |history| history.notes.swap(6, 7)),
    ("ordered", "an event from before the list", |history| revision(history, 2, 11)),
    ("unique", "an event comes twice", |history| again(history, 6)),
    ("unique", "an event comes again after a resume", |history| {
        let first = history.notes[2].clone();
        history.notes.insert(6, first);
    }),
    ("unique", "the list had it already", |history| revision(history, 2, 12)),
    ("reliable", "an event in the middle is left out", |history| drop(history.notes.remove(7))),
    ("reliable", "the last event never comes", |history| {
        history.notes.truncate(8);
    }),
    ("reliable", "an event is held back while all is quiet", |history| {
        history.notes.insert(6, Note::Quiet { visible: 14 });
    }),
    ("reliable", "an event says another change", |history| change(history, 7, Change::Modified)),
    ("reliable", "an event that nobody wrote", |history| {
        if let Note::Told { told, .. } = &mut history.notes[6] {
            told.tag = "invented".to_owned();
        }
    }),
    ("atomic", "a list within a transaction", |history| {
        if let Note::Listed { revision, items } = &mut history.notes[0] {
            (*revision, *items) = (11, [(Key::new("red", "x"), 11)].into());
        }
    }),
    ("atomic", "a list that is not the state of its revision", |history| {
        if let Note::Listed { items, .. } = &mut history.notes[13] {
            items.insert(Key::new("red", "x"), 13);
        }
    }),
    ("atomic", "a bookmark within a transaction", |history| {
        history.notes.insert(8, Note::Bookmark(15));
    }),
    ("atomic", "an event before the rest can be read", |history| {
        if let Note::Told { visible, .. } = &mut history.notes[6] {
            *visible = 14;
        }
    }),
    ("resumable", "a resume begins too late", |history| drop(history.notes.remove(6))),
    ("resumable", "a resume that history does not cover is let in", |history| {
        history.notes[5] = Note::Opened { from: 13, floor: 14 };
    }),
    ("resumable", "a resume is refused for nothing", |history| {
        history.notes[12] = Note::Refused { from: 16, floor: 16 };
    }),
    ("bookmarkable", "a bookmark before its events", |history| history.notes.swap(8, 9)),
    ("bookmarkable", "nobody asked for bookmarks", |history| history.bookmarks = false),
];

fn again(history: &mut History, at: usize) {
    let note = history.notes[at].clone();
    history.notes.insert(at, note);
}

fn revision(history: &mut History, at: usize, revision: u64) {
    if let Note::Told { told, .. } = &mut history.notes[at] {
        told.revision = revision;
    }
}

fn change(history: &mut History, at: usize, change: Change) {
    if let Note::Told { told, .. } = &mut history.notes[at] {
        told.change = change;
    }
}

#[test]
fn each_check_catches_what_breaks_its_guarantee() {
    let (log, history) = scene();
    for (guarantee, check) in GUARANTEES {
        assert_eq!(check(&Case::new(&log, &history)), Ok(()), "{guarantee}");
        assert!(BROKEN.iter().any(|(broken, _, _)| *broken == guarantee), "{guarantee}");
    }
    for (guarantee, what, mutate) in BROKEN {
        let mut mutated = history.clone();
        mutate(&mut mutated);
        let of = |(name, _): &&(&str, _)| *name == guarantee;
        let (_, check) = GUARANTEES.iter().find(of).expect("one of the six");
        let verdict = check(&Case::new(&log, &mutated));
        assert!(verdict.is_err(), "{guarantee}: nobody sees that {what}");
    }
}
