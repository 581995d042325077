//! Writing dirty pages early.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Has the kernel start to write what a file has in memory, without waiting for it (`sync_file_range(2)`). It promises
/// nothing: a sync afterwards finds less to do.
pub fn start_writeback(file: impl AsFd) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed for the call, which takes numbers only.
    super::done(unsafe { libc::sync_file_range(fd, 0, 0, libc::SYNC_FILE_RANGE_WRITE) }.into())
}
