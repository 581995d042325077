use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::null;

use super::Attributes;
use crate::fd::{done, owned};

/// A filesystem being configured (fsopen(2)); [`Context::mount`] makes it a detached mount.
#[derive(Debug)]
pub struct Context {
    fd: OwnedFd,
}

impl Context {
    /// `filesystem` as in /proc/filesystems.
    pub fn open(filesystem: &CStr) -> io::Result<Self> {
        // SAFETY: the string ends with NUL; the call touches no other memory of ours.
        let fd =
            owned(unsafe { libc::syscall(libc::SYS_fsopen, filesystem.as_ptr(), libc::FSOPEN_CLOEXEC) })?;
        Ok(Self { fd })
    }

    /// `key=value`. The kernel takes values of at most 255 bytes.
    pub fn set_string(&self, key: &CStr, value: &CStr) -> io::Result<()> {
        self.configure(libc::FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0)
    }

    /// An option without a value.
    pub fn set_flag(&self, key: &CStr) -> io::Result<()> {
        self.configure(libc::FSCONFIG_SET_FLAG, key.as_ptr(), null(), 0)
    }

    /// An option whose value is an open file or directory (overlay layers: Linux 6.13).
    pub fn set_fd(&self, key: &CStr, value: BorrowedFd<'_>) -> io::Result<()> {
        self.configure(libc::FSCONFIG_SET_FD, key.as_ptr(), null(), value.as_raw_fd())
    }

    /// Makes the filesystem with what was configured, and a detached mount of it.
    pub fn mount(self, attributes: Attributes) -> io::Result<OwnedFd> {
        self.configure(libc::FSCONFIG_CMD_CREATE, null(), null(), 0)?;
        let flags = attributes.bits();
        // SAFETY: integers only.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, self.fd.as_raw_fd(), libc::FSMOUNT_CLOEXEC, flags) })
    }

    /// What the kernel says about the last failure (`e overlay: ...`), newest last; read from the context as
    /// fsopen(2) describes. For messages only.
    pub fn message(&self) -> String {
        let mut text = Vec::new();
        let mut buffer = [0; 512];
        while let Ok(length) = crate::fd::read(self.fd.as_fd(), &mut buffer) {
            if length == 0 || text.len() > 4096 {
                break;
            }
            text.extend_from_slice(&buffer[..length]);
            text.push(b'\n');
        }
        String::from_utf8_lossy(&text).trim_end().to_owned()
    }

    fn configure(
        &self,
        command: u32,
        key: *const libc::c_char,
        value: *const libc::c_char,
        extra: i32,
    ) -> io::Result<()> {
        // SAFETY: the private callers pass null or pointers into NUL-terminated strings alive during the call.
        done(unsafe { libc::syscall(libc::SYS_fsconfig, self.fd.as_raw_fd(), command, key, value, extra) })
    }
}
