//! Whose turn it is: a few at a time, in the order they came, and nobody for ever.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};

/// Work that takes longer waits for something else than the engine (a mount, a process): it no
/// longer counts, or a few such would hold up every pod.
const PATIENCE: Duration = Duration::from_secs(10);

/// Places for so many at a time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Turns {
    places: Arc<Semaphore>,
    /// How many work or wait for a place.
    busy: Arc<watch::Sender<usize>>,
}

/// One that works or waits, also where its future is dropped.
struct Busy<'a>(&'a watch::Sender<usize>);

impl<'a> Busy<'a> {
    fn begin(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Turns {
    pub fn of(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), busy: Arc::new(watch::Sender::new(0)) }
    }

    /// Does the work when it is its turn. The work begins no earlier than that.
    pub async fn take<T>(&self, work: impl Future<Output = T> + Send) -> T {
        let busy = Busy::begin(&self.busy);
        let place = self.places.acquire().await.expect("the semaphore is never closed");
        let mut work = pin!(work);
        // Cancel safe: the work is pinned outside and goes on below.
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = sleep(PATIENCE) => drop((place, busy)),
        }
        work.await
    }

    /// Whether anybody works or waits for a place.
    pub fn is_busy(&self) -> bool {
        *self.busy.borrow() > 0
    }

    /// Waits until nobody works or waits for a place, or until then.
    pub async fn quiet(&self, until: Instant) {
        let mut busy = self.busy.subscribe();
        // The sender lives as long as we do.
        let _ = timeout_at(until, busy.wait_for(|count| *count == 0)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::timeout;

    use super::*;

    /// A sleep counts from where it is made: this one from its first poll, as work does.
    async fn work(seconds: u64) {
        sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn two_at_a_time_in_their_order_and_who_stands_still_gives_way() {
        let (turns, ended) = (Turns::of(2), Mutex::new(Vec::new()));
        let begun = Instant::now();
        let one = |name: &'static str, seconds: u64| {
            let (turns, ended) = (turns.clone(), &ended);
            async move {
                turns.take(work(seconds)).await;
                ended.lock().expect("no panic inside").push((name, begun.elapsed().as_secs()));
            }
        };
        tokio::join!(one("hangs", 60), one("a", 1), one("b", 1), one("c", 12), one("d", 1));
        let ended = ended.into_inner().expect("no panic inside");
        assert_eq!(ended, [("a", 1), ("b", 2), ("d", 11), ("c", 14), ("hangs", 60)]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_quiet_when_all_are_done_or_given_up() {
        let (turns, begun) = (Turns::of(1), Instant::now());
        turns.quiet(begun + Duration::from_secs(9)).await;
        assert_eq!(begun.elapsed().as_secs(), 0);
        let given_up = turns.take(work(60));
        let _ = timeout(Duration::from_secs(1), given_up).await;
        let one = || turns.take(work(2));
        let quiet = async |at_most| {
            turns.quiet(Instant::now() + Duration::from_secs(at_most)).await;
            begun.elapsed().as_secs()
        };
        let (_, _, late, early) = tokio::join!(one(), one(), quiet(60), quiet(3));
        assert_eq!((late, early), (5, 4));
    }
}
