//! No test runs for ever: whoever is still at it after its limit ends the whole run, by name.
//!
//! A test is watched from the moment its thread calls [`watch`], which every fixture does, until the
//! thread ends. The test harness names each test's thread after the test. A race that hangs would
//! otherwise hold a run until somebody cancels it, and tell nobody which test it was.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, Once};
use std::time::{Duration, Instant};

/// Several times what the slowest test needs on two busy cores, and a fraction of a run's own limit.
const LIMIT: Duration = Duration::from_secs(20 * 60);
const LOOK: Duration = Duration::from_millis(200);
/// Seconds in place of [`LIMIT`], for the watchdog's own test and for hunting a race.
const LIMIT_VARIABLE: &str = "BALLAST_TEST_LIMIT";

/// When each watched test began.
static RUNNING: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());
static STARTED: Once = Once::new();

fn running() -> MutexGuard<'static, BTreeMap<String, Instant>> {
    RUNNING.lock().expect("nobody panics while holding it")
}

/// Ends with its thread.
struct Watched(String);

impl Watched {
    fn begin(name: &str) -> Self {
        running().insert(name.to_owned(), Instant::now());
        Self(name.to_owned())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        running().remove(&self.0);
    }
}

thread_local! {
    /// Threads without a name are a test's helpers: the test itself is watched.
    static WATCHED: Option<Watched> = std::thread::current().name().map(Watched::begin);
}

/// Watches the test that runs on this thread.
pub fn watch() {
    WATCHED.with(|_| {});
    STARTED.call_once(|| {
        let limit = std::env::var(LIMIT_VARIABLE).ok().and_then(|text| text.parse().ok());
        let limit = limit.map_or(LIMIT, Duration::from_secs);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(LOOK);
                let told = overdue(&running(), limit, Instant::now());
                if let Some(told) = told {
                    // Not through a macro: the harness keeps those for the test that began this.
                    let _ = std::io::stderr().write_all(told.as_bytes());
                    std::process::exit(101);
                }
            }
        });
    });
}

/// What is said when a test is over its limit.
fn overdue(running: &BTreeMap<String, Instant>, limit: Duration, now: Instant) -> Option<String> {
    let age = |began: &Instant| now.duration_since(*began);
    let late = running.iter().filter(|(_, began)| age(began) > limit);
    let late: Vec<&str> = late.map(|(name, _)| name.as_str()).collect();
    if late.is_empty() {
        return None;
    }
    let others = running.iter().filter(|(_, began)| age(began) <= limit);
    let others: Vec<&str> = others.map(|(name, _)| name.as_str()).collect();
    Some(format!(
        "\ntest {} has not ended after {} s: the run ends here (running beside it: {})\n",
        late.join(", "),
        limit.as_secs(),
        if others.is_empty() { "none".to_owned() } else { others.join(", ") }
    ))
}

#[test]
fn only_a_test_over_its_limit_is_named() {
    let began = Instant::now();
    let second = Duration::from_secs(1);
    let running =
        BTreeMap::from([("a::slow".to_owned(), began), ("b::new".to_owned(), began + 5 * second)]);
    assert_eq!(overdue(&running, 10 * second, began + 10 * second), None);
    assert_eq!(
        overdue(&running, 10 * second, began + 11 * second).as_deref(),
        Some(
            "\ntest a::slow has not ended after 10 s: the run ends here (running beside it: b::new)\n"
        )
    );
}

/// Run by the test below with the variable set; by itself it does nothing.
#[test]
fn a_test_that_hangs_when_it_is_told_to() {
    if std::env::var_os(LIMIT_VARIABLE).is_some_and(|limit| limit == "0") {
        watch();
        loop {
            std::thread::park();
        }
    }
}

#[test]
fn a_test_that_hangs_ends_the_run_by_name() {
    let name = concat!(module_path!(), "::a_test_that_hangs_when_it_is_told_to");
    let name = name.split_once("::").expect("behind the crate").1;
    let ended = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", name])
        .env(LIMIT_VARIABLE, "0")
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(101), "{said}");
    assert!(said.contains(&format!("test {name} has not ended after 0 s")), "{said}");
}
