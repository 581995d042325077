//! Requests to the kernel's network configuration, typed and blocking: rtnetlink over netlink-packet-route, nf_tables by
//! an encoder of our own.
//!
//! A socket belongs to the network namespace it was opened in, whatever its thread does later.

pub mod conntrack;
pub mod nft;
mod route;
mod socket;

pub use route::{Route, Routes, Veth};
