//! The machine the lane plays on: an uplink with addresses of both versions, and who is outside.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_sys::netns::{new_netns, run_in};

use super::traffic::Mirror;

/// The machine's addresses towards the outside.
pub(super) const OWN: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// Who is outside.
pub(super) const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
/// Where somebody outside says which address asks.
const MIRROR: u16 = 7777;

pub(super) struct Machine {
    pub(super) own: OwnedFd,
    pub(super) outside: OwnedFd,
    before: BTreeSet<String>,
    _mirror: Mirror,
}

/// Runs a program of the machine's and gives what it says.
pub(crate) fn tool(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap_or_default();
    let done = Command::new(program).args(words).output().with_context(|| format!("{program} is needed"))?;
    if !done.status.success() {
        bail!("{line}: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(String::from_utf8(done.stdout)?)
}

impl Machine {
    pub(super) fn new() -> Result<Self> {
        let own = std::fs::File::open("/proc/self/ns/net")?.into();
        let outside = new_netns()?;
        // A namespace begins with what the first one has.
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            tool(&format!("sysctl -q -w {key}=0"))?;
        }
        tool("ip link add up0 mtu 1450 type veth peer name out0")?;
        // Handed over by its descriptor, which ip(8) cannot.
        let routes = berth_netlink::Routes::open()?;
        let index = routes.index("out0")?.context("no out0")?;
        routes.move_to(index, outside.as_fd())?;
        for (ip, prefix) in OWN.iter().zip([24, 64]) {
            tool(&format!(
                "ip address add {ip}/{prefix} dev up0 {}",
                if prefix == 64 { "nodad" } else { "" }
            ))?;
        }
        // What the kernel would add by itself would look like something left over.
        tool("ip link set up0 addrgenmode none up")?;
        tool(&format!("ip route add default via {}", OUTSIDE[0]))?;
        tool(&format!("ip -6 route add default via {}", OUTSIDE[1]))?;
        run_in(outside.as_fd(), || {
            let routes = berth_netlink::Routes::open()?;
            let index = routes.index("out0")?.ok_or(std::io::ErrorKind::NotFound)?;
            for (ip, prefix) in OUTSIDE.iter().zip([24, 64]) {
                routes.add_address(index, ip.parse().map_err(std::io::Error::other)?, prefix)?;
            }
            routes.set_up(index)?;
            routes.set_up(1)
        })?;
        let mirror = Mirror::serve(&outside, MIRROR)?;
        // The kernel says a while later that there is somebody at the other end.
        let end = Instant::now() + Duration::from_secs(10);
        while !tool("ip -o link show up0")?.contains("state UP") {
            if Instant::now() > end {
                bail!("up0 does not come up");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let before = seen();
        Ok(Self { own, outside, before, _mirror: mirror })
    }

    /// Where the outside says who asks, in one IP version.
    pub(super) fn mirror(v6: bool) -> SocketAddr {
        SocketAddr::new(ip(OUTSIDE[usize::from(v6)]), MIRROR)
    }

    /// Links, addresses, routes, rules and tables that were not there before, once they stop getting less: a pod's interface
    /// goes with its namespace, which the kernel clears a while after its last process has ended.
    pub(super) async fn left(&self) -> Vec<String> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let left: Vec<String> = seen().difference(&self.before).cloned().collect();
            if left.is_empty() || Instant::now() > end {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = tool("ip link delete up0");
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of the lane's own")
}

/// The state of the machine's network, line by line.
fn seen() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in [
        "ip -o link show",
        "ip -o address show",
        "ip route show table all",
        "ip -6 route show table all",
        "ip rule show",
        "ip -6 rule show",
        "nft list ruleset",
        "tc qdisc show",
    ] {
        for text in tool(line).unwrap_or_default().lines() {
            // Lifetimes and states of neighbours change by themselves.
            let text = text.split(" valid_lft").next().unwrap_or_default();
            found.insert(format!("{line}: {}", text.trim()));
        }
    }
    for version in ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/up0/accept_ra"] {
        let value = std::fs::read_to_string(format!("/proc/sys/net/{version}")).unwrap_or_default();
        found.insert(format!("{version} {}", value.trim()));
    }
    found
}
