use flate2::{Decompress, FlushDecompress, Status};

use super::dictionary::{ID, dictionary};
use super::{BLOCK_MAX, Error, HEADERS_MAX};

/// Names in lower case with their values; a name with several values has them separated by NUL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of the name, which is given in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        value.split('\0').next()
    }

    pub(crate) fn parse(mut block: &[u8]) -> Result<Self, Error> {
        let count = number(&mut block)?;
        if count > HEADERS_MAX {
            return Err(Error::Block("too many headers"));
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let name = text(&mut block)?.to_lowercase();
            let value = text(&mut block)?;
            if name.is_empty() {
                return Err(Error::Block("a name is empty"));
            }
            headers.push((name, value));
        }
        if !block.is_empty() {
            return Err(Error::Block("bytes after the last header"));
        }
        Ok(Self(headers))
    }

    pub(super) fn block(&self) -> Vec<u8> {
        let mut block = (self.0.len() as u32).to_be_bytes().to_vec();
        for part in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((part.len() as u32).to_be_bytes());
            block.extend(part.as_bytes());
        }
        block
    }
}

fn number(block: &mut &[u8]) -> Result<usize, Error> {
    let (bytes, rest) = block.split_first_chunk::<4>().ok_or(Error::Block("cut short"))?;
    *block = rest;
    Ok(u32::from_be_bytes(*bytes) as usize)
}

fn text(block: &mut &[u8]) -> Result<String, Error> {
    let length = number(block)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or(Error::Block("cut short"))?;
    *block = rest;
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::Block("a text is not UTF-8"))
}

/// The receiving end of a connection's one zlib stream of header blocks.
pub(super) struct Inflater {
    zlib: Decompress,
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self { zlib: Decompress::new(true) }
    }

    /// One block: everything the frame carried, to a flush.
    pub(super) fn block(&mut self, mut compressed: &[u8]) -> Result<Vec<u8>, Error> {
        let mut block = vec![0; 1024];
        let mut filled = 0;
        loop {
            let (taken, given) = (self.zlib.total_in(), self.zlib.total_out());
            let room = block.get_mut(filled..).unwrap_or_default();
            let answer = self.zlib.decompress(compressed, room, FlushDecompress::Sync);
            let taken = (self.zlib.total_in() - taken) as usize;
            let given = (self.zlib.total_out() - given) as usize;
            compressed = compressed.get(taken..).unwrap_or_default();
            filled += given;
            match answer {
                Ok(Status::StreamEnd) => return Err(Error::Block("the zlib stream ended")),
                Ok(_) => {}
                Err(error) => match error.needs_dictionary() {
                    Some(ID) => {
                        let primed = self.zlib.set_dictionary(dictionary());
                        primed.map_err(|_| Error::Block("the dictionary does not fit"))?;
                        continue;
                    }
                    Some(_) => return Err(Error::Block("another dictionary than SPDY's")),
                    None => return Err(Error::Block("not zlib")),
                },
            }
            if filled == block.len() {
                if filled >= BLOCK_MAX {
                    return Err(Error::Block("too large"));
                }
                block.resize((filled * 4).min(BLOCK_MAX), 0);
            } else if compressed.is_empty() {
                block.truncate(filled);
                return Ok(block);
            } else if taken == 0 && given == 0 {
                return Err(Error::Block("not zlib"));
            }
        }
    }
}
