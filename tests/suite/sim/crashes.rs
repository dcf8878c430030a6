//! The reference run; the same with a crash after each of its effects; the same with a crash and
//! faults by chance.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::chance::seeded;
use super::effects::Effects;
use super::fault::{Fault, LateWatches, Schedule, Struck};
use super::life::{Life, World};
use super::scenario::{STEPS, Step};
use super::state::State;

/// Longer than the daemon's slowest timer: what comes after a step has converged is seen too.
const REFERENCE_QUIET: Duration = Duration::from_secs(70);
/// Longer than the pauses inside a step, with two late watches one after the other.
const QUIET: Duration = Duration::from_secs(5);
/// Schedules of faults that are tried.
const SEEDS: u64 = 500;
/// How often each fault strikes in all of them, at least: fewer would prove nothing.
const LEAST_STRIKES: u64 = 50;
/// Lives that end in a crash, at least: where faults make the way shorter than the reference run's,
/// the drawn effect is never reached.
const LEAST_CRASHES: u64 = SEEDS * 9 / 10;
/// Seeds that are run twice.
const REPEATED: u64 = 10;
/// Runs one seed alone, with its log.
const SEED_VARIABLE: &str = "BALLAST_SIM_SEED";
/// Two cores are what a host has at least.
const THREADS: usize = 2;

/// The undisturbed run.
pub struct Reference {
    /// The state at the end of each step.
    states: Vec<State>,
    effects: u64,
    pub log: Vec<String>,
}

/// What a step must come to, whoever computes it.
fn is_right(step: Step, state: &State) -> Result<(), String> {
    let pods = step.expected_pods();
    let image = step.expected_image();
    let facts = [
        ("pods", state.count("Pod sim/"), pods),
        ("containers", state.count("container "), 2 * pods),
        ("running", state.count_holding(&format!(": {image} Running")), pods),
        ("rules to pods", state.count_holding("--to-destination POD"), pods),
        ("differences", state.count("addresses differ"), 0),
        ("deployments", state.count("Deployment "), usize::from(pods > 0)),
        ("open drifts", state.count("Drift "), 0),
    ];
    let wrong = facts.iter().find(|(_, is, wanted)| is != wanted);
    match wrong {
        None => Ok(()),
        Some((what, is, wanted)) => {
            Err(format!("{step:?}: {what} are {is}, wanted {wanted}:\n{state}"))
        }
    }
}

/// Run once for all tests.
pub fn reference() -> &'static Reference {
    crate::watchdog::watch();
    static REFERENCE: LazyLock<Reference> = LazyLock::new(|| seeded(0, undisturbed));
    &REFERENCE
}

fn undisturbed() -> Reference {
    let mut world = World::new(0);
    let effects = Effects::new(u64::MAX);
    let run = world.live(&effects, async |life: &Life| {
        let mut states = Vec::new();
        for step in STEPS {
            life.commit(step).await?;
            states.push(life.settled(REFERENCE_QUIET, |state| is_right(step, state)).await?);
        }
        Ok(states)
    });
    let states = match run {
        Ok(states) => states.expect("it has no crash"),
        Err(why) => panic!("{why}\n{}", effects.log().join("\n")),
    };
    assert_eq!(world.engine.doubles(), [""; 0]);
    Reference { states, effects: effects.count(), log: effects.log() }
}

/// The scenario over some lives: each begins where the one before had its crash, at the commit that
/// Git has then; the last has none.
pub fn disturbed(seed: u64, lives: &[Effects], reference: &Reference) -> Result<(), String> {
    seeded(seed, || live_on(seed, lives, reference))
}

fn live_on(seed: u64, lives: &[Effects], reference: &Reference) -> Result<(), String> {
    let mut world = World::new(seed);
    let mut done = 0;
    for (number, effects) in lives.iter().enumerate() {
        let run = world.live(effects, async |life: &Life| {
            while done < STEPS.len() {
                let wanted = &reference.states[done];
                life.commit(STEPS[done]).await?;
                let is_it = |state: &State| match state.difference(wanted) {
                    same if same.is_empty() => Ok(()),
                    difference => Err(difference),
                };
                life.settled(QUIET, is_it)
                    .await
                    .map_err(|why| format!("{:?} in life {}:\n{why}", STEPS[done], number + 1))?;
                done += 1;
            }
            Ok(())
        });
        let doubles = world.engine.doubles();
        let outcome = match run {
            Ok(_) if !doubles.is_empty() => Err(format!("two at once: {doubles:?}")),
            other => other,
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(())) => return Ok(()),
            Err(why) => {
                let logs: Vec<String> = lives
                    .iter()
                    .enumerate()
                    .map(|(life, effects)| {
                        format!("life {}:\n{}", life + 1, effects.log().join("\n"))
                    })
                    .collect();
                return Err(format!("{why}\n{}", logs.join("\n")));
            }
        }
    }
    Err("the last life has a crash too".to_owned())
}

/// Runs `one` for every number on two threads, and tells of each that fails.
fn on_all(numbers: std::ops::RangeInclusive<u64>, one: impl Fn(u64) -> Result<(), String> + Sync) {
    let next = AtomicU64::new(*numbers.start());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number > *numbers.end() {
                        return;
                    }
                    if let Err(why) = one(number) {
                        eprintln!("{number} fails");
                        failures.lock().expect("no panic inside").push((number, why));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("no panic inside");
    failures.sort();
    let numbers: Vec<u64> = failures.iter().map(|(number, _)| *number).collect();
    let told: Vec<String> = failures.into_iter().map(|(_, why)| why).collect();
    assert!(told.is_empty(), "{numbers:?} fail\n{}", told.join("\n\n"));
}

#[test]
fn the_reference_run_deploys_scales_rolls_and_deletes() {
    let reference = reference();
    assert!(reference.effects > 50, "too few to mean anything: {:?}", reference.log);
    println!("{} effects", reference.effects);
    let last = reference.states.last().expect("four steps");
    assert_eq!(last.count("ReplicaSet "), 0, "{last}");
    assert_eq!(last.count("EndpointSlice "), 0, "{last}");
    let drifts: Vec<&String> =
        reference.log.iter().filter(|line| line.contains(" Drift ")).collect();
    assert!(drifts.is_empty(), "progress is no drift: {drifts:#?}");
}

#[test]
fn a_crash_after_any_effect_changes_no_outcome() {
    let reference = reference();
    on_all(1..=reference.effects, |crash| {
        let lives = [Effects::new(crash), Effects::new(u64::MAX)];
        disturbed(0, &lives, reference).map_err(|why| format!("crash after effect {crash}: {why}"))
    });
}

/// What went wrong over all seeds.
#[derive(Debug, Default)]
struct Coverage {
    crashes: u64,
    struck: Struck,
}

impl Coverage {
    fn add(&mut self, lives: &[Effects]) {
        for life in lives {
            self.crashes += u64::from(life.has_crashed());
            for (fault, count) in life.struck() {
                *self.struck.entry(fault).or_default() += count;
            }
        }
    }

    fn of(&self, fault: Fault) -> u64 {
        self.struck.get(&fault).copied().unwrap_or_default()
    }
}

/// One random crash, and faults in both lives.
fn lives_of(seed: u64, reference: &Reference) -> [Effects; 2] {
    let mut random = StdRng::seed_from_u64(seed);
    let crash = random.random_range(1..=reference.effects);
    let mut life = |crash_after: u64| {
        let (one_in, most) = (random.random_range(5..=60), random.random_range(0..=15));
        // In every other life nothing is late throughout: the other faults meet fresh caches too.
        let late = if random.random() { LateWatches::OneIn(3) } else { LateWatches::None };
        let schedule = Schedule::drawn(random.random(), one_in, most, late);
        Effects::with_faults(crash_after, schedule)
    };
    [life(crash), life(u64::MAX)]
}

#[test]
fn a_seed_repeats_itself_effect_by_effect() {
    let reference = reference();
    for seed in 1..=REPEATED {
        let run = || {
            let lives = lives_of(seed, reference);
            // Whether it comes out right is the next test's.
            let outcome = disturbed(seed, &lives, reference);
            (lives.map(|life| life.log()), outcome.is_ok())
        };
        let (one, two) = (run(), run());
        for (one, two) in one.0.iter().zip(&two.0) {
            let differs = one.iter().zip(two).position(|(one, two)| one != two);
            let show = |at: usize| format!("{:#?}\n{:#?}", one.get(at), two.get(at));
            assert_eq!(differs, None, "seed {seed}: {}", differs.map(show).unwrap_or_default());
        }
        assert_eq!(one, two, "seed {seed}");
    }
}

#[test]
fn faults_and_a_crash_by_chance_change_no_outcome() {
    let reference = reference();
    let asked = std::env::var(SEED_VARIABLE).ok();
    let asked = asked.map(|text| text.parse().expect("a seed is a number"));
    let seeds = asked.map_or(1..=SEEDS, |seed| seed..=seed);
    let coverage = Mutex::new(Coverage::default());
    on_all(seeds, |seed| {
        let lives = lives_of(seed, reference);
        let outcome = disturbed(seed, &lives, reference);
        coverage.lock().expect("no panic inside").add(&lives);
        outcome.map_err(|why| format!("run it alone with {SEED_VARIABLE}={seed}\n{why}"))
    });
    let coverage = coverage.into_inner().expect("no panic inside");
    println!("{coverage:#?}");
    if asked.is_none() {
        assert!(coverage.crashes >= LEAST_CRASHES, "too few crashes: {coverage:#?}");
        let rare = Fault::ALL.into_iter().find(|fault| coverage.of(*fault) < LEAST_STRIKES);
        assert_eq!(rare, None, "it strikes too seldom to prove anything: {coverage:#?}");
    }
}
