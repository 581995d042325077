//! What an image is made for, and how well that runs on a machine.

use std::fmt;
use std::str::FromStr;

use berth_ids::{Classify, ErrorClass};
use serde::Deserialize;

/// As indexes and image configs have it (OCI image spec, image-index.md), with Go's names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) variant: String,
    #[serde(default, rename = "os.version")]
    pub(crate) os_version: String,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "platform {text:?}: it is OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64 or linux/arm/v7"
)]
pub struct PlatformError {
    text: String,
}

impl Classify for PlatformError {
    fn class(&self) -> ErrorClass {
        ErrorClass::InvalidArgument
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let word = |part: &&str| {
            let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            !part.is_empty() && part.len() <= 32 && part.bytes().all(good)
        };
        let parts: Vec<&str> = text.split('/').collect();
        let lower = |part: &str| part.to_ascii_lowercase();
        match parts[..] {
            [os, architecture, ref variant @ ..] if variant.len() < 2 && parts.iter().all(word) => Ok(Self {
                os: lower(os),
                architecture: usual(&lower(architecture)).to_owned(),
                variant: variant.first().map(|variant| lower(variant)).unwrap_or_default(),
                os_version: String::new(),
            }),
            _ => Err(PlatformError { text: text.chars().take(100).collect() }),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        if !self.os_version.is_empty() {
            write!(f, " ({})", self.os_version)?;
        }
        Ok(())
    }
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Self {
            architecture: architecture.into(),
            os: "linux".into(),
            variant: variant.into(),
            ..Self::default()
        }
    }

    /// Whether this machine is known to run what is made for it.
    pub fn runs_here(&self) -> bool {
        self.rank(&Self::host()).is_some()
    }

    /// Whether they are of one architecture and system, whatever the variant: configs often leave it away.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.os.eq_ignore_ascii_case(&other.os) && usual(&self.architecture) == usual(&other.architecture)
    }

    /// How well its images run where `host` is wanted, 0 best; `None`: they do not.
    ///
    /// arm64 without a variant is v8, arm without one v7 (containerd's `platforms`, OCI image-index.md); a lower variant runs
    /// on a higher machine. So do amd64's microarchitecture levels; one without is v1, and of this machine no more is
    /// known without asking the processor. `os.version` is for Windows: on Linux one without comes first.
    pub(crate) fn rank(&self, host: &Self) -> Option<u32> {
        if !self.is_like(host) {
            return None;
        }
        let number = |text: &str, without: u32| match text {
            "" => Some(without),
            text => text.strip_prefix('v').unwrap_or(text).split('.').next()?.parse::<u32>().ok(),
        };
        let lower =
            |without: u32| number(&host.variant, without)?.checked_sub(number(&self.variant, without)?);
        let distance = match usual(&host.architecture) {
            "arm64" => lower(8)?,
            "arm" => lower(7)?,
            "amd64" => lower(1)?,
            _ if self.variant == host.variant => 0,
            _ => 1,
        };
        Some(distance.saturating_mul(2) + u32::from(!self.os_version.is_empty()))
    }
}

/// The usual name of an architecture that has several.
fn usual(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "armhf" | "armel" => "arm",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_as_a_person_writes_them() {
        for (text, expected) in [
            ("linux/amd64", Some("linux/amd64")),
            ("Linux/x86_64", Some("linux/amd64")),
            ("linux/aarch64/v8", Some("linux/arm64/v8")),
            ("windows/amd64", Some("windows/amd64")),
            ("linux", None),
            ("linux/", None),
            ("/amd64", None),
            ("linux/arm/v7/x", None),
            ("linux/a b", None),
            ("", None),
        ] {
            let found = text.parse::<Platform>().ok().map(|platform| platform.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        assert!(Platform::host().runs_here());
        assert!(!"plan9/amd64".parse::<Platform>().unwrap().runs_here());
    }
}
