//! The host tests: real Docker, real iptables, real kubectl, real Git, in a network namespace with an
//! engine of its own. They need root and what `scripts/setup.sh` installs, and fail loudly without.

mod bad_images;
mod claims;
mod claims_daemon;
mod clients;
mod debug;
mod documentation;
mod engine_faults;
mod harness;
mod installation;
mod kube_rs;
#[path = "../kubectls.rs"]
mod kubectls;
mod network;
mod node;
mod pod_confinement;
mod pod_life;
mod pod_volumes;
mod port_forward;
mod readme;
mod registry;
mod shelf;
mod streams;
#[path = "../watchdog.rs"]
mod watchdog;
mod whole_path;
