//! What a pod's interfaces sent and received, read without entering the pod's namespace.

use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;

use berth_model::{InterfaceUsage, Traffic};

/// The counters of the network namespace that process `pid` lives in, loopback left out. `None` when the process is
/// not (any more) in `netns`: its number may be somebody else's by now.
pub fn counters(pid: u32, netns: impl AsFd) -> Option<Vec<InterfaceUsage>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    let own = std::fs::metadata(format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd())).ok()?;
    let its = std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
    (own.ino() == its.ino() && own.dev() == its.dev()).then(|| parse(&text))
}

/// proc_pid_net(5): two lines of titles, then a line for each interface.
fn parse(text: &str) -> Vec<InterfaceUsage> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let traffic = |at: usize| {
            let [bytes, packets, errors, dropped] = *numbers.get(at..at + 4)?.first_chunk()?;
            Some(Traffic { bytes, packets, errors, dropped })
        };
        Some(InterfaceUsage { name: name.trim().to_owned(), received: traffic(0)?, sent: traffic(8)? })
    };
    text.lines().skip(2).filter_map(line).filter(|interface| interface.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table() {
        let found = parse(
            "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
             lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0\n  \
             eth0: 1234      10    1    2    0     0          0         0     5678      20    3    4    0     0       0          0\n",
        );
        let received = Traffic { bytes: 1234, packets: 10, errors: 1, dropped: 2 };
        let sent = Traffic { bytes: 5678, packets: 20, errors: 3, dropped: 4 };
        assert_eq!(found, [InterfaceUsage { name: "eth0".into(), received, sent }]);
        assert!(parse("").is_empty() && parse("a\nb\neth0: 1 2\n").is_empty());
    }

    #[test]
    fn only_of_the_namespace_asked_for() {
        let own = std::fs::File::open("/proc/self/ns/net").unwrap();
        assert!(counters(std::process::id(), &own).is_some());
        let other = berth_sys::netns::new_netns().unwrap();
        assert!(counters(std::process::id(), &other).is_none());
    }
}
