use super::dictionary::ID;
use super::{FLAG_FIN, GoAwayStatus, HEAD, Headers, ResetStatus, StreamId, VERSION, kind};

/// Head of a data frame whose payload of `length` bytes (24 bits) follows.
pub fn data_head(stream: StreamId, length: usize, fin: bool) -> [u8; HEAD] {
    let flags = if fin { u32::from(FLAG_FIN) << 24 } else { 0 };
    join(stream.0, flags | (length as u32 & 0x00ff_ffff))
}

/// Writes frames. Header blocks go out uncompressed, in zlib's stored form: a compressor would keep 256 KiB for the life
/// of a connection whose headers are all but empty.
#[derive(Debug, Default)]
pub struct Encoder {
    /// The zlib stream of header blocks has begun.
    begun: bool,
}

impl Encoder {
    pub fn open(&mut self, stream: StreamId, headers: &Headers, fin: bool) -> Vec<u8> {
        let mut payload = stream.0.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        payload.extend(self.stored(&headers.block()));
        control(kind::SYN_STREAM, fin, &payload)
    }

    /// Opens stream 1 with a block that may be none.
    #[cfg(feature = "fuzz")]
    pub(crate) fn open_raw(&mut self, block: &[u8]) -> Vec<u8> {
        let mut payload = vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        payload.extend(self.stored(block));
        control(kind::SYN_STREAM, false, &payload)
    }

    /// Accepts a stream.
    pub fn reply(&mut self, stream: StreamId) -> Vec<u8> {
        let mut payload = stream.0.to_be_bytes().to_vec();
        payload.extend(self.stored(&Headers::default().block()));
        control(kind::SYN_REPLY, false, &payload)
    }

    pub fn reset(&self, stream: StreamId, status: ResetStatus) -> Vec<u8> {
        control(kind::RST_STREAM, false, &join(stream.0, status as u32))
    }

    pub fn ping(&self, id: u32) -> Vec<u8> {
        control(kind::PING, false, &id.to_be_bytes())
    }

    /// `last`: of the streams that were accepted.
    pub fn go_away(&self, last: StreamId, status: GoAwayStatus) -> Vec<u8> {
        control(kind::GOAWAY, false, &join(last.0, status as u32))
    }

    fn stored(&mut self, block: &[u8]) -> Vec<u8> {
        let mut stream = Vec::new();
        if !self.begun {
            self.begun = true;
            // RFC 1950: deflate with a window of 32 KiB, a preset dictionary, and the check bits.
            stream.extend([0x78, 0xbb]);
            stream.extend(ID.to_be_bytes());
        }
        // RFC 1951, 3.2.4. The empty block behind is what readers take for a flush.
        for chunk in block.chunks(0xffff).chain([[].as_slice()]) {
            let length = chunk.len() as u16;
            stream.push(0);
            stream.extend(length.to_le_bytes());
            stream.extend((!length).to_le_bytes());
            stream.extend(chunk);
        }
        stream
    }
}

fn control(kind: u16, fin: bool, payload: &[u8]) -> Vec<u8> {
    let first = 0x8000_0000 | u32::from(VERSION) << 16 | u32::from(kind);
    let flags = if fin { u32::from(FLAG_FIN) << 24 } else { 0 };
    let mut frame = join(first, flags | payload.len() as u32).to_vec();
    frame.extend(payload);
    frame
}

fn join(first: u32, second: u32) -> [u8; 8] {
    let [a, b, c, d] = first.to_be_bytes();
    let [e, f, g, h] = second.to_be_bytes();
    [a, b, c, d, e, f, g, h]
}
