//! `ballast reset`: everything of this installation on an engine and in its data directory. First
//! found and shown, then removed; nothing else is ever touched.

use std::path::Path;

use crate::node::runtime::{Runtime, RuntimeError};
use crate::node::volume;

/// What belongs to an installation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Belongings {
    /// `(id, name)`
    pub containers: Vec<(String, String)>,
}

/// # Errors
/// The engine's.
pub async fn find<R: Runtime>(runtime: &R, installation: &str) -> Result<Belongings, RuntimeError> {
    let mut instances = runtime.list(installation).await?;
    instances.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Belongings { containers: instances.into_iter().map(|i| (i.id, i.name)).collect() })
}

/// Removes the containers, the pods' network and the pods' volumes.
///
/// # Errors
/// The first thing that cannot be removed; calling again goes on from there.
pub async fn remove<R: Runtime>(
    runtime: &R,
    found: &Belongings,
    network: &str,
    data_dir: &Path,
) -> Result<(), RuntimeError> {
    for (id, _) in &found.containers {
        runtime.remove(id).await?;
    }
    runtime.remove_network(network).await?;
    let home = data_dir.join("pods");
    let removing = tokio::task::spawn_blocking(move || {
        for entry in std::fs::read_dir(&home).into_iter().flatten().flatten() {
            volume::remove(&entry.path())?;
        }
        match std::fs::remove_dir(&home) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    });
    let removed = removing.await.expect("removing volumes does not panic");
    removed.map_err(|error| RuntimeError::Other(format!("volumes not removed: {error}")))
}
