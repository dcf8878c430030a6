//! `cargo bench`: us and the peers in one run, interleaved. `cargo bench -- store` runs what has
//! `store` in its name. A benchmark is a module with `run(&mut Report)` and a row in [`BENCHES`].

mod replica_set;
mod report;
mod scheduler;
mod services;
mod store;
mod table;
mod whole_path;

use report::Report;

/// Name, and what measures it.
type Bench = (&'static str, fn(&mut Report));

const BENCHES: &[Bench] = &[
    ("replica_set", replica_set::run),
    ("scheduler", scheduler::run),
    ("services", services::run),
    ("store", store::run),
    ("whole_path", |_| whole_path::run()),
];

fn main() {
    // Cargo adds `--bench`; whatever is no option is a filter.
    let filters: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|part| name.contains(part));
    let mut report = Report::default();
    for (name, run) in BENCHES.iter().filter(|(name, _)| wanted(name)) {
        report.begin(name);
        run(&mut report);
        report.print();
    }
    if !BENCHES.iter().any(|(name, _)| wanted(name)) {
        let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        eprintln!("no benchmark has {filters:?} in its name; there are {names:?}");
        std::process::exit(2);
    }
}
