//! CRI over gRPC: each verb is parsed, handed to the backend, and its answer converted. One file a verb.
//!
//! Nothing is decided here but what a request means and how an error is told. What Berth does not do yet answers
//! `Unimplemented` with the RPC's name.

mod authority;
mod backend;
mod batches;
mod convert;
mod deadline;
mod image;
mod metrics;
mod runtime;
mod serve;
mod status;

pub use backend::{Backend, Condition, Failure, ImageInfo, RegistryAuth, RuntimeReport, Streams};
pub use serve::{ServeError, serve};
