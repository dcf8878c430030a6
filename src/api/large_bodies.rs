//! Large bodies take turns. One of the worst shape is 150 times as large once it is decoded, compared and
//! admitted (600 kB of empty managed fields are 90 MB), and an identity may have sixteen requests under
//! way: so many at once are more than a small host has. Small bodies, which is nearly all that people
//! send, never wait.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a body that does not count: decoded 5 MB at most.
const SMALL: usize = 32 * 1024;
/// Bytes of all large bodies that are read and not yet answered: decoded 96 MB at most. One that is
/// larger goes alone; by then the bound on the values of a document (`document_text.rs`) holds.
const TOGETHER: usize = 640 * 1024;

/// Whose turn it is, for all identities together.
#[derive(Clone, Debug)]
pub(crate) struct LargeBodies(Arc<Semaphore>);

impl Default for LargeBodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TOGETHER)))
    }
}

impl LargeBodies {
    /// The place in which a request keeps its turn; it ends with the request.
    pub fn turn(&self) -> Turn {
        Turn { bodies: self.0.clone(), held: Mutex::default() }
    }
}

/// One request's turn, if its body needs one.
#[derive(Debug)]
pub(crate) struct Turn {
    bodies: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Turn {
    /// Waits until a body of so many bytes may be decoded; whoever came first goes first. What is read
    /// already waits here, not what a slow client still sends. Cancel safe: nothing is held then.
    pub async fn take(&self, bytes: usize) {
        if bytes <= SMALL {
            return;
        }
        let weight = u32::try_from(bytes.min(TOGETHER)).unwrap_or(u32::MAX);
        // Fails only if it is closed, which nobody does.
        let held = self.bodies.clone().acquire_many_owned(weight).await.ok();
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn large_bodies_wait_for_each_other_and_small_ones_for_nobody() {
        let bodies = LargeBodies::default();
        let (first, second, third) = (bodies.turn(), bodies.turn(), bodies.turn());
        assert_eq!(first.take(5 * TOGETHER).now_or_never(), Some(()));
        assert_eq!(second.take(SMALL + 1).now_or_never(), None, "it waits");
        assert_eq!(third.take(SMALL).now_or_never(), Some(()));
        drop(first);
        assert_eq!(second.take(TOGETHER - SMALL - 1).now_or_never(), Some(()));
        assert_eq!(third.take(SMALL + 1).now_or_never(), Some(()), "both fit");
        assert_eq!(bodies.turn().take(SMALL + 1).now_or_never(), None);
    }

    #[test]
    fn whoever_came_first_goes_first() {
        let bodies = LargeBodies::default();
        let (first, second, third) = (bodies.turn(), bodies.turn(), bodies.turn());
        assert_eq!(first.take(2 * SMALL).now_or_never(), Some(()));
        let mut largest = Box::pin(second.take(TOGETHER));
        assert_eq!((&mut largest).now_or_never(), None);
        let mut later = Box::pin(third.take(2 * SMALL));
        assert_eq!((&mut later).now_or_never(), None, "else the largest would wait for ever");
        drop(first);
        assert_eq!(largest.now_or_never(), Some(()));
        drop(second);
        assert_eq!(later.now_or_never(), Some(()));
    }
}
