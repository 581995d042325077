//! PAX extended header records (POSIX.1-2017 pax, "pax Extended Header"): `length key=value\n`.

use crate::Time;

/// The records of one header block; values are bytes, since extended attributes hold any.
pub(crate) fn records(mut data: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    while !data.is_empty() && data[0] != 0 {
        let space = data.iter().position(|&b| b == b' ')?;
        let length: usize = number(&data[..space])?.try_into().ok()?;
        if length > data.len() || length < space + 3 || data[length - 1] != b'\n' {
            return None;
        }
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|&b| b == b'=')?;
        records.push((&record[..equals], &record[equals + 1..]));
        data = &data[length..];
    }
    Some(records)
}

/// Plain decimal digits.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `-12.345678901`: seconds since the epoch, possibly before it, with a fraction.
pub(crate) fn time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = i64::try_from(number(whole.as_bytes())?).ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}")[..9].parse().ok()?;
    Some(match (negative, nanos) {
        (false, _) => Time { seconds, nanos },
        (true, 0) => Time { seconds: -seconds, nanos },
        (true, _) => Time { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_newlines_and_zeros() {
        let got = records(b"13 a=x\ny\0zw\n\n5 b=\n").unwrap();
        assert_eq!(got, [(&b"a"[..], &b"x\ny\0zw\n"[..]), (b"b", b"")]);
        for bad in [&b"99 a=b\n"[..], b"6 ab\n", b"x a=b\n", b"6 a=bc", b"0 a=b\n", b"1 \n", b"-6 a=b\n"] {
            assert!(records(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn times() {
        let t = |seconds, nanos| Some(Time { seconds, nanos });
        for (text, want) in [
            ("12", t(12, 0)),
            ("12.5", t(12, 500_000_000)),
            ("12.1234567899", t(12, 123_456_789)),
            ("-1", t(-1, 0)),
            ("-1.25", t(-2, 750_000_000)),
            ("x", None),
            ("1.x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text.as_bytes()), want, "{text}");
        }
    }
}
