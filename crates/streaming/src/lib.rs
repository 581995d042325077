//! Exec, attach and port-forward as the kubelet and crictl speak them: SPDY/3.1 and WebSocket over HTTP/1.1.
//!
//! The crate moves bytes between a client's connection and descriptors. Whose descriptors they are it never asks: what
//! is behind a URL comes through [`Backend`].

mod backend;
pub mod spdy;
pub mod websocket;

pub use backend::{Backend, Control, Failure, Process, Streams, Target};
