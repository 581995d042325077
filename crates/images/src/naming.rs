//! Names that a person gives: to an image of this node, and to what an archive leaves without.

use std::sync::Arc;

use berth_registry::Reference;

use crate::layers::Wanted;
use crate::{Image, ImageError, Images};

/// What images are called that an archive gives a tag alone, or nothing.
#[derive(Debug, Clone)]
pub struct Base {
    /// `host/repository`
    place: String,
    /// The person's own word, before the archive's.
    tag: Option<String>,
}

impl Base {
    /// `[HOST/]REPOSITORY[:TAG]`
    pub fn new(text: &str) -> Result<Self, ImageError> {
        let reference: Reference = text.parse()?;
        if reference.digest().is_some() {
            return Err(ImageError::Named { name: text.to_owned(), problem: "a digest is no name to give" });
        }
        let says_tag = text.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let tag = reference.tag().filter(|_| says_tag).map(str::to_owned);
        Ok(Self { place: reference.place(), tag })
    }

    /// With the tag that an archive has for an image.
    pub(crate) fn name(&self, tag: Option<&str>) -> Result<String, ImageError> {
        let tag = self.tag.as_deref().or(tag).unwrap_or("latest");
        let reference: Reference = format!("{}:{tag}", self.place).parse()?;
        Ok(reference.to_string())
    }
}

impl Images {
    /// Gives an image one name more, which another may have had until now. Blocks.
    pub fn tag(&self, reference: &str, name: &str) -> Result<Arc<Image>, ImageError> {
        let unknown = || ImageError::Unknown { id: reference.to_owned() };
        let found = self.resolve(reference).ok_or_else(unknown)?;
        let name = Base::new(name)?.name(None)?;
        // From here on its layers stay, also where somebody forgets it at this moment.
        let _wanted = Wanted::new(&self.shared, &found.layers);
        let mut image = Image::clone(&*self.resolve(&found.id.to_string()).ok_or_else(unknown)?);
        image.repo_tags.push(name);
        image.repo_tags.sort();
        image.repo_tags.dedup();
        self.shared.record(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_person_says_holds_before_what_the_archive_says() {
        let named = |text: &str, tag: Option<&str>| Base::new(text).and_then(|base| base.name(tag));
        for (text, tag, expected) in [
            ("r.io/app", Some("v1.2"), "r.io/app:v1.2"),
            ("r.io/app:own", Some("v1.2"), "r.io/app:own"),
            ("r.io:5000/app", Some("v1.2"), "r.io:5000/app:v1.2"),
            ("r.io:5000/app", None, "r.io:5000/app:latest"),
            ("app", None, "docker.io/library/app:latest"),
        ] {
            assert_eq!(named(text, tag).unwrap(), expected);
        }
        let digest = format!("r.io/app@sha256:{}", "0".repeat(64));
        for (text, tag) in [(digest.as_str(), None), ("UPPER", None), ("", None), ("r.io/app", Some("a b"))] {
            assert!(named(text, tag).is_err(), "{text:?} {tag:?}");
        }
    }
}
