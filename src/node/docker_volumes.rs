//! The named volumes of a Docker engine: the calls behind [`EngineVolumes`].

use std::path::PathBuf;

use bollard::models::{Volume, VolumeCreateRequest};
use bollard::query_parameters::{ListContainersOptions, ListVolumesOptions, RemoveVolumeOptions};

use crate::node::docker::{Docker, timed};
use crate::node::docker_translation::filters;
use crate::node::engine_volumes::{EngineVolume, EngineVolumes, VolumeWish};
use crate::node::instance::INSTALLATION;
use crate::node::runtime::{CREATE_TIME, INSPECT_TIME, LIST_TIME, REMOVE_TIME, RuntimeError};

const CLAIM: &str = "ballast.dev/claim";

impl EngineVolumes for Docker {
    async fn volume(&self, name: &str) -> Result<Option<EngineVolume>, RuntimeError> {
        let client = self.client().await?;
        match timed("volume inspect", INSPECT_TIME, client.inspect_volume(name)).await {
            Ok(found) => Ok(Some(told(found))),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn volumes(&self, installation: &str) -> Result<Vec<EngineVolume>, RuntimeError> {
        let client = self.client().await?;
        let label = format!("{INSTALLATION}={installation}");
        let options = ListVolumesOptions { filters: filters(&[("label", &label)]) };
        let answer = timed("volume list", LIST_TIME, client.list_volumes(Some(options))).await?;
        let mut all: Vec<_> = answer.volumes.into_iter().flatten().map(told).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    async fn make_volume(&self, wish: &VolumeWish) -> Result<EngineVolume, RuntimeError> {
        let client = self.client().await?;
        let labels = [(INSTALLATION, &wish.installation), (CLAIM, &wish.claim)];
        let request = VolumeCreateRequest {
            name: Some(wish.name.clone()),
            driver: Some("local".to_owned()),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value.clone())).into()),
            ..VolumeCreateRequest::default()
        };
        timed("volume create", CREATE_TIME, client.create_volume(request)).await.map(told)
    }

    async fn remove_volume(&self, name: &str) -> Result<(), RuntimeError> {
        let client = self.client().await?;
        let call = client.remove_volume(name, None::<RemoveVolumeOptions>);
        match timed("volume remove", REMOVE_TIME, call).await {
            Err(RuntimeError::NotFound(_)) => Ok(()),
            other => other,
        }
    }

    async fn mounting(&self, source: &str) -> Result<Vec<String>, RuntimeError> {
        let client = self.client().await?;
        let options = ListContainersOptions {
            all: true,
            filters: filters(&[("volume", source)]),
            ..ListContainersOptions::default()
        };
        let found = timed("list", LIST_TIME, client.list_containers(Some(options))).await?;
        let name = |names: Option<Vec<String>>| {
            let first = names.unwrap_or_default().into_iter().next().unwrap_or_default();
            first.trim_start_matches('/').to_owned()
        };
        Ok(found.into_iter().map(|container| name(container.names)).collect())
    }
}

fn told(volume: Volume) -> EngineVolume {
    let label = |name: &str| volume.labels.get(name).cloned();
    EngineVolume {
        installation: label(INSTALLATION),
        claim: label(CLAIM),
        has_options: !volume.options.is_empty(),
        mountpoint: PathBuf::from(&volume.mountpoint),
        driver: volume.driver.clone(),
        name: volume.name.clone(),
    }
}
