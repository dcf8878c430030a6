//! Is the daemon alive, and is it reconciling: every loop that matters beats in each of its turns,
//! and one that is silent for too long makes /readyz red, by name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::clock::Clock;

/// Who has said what, and when. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Beats {
    loops: Arc<Mutex<BTreeMap<String, Beat>>>,
    clock: Clock,
}

#[derive(Clone, Copy, Debug, Default)]
struct Beat {
    /// `None` before the first one.
    last: Option<Timestamp>,
    /// Silence that is no fault; `None` for a loop nobody waits for.
    within: Option<SignedDuration>,
}

/// The function that rooms call in every turn of a loop, with the loop's name.
pub type BeatFn = Arc<dyn Fn(&str) + Send + Sync>;

impl Beats {
    pub fn new(clock: Clock) -> Self {
        Self { loops: Arc::default(), clock }
    }

    /// From now on the loop must beat at least this often to be ready.
    pub fn expect(&self, name: &str, within: SignedDuration) {
        self.change(name, |beat| beat.within = Some(within));
    }

    /// What is handed to the rooms as `beat`.
    pub fn beat(&self) -> BeatFn {
        let beats = self.clone();
        Arc::new(move |name| beats.mark(name))
    }

    fn mark(&self, name: &str) {
        let now = self.clock.now();
        self.change(name, |beat| beat.last = Some(now));
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Beat)) {
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        match loops.get_mut(name) {
            Some(beat) => change(beat),
            None => change(loops.entry(name.to_owned()).or_default()),
        }
    }

    /// One line a loop, `[+]` or `[-]`, and whether all are well.
    pub fn report(&self) -> (bool, String) {
        let now = self.clock.now();
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut well, mut text) = (true, String::new());
        for (name, beat) in &*loops {
            let late = judge(*beat, now);
            well &= late.is_none();
            let _ = match late {
                None => writeln!(text, "[+]{name} ok"),
                Some(why) => writeln!(text, "[-]{name} failed: {why}"),
            };
        }
        text.push_str(if well { "readyz check passed\n" } else { "readyz check failed\n" });
        (well, text)
    }
}

/// Why a loop counts as silent; `None` where it is well or nobody waits for it.
fn judge(beat: Beat, now: Timestamp) -> Option<String> {
    let within = beat.within?;
    match beat.last {
        None => Some("no pass completed yet".to_owned()),
        Some(last) if now.duration_since(last) > within => Some(format!(
            "last pass {} s ago, expected every {} s",
            now.duration_since(last).as_secs(),
            within.as_secs()
        )),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_loop_is_red_by_name() {
        let beats = Beats::new(Clock::wall());
        beats.beat()("unexpected");
        assert!(beats.report().0);
        beats.expect("sync", SignedDuration::from_secs(60));
        let (well, text) = beats.report();
        assert!(!well && text.contains("[-]sync failed: no pass completed yet"), "{text}");
        beats.beat()("sync");
        assert!(beats.report().0);
        beats.expect("sync", SignedDuration::from_secs(-1));
        assert!(!beats.report().0);
    }
}
