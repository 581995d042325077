//! The texts of the kernel's files; what does not read as expected counts as not there.

use berth_model::{DeviceIo, Psi, Stall};

pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// v2: a number or `max`.
pub(super) fn limit_v2(text: &str) -> Option<u64> {
    number(text)
}

/// v1: no limit is the largest multiple of a page in an i64.
pub(super) fn limit_v1(text: &str) -> Option<u64> {
    number(text).filter(|limit| *limit < i64::MAX as u64 - (1 << 20))
}

/// A file of `key value` lines.
pub(super) struct Keyed<'a>(pub(super) &'a str);

impl Keyed<'_> {
    /// 0 for a key that is not there.
    pub(super) fn get(&self, key: &str) -> u64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.and_then(number).unwrap_or(0)
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
pub(super) fn io_v2(text: &str) -> Vec<DeviceIo> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let mut io = device(words.next()?)?;
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = number(value)?;
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.write_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
        Some(io)
    };
    text.lines().filter_map(line).collect()
}

/// `8:0 Read 4096`, one line for each device and kind, and a total at the end.
pub(super) fn io_v1(bytes: &str, operations: &str) -> Vec<DeviceIo> {
    let mut found: Vec<DeviceIo> = Vec::new();
    let mut add = |text: &str, set: fn(&mut DeviceIo, &str, u64)| {
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(name), Some(kind), Some(value)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let (Some(new), Some(value)) = (device(name), number(value)) else { continue };
            let known = found.iter().position(|io| (io.major, io.minor) == (new.major, new.minor));
            let at = known.unwrap_or_else(|| {
                found.push(new);
                found.len() - 1
            });
            set(&mut found[at], kind, value);
        }
    };
    add(bytes, |io, kind, value| match kind {
        "Read" => io.read_bytes = value,
        "Write" => io.write_bytes = value,
        _ => {}
    });
    add(operations, |io, kind, value| match kind {
        "Read" => io.reads = value,
        "Write" => io.writes = value,
        _ => {}
    });
    found
}

fn device(name: &str) -> Option<DeviceIo> {
    let (major, minor) = name.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    Some(DeviceIo { name: name.to_owned(), major, minor, ..DeviceIo::default() })
}

/// Two lines, `some` and `full`; older kernels have no `full` for the CPU.
pub(super) fn psi(text: &str) -> Option<Psi> {
    let mut psi = Psi::default();
    let mut seen = false;
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        let mut stall = Stall::default();
        for (key, value) in rest.split(' ').filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => stall.avg10 = value.parse().ok()?,
                "avg60" => stall.avg60 = value.parse().ok()?,
                "avg300" => stall.avg300 = value.parse().ok()?,
                "total" => stall.total = number(value)?.saturating_mul(1000),
                _ => {}
            }
        }
        match kind {
            "some" => psi.some = stall,
            "full" => psi.full = stall,
            _ => continue,
        }
        seen = true;
    }
    seen.then_some(psi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_their_absence() {
        for (text, v1, v2) in [
            ("4096\n", Some(4096), Some(4096)),
            ("max\n", None, None),
            ("9223372036854771712\n", None, Some(9_223_372_036_854_771_712)),
            ("0\n", Some(0), Some(0)),
            ("", None, None),
        ] {
            assert_eq!((limit_v1(text), limit_v2(text)), (v1, v2), "{text:?}");
        }
    }

    #[test]
    fn keys_are_whole_words() {
        let stat = Keyed("anon_thp 5\nanon 7\nfile_mapped 1\nfile 2\nbad x\n");
        for (key, value) in [("anon", 7), ("file", 2), ("file_mapped", 1), ("none", 0), ("bad", 0)] {
            assert_eq!(stat.get(key), value, "{key}");
        }
    }

    #[test]
    fn io_of_both_versions() {
        let one = DeviceIo {
            name: "8:16".into(),
            major: 8,
            minor: 16,
            read_bytes: 1,
            write_bytes: 2,
            reads: 3,
            writes: 4,
        };
        let other =
            DeviceIo { name: "253:0".into(), major: 253, write_bytes: 9, writes: 1, ..DeviceIo::default() };
        let both = [one, other];
        assert_eq!(
            io_v2(
                "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n253:0 rbytes=0 wbytes=9 rios=0 wios=1\n"
            ),
            both
        );
        assert_eq!(
            io_v1(
                "8:16 Read 1\n8:16 Write 2\n8:16 Sync 3\n8:16 Total 3\n253:0 Write 9\nTotal 12\n",
                "8:16 Read 3\n8:16 Write 4\n253:0 Write 1\nTotal 8\n",
            ),
            both
        );
        assert_eq!((io_v1("Total 0\n", ""), io_v2("")), (Vec::new(), Vec::new()));
    }

    #[test]
    fn pressure_is_in_nanoseconds() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.10 total=3\n";
        let psi = super::psi(text).unwrap();
        assert_eq!((psi.some.total, psi.full.total), (12_000, 3_000));
        assert_eq!((psi.some.avg10, psi.some.avg60, psi.full.avg300), (1.5, 0.25, 0.1));
        assert!(super::psi("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n").is_some());
        for bad in ["", "garbage", "some avg10=x total=1"] {
            assert!(super::psi(bad).is_none(), "{bad:?}");
        }
    }
}
