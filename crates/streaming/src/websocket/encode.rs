use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use super::{CONTROL_MAX, Opcode};

/// Longest head: two bytes, eight of length, four of mask.
const HEAD_MAX: usize = 14;

/// A frame's head, ahead of its payload.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    bytes: [u8; HEAD_MAX],
    length: usize,
}

impl AsRef<[u8]> for Head {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Head of a whole message in one frame. With a `mask` the payload has to be XORed with it.
pub fn head(opcode: Opcode, length: usize, mask: Option<[u8; 4]>) -> Head {
    let mut bytes = Vec::with_capacity(HEAD_MAX);
    let masked = if mask.is_some() { 0x80 } else { 0 };
    bytes.push(0x80 | opcode as u8);
    match length {
        0..126 => bytes.push(masked | length as u8),
        126..=0xffff => {
            bytes.push(masked | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask.into_iter().flatten());
    let mut head = Head { bytes: [0; HEAD_MAX], length: bytes.len() };
    for (to, from) in head.bytes.iter_mut().zip(bytes) {
        *to = from;
    }
    head
}

/// A whole frame.
pub fn frame(opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = head(opcode, payload.len(), mask).as_ref().to_vec();
    let keys = mask.unwrap_or_default();
    frame.extend(payload.iter().zip(keys.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// A close frame; a reason that does not fit is cut.
pub fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let end = (0..=reason.len().min(CONTROL_MAX - 2)).rev().find(|end| reason.is_char_boundary(*end));
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend(reason.as_bytes().iter().take(end.unwrap_or(0)));
    frame(Opcode::Close, &payload, mask)
}

/// What a server answers to a client's `Sec-WebSocket-Key` (4.2.2).
pub fn accept_key(key: &str) -> String {
    let mut sha = Sha1::new();
    sha.update(key.as_bytes());
    sha.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(sha.finalize())
}
