//! Which networks pods get addresses of: those of the settings or of Berth's own choice, until the kubelet names others.

use std::sync::atomic::Ordering;

use berth_netlink::Routes;

use crate::subnet::{self, Saved};
use crate::{Network, NetworkConfig, NetworkError, Subnet, host, step};

/// The networks, and whether the kubelet named them. It says so once, and not again when only the daemon is restarted.
pub(crate) fn at_start(config: &NetworkConfig, routes: &Routes) -> Result<(Vec<Subnet>, bool), NetworkError> {
    let saved = Saved::load(&config.state);
    if saved.by_kubelet && !saved.subnets.is_empty() {
        return Ok((saved.subnets, true));
    }
    let subnets = match (&config.subnets[..], &saved.subnets[..]) {
        ([], []) => {
            let taken = |v6| routes.networks(v6).map_err(step("read the host's routes"));
            let mut chosen = vec![subnet::choose(&config.instance, &taken(false)?)?];
            if host::has_ipv6() {
                chosen.push(subnet::choose6(&config.instance, &taken(true)?)?);
            }
            chosen
        }
        ([], before) => before.to_vec(),
        (given, _) => given.to_vec(),
    };
    Ok((subnets, false))
}

impl Network {
    /// New pods get addresses of these networks; those that run keep theirs. The bridge gets more gateway addresses.
    pub fn set_pod_cidr(&self, text: &str) -> Result<(), NetworkError> {
        let wrong = || NetworkError::Cidr { text: text.chars().take(200).collect() };
        let parsed = text.split(',').map(|one| one.trim().parse::<Subnet>().map_err(|_| wrong()));
        let subnets: Vec<Subnet> = parsed.collect::<Result<_, _>>()?;
        match subnets[..] {
            [_] => {}
            [a, b] if a.is_ipv6() != b.is_ipv6() => {}
            _ => return Err(wrong()),
        }
        // Held so that two at once leave the same on disk and in memory.
        let mut made = self.made.lock();
        Saved::change(&self.config.state, |saved| {
            saved.subnets.clone_from(&subnets);
            saved.by_kubelet = true;
        })?;
        self.by_kubelet.store(true, Ordering::Relaxed);
        if subnets == self.subnets() {
            return Ok(());
        }
        self.addresses.lock().move_to(&subnets);
        made.doubt();
        tracing::info!(subnets = text, "new pods get addresses of these networks");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use berth_sys::netns::new_netns;

    use crate::tests::{Host, asks, id};

    #[test]
    fn what_the_kubelet_named_outlives_the_daemon() {
        let host = Host::new();
        let texts =
            |network: &crate::Network| network.subnets().iter().map(ToString::to_string).collect::<Vec<_>>();
        let given = ["10.77.0.0/24", "fd77::/64"];
        let network = host.network(&given);
        assert_eq!(texts(&network), given);
        assert!(network.set_pod_cidr("10.222.0.0/24,10.223.0.0/24").is_err());
        assert_eq!(texts(&host.network(&given)), given, "what is refused changes nothing");
        let named = ["10.222.0.0/24", "fd22::/64"];
        network.set_pod_cidr(&named.join(",")).unwrap();
        let next = host.network(&given);
        assert_eq!(texts(&next), named);
        // A pod after a reset is connected with the same, and so is one of the daemon after that.
        host.with(|| next.reset_unused().unwrap());
        let pod = new_netns().unwrap();
        let made = host.with(|| next.attach(asks(&id(1), &[]), pod.as_fd()).unwrap());
        assert!(made.ips[0].to_string().starts_with("10.222.0."), "{:?}", made.ips);
        assert_eq!(texts(&host.network(&given)), named);
        next.detach(&id(1), Some(&made));
        host.with(|| next.reset().unwrap());
        assert_eq!(texts(&host.network(&given)), given, "a reset forgets it");
    }

    /// Pods have addresses of it: what an older release chose is kept, also where this one would not choose it.
    #[test]
    fn what_was_chosen_before_is_kept() {
        let host = Host::new();
        let texts =
            |network: &crate::Network| network.subnets().iter().map(ToString::to_string).collect::<Vec<_>>();
        let old = ["10.97.3.0/24", "fd97::/64"];
        host.remember(&old);
        assert_eq!(texts(&host.network(&[])), old);
        let next = host.network(&[]);
        assert_eq!(texts(&next), old);
        host.with(|| next.reset().unwrap());
        let anew = texts(&host.network(&[]));
        assert!(anew.len() == 2 && anew.iter().all(|one| !old.contains(&one.as_str())), "{anew:?}");
    }
}
