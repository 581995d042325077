//! The CRI v1 contract as Rust: messages, client and server, generated at build time from `proto/`.
//!
//! No logic lives here.

/// `runtime.v1`, as Kubernetes 1.37 defines it.
#[allow(
    missing_debug_implementations,
    unreachable_pub,
    deprecated,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated code follows its generator's style"
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The compiled `FileDescriptorSet` of `proto/`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/runtime.v1.bin"));
