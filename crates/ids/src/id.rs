use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Why a string is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} id {text:?} is not 64 lower-case hex digits")]
pub struct IdError {
    kind: &'static str,
    text: String,
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Takes 64 lower-case hex digits (cAdvisor finds cgroups by exactly this form).
            pub fn parse(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                if is_hex64(&text) { Ok(Self(text)) } else { Err(IdError { kind: $kind, text }) }
            }

            /// An id from 32 random bytes; the caller brings the randomness.
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 digits, for names of limited length and for people.
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

hex_id!(
    /// A pod sandbox.
    SandboxId,
    "sandbox"
);
hex_id!(
    /// A container of a pod.
    ContainerId,
    "container"
);

/// One exec in a container; unique within its shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExecId(pub u64);

/// An image: the digest of its config blob, equal from whichever registry it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageId(pub Digest);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_64_lower_case_hex_digits_are_an_id() {
        let ok = "0123456789abcdef".repeat(4);
        assert_eq!(SandboxId::parse(ok.clone()).unwrap().as_str(), ok);
        for bad in ["", "abc", &ok[1..], &ok.to_uppercase(), &format!("{}/", &ok[1..]), &format!("{ok}0")] {
            assert!(SandboxId::parse(bad).is_err(), "{bad:?} was taken as an id");
        }
    }

    #[test]
    fn bytes_become_hex() {
        let id = ContainerId::from_bytes([0xab; 32]);
        assert_eq!(id.as_str(), "ab".repeat(32));
        assert_eq!(id.short(), "abababababab");
    }
}
