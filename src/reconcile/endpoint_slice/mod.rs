//! A Service's Pods, as EndpointSlices: what the rules of every node are made from.
//!
//! Comes in: Services, Pods by label, EndpointSlices by Service. Goes out: EndpointSlices of at most
//! 100 endpoints, one set of slices for each set of resolved ports.
//!
//! The loop: [`endpoint`] says what each pod is to the Service, [`plan`] which slices differ.
//!
//! Invariants: `ready` is never true for a pod that is being deleted or not ready (unless the Service
//! publishes such); an endpoint stays in its slice, so that one pod's change writes one slice; slices
//! that others made are never touched; a slice whose ports change is changed in one write, never
//! removed before its successor stands.
//!
//! Deliberately absent: IPv6, topology hints, the annotation with the trigger time, `Endpoints`.
//! A Service that is deleted takes its slices along by their owner reference.

pub mod plan;

pub mod endpoint;

pub mod controller;
