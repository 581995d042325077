//! The bytes of the types: flat, little-endian, every record with its length in front.
//!
//! A reader takes the fields it knows and skips what a newer writer put behind them. Nothing is trusted: lengths are
//! checked before anything is allocated, strings for C have no NUL, numbers of things are bounded.

use std::ffi::CString;
use std::fmt;

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// It ends in the middle.
    Short,
    /// It does not begin as a frame does.
    Magic,
    /// A value that the field cannot have; the field's type is named.
    Value(&'static str),
    /// More of something than any real frame has.
    Large(&'static str),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("the frame ends in the middle"),
            Self::Magic => f.write_str("not a frame of the shim protocol"),
            Self::Value(what) => write!(f, "the frame has an impossible {what}"),
            Self::Large(what) => write!(f, "the frame has too many {what}"),
        }
    }
}

impl std::error::Error for WireError {}

/// Elements of any one list. Arguments, environment and mounts are bounded lower where they are made.
const MOST: u32 = 65_536;
/// Bytes of any one string; execve(2) takes 128 KiB.
const LONGEST: u32 = 8 * 1024 * 1024;

/// What is left to read.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.bytes(N)?.try_into().map_err(|_| WireError::Short)
    }

    /// Nothing is left: an older writer ended here.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A record: its own reader, so that what it does not read is skipped.
    fn record(&mut self) -> Result<Reader<'a>, WireError> {
        let length = u32::take(self)? as usize;
        self.bytes(length).map(Reader)
    }
}

/// A type with a form in bytes.
pub(crate) trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError>;
}

/// Writes a record: length, then whatever `fields` writes.
pub(crate) fn put_record(out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    fields(out);
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

pub(crate) fn take_record<T>(
    from: &mut Reader<'_>,
    fields: impl FnOnce(&mut Reader<'_>) -> Result<T, WireError>,
) -> Result<T, WireError> {
    fields(&mut from.record()?)
}

macro_rules! number {
    ($($kind:ty),*) => {$(
        impl Wire for $kind {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
                from.array().map(<$kind>::from_le_bytes)
            }
        }
    )*};
}
number!(u8, u16, u32, u64, i32, i64);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::take(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Value("bool")),
        }
    }
}

/// Bytes with their length; lists of bytes are not taken one by one.
pub(crate) struct Blob(pub(crate) Vec<u8>);

pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    (bytes.len() as u32).put(out);
    out.extend_from_slice(bytes);
}

impl Wire for Blob {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(&self.0, out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let length = u32::take(from)?;
        if length > LONGEST {
            return Err(WireError::Large("bytes"));
        }
        from.bytes(length as usize).map(|bytes| Self(bytes.to_vec()))
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Self::from_utf8(Blob::take(from)?.0).map_err(|_| WireError::Value("text"))
    }
}

impl Wire for CString {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Self::new(Blob::take(from)?.0).map_err(|_| WireError::Value("C string"))
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        bool::take(from)?.then(|| T::take(from)).transpose()
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        for value in self {
            value.put(out);
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = u32::take(from)?;
        if count > MOST {
            return Err(WireError::Large("elements"));
        }
        // Grown as elements really come: a short frame with a large count allocates nothing.
        let mut list = Self::new();
        for _ in 0..count {
            list.push(T::take(from)?);
        }
        Ok(list)
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok((A::take(from)?, B::take(from)?))
    }
}

impl<T: Wire> Wire for [T; 3] {
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|value| value.put(out));
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok([T::take(from)?, T::take(from)?, T::take(from)?])
    }
}

impl<T: Wire> Wire for Box<T> {
    fn put(&self, out: &mut Vec<u8>) {
        T::put(self, out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        T::take(from).map(Self::new)
    }
}

/// A struct as a record of its fields, in this order for ever; new ones go behind `later`, and are their type's default
/// where a writer of before did not write them.
macro_rules! record {
    ($name:ident { $($field:ident),* $(,)? } $( later { $($later:ident),* $(,)? } )?) => {
        impl $crate::codec::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $crate::codec::put_record(out, |out| {
                    $( $crate::codec::Wire::put(&self.$field, out); )*
                    $( $( $crate::codec::Wire::put(&self.$later, out); )* )?
                });
            }
            fn take(from: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::codec::WireError> {
                $crate::codec::take_record(from, |from| Ok(Self {
                    $( $field: $crate::codec::Wire::take(from)?, )*
                    $( $( $later: if from.is_empty() {
                        Default::default()
                    } else {
                        $crate::codec::Wire::take(from)?
                    }, )* )?
                }))
            }
        }
    };
}

/// An enum as its number and a record of the variant's fields.
macro_rules! choice {
    ($name:ident { $( $number:literal => $variant:ident $( ( $($item:ident),* ) )? $( { $($field:ident),* } )? ),* $(,)? }) => {
        impl $crate::codec::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self { $(
                    Self::$variant $( ( $($item),* ) )? $( { $($field),* } )? => {
                        $crate::codec::Wire::put(&($number as u16), out);
                        $crate::codec::put_record(out, |_out| {
                            $( $( $crate::codec::Wire::put($item, _out); )* )?
                            $( $( $crate::codec::Wire::put($field, _out); )* )?
                        });
                    }
                )* }
            }
            fn take(from: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::codec::WireError> {
                let number = <u16 as $crate::codec::Wire>::take(from)?;
                $crate::codec::take_record(from, |_from| match number {
                    $( $number => {
                        $( $( let $item = $crate::codec::Wire::take(_from)?; )* )?
                        $( $( let $field = $crate::codec::Wire::take(_from)?; )* )?
                        Ok(Self::$variant $( ( $($item),* ) )? $( { $($field),* } )?)
                    } )*
                    _ => Err($crate::codec::WireError::Value(stringify!($name))),
                })
            }
        }
    };
}

pub(crate) use {choice, record};
