//! The distribution protocol from the client's side: references, hosts and mirrors, credentials, manifests and blobs.
//!
//! Everything that comes in is bounded and checked against its digest before anybody uses it. Credentials go to the host
//! they are for and nowhere else. Stores nothing.

mod auth;
mod blob;
mod body;
mod client;
mod connect;
mod docker_config;
mod error;
mod explain;
mod fetch;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod helper;
mod hosts;
mod manifest;
mod platform;
mod push;
mod reference;
mod retry;
mod token;

pub use auth::{Credentials, Login};
pub use blob::{Blob, Sources};
pub use body::{Body, Section};
pub use client::{Client, ClientConfig, Session};
pub use error::RegistryError;
pub use explain::{ExplainedPlace, Explanation, Step};
pub use fetch::Resolved;
pub use manifest::{LayerDescriptor, Manifest};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
