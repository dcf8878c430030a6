//! The gate: what stands before the door on a served listener. Who is it, from where, may the
//! request cost what it costs, and what is written down about it.
//!
//! Comes in: connections and requests of strangers. Goes out: requests with a [`Session`] in their
//! extensions, for the router; or a 401, 403, 413, 429 before anything behind the gate was asked.
//! Loop: none of its own, but for the credentials' file and the certificate, which are looked at
//! again and again, and the audit log, which has a writer.
//!
//! Invariants: behind TLS nothing but health, version and the signed webhook is answered without a
//! credential; a credential that is revoked or has run out ends what it has open; one identity
//! cannot use up the listener; no secret is stored or logged, a token is known by its hash alone.
//!
//! Deliberately absent: passwords, cookies and OIDC (nothing here is worth a login page), CORS
//! headers (no page of another site has business here), HTTP/2 (one connection a watch is cheap).

pub mod credential;
pub mod credential_file;
mod private_file;
pub mod served;

pub mod authority;
pub mod tls;

pub mod allowance;
pub mod audit;
pub(crate) mod connections;
mod host;
mod session;

pub mod passage;

pub use session::Session;
