//! Newtyped identifiers, digests and the error classes shared by every crate.
//!
//! Nothing here does I/O or knows a protocol. An id that reached one of these types is safe to use as a
//! path component: the constructors are the only way in and they check the alphabet.

mod class;
mod digest;
mod id;

pub use class::{Classify, ErrorClass, chain};
pub use digest::{Digest, DigestError};
pub use id::{ContainerId, ExecId, IdError, ImageId, SandboxId};
