//! What a process is and may do, told by itself.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sched::CloneFlags;
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, SFlag};

/// Which of its streams are a terminal, and who leads the session.
pub(crate) fn terminal() -> io::Result<()> {
    let streams = [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()];
    println!("terminals {streams:?}");
    println!("session {}", nix::unistd::getsid(None)? == nix::unistd::getpid());
    let controlling = std::fs::File::open("/dev/tty").is_ok();
    println!("controlling {controlling}");
    Ok(())
}

/// Says that it waits, then the number of the first signal that comes.
pub(crate) fn signal() -> io::Result<()> {
    let all = SigSet::all();
    all.thread_block()?;
    println!("waiting");
    io::stdout().flush()?;
    println!("got {}", all.wait()? as i32);
    Ok(())
}

/// Whether a user namespace can be made: seccomp's default profile says no (EPERM).
pub(crate) fn unshare() -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?;
    println!("made");
    Ok(())
}

/// Ends at once; a child of it keeps its streams open.
pub(crate) fn leave(seconds: &str) -> io::Result<()> {
    Command::new("/guest").args(["sleep", seconds]).spawn()?;
    println!("left");
    Ok(())
}

/// Stays, with a child in a session of its own that no signal to the group would reach.
pub(crate) fn hide(seconds: &str) -> io::Result<()> {
    let mut child = Command::new("/guest").args(["sleep", seconds]).process_group(0).spawn()?;
    child.wait()?;
    Ok(())
}

/// So many numbered lines of so many bytes, as fast as they are taken.
pub(crate) fn lines(count: u64, length: usize) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    for n in 0..count {
        writeln!(out, "{n:0>length$}")?;
    }
    out.flush()
}

/// A character device.
pub(crate) fn node(path: &str, major: u64, minor: u64) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(0o600);
    Ok(nix::sys::stat::mknod(path, SFlag::S_IFCHR, mode, nix::sys::stat::makedev(major, minor))?)
}
