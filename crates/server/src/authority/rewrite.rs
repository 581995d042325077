//! A client's half of an HTTP/2 connection (RFC 9113), as far as header blocks go. Bytes in, bytes out, no I/O.

use http::uri::Authority;
use loona_hpack::Decoder;

/// RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// What every peer takes (SETTINGS_MAX_FRAME_SIZE before any setting).
const FRAME: usize = 16 * 1024;
/// Of a block, as it comes and decoded; gRPC clients send a few hundred bytes.
const BLOCK_MAX: usize = 64 * 1024;

/// Passes everything on and puts `localhost` where an `:authority` is none.
#[derive(Default)]
pub(super) struct Rewrite {
    /// Arrived and not complete yet.
    waiting: Vec<u8>,
    greeted: bool,
    /// Bytes of a frame that passes as it is.
    passing: usize,
    /// A header block whose end has not come: its frames as they were, the block itself, flags and stream of the first.
    open: Option<Open>,
    decoder: Decoder<'static>,
    /// The first `:authority` was none: every block is written anew from then on.
    rewrites: bool,
}

struct Open {
    raw: Vec<u8>,
    block: Vec<u8>,
    flags: u8,
    stream: [u8; 4],
}

impl std::fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rewrite").field("rewrites", &self.rewrites).finish_non_exhaustive()
    }
}

impl Rewrite {
    /// Takes what arrived. `false`: nothing is to be rewritten on this connection, be it that all is well or so broken that the
    /// library below shall say so; the caller takes the [`rest`](Self::rest) and what comes later as it is.
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        self.waiting.extend_from_slice(bytes);
        let mut at = 0;
        let goes_on = self.frames(&mut at, out);
        self.waiting.drain(..at);
        goes_on
    }

    /// What arrived and was not passed on.
    pub(super) fn rest(&mut self, out: &mut Vec<u8>) {
        if let Some(open) = self.open.take() {
            out.extend_from_slice(&open.raw);
        }
        out.append(&mut self.waiting);
    }

    fn frames(&mut self, at: &mut usize, out: &mut Vec<u8>) -> bool {
        if !self.greeted {
            let known = self.waiting.len().min(PREFACE.len());
            if self.waiting[..known] != PREFACE[..known] {
                return false;
            }
            if known < PREFACE.len() {
                return true;
            }
            out.extend_from_slice(PREFACE);
            (self.greeted, *at) = (true, PREFACE.len());
        }
        loop {
            let left = &self.waiting[*at..];
            if self.passing > 0 {
                let part = self.passing.min(left.len());
                out.extend_from_slice(&left[..part]);
                (self.passing, *at) = (self.passing - part, *at + part);
                if self.passing > 0 {
                    return true;
                }
                continue;
            }
            let Some(head) = left.first_chunk::<HEAD>() else { return true };
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let kind = head[3];
            if ![HEADERS, CONTINUATION].contains(&kind) {
                if self.open.is_some() {
                    // Nothing may come between the parts of a block (section 6.10).
                    return false;
                }
                self.passing = HEAD + length;
                continue;
            }
            if length > BLOCK_MAX {
                return false;
            }
            let Some(frame) = left.get(..HEAD + length) else { return true };
            let (head, frame) = (*head, frame.to_vec());
            if !self.part(&head, frame) {
                return false;
            }
            *at += HEAD + length;
            if head[4] & END_HEADERS != 0 && !self.block(out) {
                return false;
            }
        }
    }

    /// A HEADERS or CONTINUATION frame. `false`: it does not fit here.
    fn part(&mut self, head: &[u8; HEAD], frame: Vec<u8>) -> bool {
        let stream = [head[5], head[6], head[7], head[8]];
        let payload = &frame[HEAD..];
        match (&mut self.open, head[3]) {
            (None, HEADERS) => {
                let Some(block) = unpadded(payload, head[4]) else { return false };
                self.open = Some(Open { block: block.to_vec(), flags: head[4], stream, raw: frame });
                true
            }
            (Some(open), CONTINUATION) if open.stream == stream => {
                open.block.extend_from_slice(payload);
                open.raw.extend_from_slice(&frame);
                open.block.len() <= BLOCK_MAX
            }
            _ => false,
        }
    }

    /// The open block is complete. `false`: it is fine as it is, or cannot be read.
    fn block(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(open) = &self.open else { return false };
        let (mut fields, mut size, mut good) = (Vec::new(), 0, true);
        let decoded = self.decoder.decode_with_cb(&open.block, |name, value| {
            size += name.len() + value.len();
            if size > BLOCK_MAX {
                return;
            }
            let mut value = value.into_owned();
            if &*name == b":authority" && Authority::try_from(&*value).is_err() {
                (value, good) = (b"localhost".to_vec(), false);
            }
            literal(&mut fields, &name, &value);
        });
        if decoded.is_err() || size > BLOCK_MAX || (good && !self.rewrites) {
            return false;
        }
        self.rewrites = true;
        let flags = open.flags & END_STREAM;
        let last = fields.len().div_ceil(FRAME).saturating_sub(1);
        for (number, part) in fields.chunks(FRAME).enumerate() {
            let kind = if number == 0 { HEADERS } else { CONTINUATION };
            let flags = if number == 0 { flags } else { 0 } | if number == last { END_HEADERS } else { 0 };
            out.extend_from_slice(&(part.len() as u32).to_be_bytes()[1..]);
            out.extend_from_slice(&[kind, flags]);
            out.extend_from_slice(&open.stream);
            out.extend_from_slice(part);
        }
        self.open = None;
        true
    }
}

/// The block in a HEADERS frame, without padding and priority (section 6.2).
fn unpadded(payload: &[u8], flags: u8) -> Option<&[u8]> {
    let (padding, payload) = match flags & PADDED {
        0 => (0, payload),
        _ => payload.split_first().map(|(padding, rest)| (usize::from(*padding), rest))?,
    };
    let payload = if flags & PRIORITY == 0 { payload } else { payload.get(5..)? };
    payload.get(..payload.len().checked_sub(padding)?)
}

/// A field that no table keeps (RFC 7541, section 6.2.2): the server's table stays empty, whatever the client's holds.
fn literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    for text in [name, value] {
        // A length of seven bits, the rest by seven bits each (section 5.1); no Huffman code.
        match text.len() {
            short @ ..127 => out.push(short as u8),
            long => {
                out.push(127);
                let mut rest = long - 127;
                while rest >= 128 {
                    out.push((rest % 128) as u8 | 0x80);
                    rest /= 128;
                }
                out.push(rest as u8);
            }
        }
        out.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend_from_slice(&[kind, flags]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    fn block(authority: Option<&str>) -> Vec<u8> {
        let mut bytes = Vec::new();
        literal(&mut bytes, b":method", b"POST");
        if let Some(authority) = authority {
            literal(&mut bytes, b":authority", authority.as_bytes());
        }
        literal(&mut bytes, b":path", &b"/x".repeat(100));
        bytes
    }

    fn connection(headers: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(4, 0, 0, b""));
        for (number, block) in headers.iter().enumerate() {
            let stream = number as u32 * 2 + 1;
            bytes.extend(frame(HEADERS, END_HEADERS, stream, block));
            bytes.extend(frame(0, END_STREAM, stream, b"\0\0\0\0\0"));
        }
        bytes
    }

    /// All that comes out when the bytes come in parts of this size.
    fn through(bytes: &[u8], part: usize) -> Vec<u8> {
        let (mut rewrite, mut out) = (Some(Rewrite::default()), Vec::new());
        for bytes in bytes.chunks(part) {
            let Some(one) = &mut rewrite else {
                out.extend_from_slice(bytes);
                continue;
            };
            if !one.push(bytes, &mut out) {
                one.rest(&mut out);
                rewrite = None;
            }
        }
        if let Some(mut one) = rewrite {
            one.rest(&mut out);
        }
        out
    }

    #[test]
    fn an_authority_that_is_one_passes_untouched() {
        for authority in [Some("localhost"), Some("node:80"), None] {
            let bytes = connection(&[block(authority), block(authority)]);
            for part in [1, 7, 4096] {
                assert_eq!(through(&bytes, part), bytes, "{authority:?} in parts of {part}");
            }
        }
    }

    #[test]
    fn one_that_is_none_becomes_localhost_in_every_request() {
        for authority in ["/run/berth/berth.sock", "%2Frun%2Fberth.sock", "", "a b"] {
            let bytes = connection(&[block(Some(authority)), block(Some(authority))]);
            let wanted = connection(&[block(Some("localhost")), block(Some("localhost"))]);
            for part in [1, 7, 4096] {
                assert_eq!(through(&bytes, part), wanted, "{authority:?} in parts of {part}");
            }
        }
    }

    #[test]
    fn a_block_in_parts_with_padding_and_priority() {
        let whole = block(Some("/run/x"));
        let mut first = vec![3, 0, 0, 0, 0, 16];
        first.extend_from_slice(&whole[..20]);
        first.extend_from_slice(&[0; 3]);
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(HEADERS, PADDED | PRIORITY | END_STREAM, 1, &first));
        bytes.extend(frame(CONTINUATION, END_HEADERS, 1, &whole[20..]));
        let mut wanted = PREFACE.to_vec();
        wanted.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(Some("localhost"))));
        assert_eq!(through(&bytes, 5), wanted);
    }

    #[test]
    fn what_is_broken_is_left_to_the_library() {
        let mut other = b"GET / HTTP/1.1\r\n\r\n".to_vec();
        assert_eq!(through(&other, 3), other);
        other = PREFACE.to_vec();
        other.extend(frame(HEADERS, 0, 1, &[0xff; 40]));
        other.extend(frame(0, 0, 1, b"between"));
        assert_eq!(through(&other, 11), other);
        other = PREFACE.to_vec();
        other.extend(frame(HEADERS, END_HEADERS, 1, &[0xff; 40]));
        assert_eq!(through(&other, 11), other);
    }
}
