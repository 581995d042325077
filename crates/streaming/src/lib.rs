//! Exec, attach and port-forward as the kubelet and crictl speak them: SPDY/3.1 and WebSocket over HTTP/1.1.
//!
//! The crate moves bytes between a client's connection and descriptors. Whose descriptors they are it never asks: what
//! is behind a URL comes through [`Backend`].

mod backend;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod http;
mod negotiate;
mod pipe;
mod pool;
mod server;
mod session;
pub mod spdy;
mod tls;
mod token;
mod transport;
pub mod websocket;

pub use backend::{Backend, Control, Failure, Process, Streams, Target};
pub use server::{BindError, Gauge, Server, Settings};
pub use tls::{Tls, TlsError, TlsVersion};
pub use token::Urls;
