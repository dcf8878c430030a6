//! Streams into what runs: `kubectl exec`, `attach`, `cp` and `port-forward`, for operators.
//!
//! Comes in: a request for a pod's `exec`, `attach` or `portforward` that the gate let in. Goes out:
//! an error as to any request, or a 101 and, over the connection that is no HTTP any more, what the
//! node's [`Streams`](crate::object::streams::Streams) gives. Loop: one task a connection.
//!
//! Invariants: who may is decided before anything is looked at; nothing is started before the client's
//! connection is there; every stream that begins is an Event; it keeps its session, and so its place
//! and its count among the identity's streams, until it ends; it ends with its credential and with the
//! daemon; nobody keeps more than one part of either direction, so that the slower side sets the pace.
//!
//! Reading order: [`opening`] decides, [`upgrade`] makes the connection, [`remote_command`] says what is
//! run and [`conversation`] is between it and a [`client`]; a protocol a file.

pub(crate) mod opening;
pub(crate) mod upgrade;

pub(crate) mod client;
pub(crate) mod conversation;
pub(crate) mod outcome;
pub(crate) mod remote_command;
pub(crate) mod terminal;

pub(crate) mod channels;
pub(crate) mod websocket;

mod port_pairs;
mod spdy_client;
mod spdy_connection;
mod spdy_frame;
mod spdy_handshake;
mod spdy_header_block;
mod spdy_session;
mod spdy_tunnel;

pub(crate) mod port_forward;
