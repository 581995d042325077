//! Images that whoever runs the node keeps: the kubelet's collection of unused images passes over them.

use berth_ids::Digest;
use berth_registry::Reference;

use crate::Image;

/// One of them, or many by one pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// `host/repository:tag` or `host/repository@digest`.
    Name(String),
    Id(Digest),
    /// Parts of a name in full, with anything between them.
    Pattern(Vec<String>),
}

impl Pin {
    /// Of a name (missing parts as a pull has them), an id, or a pattern with `*` for anything, `/` and `:` included, over
    /// names in full.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains('*') {
            return Ok(Self(Kind::Pattern(text.split('*').map(str::to_owned).collect())));
        }
        if let Ok(id) = text.parse::<Digest>() {
            return Ok(Self(Kind::Id(id)));
        }
        let reference = text.parse::<Reference>().map_err(|error| error.to_string())?;
        let name = match reference.digest() {
            Some(digest) => reference.pinned(digest),
            None => reference.tagged().unwrap_or_default(),
        };
        Ok(Self(Kind::Name(name)))
    }

    pub(crate) fn keeps(&self, image: &Image) -> bool {
        let mut names = image.repo_tags.iter().chain(&image.repo_digests);
        match &self.0 {
            Kind::Id(id) => image.id.0 == *id,
            Kind::Name(wanted) => names.any(|name| name == wanted),
            Kind::Pattern(parts) => names.any(|name| fits(name, parts)),
        }
    }
}

/// Whether the parts follow each other in the name, the first at its beginning, the last at its end.
fn fits(name: &str, parts: &[String]) -> bool {
    let [first, between @ .., last] = parts else { return false };
    let Some(mut rest) = name.strip_prefix(first.as_str()) else { return false };
    for part in between {
        let Some(at) = rest.find(part.as_str()) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let id = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let mut image = Image::new(id, config.as_bytes()).unwrap();
        image.repo_tags = vec!["docker.io/library/busybox:latest".into(), "r.io:5000/team/app:1.2".into()];
        image.repo_digests = vec![format!("r.io:5000/team/app@sha256:{}", "b".repeat(64))];
        image
    }

    #[test]
    fn by_name_id_and_pattern() {
        let (id, digest) = (format!("sha256:{}", "a".repeat(64)), "b".repeat(64));
        for (text, expected) in [
            ("busybox", true),
            ("docker.io/library/busybox:latest", true),
            ("busybox:1", false),
            ("r.io:5000/team/app:1.2", true),
            ("r.io:5000/team/app", false),
            (&format!("r.io:5000/team/app@sha256:{digest}"), true),
            (&id, true),
            (&format!("sha256:{digest}"), false),
            ("*", true),
            ("r.io:5000/*", true),
            ("r.io:5000/*:1.2", true),
            ("r.io:5000/*:1.3", false),
            ("*/app:*", true),
            ("*app*team*", false),
            ("r.io:5000/team/app:1.2*app:1.2", false),
            ("team/*", false),
            ("app*", false),
        ] {
            assert_eq!(Pin::parse(text).unwrap().keeps(&image()), expected, "{text}");
        }
        assert!(Pin::parse("UPPER/x").is_err());
    }
}
