//! WebSocket (RFC 6455) without I/O and without extensions, and the channels that Kubernetes puts into its messages.

mod base64;
mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use base64::{Base64Decoder, encode_base64};
pub use decode::{Decoder, Event};
pub use encode::{Head, accept_key, close, frame, head};

/// Which end of a connection one is: a client masks what it sends, a server does not (5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// Of a frame (5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// Of a control frame's payload, in bytes (5.5).
pub const CONTROL_MAX: usize = 125;

/// Codes of a close frame (7.4.1).
pub mod code {
    pub const NORMAL: u16 = 1000;
    pub const GOING_AWAY: u16 = 1001;
    pub const PROTOCOL: u16 = 1002;
    pub const INTERNAL: u16 = 1011;
}

/// First byte of a message of v5.channel.k8s.io that closes the channel named by the second.
pub const CLOSE_SIGNAL: u8 = 255;

/// What a peer sent that ends the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("WebSocket frame with reserved bits")]
    Reserved,
    #[error("WebSocket opcode {0} is unknown")]
    Opcode(u8),
    #[error("WebSocket frames of a client are masked, those of a server are not")]
    Mask,
    #[error("WebSocket control frame is split or longer than 125 bytes")]
    Control,
    #[error("WebSocket message begins within another, or goes on without one")]
    Continuation,
    #[error("WebSocket frame of 2^63 bytes or more")]
    Length,
    #[error("WebSocket close frame with half a code")]
    Close,
    #[error("message is not base64")]
    Base64,
}
