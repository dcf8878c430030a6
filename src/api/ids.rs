//! The one source of chance of the API: uids, generated names, addresses. Seeded in simulations,
//! so that a run can be repeated; from the operating system otherwise.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// Cheap to clone; clones draw from the same source.
#[derive(Clone)]
pub struct IdSource(Arc<Mutex<StdRng>>);

/// Kubernetes' alphabet of generated names: no vowels, nothing that reads as a word.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

impl fmt::Debug for IdSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdSource")
    }
}

impl IdSource {
    /// Seeded by the operating system.
    pub fn random() -> Self {
        Self(Arc::new(Mutex::new(rand::make_rng())))
    }

    /// The same draws for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// A version 4 UUID.
    pub fn uid(&self) -> String {
        let mut bytes = [0; 16];
        self.draw(|source| source.fill_bytes(&mut bytes));
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// Five characters behind a `generateName`.
    pub fn suffix(&self) -> String {
        (0..5).map(|_| char::from(ALPHABET[self.below(27) as usize])).collect()
    }

    /// Uniform in `0..bound`; 0 for a bound of 0.
    pub fn below(&self, bound: u32) -> u32 {
        if bound == 0 { 0 } else { self.draw(|source| source.random_range(0..bound)) }
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_the_system_does_not() {
        assert_eq!(IdSource::seeded(1).uid(), IdSource::seeded(1).uid());
        assert_ne!(IdSource::random().uid(), IdSource::random().uid());
        assert_eq!(IdSource::seeded(3).suffix().len(), 5);
    }
}
