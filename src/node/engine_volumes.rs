//! The volumes of a container engine, as part of the trait behind which it stands: `docker_volumes.rs`
//! has them over the Engine API. No call decides anything.

use std::future::Future;
use std::path::PathBuf;

use crate::node::runtime::RuntimeError;

/// A volume that the engine keeps under a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineVolume {
    pub name: String,
    /// `local`, or a plugin's.
    pub driver: String,
    /// Where its data is on the engine's host.
    pub mountpoint: PathBuf,
    /// It is made of something else (a device, a share) that is mounted while a container has it.
    pub has_options: bool,
    /// Whose label it carries.
    pub installation: Option<String>,
    /// The claim it was made for, `namespace/name`.
    pub claim: Option<String>,
}

impl EngineVolume {
    /// Its data as a directory of this host, also while no container has it.
    pub fn directory(&self) -> Option<PathBuf> {
        let plain = self.driver == "local" && !self.has_options;
        (plain && self.mountpoint.is_absolute()).then(|| self.mountpoint.clone())
    }
}

/// What a new volume is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeWish {
    pub name: String,
    pub installation: String,
    /// `namespace/name`
    pub claim: String,
}

/// Named volumes, and who mounts what.
pub trait EngineVolumes {
    /// `None`: there is none of this name.
    fn volume(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<Option<EngineVolume>, RuntimeError>> + Send;

    /// Every volume with this installation's label.
    fn volumes(
        &self,
        installation: &str,
    ) -> impl Future<Output = Result<Vec<EngineVolume>, RuntimeError>> + Send;

    /// Answers what is there under the name afterwards: an engine takes a second create of one name
    /// for the first, whoever made it.
    fn make_volume(
        &self,
        wish: &VolumeWish,
    ) -> impl Future<Output = Result<EngineVolume, RuntimeError>> + Send;

    /// Removes it with its data. Fine where it is gone.
    ///
    /// # Errors
    /// `NameConflict`: a container has it, running or not.
    fn remove_volume(&self, name: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// The names of all containers, whosever and running or not, that mount a path of the host or a
    /// named volume.
    fn mounting(
        &self,
        source: &str,
    ) -> impl Future<Output = Result<Vec<String>, RuntimeError>> + Send;
}
