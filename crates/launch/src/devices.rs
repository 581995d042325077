//! Device nodes and links in the container's /dev, which is a tmpfs of the plan's own.

use std::io;

use berth_shim_wire::{DeviceNode, LaunchPlan};
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag, fchmodat, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use crate::report::{At as _, Step};
use crate::root::Root;

pub(crate) fn make_all(root: &Root, plan: &LaunchPlan) -> Step<()> {
    for device in &plan.devices {
        make(root, device).at("make the device", device.path.to_bytes())?;
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
