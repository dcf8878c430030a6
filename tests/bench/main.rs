//! `cargo bench`: us and the peers in one run, interleaved. `cargo bench -- store` runs what has
//! `store` in its name. A benchmark is a function and a row in [`ALONE`], or in [`host::ON_ENGINE`]
//! where it needs a container engine.

mod api;
mod cluster;
mod host;
mod memory;
mod process;
mod replica_set;
mod report;
mod scheduler;
mod services;
mod store;

use report::Report;

/// The program's own: some benchmarks run its parts in this process.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures, and prints into a report.
type Benchmark = fn(&mut Report);

/// Name, and what measures it.
const ALONE: &[(&str, Benchmark)] = &[
    ("api", api::run),
    ("memory", memory::run),
    ("replica_set", replica_set::run),
    ("scheduler", scheduler::run),
    ("services", services::run),
    ("store", store::run),
];

fn main() {
    // Cargo adds `--bench`; whatever is no option is a filter.
    let filters: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|part| name.contains(part));
    if host::is_inside() {
        return host::inside(&wanted);
    }
    for (name, run) in ALONE.iter().filter(|(name, _)| wanted(name)) {
        let mut report = Report::new(name);
        run(&mut report);
        report.print();
    }
    let on_engine: Vec<&str> =
        host::ON_ENGINE.iter().map(|(name, _)| *name).filter(|name| wanted(name)).collect();
    if !on_engine.is_empty() {
        host::run(&on_engine);
    }
    if on_engine.is_empty() && !ALONE.iter().any(|(name, _)| wanted(name)) {
        let names = ALONE.iter().map(|(name, _)| *name);
        let names: Vec<&str> = names.chain(host::ON_ENGINE.iter().map(|(name, _)| *name)).collect();
        eprintln!("no benchmark has {filters:?} in its name; there are {names:?}");
        std::process::exit(2);
    }
}
