//! Looks whether somebody changed the files that were written for a pod: a container cannot, its mount is
//! read-only, but whoever is root on the host can. It blocks on the disk.

use std::time::Duration;

use tokio::time::Instant;

use crate::node::volume_plan::{VolumeKind, VolumePlan};
use crate::node::volume_writer;

/// Between two looks: the kubelet's sync period, in which it writes them anew.
const EVERY: Duration = Duration::from_secs(60);

/// What the last look found.
#[derive(Clone, Debug, Default)]
pub struct LastLook {
    at: Option<Instant>,
    /// `volumes[conf].files[app.ini]`
    pub changed: Vec<String>,
}

impl LastLook {
    /// They have just been written.
    pub fn written(&mut self) {
        *self = Self { at: Some(Instant::now()), changed: Vec::new() };
    }

    /// Looks again when it is time; answers whether anything was changed since it was written.
    pub async fn again(&mut self, plans: &[VolumePlan]) -> bool {
        let is_files = |plan: &&VolumePlan| matches!(plan.kind, VolumeKind::Files { .. });
        if self.at.is_some_and(|at| at.elapsed() < EVERY) {
            return !self.changed.is_empty();
        }
        let plans: Vec<VolumePlan> = plans.iter().filter(is_files).cloned().collect();
        let looking = tokio::task::spawn_blocking(move || changed(&plans));
        self.changed = looking.await.expect("reading files does not panic");
        self.at = Some(Instant::now());
        !self.changed.is_empty()
    }
}

fn changed(plans: &[VolumePlan]) -> Vec<String> {
    let of = |plan: &VolumePlan| {
        let VolumeKind::Files { files, .. } = &plan.kind else { return Vec::new() };
        let names = volume_writer::changed_files(&plan.path, files, plan.group);
        names.into_iter().map(|name| format!("volumes[{}].files[{name}]", plan.name)).collect()
    };
    plans.iter().flat_map(of).collect()
}
