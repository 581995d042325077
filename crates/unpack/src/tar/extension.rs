//! What headers before an entry say of it: PAX records, GNU's long names.

use std::collections::BTreeMap;
use std::io::{BufRead, Read as _};

use super::{Archive, Time};
use crate::{TarError, pax};

/// What the headers before an entry say of it alone.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) records: Vec<Vec<u8>>,
    pub(super) long_name: Option<Vec<u8>>,
    pub(super) long_link: Option<Vec<u8>>,
    pub(super) size: u64,
}

/// All that is said of an entry beside its own header.
#[derive(Debug, Clone, Default)]
pub(super) struct Extension {
    pub(super) name: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) atime: Option<Time>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse_name: Option<Vec<u8>>,
    pub(super) sparse_size: Option<u64>,
    pub(super) sparse_pieces: Vec<u64>,
    pub(super) sparse_in_data: bool,
    pub(super) sparse: bool,
}

impl<R: BufRead> Archive<R> {
    /// What is said of the next entry: by its own headers before the global ones, whatever their order.
    pub(super) fn more(&self, said: Said) -> Result<Extension, TarError> {
        let mut more = self.global.clone();
        for records in &said.records {
            self.apply(records, &mut more)?;
        }
        // Readers do not agree which of the two counts, so whoever says both hides something from one of them.
        for (long, pax) in [(said.long_name, &mut more.name), (said.long_link, &mut more.link)] {
            match (long, &pax) {
                (Some(long), Some(other)) if long != *other => {
                    return self.malformed("a long name and a PAX path that disagree");
                }
                (Some(long), _) => *pax = Some(long),
                (None, _) => {}
            }
        }
        Ok(more)
    }

    /// The data of a header that is about others; `sum` counts them.
    pub(super) fn extension(&mut self, size: u64, sum: &mut u64) -> Result<Vec<u8>, TarError> {
        let limit = self.limits.extension;
        *sum = sum.saturating_add(size);
        if *sum > limit {
            return Err(TarError::Limit { what: "bytes in an extended header", limit });
        }
        self.begin(size)?;
        let mut data = Vec::new();
        self.read_to_end(&mut data).map_err(|source| TarError::Read { source })?;
        if self.left > 0 { Err(TarError::Truncated) } else { Ok(data) }
    }

    pub(super) fn apply(&self, data: &[u8], to: &mut Extension) -> Result<(), TarError> {
        let Some(records) = pax::records(data) else { return self.malformed("PAX records") };
        // The records of one header replace what a header before it said about sparse pieces.
        for (key, value) in records {
            let number = || match pax::number(value) {
                Some(number) => Ok(number),
                None => self.malformed("a number in the PAX records"),
            };
            match key {
                // Nothing takes back what was said before.
                b"path" => to.name = Some(value.to_vec()).filter(|name| !name.is_empty()),
                b"linkpath" => to.link = Some(value.to_vec()).filter(|name| !name.is_empty()),
                b"size" if value.is_empty() => to.size = None,
                b"uid" if value.is_empty() => to.uid = None,
                b"gid" if value.is_empty() => to.gid = None,
                b"size" => to.size = Some(number()?),
                b"uid" => to.uid = Some(number()?),
                b"gid" => to.gid = Some(number()?),
                b"mtime" => to.mtime = pax::time(value),
                b"atime" => to.atime = pax::time(value),
                b"GNU.sparse.name" => to.sparse_name = Some(value.to_vec()),
                b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                    to.sparse_size = Some(number()?);
                    to.sparse = true;
                }
                b"GNU.sparse.major" => to.sparse_in_data = value == b"1",
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => to.sparse_pieces.push(number()?),
                b"GNU.sparse.map" => {
                    for part in value.split(|&b| b == b',') {
                        let Some(part) = pax::number(part) else { return self.malformed("a sparse map") };
                        to.sparse_pieces.push(part);
                    }
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        to.xattrs.insert(name.to_vec(), value.to_vec());
                    }
                }
            }
            if to.sparse_pieces.len() > 2 * self.limits.sparse_pieces {
                let limit = self.limits.sparse_pieces as u64;
                return Err(TarError::Limit { what: "pieces of a sparse file", limit });
            }
        }
        Ok(())
    }
}
