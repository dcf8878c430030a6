//! What goes wrong on purpose, and when: a schedule drawn from a seed.
//!
//! Every place of the world has draws of its own (`put Pod`, `watch Node`), so that the schedule
//! hangs on how often something was done and not on the order in which tasks came to it.

use std::collections::BTreeMap;
use std::time::Duration;

use ballast::object::Kind;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How late a late watch is: longer than any back-off that a controller begins with, so that many
/// decisions are made on the stale cache.
pub const LATE: Duration = Duration::from_secs(2);

/// One way in which the world fails the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The store refuses a transaction: the disk is full for a moment.
    StoreRefuses,
    /// Another writer changes the object between the daemon's read and its write.
    Conflict,
    /// A watch loses its place, as behind a slow watcher or a compaction: events are dropped, and the
    /// watcher lists again.
    WatchLost,
    /// A watch tells a change late, and whatever follows it: caches are stale.
    WatchLate,
    /// The container engine does not do what it is asked, and does not answer.
    EngineRefuses,
    /// The container engine does it, and does not answer.
    EngineAnswerLost,
    EngineEventDropped,
    EngineEventDoubled,
    EngineEventLate,
    /// The packet filter's lock is held by another program.
    KernelRefuses,
}

impl Fault {
    pub const ALL: [Self; 10] = [
        Self::StoreRefuses,
        Self::Conflict,
        Self::WatchLost,
        Self::WatchLate,
        Self::EngineRefuses,
        Self::EngineAnswerLost,
        Self::EngineEventDropped,
        Self::EngineEventDoubled,
        Self::EngineEventLate,
        Self::KernelRefuses,
    ];
}

/// How often each fault has struck.
pub type Struck = BTreeMap<Fault, u64>;

/// The faults of one life. The default has none.
#[derive(Debug, Default)]
pub struct Schedule {
    seed: u64,
    /// One call in so many fails; 0 is never.
    one_in: u32,
    /// Faults that are still to come: the world must be well again after the last.
    left: u32,
    /// Draws so far, by place.
    draws: BTreeMap<(Fault, String), u64>,
    late: LateWatches,
    struck: Struck,
}

/// Which watches are late from their beginning to their end.
#[derive(Clone, Copy, Debug, Default)]
pub enum LateWatches {
    #[default]
    None,
    Of(Kind),
    /// One watch in so many.
    OneIn(u32),
}

impl Schedule {
    /// One call in `one_in` fails, `most` times in all.
    pub fn drawn(seed: u64, one_in: u32, most: u32, late: LateWatches) -> Self {
        Self { seed, one_in, left: most, late, ..Self::default() }
    }

    /// No fault but that every watch of one kind is late.
    pub fn late(kind: Kind) -> Self {
        Self { late: LateWatches::Of(kind), ..Self::default() }
    }

    /// Whether a fault strikes at this place now.
    pub fn strikes(&mut self, fault: Fault, place: &str) -> bool {
        if self.left == 0 || self.one_in == 0 || !self.draw(fault, place, self.one_in) {
            return false;
        }
        self.left -= 1;
        self.count(fault);
        true
    }

    /// Whether a watch that begins now is late to its end.
    pub fn begins_late(&mut self, kind: Kind) -> bool {
        match self.late {
            LateWatches::None => false,
            LateWatches::Of(late) => late == kind,
            LateWatches::OneIn(one_in) => {
                self.draw(Fault::WatchLate, &format!("begin {kind}"), one_in)
            }
        }
    }

    pub fn count(&mut self, fault: Fault) {
        *self.struck.entry(fault).or_default() += 1;
    }

    pub fn struck(&self) -> &Struck {
        &self.struck
    }

    fn draw(&mut self, fault: Fault, place: &str, one_in: u32) -> bool {
        let draw = self.draws.entry((fault, place.to_owned())).or_default();
        *draw += 1;
        let seed = fold(self.seed, &format!("{fault:?} {place} {draw}"));
        StdRng::seed_from_u64(seed).random_range(0..one_in) == 0
    }
}

/// FNV-1a.
fn fold(seed: u64, text: &str) -> u64 {
    let bytes = seed.to_le_bytes();
    bytes.iter().chain(text.as_bytes()).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
