//! Brings claims and volumes together (kubernetes `pkg/controller/volume/persistentvolume` and the two
//! protection controllers).
//!
//! Comes in: claims, volumes, storage classes, and which pods use which claim. Goes out: the two halves
//! of a binding, phases, Events, the storage classes that every cluster begins with, and the end of the
//! protection finalizers.
//!
//! The loop: every change of a claim or volume, of what could match it, and of a pod that uses it wakes
//! its key ([`controller`]); a pass reads the caches, plans one write ([`claim_plan`], [`volume_plan`])
//! and performs it; what the write changes wakes the key again, until nothing is left to do. Who finds a
//! volume for a claim is [`matching`].
//!
//! Invariants: a binding is two writes, the volume's first: `claimRef` with the claim's uid, guarded by
//! the volume's resourceVersion, so that no two claims ever get one volume; then the claim's
//! `volumeName`. A crash between them is only a binding that the next pass ends. A volume whose claim is
//! gone is Released and given to nobody else. A claim that a pod has in its hands does not go.
//!
//! Deliberately absent: provisioning and removing what volumes hold (the agents of the nodes do both),
//! choosing a node for a claim (the scheduler), resizing, recycling, volumes without a file system.

pub mod built_in;
pub mod matching;

pub mod claim_plan;
pub mod volume_plan;

pub mod controller;

#[cfg(test)]
mod binding_scenes;
