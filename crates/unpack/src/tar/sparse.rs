//! Sparse files: GNU's old headers, and the maps of PAX, before the data or in it.

use std::io::{BufRead, Read as _};

use tar::{GnuExtSparseHeader, Header};

use super::{Archive, BLOCK, Sparse};
use crate::field::unsigned;
use crate::{TarError, pax};

impl<R: BufRead> Archive<R> {
    pub(super) fn old_sparse(&mut self, header: &Header) -> Result<Sparse, TarError> {
        let Some(gnu) = header.as_gnu() else { return self.malformed("a sparse entry without GNU header") };
        let mut pieces = Vec::new();
        let real_size = unsigned(&gnu.realsize);
        let mut add = |list: &[tar::GnuSparseHeader]| -> Option<()> {
            for piece in list.iter().filter(|piece| !piece.is_empty()) {
                pieces.push((unsigned(&piece.offset)?, unsigned(&piece.numbytes)?));
            }
            Some(())
        };
        let mut good = add(&gnu.sparse);
        let mut extended = gnu.is_extended();
        let mut blocks = 0;
        while extended && good.is_some() {
            blocks += 1;
            if blocks * 21 > self.limits.sparse_pieces {
                let limit = self.limits.sparse_pieces as u64;
                return Err(TarError::Limit { what: "pieces of a sparse file", limit });
            }
            let mut block = GnuExtSparseHeader::new();
            if !self.block(block.as_mut_bytes())? {
                return Err(TarError::Truncated);
            }
            good = add(block.sparse());
            extended = block.is_extended();
        }
        match (good, real_size) {
            (Some(()), Some(real_size)) => Ok(Sparse { pieces, real_size }),
            _ => self.malformed("a sparse map"),
        }
    }

    /// GNU's PAX format 1.0: decimal lines before the data, filled up to a block.
    pub(super) fn sparse_in_data(&mut self) -> Result<Vec<u64>, TarError> {
        let mut numbers = Vec::new();
        let (mut digits, mut want, mut read) = (Vec::new(), None, 0_u64);
        while want.is_none_or(|want| numbers.len() < want) {
            let mut byte = [0];
            if self.read(&mut byte).map_err(|source| TarError::Read { source })? == 0 {
                return Err(TarError::Truncated);
            }
            read += 1;
            if byte[0] != b'\n' {
                digits.push(byte[0]);
                if digits.len() > 20 {
                    return self.malformed("a sparse map");
                }
                continue;
            }
            let Some(number) = pax::number(&digits) else { return self.malformed("a sparse map") };
            digits.clear();
            match want {
                Some(_) => numbers.push(number),
                None if number > self.limits.sparse_pieces as u64 => {
                    let limit = self.limits.sparse_pieces as u64;
                    return Err(TarError::Limit { what: "pieces of a sparse file", limit });
                }
                None => want = Some(2 * number as usize),
            }
        }
        let fill = read.next_multiple_of(BLOCK) - read;
        if fill > self.left {
            return self.malformed("a sparse map");
        }
        self.left -= fill;
        self.skip(fill)?;
        Ok(numbers)
    }

    pub(super) fn check_sparse(&self, sparse: &Sparse) -> Result<(), TarError> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for &(offset, length) in &sparse.pieces {
            let next = offset.checked_add(length);
            match next {
                Some(next) if offset >= end && next <= sparse.real_size => end = next,
                _ => return self.malformed("a sparse map"),
            }
            sum += length;
        }
        if sum != self.left {
            return self.malformed("a sparse map that disagrees with the size");
        }
        if sparse.real_size > self.limits.bytes {
            return Err(TarError::Limit { what: "bytes", limit: self.limits.bytes });
        }
        Ok(())
    }
}
