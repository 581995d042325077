//! Numbers of tar headers.

/// Octal digits with blanks or zeros around them (POSIX.1-2017 pax, "ustar Interchange Format"), or GNU's base 256: the highest
/// bit set, then a two's complement number. Empty is 0; `None` for everything else. A field has 12 bytes at most.
pub(crate) fn number(field: &[u8]) -> Option<i128> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => {
            // The bit after the mark is the sign.
            let first = i128::from(first & 0x7f) - if first & 0x40 != 0 { 0x80 } else { 0 };
            Some(field[1..].iter().fold(first, |sum, &byte| (sum << 8) | i128::from(byte)))
        }
        _ => {
            let blank = |byte: &u8| matches!(byte, b' ' | 0);
            let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
            let end = field.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
            field[start..end].iter().try_fold(0, |sum, digit| match digit {
                b'0'..=b'7' => Some((sum << 3) | i128::from(digit - b'0')),
                _ => None,
            })
        }
    }
}

/// A number that is not negative.
pub(crate) fn unsigned(field: &[u8]) -> Option<u64> {
    u64::try_from(number(field)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let cases: [(&[u8], Option<i128>); 14] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (b"\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"", Some(0)),
            (b"64 4", None),
            (b"0000648", None),
            (b"-000001", None),
            (b"0x10", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\x01\0\0\0\0\0\0\0\0\0\0", Some(1 << 80)),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some((1 << 94) - 1)),
        ];
        for (field, want) in cases {
            assert_eq!(number(field), want, "{}", field.escape_ascii());
        }
        assert_eq!(unsigned(b"\xff\xff"), None);
        assert_eq!(unsigned(b"\x80\x01\0\0\0\0\0\0\0\0\0\0"), None);
    }
}
