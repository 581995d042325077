//! A pod's interface on the host where that is a port of a bridge.

use std::io;

use berth_netlink::{Change, PortSettings, Routes, Veth};

use crate::settings::Settings;

/// A bridge has no more (Linux: BR_MAX_PORTS).
pub(crate) const PORTS: usize = 1023;
/// Pods of a bridge. A broadcast, such as a pod's question where another is, is queued for all ports at once; the kernel drops
/// what is more than that (`net.core.netdev_max_backlog`), and the oldest pods would never hear of it.
pub(crate) const PODS: usize = 1000;

/// Whether a port was not made for that reason.
pub(crate) fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EXFULL)
}

/// Makes the pair on the host that the calling thread is on; the host's end is not up yet.
///
/// A port speaks no IP. The kernel would give it addresses, routes, groups and timers of IPv6 all the same, and walks
/// through those of all interfaces whenever one goes up or down: with a thousand pods most of what one more costs.
pub(crate) fn make(routes: &Routes, veth: &Veth<'_>, settings: &Settings) -> io::Result<()> {
    routes.apply([Change::veth(veth)])?;
    match settings.write("ipv6", veth.name, "disable_ipv6", "1") {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Sets the host's end up and changes what else is to be changed on the host. Last, when the pod's end is as it shall be: with
/// both ends up the kernel begins to tell the pod's neighbours and itself, and whoever changes anything then waits for that.
pub(crate) fn raise(
    routes: &Routes,
    name: &str,
    settings: PortSettings,
    also: impl IntoIterator<Item = Change>,
) -> io::Result<()> {
    routes.apply([Change::port_up(name, settings)].into_iter().chain(also))
}

/// A pod's end, by a socket that is in the pod's namespace.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    pub(crate) routes: Routes,
    pub(crate) interface: &'a str,
    pub(crate) index: u32,
}

impl Inside<'_> {
    /// Tells the neighbours the interface's hardware address, which is `mac` already, where `arp_notify` is set: the kernel does
    /// whenever one is given (Linux: NETDEV_CHANGEADDR). A thousand ports hear that, which is no small thing. Not when it comes
    /// up, since the other end may not carry packets then.
    pub(crate) fn announce(&self, mac: [u8; 6]) -> io::Result<()> {
        self.routes.set_mac(self.index, mac)
    }
}

/// Both ends of the pair carry packets from now on.
///
/// Where both are up the kernel lets packets pass a moment later, from a queue of work that everybody's interfaces share, and
/// drops them until then: a connection begins with a packet that is lost, and again a second later. Whoever asks for an
/// interface's carrier gets that work done before the answer.
pub(crate) fn carry(routes: &Routes, name: &str, inside: &Inside<'_>) -> io::Result<()> {
    routes.has_carrier(name)?;
    inside.routes.has_carrier(inside.interface).map(drop)
}
