//! SPDY/3.1 (draft-mbelshe-httpbis-spdy-00 with draft 3's frames) as far as Kubernetes speaks it, without I/O.
//!
//! Its Go library knows no flow control: it sends no WINDOW_UPDATE and ignores settings. Nobody here waits for credit;
//! back-pressure is that of the connection below. Streams are opened by the client alone.

mod decode;
mod dictionary;
mod encode;
mod headers;
#[cfg(test)]
mod tests;

pub use decode::{Decoder, Event};
pub use encode::{Encoder, data_head};
pub use headers::Headers;

/// 31 bits, odd when the client opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

/// Why a stream is reset (2.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetStatus {
    Protocol = 1,
    InvalidStream = 2,
    Refused = 3,
    Cancel = 5,
    Internal = 6,
}

/// How a connection ends (2.6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoAwayStatus {
    Ok = 0,
    Protocol = 1,
    Internal = 2,
}

/// Of a data frame: 24 bits.
pub const DATA_MAX: usize = (1 << 24) - 1;
/// Of a control frame's payload, compressed, in bytes. The headers of Kubernetes take less than 200.
pub const CONTROL_MAX: usize = 16 * 1024;
/// Of a header block, inflated, in bytes.
pub const BLOCK_MAX: usize = 16 * 1024;
/// Headers of one block.
pub const HEADERS_MAX: usize = 64;

const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
/// Bytes before the payload of either kind of frame.
pub const HEAD: usize = 8;

mod kind {
    pub(super) const SYN_STREAM: u16 = 1;
    pub(super) const SYN_REPLY: u16 = 2;
    pub(super) const RST_STREAM: u16 = 3;
    pub(super) const SETTINGS: u16 = 4;
    pub(super) const PING: u16 = 6;
    pub(super) const GOAWAY: u16 = 7;
    pub(super) const HEADERS: u16 = 8;
    pub(super) const WINDOW_UPDATE: u16 = 9;
}

/// What a peer sent that ends the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("SPDY version {0}, only 3 is spoken")]
    Version(u16),
    #[error("SPDY frame type {0} is unknown")]
    Kind(u16),
    #[error("SPDY frame of type {kind} with {length} bytes")]
    Length { kind: u16, length: usize },
    #[error("SPDY frame names stream 0")]
    StreamZero,
    #[error("SPDY header block: {0}")]
    Block(&'static str),
}
