use std::path::{Path, PathBuf};

use crate::CgroupError;

/// A cgroup as the kubelet names it, absolute from the root of every hierarchy: `/kubepods/pod1/<id>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// Refuses what could leave the tree or is the tree itself.
    pub fn new(text: &str) -> Result<Self, CgroupError> {
        let fail = |problem| CgroupError::Path { path: text.chars().take(200).collect(), problem };
        if text.len() > 4000 {
            return Err(fail("it is longer than 4000 bytes"));
        }
        if text.bytes().any(|b| b == 0 || b == b'\n') {
            return Err(fail("it contains a NUL or a line end"));
        }
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
        if parts.iter().any(|part| *part == "." || *part == "..") {
            return Err(fail("it has a relative component"));
        }
        if parts.iter().any(|part| part.len() > 255) {
            return Err(fail("a component is longer than 255 bytes"));
        }
        match parts.is_empty() {
            true => Err(fail("it is the root")),
            false => Ok(Self(parts.join("/"))),
        }
    }

    /// Below the root of a hierarchy.
    pub(crate) fn under(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_inside_the_tree() {
        assert_eq!(CgroupPath::new("/a//b/").unwrap().under("/r".as_ref()), PathBuf::from("/r/a/b"));
        assert_eq!(CgroupPath::new("a-b.slice").unwrap().under("/r".as_ref()), PathBuf::from("/r/a-b.slice"));
        for bad in ["", "/", "//", "/a/../b", "/./a", "/a\0", "/a\nb", &"x".repeat(300), &"a/".repeat(3000)] {
            assert!(CgroupPath::new(bad).is_err(), "{bad:?}");
        }
    }
}
