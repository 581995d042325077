//! Device nodes and links in the container's /dev, which is a tmpfs of the plan's own.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd as _;

use berth_shim_wire::{DeviceNode, LaunchPlan};
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag, fchmodat, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use crate::report::{At as _, Step};
use crate::root::Root;

/// `nodes`: a directory that has them already, from where they are bound.
pub(crate) fn make_all(root: &Root, plan: &LaunchPlan, nodes: Option<&CStr>) -> Step<()> {
    for device in &plan.devices {
        let made = match nodes {
            None => make(root, device),
            Some(nodes) => bind(root, device, nodes),
        };
        made.at("make the device", device.path.to_bytes())?;
    }
    for link in &plan.symlinks {
        let place = || -> io::Result<()> {
            let (parent, name) = root.parent(&link.link)?;
            Ok(symlinkat(link.target.as_c_str(), &parent, name.as_c_str())?)
        };
        place().at("make the link", link.link.to_bytes())?;
    }
    Ok(())
}

fn make(root: &Root, device: &DeviceNode) -> io::Result<()> {
    let (parent, name) = root.parent(&device.path)?;
    let kind = if device.character { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
    let mode = Mode::from_bits_truncate(device.mode);
    mknodat(&parent, name.as_c_str(), kind, mode, makedev(device.major.into(), device.minor.into()))?;
    // Nobody else is in this tmpfs yet, so the name is still what was just made.
    fchmodat(&parent, name.as_c_str(), mode, nix::sys::stat::FchmodatFlags::FollowSymlink)?;
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    fchownat(&parent, name.as_c_str(), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// What a node of this device is called in the directory that containers of a user namespace bind theirs from.
pub fn node_name(device: &DeviceNode) -> CString {
    let kind = if device.character { 'c' } else { 'b' };
    let DeviceNode { major, minor, mode, uid, gid, .. } = device;
    CString::new(format!("{kind}{major}-{minor}-{mode:o}-{uid}-{gid}")).unwrap_or_default()
}

fn bind(root: &Root, device: &DeviceNode, nodes: &CStr) -> io::Result<()> {
    let path = [nodes.to_bytes(), b"/", node_name(device).to_bytes()].concat();
    let node = berth_sys::mount::clone_path(&CString::new(path)?, false)?;
    let place = root.place(&device.path, false)?;
    berth_sys::mount::attach(node.as_fd(), place.as_fd())
}
