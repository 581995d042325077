use std::io;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, NetlinkAddr, SockProtocol, bind, recv};

use crate::socket::Socket;

/// Of linux/rtnetlink.h, RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR.
const ADDRESSES: u32 = 0x10 | 0x100;

/// Whether addresses of the host's interfaces were given or taken: at the price of one system call, where to look for them
/// costs a hundred times that.
#[derive(Debug)]
pub struct AddressWatch(Socket);

impl AddressWatch {
    /// In the namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::open(SockProtocol::NetlinkRoute)?;
        bind(socket.fd.as_raw_fd(), &NetlinkAddr::new(0, ADDRESSES))?;
        Ok(Self(socket))
    }

    /// Since the last time, or the opening.
    pub fn has_changed(&self) -> bool {
        let mut any = false;
        loop {
            // What it says is as good as anything: more than there was room for, too.
            match recv(self.0.fd.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => return any,
                Err(Errno::EINTR) => {}
                // A socket that fails for good would say so for ever.
                Err(error) if error != Errno::ENOBUFS => return true,
                _ => any = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::time::{Duration, Instant};

    use berth_sys::netns::{new_netns, run_in};

    use super::*;
    use crate::Routes;

    #[test]
    fn addresses_that_come_and_go() {
        let netns = new_netns().unwrap();
        let seen = run_in(netns.as_fd(), || {
            let (watch, routes) = (AddressWatch::open()?, Routes::open()?);
            // Of a new IPv6 address the kernel tells a moment later.
            let told = || {
                let end = Instant::now() + Duration::from_secs(10);
                while !watch.has_changed() {
                    if Instant::now() > end {
                        return false;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                true
            };
            let mut seen = vec![watch.has_changed()];
            routes.set_up(1)?;
            seen.push(told());
            for (ip, prefix) in [("10.7.0.1", 32), ("fd07::1", 128)] {
                let ip = ip.parse().map_err(io::Error::other)?;
                while watch.has_changed() {}
                routes.add_address(1, ip, prefix)?;
                seen.push(told());
                routes.remove_address(1, ip, prefix)?;
                seen.push(watch.has_changed());
            }
            // More than there is room for.
            for n in 0..3000_u32 {
                let ip = std::net::IpAddr::from((n | 0x0a09_0000).to_be_bytes());
                routes.add_address(1, ip, 32)?;
            }
            seen.extend([watch.has_changed(), watch.has_changed()]);
            Ok(seen)
        });
        let expected = [false, true, true, true, true, true, true, false];
        assert_eq!(seen.unwrap(), expected);
    }
}
