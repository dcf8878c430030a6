//! Draws cases until their number or their time is up, and tells the smallest one that fails.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{
    Config, RngAlgorithm, TestCaseError, TestCaseResult, TestError, TestRng, TestRunner,
};

use super::memory::held_by;

/// For how long each file's targets run, one after the other; without it a fixed number of cases from
/// a fixed seed.
const SECONDS_VARIABLE: &str = "BALLAST_FUZZ_SECONDS";
/// 16 hexadecimal digits: runs what a failure printed again.
const SEED_VARIABLE: &str = "BALLAST_FUZZ_SEED";
/// Cases of a run without a time: some seconds of a debug build for whole requests, less for the rest.
const CASES: u32 = 100;
/// No input may take as long: a thousand times what the slowest takes in a debug build beside others.
const LONGEST: Duration = Duration::from_secs(30);
/// What one input of [`LARGEST_INPUT`] may hold: a JSON value is 32 bytes for two of text, an object
/// is held a dozen times on its way through admission and an apply.
const MOST_BYTES: usize = 96 << 20;
/// Mutations never make more of an input, in bytes.
pub const LARGEST_INPUT: usize = 64 << 10;

/// Asks the oracle about case after case, for the share of one of so many targets; `show` prints one as Rust, for a scene.
///
/// # Panics
/// With the smallest case that fails.
pub fn fuzz<S: Strategy>(
    targets: u32,
    strategy: &S,
    show: impl Fn(&S::Value) -> String,
    oracle: impl Fn(&S::Value) -> TestCaseResult,
) {
    let seconds = std::env::var(SECONDS_VARIABLE).ok().map(|text| {
        text.parse().unwrap_or_else(|_| panic!("{SECONDS_VARIABLE}={text} is no number"))
    });
    let seed = std::env::var(SEED_VARIABLE).ok().map(|text| {
        u64::from_str_radix(&text, 16)
            .unwrap_or_else(|_| panic!("{SEED_VARIABLE}={text} is no hexadecimal number"))
    });
    let seed = seed.unwrap_or_else(|| if seconds.is_some() { rand::random() } else { 1 });
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds) / targets);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { failure_persistence: None, max_shrink_time: 60_000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, rng);
    let watched = Watched::begin();
    let bounded = |case: S::Value| {
        watched.enter(show(&case));
        let begun = Instant::now();
        let (verdict, held) = held_by(|| oracle(&case));
        watched.leave();
        verdict?;
        if begun.elapsed() > LONGEST {
            return Err(TestCaseError::fail(format!("it took {:?}", begun.elapsed())));
        }
        if held > MOST_BYTES {
            return Err(TestCaseError::fail(format!("it held {held} bytes")));
        }
        Ok(())
    };
    let mut cases = 0_u32;
    while until.map_or(cases < CASES, |until| Instant::now() < until) {
        let tree = strategy.new_tree(&mut runner).expect("nothing is filtered");
        cases += 1;
        match runner.run_one(tree, bounded) {
            Ok(_) => {}
            Err(TestError::Fail(reason, case)) => panic!(
                "{reason}\nafter {cases} cases of {SEED_VARIABLE}={seed:016x}; as a scene:\n{}",
                show(&case)
            ),
            Err(TestError::Abort(reason)) => panic!("{reason}"),
        }
    }
    println!("{cases} cases of {SEED_VARIABLE}={seed:016x}");
}

/// A thread that ends the process when a case never does, and says which.
struct Watched {
    case: Arc<Mutex<Option<(Instant, String)>>>,
    _alive: std::sync::mpsc::Sender<()>,
}

impl Watched {
    fn begin() -> Self {
        let case = Arc::new(Mutex::new(None::<(Instant, String)>));
        let (alive, over) = channel::<()>();
        let seen = case.clone();
        std::thread::spawn(move || {
            while over.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
                let case = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some((begun, shown)) = case
                    && begun.elapsed() > 4 * LONGEST
                {
                    eprintln!("this never ends:\n{shown}");
                    std::process::abort();
                }
            }
        });
        Self { case, _alive: alive }
    }

    fn enter(&self, shown: String) {
        *self.case.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), shown));
    }

    fn leave(&self) {
        *self.case.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Bytes as a Rust literal.
pub fn literal(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("b\"{}\"", bytes.escape_ascii()),
    }
}

#[test]
fn what_fails_is_shrunk_and_told() {
    let any = proptest::collection::vec(proptest::prelude::any::<u8>(), 0..50);
    let failed = std::panic::catch_unwind(|| {
        fuzz(
            1,
            &any,
            |bytes| literal(bytes),
            |bytes| {
                proptest::prop_assert!(!bytes.contains(&b'x'), "an x");
                Ok(())
            },
        );
    });
    let told = failed.expect_err("an x comes soon");
    let told = told.downcast_ref::<String>().expect("a text");
    assert!(told.starts_with("an x") && told.ends_with("\"x\""), "{told}");
}
