//! `ballast reset`: everything of this installation on an engine and in its data directory. First
//! found and shown, then removed; nothing else is ever touched.

use std::fmt;
use std::path::Path;

use crate::node::docker::Docker;
use crate::node::pause_image::pause_image;
use crate::node::runtime::{EngineVolumes, Runtime, RuntimeError};
use crate::node::volume;
use crate::node::volume_claims::CLAIMS;
use crate::node::volume_folder;

/// What belongs to an installation. All of it carries the installation's label but the image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Belongings {
    /// `(id, name)`
    pub containers: Vec<(String, String)>,
    /// `(id, name)`
    pub networks: Vec<(String, String)>,
    /// The sandboxes' image, where no other installation is on the engine.
    pub image: Option<String>,
    /// The data of claims, which stays unless it is to go: volumes of the engine, with the claim each was
    /// made for.
    pub volumes: Vec<(String, String)>,
    /// The same as directories below the data directory, by name.
    pub folders: Vec<String>,
}

impl Belongings {
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.networks.is_empty() && self.image.is_none()
    }

    pub fn has_data(&self) -> bool {
        !self.volumes.is_empty() || !self.folders.is_empty()
    }

    /// One line a volume of a claim. `dir` is the data directory.
    pub fn data(&self, dir: &Path) -> String {
        let folder = dir.join(CLAIMS);
        let folders = self.folders.iter().map(|name| folder.join(name));
        let folders = folders.map(|path| format!("data of a claim {}\n", path.display()));
        let volumes = self.volumes.iter();
        let volumes =
            volumes.map(|(name, claim)| format!("data of claim {claim}: docker volume {name}\n"));
        folders.chain(volumes).collect()
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

/// `data_dir`: where the directories of claims are looked for.
///
/// # Errors
/// The engine's; a directory that cannot be read.
pub async fn find(
    engine: &Docker,
    installation: &str,
    data_dir: Option<&Path>,
) -> Result<Belongings, RuntimeError> {
    let listed = engine.list(installation, &|_| false).await?;
    let mut instances = [listed.instances, listed.vague].concat();
    instances.sort_by(|one, other| one.name.cmp(&other.name));
    let (ours, others): (Vec<_>, Vec<_>) =
        engine.networks().await?.into_iter().partition(|(_, _, owner)| owner == installation);
    let image = if others.is_empty() { engine.image(pause_image().tag).await? } else { None };
    let volumes = engine.volumes(installation).await?.into_iter();
    let folders = match data_dir.map(|dir| volume_folder::names(&dir.join(CLAIMS))) {
        None => Vec::new(),
        Some(names) => {
            names.map_err(|error| RuntimeError::Other(format!("volumes not listed: {error}")))?
        }
    };
    Ok(Belongings {
        volumes: volumes.map(|one| (one.name, one.claim.unwrap_or_default())).collect(),
        folders,
        containers: instances.into_iter().map(|i| (i.id, i.name)).collect(),
        networks: ours.into_iter().map(|(id, name, _)| (id, name)).collect(),
        image: image.map(|facts| facts.id),
    })
}

/// Removes what was found, and the pods' volumes; the data of claims only where it is `with_data`.
///
/// # Errors
/// The first thing that cannot be removed; calling again goes on from there.
pub async fn remove(
    engine: &Docker,
    found: &Belongings,
    data_dir: Option<&Path>,
    with_data: bool,
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
    if with_data {
        for (name, _) in &found.volumes {
            engine.remove_volume(name).await?;
        }
    }
    let Some(dir) = data_dir else { return Ok(()) };
    let (home, claims) = (dir.join("pods"), dir.join(CLAIMS));
    let folders = if with_data { found.folders.clone() } else { Vec::new() };
    let removing = tokio::task::spawn_blocking(move || {
        for entry in std::fs::read_dir(&home).into_iter().flatten().flatten() {
            volume::remove(&entry.path())?;
        }
        match std::fs::remove_dir(&home) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        folders.iter().try_for_each(|name| volume_folder::remove(&claims, name))
    });
    let removed = removing.await.expect("removing volumes does not panic");
    removed.map_err(|error| RuntimeError::Other(format!("volumes not removed: {error}")))
}
