//! CRC-32 of file contents: it tells a damaged file from a whole one and costs a twentieth of a digest. Whoever may
//! write to a layer may write its sum as well; that is not what it is for.

use flate2::Crc;

/// Runs shorter than this are summed as the zeros they are.
const SHORT: usize = 4096;
/// Powers of two up to 1 GiB: [`Crc`] counts bytes in 32 bits.
const POWERS: usize = 31;

/// Sums of runs of zeros, by doubling.
pub(crate) struct Zeros(Vec<Crc>);

impl Default for Zeros {
    fn default() -> Self {
        let mut first = Crc::new();
        first.update(&[0]);
        let mut powers = vec![first];
        while powers.len() < POWERS {
            let mut next = Crc::new();
            for _ in 0..2 {
                next.combine(&powers[powers.len() - 1]);
            }
            powers.push(next);
        }
        Self(powers)
    }
}

impl Zeros {
    /// Adds `count` zeros to a sum without touching as many bytes.
    pub(crate) fn add(&self, sum: &mut Crc, mut count: u64) {
        if count < SHORT as u64 {
            sum.update(&[0; SHORT][..count as usize]);
            return;
        }
        let largest = POWERS - 1;
        while count >= 1 << largest {
            sum.combine(&self.0[largest]);
            count -= 1 << largest;
        }
        for (power, zeros) in self.0.iter().enumerate().take(largest) {
            if count & (1 << power) != 0 {
                sum.combine(zeros);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_summed_as_if_they_were_read() {
        let zeros = Zeros::default();
        for count in [0, 1, 4095, 4096, 70_001, 3 << 20] {
            let (mut by_run, mut by_byte) = (Crc::new(), Crc::new());
            for sum in [&mut by_run, &mut by_byte] {
                sum.update(b"head");
            }
            zeros.add(&mut by_run, count);
            by_byte.update(&vec![0; count as usize]);
            for sum in [&mut by_run, &mut by_byte] {
                sum.update(b"tail");
            }
            assert_eq!(by_run.sum(), by_byte.sum(), "{count} zeros");
        }
        let (mut at_once, mut by_parts) = (Crc::new(), Crc::new());
        zeros.add(&mut at_once, 5 << 30);
        for _ in 0..10 {
            zeros.add(&mut by_parts, 1 << 29);
        }
        assert_eq!(at_once.sum(), by_parts.sum());
    }
}
