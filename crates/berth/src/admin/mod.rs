//! The admin socket: most of `berth image`, `berth status` and `berth reset` ask the daemon that owns the store.
//!
//! One SOCK_SEQPACKET connection is one request: a JSON packet with at most one descriptor beside it, answered by JSON
//! that may span packets and ends with the connection.

pub(crate) mod client;
mod images;
pub(crate) mod protocol;
pub(crate) mod server;
#[cfg(test)]
mod tests;

use std::fs::File;

use async_trait::async_trait;

pub(crate) use images::{ImageVerb, Password};
pub(crate) use protocol::{ImportedImage, VerifiedLayer, VerifiedState};

/// Any error; a person reads it, nobody matches on it.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the daemon can do for an administrator.
#[async_trait]
pub(crate) trait AdminBackend: Send + Sync {
    /// Reads an OCI archive or a `docker save` tarball. The file is whatever the client has open, also a pipe.
    async fn import(&self, archive: File) -> Result<Vec<ImportedImage>, Failure>;

    /// Writes images as one archive.
    async fn export(&self, images: Vec<String>, archive: File) -> Result<(), Failure>;

    /// Compares the layers of an image, or of all, with what was unpacked, and brings damaged ones again.
    async fn verify(&self, image: Option<String>, repair: bool) -> Result<Vec<VerifiedLayer>, Failure>;

    /// The other verbs about images; the archive is there for the one that carries it.
    async fn image(&self, verb: ImageVerb, archive: Option<File>) -> Result<serde_json::Value, Failure>;

    /// Ends and removes every pod, the network and the control groups of the instance. Images stay. The daemon ends
    /// after it.
    async fn reset(&self) -> Result<(), Failure>;

    /// Sends a signal to a container's first process.
    async fn signal(&self, container: &str, signal: i32) -> Result<(), Failure>;

    /// An object of scalars, objects of scalars and lists of objects; shown to a person as it is.
    async fn status(&self) -> serde_json::Value;
}
