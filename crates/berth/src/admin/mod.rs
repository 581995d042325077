//! The admin socket: most of `berth image`, `berth network`, `berth status` and `berth reset` ask the daemon that owns the store.
//!
//! One SOCK_SEQPACKET connection is one request: a JSON packet with at most one descriptor beside it, answered by JSON
//! that may span packets and ends with the connection.

pub(crate) mod client;
mod images;
pub(crate) mod network;
pub(crate) mod protocol;
pub(crate) mod server;
#[cfg(test)]
mod tests;

use std::fs::File;

use async_trait::async_trait;

pub(crate) use images::{
    ArchivedImage, Compress, ExportedArchive, ImageVerb, Password, VerifiedLayer, VerifiedState,
};
pub(crate) use network::{ConnectedPod, NetworkCheck, NetworkReport, PodNetwork, PodPlugins};

/// Any error; a person reads it, nobody matches on it.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the daemon can do for an administrator.
#[async_trait]
pub(crate) trait AdminBackend: Send + Sync {
    /// The verbs about images; the archive is there for those that carry it: whatever the client has open, also a pipe.
    async fn image(&self, verb: ImageVerb, archive: Option<File>) -> Result<serde_json::Value, Failure>;

    /// Ends and removes every pod, the network and the control groups of the instance. Images stay. The daemon ends
    /// after it.
    async fn reset(&self) -> Result<(), Failure>;

    /// Sends a signal to a container's first process.
    async fn signal(&self, container: &str, signal: i32) -> Result<(), Failure>;

    /// How it stands with the instance's network, by the kernel.
    async fn inspect_network(&self) -> Result<NetworkReport, Failure>;

    /// What a pod, by name or id, is connected to.
    async fn inspect_pod(&self, pod: &str) -> Result<PodNetwork, Failure>;

    /// Tries a pod's network, hop by hop.
    async fn check_network(&self, pod: &str) -> Result<NetworkCheck, Failure>;

    /// Removes bridges, tables and interfaces of the instance, unless a pod uses them; the next pod makes them anew.
    async fn reset_network(&self) -> Result<(), Failure>;

    /// An object of scalars, objects of scalars and lists of objects; shown to a person as it is.
    async fn status(&self) -> serde_json::Value;
}
