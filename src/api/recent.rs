//! Keeps what was decoded last alive for a moment. A write wakes a handful of watchers (caches,
//! collectors, agents), of which some look and let go at once: without this, each of them would
//! decode the object again, for nobody holds it when the next one comes. What falls out is freed
//! whole, its record's way back to it included.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::Record;

/// What the fastest rollout writes in 15 ms, longer than a watcher needs to come. With pods of 30 kB
/// decoded 4 MB, and in a small cluster, where Leases and Events are among them, a tenth of it.
const KEPT: usize = 128;

/// A record, and what it was decoded to.
type Decoded = (Arc<Record>, Arc<dyn Any + Send + Sync>);

/// The last decoded objects of all kinds.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<Decoded>>);

impl Recent {
    pub fn keep(&self, record: &Arc<Record>, object: Arc<dyn Any + Send + Sync>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((record.clone(), object));
        let oldest = if kept.len() > KEPT { kept.pop_front() } else { None };
        // It may be the last holder, and freeing a pod takes a while.
        drop(kept);
        if let Some((record, object)) = oldest {
            drop(object);
            record.let_go();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::object::{Key, Kind};
    use crate::store::Header;

    fn records(count: usize) -> Vec<Arc<Record>> {
        let record = |number: usize| {
            let key = Key::new("default", format!("p{number}"));
            let body = format!(r#"{{"metadata":{{"name":"{}"}}}}"#, key.name);
            let header = Arc::new(Header::default());
            Arc::new(Record::new(Kind::Pod, key, number as u64, Bytes::from(body), header))
        };
        (0..count).map(record).collect()
    }

    /// How often each was decoded when all are asked for once.
    fn decoded(recent: &Recent, records: &[Arc<Record>]) -> Vec<bool> {
        let ask = |record: &Arc<Record>| {
            let mut anew = false;
            let keep = |object: &Arc<Pod>| {
                anew = true;
                recent.keep(record, object.clone());
            };
            record.typed_noting::<Pod>(keep).expect("a pod");
            anew
        };
        records.iter().map(ask).collect()
    }

    #[test]
    fn the_latest_are_alive_and_the_oldest_are_let_go() {
        let (recent, records) = (Recent::default(), records(KEPT + 2));
        assert_eq!(decoded(&recent, &records), vec![true; KEPT + 2]);
        assert_eq!(decoded(&recent, &records[2..]), vec![false; KEPT]);
        assert_eq!(decoded(&recent, &records[..2]), [true, true]);
    }

    #[test]
    fn what_somebody_holds_is_still_shared_when_it_fell_out() {
        let (recent, records) = (Recent::default(), records(KEPT + 1));
        let held = records[0].typed::<Pod>().expect("a pod");
        recent.keep(&records[0], held.clone());
        decoded(&recent, &records[1..]);
        assert!(Arc::ptr_eq(&held, &records[0].typed::<Pod>().expect("a pod")));
    }
}
