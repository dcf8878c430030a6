//! `ballast reset`: everything of this installation on an engine and in its data directory. First
//! found and shown, then removed; nothing else is ever touched.

use std::fmt;
use std::path::Path;

use crate::node::docker::Docker;
use crate::node::pause_image::pause_image;
use crate::node::runtime::{Runtime, RuntimeError};
use crate::node::volume;

/// What belongs to an installation. All of it carries the installation's label but the image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Belongings {
    /// `(id, name)`
    pub containers: Vec<(String, String)>,
    /// `(id, name)`
    pub networks: Vec<(String, String)>,
    /// The sandboxes' image, where no other installation is on the engine.
    pub image: Option<String>,
}

impl Belongings {
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.networks.is_empty() && self.image.is_none()
    }
}

/// One line a thing, for the question "remove this?".
impl fmt::Display for Belongings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, name) in &self.containers {
            writeln!(f, "container {id:.12} {name}")?;
        }
        for (id, name) in &self.networks {
            writeln!(f, "network {id:.12} {name}")?;
        }
        if let Some(id) = &self.image {
            writeln!(f, "image {id} (the sandboxes')")?;
        }
        Ok(())
    }
}

/// # Errors
/// The engine's.
pub async fn find(engine: &Docker, installation: &str) -> Result<Belongings, RuntimeError> {
    let listed = engine.list(installation).await?;
    let mut instances = [listed.instances, listed.vague].concat();
    instances.sort_by(|one, other| one.name.cmp(&other.name));
    let (ours, others): (Vec<_>, Vec<_>) =
        engine.networks().await?.into_iter().partition(|(_, _, owner)| owner == installation);
    let image = if others.is_empty() { engine.image(pause_image().tag).await? } else { None };
    Ok(Belongings {
        containers: instances.into_iter().map(|i| (i.id, i.name)).collect(),
        networks: ours.into_iter().map(|(id, name, _)| (id, name)).collect(),
        image: image.map(|facts| facts.id),
    })
}

/// Removes what was found, and the pods' volumes.
///
/// # Errors
/// The first thing that cannot be removed; calling again goes on from there.
pub async fn remove(
    engine: &Docker,
    found: &Belongings,
    data_dir: Option<&Path>,
) -> Result<(), RuntimeError> {
    for (id, _) in &found.containers {
        engine.remove(id).await?;
    }
    for (id, _) in &found.networks {
        engine.remove_network(id).await?;
    }
    if let Some(id) = &found.image {
        engine.remove_image(id).await?;
    }
    let Some(home) = data_dir.map(|dir| dir.join("pods")) else { return Ok(()) };
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
