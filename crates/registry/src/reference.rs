use std::fmt;
use std::str::FromStr;

use berth_ids::{Classify, Digest, ErrorClass};

/// An image's name in full: host, repository, and a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image reference {text:?}: {problem}")]
pub struct ReferenceError {
    text: String,
    problem: &'static str,
}

impl Classify for ReferenceError {
    fn class(&self) -> ErrorClass {
        ErrorClass::InvalidArgument
    }
}

const DEFAULT_HOST: &str = "docker.io";

impl Reference {
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Without the host.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// `host/repository`
    pub fn place(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// `host/repository:tag`, when there is a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}/{}:{tag}", self.host, self.repository))
    }

    /// `host/repository@digest` for a digest of this repository.
    pub fn pinned(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.host, self.repository)
    }

    /// What a registry is asked for: the digest decides when there is one.
    pub fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }
}

/// A host has a dot or a port, or is localhost (Docker's rule for telling it from a repository).
fn is_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost"
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository may have no capital letters");
    }
    let part = |part: &str| {
        let inner = part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        inner && edge(part.bytes().next()) && edge(part.bytes().last()) && !part.contains("..")
    };
    match repository.len() <= 255 && repository.split('/').all(part) {
        true => Ok(()),
        false => Err("the repository may have lower-case letters, digits and single . _ - between them"),
    }
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let first = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    match first && tag.len() <= 128 && tag.bytes().all(ok) {
        true => Ok(()),
        false => Err("the tag may have letters, digits and . _ -, and at most 128 of them"),
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "the host is no IPv6 address")?;
            ("", rest.strip_prefix(':').or(Some("").filter(|_| rest.is_empty())))
        }
        None => match host.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("")),
        },
    };
    // Settings are looked for in a directory of this name: `..` must be none.
    let label = |label: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        inner && edge(label.bytes().next()) && edge(label.bytes().last())
    };
    let named = name.is_empty() == host.starts_with('[') && (name.is_empty() || name.split('.').all(label));
    match port {
        Some("") if named => Ok(()),
        Some(port) if named && port.parse::<u16>().is_ok() => Ok(()),
        _ => Err("the host is no name or address with a port"),
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// `[host/]repository[:tag][@digest]`; the missing parts are docker.io, library/ and latest.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let fail = |problem| ReferenceError { text: text.chars().take(300).collect(), problem };
        if text.is_empty() || text.len() > 1024 {
            return Err(fail("it is empty or longer than 1024 bytes"));
        }
        if text.contains("://") {
            return Err(fail("it is no URL: leave the scheme away, hosts.toml says how a registry is asked"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|_| fail("the digest is not sha256 and 64 hex digits"))?))
            }
            None => (text, None),
        };
        let (host, rest) = match rest.split_once('/') {
            Some((host, rest)) if is_host(host) => (host, rest),
            _ => (DEFAULT_HOST, rest),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (rest, None),
        };
        check_host(host).map_err(fail)?;
        let repository = match (host, repository.contains('/')) {
            (DEFAULT_HOST, false) => format!("library/{repository}"),
            _ => repository.to_owned(),
        };
        check_repository(&repository).map_err(fail)?;
        if let Some(tag) = tag {
            check_tag(tag).map_err(fail)?;
        }
        let tag = tag.or((digest.is_none()).then_some("latest")).map(str::to_owned);
        Ok(Self { host: host.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("a/b", "docker.io/a/b:latest".into()),
            ("localhost/x:1", "localhost/x:1".into()),
            ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest".into()),
            ("r.io/a/b/c:v1.2", "r.io/a/b/c:v1.2".into()),
            ("[::1]:5000/x:1", "[::1]:5000/x:1".into()),
            (&format!("r.io/x@{digest}"), format!("r.io/x@{digest}")),
            (&format!("r.io/x:1@{digest}"), format!("r.io/x:1@{digest}")),
        ] {
            assert_eq!(text.parse::<Reference>().map(|r| r.to_string()), Ok(full), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let long = "a".repeat(2000);
        for bad in [
            "",
            "UPPER/x",
            "a//b",
            "a/../b",
            "x:",
            "x:-t",
            "x@sha256:1",
            "r.io:port/x",
            "/x",
            "x y",
            "../x",
            "a../x",
            ".:1/x",
            ":1/x",
            "-a.b/x",
            "http://r.io/x",
            &long,
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }
}
