//! The registers of a rule, byte by byte, some of them not known.

use super::packet::Byte;

/// What a comparison says of bytes that may not be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    No,
    Perhaps,
}

impl Answer {
    pub(crate) fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Perhaps => Self::Perhaps,
        }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Perhaps,
        }
    }
}

impl From<bool> for Answer {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// Twenty words; the first four are the verdict.
const BYTES: usize = 80;

#[derive(Debug, Clone)]
pub(crate) struct Registers([Byte; BYTES]);

impl Default for Registers {
    fn default() -> Self {
        // The kernel does not clear them either.
        Self([None; BYTES])
    }
}

impl Registers {
    /// NFT_REG_1 to 4 have sixteen bytes each, NFT_REG32_00 and on four of the same.
    fn start(register: u32) -> usize {
        let register = register as usize;
        let at = if register < 8 { register * 16 } else { 16 + (register - 8) * 4 };
        at.min(BYTES)
    }

    pub(crate) fn set(&mut self, register: u32, bytes: &[Byte]) {
        let start = Self::start(register);
        // What is shorter than its last register is filled up with zeros.
        let padded = bytes.len().next_multiple_of(4);
        for at in 0..padded.min(BYTES - start) {
            self.0[start + at] = bytes.get(at).copied().unwrap_or(Some(0));
        }
    }

    pub(crate) fn get(&self, register: u32, length: usize) -> &[Byte] {
        let start = Self::start(register);
        &self.0[start..(start + length).min(BYTES)]
    }

    /// What is known from a register on, for a key whose length the set knows.
    pub(crate) fn known(&self, register: u32) -> Vec<u8> {
        self.0[Self::start(register)..].iter().map_while(|byte| *byte).collect()
    }

    pub(crate) fn equals(&self, register: u32, value: &[u8]) -> Answer {
        let bytes = self.get(register, value.len());
        if bytes.len() < value.len() {
            return Answer::Perhaps;
        }
        bytes.iter().zip(value).fold(Answer::Yes, |so_far, (byte, value)| {
            so_far.and(byte.map_or(Answer::Perhaps, |b| (b == *value).into()))
        })
    }

    /// As memcmp(3): `None` where it depends on what is not known.
    pub(crate) fn order(&self, register: u32, value: &[u8]) -> Option<std::cmp::Ordering> {
        let bytes: Option<Vec<u8>> = self.get(register, value.len()).iter().copied().collect();
        bytes.filter(|bytes| bytes.len() == value.len()).map(|bytes| bytes.as_slice().cmp(value))
    }
}
