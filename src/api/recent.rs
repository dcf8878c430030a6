//! Keeps what was decoded last alive for a moment. A write wakes a handful of watchers (caches,
//! collectors, agents), of which some look and let go at once: without this, each of them would
//! decode the object again, for nobody holds it when the next one comes.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// What the fastest rollout writes in 30 ms, longer than a watcher needs to come. With pods of 30 kB
/// decoded 8 MB, and in a small cluster, where Leases and Events are among them, a tenth of it.
const KEPT: usize = 256;

/// The last decoded objects of all kinds.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<Arc<dyn Any + Send + Sync>>>);

impl Recent {
    pub fn keep(&self, object: Arc<dyn Any + Send + Sync>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(object);
        let oldest = if kept.len() > KEPT { kept.pop_front() } else { None };
        // It may be the last holder, and freeing a pod takes a while.
        drop(kept);
        drop(oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_alive_and_the_oldest_are_let_go() {
        let recent = Recent::default();
        let objects: Vec<Arc<usize>> = (0..KEPT + 2).map(Arc::new).collect();
        objects.iter().for_each(|object| recent.keep(object.clone()));
        let kept = objects.iter().filter(|object| Arc::strong_count(object) == 2);
        assert_eq!(kept.map(|object| **object).collect::<Vec<_>>(), Vec::from_iter(2..KEPT + 2));
    }
}
