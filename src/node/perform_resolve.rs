//! What a container is made of besides its manifest: its environment, its mounts, and the pod's name
//! where the sandbox was made before the pod. Steps are done in `perform.rs`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, VolumeMount};

use crate::node::claimed_volumes;
use crate::node::confinement::is_on_host_network;
use crate::node::container_spec::{MountSpec, RecursiveReadOnly, Resolved};
use crate::node::environment;
use crate::node::ephemeral_plan;
use crate::node::host_name::{self, HostName};
use crate::node::hosts_file::hosts_file;
use crate::node::instance::Role;
use crate::node::perform::Doer;
use crate::node::pod_plan::Step;
use crate::node::pod_worker::directory;
use crate::node::profile;
use crate::node::runtime::Runtime;
use crate::node::volume;
use crate::node::volume_mount_table::mounts_below;
use crate::node::volume_plan;
use crate::object::Cluster;

impl<C: Cluster, R: Runtime> Doer<'_, C, R> {
    /// What the container is made of. `named_late`: its sandbox was made before the pod had a name.
    ///
    /// # Errors
    /// The sentence behind `CreateContainerConfigError`.
    pub(super) async fn resolve(
        &self,
        container: &Container,
        role: Role,
        pod_ip: Option<Ipv4Addr>,
        named_late: bool,
    ) -> Result<Resolved, String> {
        if environment::needs_host_ip(container) && self.agent.waits_for_address() {
            return Err("the node has no address yet".to_owned());
        }
        let place = self.agent.place(&self.observed.engine, pod_ip);
        let sources = self.agent.sources();
        let mut made = environment::environment(self.pod(), container, &sources, &place)?;
        let mut mounts = self.mounts(container, &made.env).await?;
        if named_late || self.has_own_hosts_file() {
            self.name(&mut made.env, &mut mounts, pod_ip)?;
        }
        let (pod, engine) = (&self.observed.pod, &self.observed.engine);
        let confined = profile::confined(self.agent, engine, pod, container).await?;
        let target = match role {
            Role::Ephemeral => {
                ephemeral_plan::target(pod, &self.observed.instances, &container.name)?
            }
            _ => None,
        };
        let (command, arguments) = (made.command, made.arguments);
        Ok(Resolved { env: made.env, command, arguments, mounts, confined, target })
    }

    /// What the engine is told to mount, once parts of volumes are bound and links are followed.
    async fn mounts(
        &self,
        container: &Container,
        env: &[String],
    ) -> Result<Vec<MountSpec>, String> {
        let data_dir = &self.agent.options.data_dir;
        let volumes = &self.observed.volumes;
        let planned = volume_plan::mounts(self.pod(), container, volumes, env, data_dir)?;
        let engine = &self.observed.engine;
        if let Some(mount) = planned.iter().find(|mount| {
            mount.spec.recursive_read_only == RecursiveReadOnly::Enabled
                && !engine.makes_recursive_read_only()
        }) {
            let volume = &mount.volume;
            return Err(format!(
                "failed to resolve recursive read-only mode: volume \"{volume}\" requested recursive read-only mode, but it is not supported by the runtime"
            ));
        }
        if !claimed_volumes::needs_a_look(volumes, &planned) {
            let mounts: Vec<MountSpec> = planned.into_iter().map(|mount| mount.spec).collect();
            claimed_volumes::are_there(self.agent, &mounts).await?;
            return Ok(mounts);
        }
        let volumes =
            claimed_volumes::found(self.agent, self.pod(), engine, &planned, volumes).await?;
        let parts = planned.iter().filter_map(|mount| {
            let part = mount.part.as_ref()?;
            Some((mount.volume.clone(), part.at.clone()))
        });
        let parts: Vec<(String, PathBuf)> = parts.collect();
        let home = data_dir.clone();
        let leading = tokio::task::spawn_blocking(move || volume::lead(&planned, &volumes, &home));
        let led = leading.await.expect("preparing mounts does not panic")?;
        claimed_volumes::are_there(self.agent, &led).await?;
        if !parts.is_empty() {
            self.are_seen(&container.name, &parts).await?;
        }
        Ok(led)
    }

    /// An engine in another mount namespace would mount the empty place that the part is bound to.
    async fn are_seen(&self, container: &str, parts: &[(String, PathBuf)]) -> Result<(), String> {
        let Some(table) = self.agent.runtime.mount_table().await else { return Ok(()) };
        let unseen = parts.iter().find(|(_, at)| {
            let at = at.canonicalize().unwrap_or_else(|_| at.clone());
            mounts_below(&table, &at).is_empty()
        });
        match unseen {
            None => Ok(()),
            Some((volume, _)) => Err(format!(
                "failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\": the container engine does not see what Ballast mounts; both must run in one mount namespace"
            )),
        }
    }

    /// Whether the pod has a name that the engine would not write into its hosts file.
    pub(super) fn has_own_hosts_file(&self) -> bool {
        HostName::of(self.pod()).domain.is_some() && !is_on_host_network(self.pod())
    }

    /// What the engine would have said of the pod's name, had it known it: the variable, and two files.
    fn name(
        &self,
        env: &mut Vec<String>,
        mounts: &mut Vec<MountSpec>,
        pod_ip: Option<Ipv4Addr>,
    ) -> Result<(), String> {
        let name = host_name::in_kernel(self.pod())?;
        if !env.iter().any(|pair| pair.starts_with("HOSTNAME=")) {
            env.insert(0, format!("HOSTNAME={name}"));
        }
        let home = directory(self.agent, self.pod());
        let hosts = hosts_file(self.pod(), pod_ip.unwrap_or(Ipv4Addr::LOCALHOST));
        let mut files = vec![("etc-hosts", "/etc/hosts", hosts)];
        files.push(("etc-hostname", "/etc/hostname", name + "\n"));
        files.retain(|(_, target, _)| mounts.iter().all(|mount| mount.target != *target));
        // Two small files, below a tenth of a millisecond: handing them to another thread and back
        // takes as long.
        std::fs::create_dir_all(&home)
            .and_then(|()| {
                files.iter().try_for_each(|(file, _, text)| std::fs::write(home.join(file), text))
            })
            .map_err(|error| format!("hosts file not written: {error}"))?;
        mounts.extend(files.iter().map(|(file, target, _)| {
            MountSpec::plain(home.join(file).display().to_string(), *target, false)
        }));
        Ok(())
    }

    /// One that was created, and not started: what was bound for it may be gone since, with a reboot.
    pub(super) async fn made_before(
        &self,
        step: &Step,
        id: &str,
        ip: Option<Ipv4Addr>,
    ) -> Option<String> {
        let container = self.container(step)?;
        let is_part = |mount: &VolumeMount| {
            mount.sub_path.as_deref().or(mount.sub_path_expr.as_deref()).is_some()
        };
        if container.volume_mounts.iter().flatten().any(is_part)
            && let Err(sentence) = self.resolve(container, Role::Container, ip, false).await
        {
            self.warning("Failed", format!("Error: {sentence}"));
            self.failed(&container.name, "CreateContainerConfigError", sentence);
            return None;
        }
        Some(id.to_owned())
    }
}
