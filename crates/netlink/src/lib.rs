//! Requests to the kernel's network configuration, typed and blocking: rtnetlink over netlink-packet-route, nf_tables by
//! an encoder of our own.
//!
//! A socket belongs to the network namespace it was opened in, whatever its thread does later.

mod attributes;
mod change;
pub mod conntrack;
mod link;
pub mod nft;
mod path;
mod route;
mod socket;
mod tc;
mod watch;

pub use berth_sys::net::Glance;
pub use change::{Change, NewRoute, Veth};
pub use link::{Counters, Link, PortSettings, mac_text};
pub use path::{Path, Reach};
pub use route::{Route, Routes};
pub use tc::Rate;
pub use watch::AddressWatch;
