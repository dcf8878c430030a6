//! The images of a Docker engine, and what containers add to them on its disk: the calls behind that part
//! of `docker.rs`.

use std::collections::HashSet;
use std::path::Path;

use bollard::Docker as Client;
use bollard::auth::DockerCredentials;
use bollard::models::{ContainerSummary, ImageSummary};
use bollard::query_parameters::{
    CreateImageOptions, ImportImageOptions, InspectContainerOptions, ListContainersOptions,
    ListImagesOptions, RemoveImageOptions,
};
use bytes::Bytes;
use futures::StreamExt;

use crate::node::docker::timed;
use crate::node::pull_progress::PullProgress;
use crate::node::registry_credentials::Credentials;
use crate::node::runtime::{
    INSPECT_TIME, ImageFacts, LIST_TIME, PULL_TIME, Pull, REMOVE_TIME, RuntimeError, START_TIME,
    StoredImage,
};

pub async fn image(client: &Client, reference: &str) -> Result<Option<ImageFacts>, RuntimeError> {
    match timed("image inspect", INSPECT_TIME, client.inspect_image(reference)).await {
        Ok(answer) => Ok(Some(ImageFacts {
            id: answer.id.unwrap_or_default(),
            layers: answer.root_fs.and_then(|root| root.layers).unwrap_or_default(),
            size: answer.size.unwrap_or_default(),
            user: answer.config.and_then(|config| config.user).unwrap_or_default(),
        })),
        Err(RuntimeError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

pub async fn pull(client: &Client, pull: &Pull) -> Result<(), RuntimeError> {
    let reference = &pull.reference;
    let options = CreateImageOptions {
        from_image: Some(reference.clone()),
        // Without a tag the engine would pull every tag of the repository.
        tag: (!has_tag_or_digest(reference)).then(|| "latest".to_owned()),
        ..CreateImageOptions::default()
    };
    // The engine reads the alphabet for URLs and takes anything else for nobody's credentials;
    // bollard writes the other one.
    let client = client.clone().with_request_modifier(|mut request| {
        if let Some(value) = request.headers_mut().get_mut("X-Registry-Auth")
            && let Ok(text) = value.to_str()
            && let Ok(readable) = text.replace('+', "-").replace('/', "_").parse()
        {
            *value = readable;
        }
        request
    });
    let credentials = pull.credentials.clone().map(credentials);
    let mut steps = client.create_image(Some(options), None, credentials);
    let mut progress = PullProgress::of(reference, &pull.progress);
    let drain = async {
        while let Some(step) = steps.next().await {
            let step = step?;
            let bytes = step.progress_detail.map(|it| (it.current, it.total));
            progress.note(step.id.as_deref(), step.status.as_deref(), bytes);
        }
        Ok(())
    };
    timed("pull", PULL_TIME, drain).await
}

pub async fn load(client: &Client, archive: Bytes) -> Result<(), RuntimeError> {
    let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
    let mut progress = client.import_image(options, bollard::body_full(archive), None);
    let drain = async {
        while let Some(step) = progress.next().await {
            step?;
        }
        Ok(())
    };
    timed("image load", START_TIME, drain).await
}

/// The containers are listed after the images: one that is made in between protects its image.
pub async fn images(client: &Client) -> Result<Vec<StoredImage>, RuntimeError> {
    let all = client.list_images(None::<ListImagesOptions>);
    let all = timed("image list", LIST_TIME, all).await?;
    let options = ListContainersOptions { all: true, ..ListContainersOptions::default() };
    let containers = timed("list", LIST_TIME, client.list_containers(Some(options))).await?;
    let of = |container: ContainerSummary| container.image_id;
    let used: HashSet<String> = containers.into_iter().filter_map(of).collect();
    let stored = |image: ImageSummary| {
        let names = image.repo_tags.into_iter().chain(image.repo_digests);
        StoredImage {
            used: used.contains(&image.id),
            names: names.filter(|name| !name.starts_with("<none>")).collect(),
            size: image.size,
            id: image.id,
        }
    };
    Ok(all.into_iter().map(stored).collect())
}

/// Never by force: what somebody needs stays.
pub async fn remove(client: &Client, name: &str) -> Result<(), RuntimeError> {
    let call = client.remove_image(name, None::<RemoveImageOptions>, None);
    match timed("image remove", REMOVE_TIME, call).await {
        Ok(_) | Err(RuntimeError::NotFound(_) | RuntimeError::NameConflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A container's own layer, and its log with the rotated parts where those files are within reach.
pub async fn disk_usage(client: &Client, id: &str) -> Result<u64, RuntimeError> {
    let call = client.inspect_container(id, Some(InspectContainerOptions { size: true }));
    let seen = timed("inspect with sizes", LIST_TIME, call).await?;
    let layer = seen.size_rw.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
    let log = seen.log_path.unwrap_or_default();
    let log: &Path = log.as_ref();
    let (Some(folder), Some(name)) = (log.parent(), log.file_name()) else { return Ok(layer) };
    let name = name.to_string_lossy();
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let parts = all.filter(|entry| entry.file_name().to_string_lossy().starts_with(&*name));
    let logs: u64 = parts.filter_map(|part| part.metadata().ok()).map(|seen| seen.len()).sum();
    Ok(layer + logs)
}

fn credentials(of: Credentials) -> DockerCredentials {
    let given = |text: String| (!text.is_empty()).then_some(text);
    DockerCredentials {
        username: given(of.username),
        password: given(of.password),
        identitytoken: of.identity_token,
        ..DockerCredentials::default()
    }
}

fn has_tag_or_digest(reference: &str) -> bool {
    reference.contains('@') || reference.rsplit('/').next().is_some_and(|name| name.contains(':'))
}
