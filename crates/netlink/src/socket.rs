use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// The kernel answers at once; a silence this long is a bug of somebody's.
const PATIENCE: i64 = 10;
/// A reply's datagram; the kernel cuts dumps into pieces below this.
const BUFFER: usize = 64 * 1024;

/// A netlink socket of one protocol (netlink(7)).
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
}

impl Socket {
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        Ok(Self { fd })
    }

    /// For a long request with as many answers. A refusal (the process lacks the capability) shows when it is sent.
    pub(crate) fn make_room(&self, bytes: usize) {
        const USUAL: usize = 128 * 1024;
        // The kernel counts its own overhead, up to tenfold for small messages.
        if bytes > USUAL {
            let _ = setsockopt(&self.fd, sockopt::SndBufForce, &bytes.saturating_mul(2));
            let _ = setsockopt(&self.fd, sockopt::RcvBufForce, &bytes.saturating_mul(2));
        }
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        sendto(self.fd.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    pub(crate) fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; BUFFER];
        let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// A short one, such as an acknowledgement: to clear a buffer for the longest costs more than to look twice. A dump's would
    /// be short from now on, since the kernel makes them as long as what was asked for.
    pub(crate) fn receive_short(&self) -> io::Result<Vec<u8>> {
        let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        let mut buffer = vec![0; recv(self.fd.as_raw_fd(), &mut [], look)?];
        let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        buffer.truncate(length);
        Ok(buffer)
    }
}

/// The messages of a datagram: (type, sequence, body). A message that says it is longer than what came ends the walk.
pub(crate) fn messages(mut bytes: &[u8]) -> Vec<(u16, u32, &[u8])> {
    let mut found = Vec::new();
    while let Some((head, _)) = bytes.split_at_checked(16) {
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let length = word(0) as usize;
        if length < 16 || length > bytes.len() {
            break;
        }
        found.push((u16::from_ne_bytes([head[4], head[5]]), word(8), &bytes[16..length]));
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    found
}

/// NLMSG_ERROR: 0 is an acknowledgement, else a negated errno.
pub(crate) const ERROR: u16 = 2;
pub(crate) const DONE: u16 = 3;

pub(crate) fn verdict(body: &[u8]) -> io::Result<()> {
    match body.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b)) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
