//! The distribution protocol from the client's side: references, hosts and mirrors, credentials, manifests and blobs.
//!
//! Everything that comes in is bounded and checked against its digest before anybody uses it. Stores nothing.

mod auth;
mod client;
mod error;
mod hosts;
mod manifest;
mod reference;

pub use auth::Credentials;
pub use client::{Blob, Client};
pub use error::RegistryError;
pub use manifest::{LayerDescriptor, Manifest};
pub use reference::{Reference, ReferenceError};
