//! `tuning`: tunables of the pod's network, and its interface's address, size, queue and ears.

use std::path::{Path, PathBuf};

use berth_cni::{Call, CniResult, PluginError, Tuning};
use berth_netlink::{Link, Routes, mac_text};
use berth_sys::netns::run_in;

use super::link::{netns, parse_mac};
use super::{fail, previous, refused};

/// Where the program keeps what was there before.
const BEFORE: &str = "/run/cni/tuning";

pub(super) fn does(conf: &Tuning) -> bool {
    // A file of that name is the administrator's list of what may be changed, which the program reads.
    let limited = Path::new("/etc/cni/tuning/allowlist.conf").exists();
    !limited || conf.sysctl.is_empty()
}

/// Only what belongs to a network namespace.
fn file(name: &str, interface: &str) -> Result<PathBuf, PluginError> {
    let wrong = || {
        let why = format!("sysctl {name:?} is not of the pod's network (net.…)");
        PluginError::new(PluginError::INVALID_CONFIG, why)
    };
    // With slashes, dots are part of the names.
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let mut parts = path.split('/').map(|part| if part == "IFNAME" { interface } else { part });
    let good = path.starts_with("net/") && parts.clone().all(|part| !["", ".", ".."].contains(&part));
    good.then(|| Path::new("/proc/sys").join(parts.by_ref().collect::<PathBuf>())).ok_or_else(wrong)
}

fn files(conf: &Tuning, interface: &str) -> Result<Vec<(PathBuf, String)>, PluginError> {
    conf.sysctl.iter().map(|(name, value)| Ok((file(name, interface)?, value.clone()))).collect()
}

/// A pod's own wish comes before the configuration's.
fn mac(conf: &Tuning, call: &Call<'_>) -> Result<Option<[u8; 6]>, PluginError> {
    let mac = call.runtime.mac.as_deref().or(Some(conf.mac.as_str()).filter(|mac| !mac.is_empty()));
    mac.map(parse_mac).transpose()
}

pub(super) fn add(conf: &Tuning, call: &Call<'_>) -> Result<CniResult, PluginError> {
    let mut result = previous(call)?.clone();
    let files = files(conf, call.interface)?;
    let mac = mac(conf, call)?;
    let name = call.interface;
    let set = run_in(netns(call)?, || {
        for (file, value) in &files {
            std::fs::write(file, value)
                .map_err(|error| std::io::Error::other(format!("{}: {error}", file.display())))?;
        }
        let inside = Routes::open()?;
        let index = inside.index(name)?.ok_or(std::io::ErrorKind::NotFound)?;
        if let Some(mac) = mac {
            inside.set_mac(index, mac)?;
        }
        if conf.mtu > 0 {
            inside.set_mtu(index, conf.mtu)?;
        }
        if conf.promisc {
            inside.set_promiscuous(index, true)?;
        }
        if let Some(on) = conf.allmulti {
            inside.set_all_multicast(index, on)?;
        }
        if let Some(length) = conf.tx_queue_length {
            inside.set_queue_length(index, length)?;
        }
        inside.link_at(index)?.ok_or_else(|| std::io::ErrorKind::NotFound.into())
    });
    let link = set.map_err(fail(format!("tune {name} in the pod")))?;
    if mac.is_some() {
        for interface in &mut result.interfaces {
            if interface.name == name && !interface.sandbox.is_empty() {
                interface.mac = link.mac();
            }
        }
    }
    Ok(result)
}

/// The interface ends with the pod, so nothing is put back; a file of the program's is of no use any more.
pub(super) fn del(conf: &Tuning, call: &Call<'_>) -> Result<(), PluginError> {
    let directory = conf.data_dir.as_deref().unwrap_or_else(|| Path::new(BEFORE));
    let kept = directory.join(format!("{}_{}.json", call.container, call.interface));
    match std::fs::remove_file(&kept) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(fail(format!("remove {}", kept.display()))(error))
        }
        _ => Ok(()),
    }
}

pub(super) fn check(conf: &Tuning, call: &Call<'_>) -> Result<(), PluginError> {
    let files = files(conf, call.interface)?;
    let mac = mac(conf, call)?;
    let changed = run_in(netns(call)?, || {
        for (file, value) in &files {
            let now = std::fs::read_to_string(file)?;
            // The kernel writes several numbers with tabs between them.
            if !now.split_whitespace().eq(value.split_whitespace()) {
                return Ok(Some(format!("{} is {}, not {value}", file.display(), now.trim())));
            }
        }
        let link = Routes::open()?.link(call.interface)?;
        Ok(match link {
            Some(link) => differs(conf, mac, &link),
            None => Some(format!("the pod has no interface {}", call.interface)),
        })
    });
    match changed.map_err(fail(format!("look at {} in the pod", call.interface)))? {
        Some(what) => Err(refused(what)),
        None => Ok(()),
    }
}

/// The first thing of an interface that is not as it was made.
fn differs(conf: &Tuning, mac: Option<[u8; 6]>, link: &Link) -> Option<String> {
    if let Some(mac) = mac.filter(|mac| link.mac != mac) {
        return Some(format!("its address is {}, not {}", link.mac(), mac_text(&mac)));
    }
    let number = |what: &str, wanted: Option<u32>, found: u32| {
        let wanted = wanted.filter(|wanted| *wanted != found)?;
        Some(format!("its {what} is {found}, not {wanted}"))
    };
    let switch = |what: &str, wanted: Option<bool>, found: bool| {
        let word = |on: bool| if on { "on" } else { "off" };
        wanted
            .filter(|wanted| *wanted != found)
            .map(|on| format!("{what} is {}, not {}", word(!on), word(on)))
    };
    number("MTU", Some(conf.mtu).filter(|mtu| *mtu > 0), link.mtu)
        .or_else(|| number("queue's length", conf.tx_queue_length, link.queue_length))
        .or_else(|| switch("promisc", conf.promisc.then_some(true), link.promiscuous))
        .or_else(|| switch("allmulti", conf.allmulti, link.all_multicast))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pods_own_tunables() {
        let path = |name| file(name, "eth0").map(|path| path.display().to_string());
        assert_eq!(path("net.core.somaxconn").unwrap(), "/proc/sys/net/core/somaxconn");
        assert_eq!(
            path("net.ipv4.conf.IFNAME.arp_filter").unwrap(),
            "/proc/sys/net/ipv4/conf/eth0/arp_filter"
        );
        assert_eq!(path("net/ipv4/conf/eth0.1/mtu").unwrap(), "/proc/sys/net/ipv4/conf/eth0.1/mtu");
        for bad in ["kernel.panic", "net/../kernel/panic", "net//x", "/net/x", "net", "netx.y", ""] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
