//! The served API with 5,000 pods of 5.5 kB in the store, over a real loopback socket: the daemon's
//! listener and limits, but for the rate that one identity is allowed. The floor is a bare axum
//! handler that answers the same requests with the same bytes, on the same runtime; rounds are
//! interleaved. One client asks one request after the other unless a row says otherwise, on a thread
//! of its own.
//!
//! `reads` is what people and dashboards ask, `creates` what four clients write, `watchers` what 200
//! of them see of 100 changes a second.

pub mod client;
mod creates;
mod ground;
mod pods;
mod reads;
mod watchers;

use ground::Ground;

use crate::report::Report;

/// Pods in the store.
const MANY: usize = 5000;

pub fn run(_: &mut Report) {
    let ground = Ground::prepare(MANY);
    let client =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    client.block_on(async {
        reads::run(&ground).await;
        watchers::run(&ground).await;
        creates::run(&ground).await;
    });
    ground.close();
}
