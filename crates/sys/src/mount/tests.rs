use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use super::*;

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("berth-sys-mount-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn layer(&self, name: &str, file: &str) -> PathBuf {
        let path = self.directory(name);
        fs::write(path.join(file), name).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A detached mount is reachable through its descriptor.
fn inside(mount: &OwnedFd, path: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{path}", mount.as_raw_fd()).into()
}

fn check_overlay(make: impl Fn(&Overlay<'_>) -> std::io::Result<OwnedFd>, name: &str) {
    let scratch = Scratch::new(name);
    let (one, two) = (scratch.layer("one", "a"), scratch.layer("two", "b"));
    fs::write(two.join("a"), "hidden").unwrap();
    let (upper, work) = (scratch.directory("upper"), scratch.directory("work"));
    let lowers = [Layer::Path(&one), Layer::Path(&two)];
    let wanted =
        Overlay { lowers: &lowers, upper: Some((Layer::Path(&upper), Layer::Path(&work))), volatile: true };
    let mount = make(&wanted).unwrap();
    assert_eq!(fs::read_to_string(inside(&mount, "a")).unwrap(), "one");
    assert_eq!(fs::read_to_string(inside(&mount, "b")).unwrap(), "two");
    fs::write(inside(&mount, "c"), "new").unwrap();
    assert_eq!(fs::read_to_string(upper.join("c")).unwrap(), "new");
}

#[test]
fn an_overlay_stacks_layers_and_writes_above() {
    check_overlay(overlay, "modern");
}

#[test]
fn an_old_kernel_gets_the_same() {
    check_overlay(legacy::overlay, "legacy");
}

#[test]
fn an_old_kernel_takes_as_many_layers_as_a_new_one() {
    let scratch = Scratch::new("many");
    let paths: Vec<PathBuf> =
        (0..200).map(|n| scratch.layer(&format!("layer-with-a-long-name-{n}"), &n.to_string())).collect();
    let lowers: Vec<Layer<'_>> = paths.iter().map(|path| Layer::Path(path)).collect();
    for make in [overlay, legacy::overlay] {
        let mount = make(&Overlay { lowers: &lowers, upper: None, volatile: false }).unwrap();
        assert_eq!(fs::read_dir(inside(&mount, "")).unwrap().count(), 200);
    }
}

#[test]
fn layers_may_be_descriptors_and_long_paths() {
    let scratch = Scratch::new("fd");
    let one = scratch.layer("one", "a");
    let long = scratch.layer(&["x".repeat(200), "y".repeat(200)].join("/"), "b");
    let opened = super::overlay::open_directory(&one).unwrap();
    let lowers = [Layer::Fd(opened.as_fd()), Layer::Path(&long)];
    let mount = overlay(&Overlay { lowers: &lowers, upper: None, volatile: false }).unwrap();
    assert!(inside(&mount, "a").exists() && inside(&mount, "b").exists());
}

#[test]
fn one_layer_alone_is_readable_and_read_only() {
    let scratch = Scratch::new("single");
    let one = scratch.layer("one", "a");
    let mount = overlay(&Overlay { lowers: &[Layer::Path(&one)], upper: None, volatile: false }).unwrap();
    assert_eq!(fs::read_to_string(inside(&mount, "a")).unwrap(), "one");
    assert_eq!(fs::write(inside(&mount, "b"), "").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn no_layer_is_refused() {
    let error = overlay(&Overlay { lowers: &[], upper: None, volatile: false }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let missing = [Layer::Path(Path::new("/nonexistent/a")), Layer::Path(Path::new("/nonexistent/b"))];
    let error = overlay(&Overlay { lowers: &missing, upper: None, volatile: false }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[test]
fn a_clone_of_a_tree_is_detached_and_takes_attributes() {
    let scratch = Scratch::new("clone");
    let source = scratch.layer("source", "a");
    let opened = super::overlay::open_directory(&source).unwrap();
    let mount = clone_tree(opened.as_fd(), true).unwrap();
    set_propagation(mount.as_fd(), Propagation::Private, true).unwrap();
    set_attributes(mount.as_fd(), Attributes { readonly: true, ..Attributes::KERNEL }, true).unwrap();
    assert_eq!(fs::write(inside(&mount, "b"), "").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    fs::write(source.join("b"), "").unwrap();
}

#[test]
fn a_tmpfs_with_options() {
    let context = Context::open(c"tmpfs").unwrap();
    context.set_string(c"size", c"8192").unwrap();
    context.set_string(c"mode", c"0700").unwrap();
    assert!(context.set_flag(c"nonsense").is_err());
    let mount = context.mount(Attributes::KERNEL).unwrap();
    fs::write(inside(&mount, "a"), [0; 4096]).unwrap();
    assert_eq!(fs::write(inside(&mount, "b"), [0; 65536]).unwrap_err().kind(), ErrorKind::StorageFull);
}
