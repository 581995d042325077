//! What stops pods' packets, in words, and the command by which its owner would let them pass.

use berth_netlink::nft::ChainName;

use super::LEGACY;
use super::packet::{BRIDGE, Hook, INET, IPV4, IPV6, NETDEV};
use super::scene::{Scene, Stage};
use super::walk::{Block, Cause};

fn family(number: u8) -> &'static str {
    match number {
        INET => "inet",
        IPV4 => "ip",
        NETDEV => "netdev",
        BRIDGE => "bridge",
        IPV6 => "ip6",
        _ => "arp",
    }
}

/// The program that wrote a chain, where its names are of xtables: with the variant for those it keeps outside nf_tables.
fn iptables(chain: &ChainName) -> Option<&'static str> {
    let xtables = ["filter", "mangle", "raw", "nat", "security"].contains(&chain.table.as_str());
    match chain.family {
        _ if !xtables => None,
        number if number == LEGACY | IPV4 => Some("iptables-legacy"),
        number if number == LEGACY | IPV6 => Some("ip6tables-legacy"),
        // Names in capitals are what iptables has and nft(8) users seldom.
        IPV4 if chain.chain.chars().next().is_some_and(|c| c.is_uppercase()) => Some("iptables"),
        IPV6 if chain.chain.chars().next().is_some_and(|c| c.is_uppercase()) => Some("ip6tables"),
        _ => None,
    }
}

/// "the policy of chain FORWARD (iptables, table filter)".
pub(super) fn cause(block: &Block) -> String {
    let chain = &block.chain;
    let program = iptables(&block.base);
    let place = match program {
        Some(program) => format!("chain {} ({program}, table {})", chain.chain, chain.table),
        None => format!("chain {} {} {} (nftables)", family(chain.family), chain.table, chain.chain),
    };
    match &block.cause {
        Cause::Policy => format!("the policy of {place}"),
        Cause::Rule { place: n, how, .. } if program.is_some() => format!("rule {n} ({how}) of {place}"),
        Cause::Rule { place: n, handle, how } => format!("rule {n} ({how}, handle {handle}) of {place}"),
    }
}

/// A command for root; `known` are the chains that there are.
pub(super) fn allow(block: &Block, stage: &Stage, known: &[ChainName], scene: &Scene) -> String {
    // iptables and all that is written in its manner has a plus where nft(8) has a star.
    let (bridge, starred) = (scene.interfaces('+'), scene.interfaces('*'));
    let base = &block.base;
    let has = |name: &str| {
        known.iter().any(|c| (c.family, &c.table) == (base.family, &base.table) && c.chain == name)
    };
    let begins = |prefix: &str| {
        known
            .iter()
            .any(|c| (c.family, &c.table) == (base.family, &base.table) && c.chain.starts_with(prefix))
    };
    let both = |command: &dyn Fn(&str, &str) -> String| {
        let own = |by: &Option<super::packet::Interface>| by.as_ref().is_some_and(|by| scene.is_ours(by));
        let (comes, leaves) = (own(&stage.packet.comes_by), own(&stage.packet.leaves_by));
        let mut commands = Vec::new();
        // An answer goes the other way.
        if comes || stage.hook == Hook::Forward {
            commands.push(command("-i", "iifname"));
        }
        if leaves || stage.hook == Hook::Forward {
            commands.push(command("-o", "oifname"));
        }
        commands.join(" && ")
    };
    if base.table.starts_with("firewalld") {
        return format!(
            "firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"
        );
    }
    if let Some(program) = iptables(base) {
        if begins("ufw-") || begins("ufw6-") {
            return match stage.hook {
                Hook::Forward => format!("ufw route allow in on {bridge} && ufw route allow out on {bridge}"),
                Hook::Output => format!("ufw allow out on {bridge}"),
                _ => format!("ufw allow in on {bridge}"),
            };
        }
        // Docker keeps this chain for others.
        let user = stage.hook == Hook::Forward && base.table == "filter" && has("DOCKER-USER");
        let chain = if user { "DOCKER-USER" } else { &base.chain };
        let table = if base.table == "filter" { String::new() } else { format!(" -t {}", base.table) };
        return both(&|flag, _| format!("{program}{table} -I {chain} {flag} {bridge} -j ACCEPT"));
    }
    let chain = format!("{} {} {}", family(base.family), base.table, base.chain);
    if base.family == BRIDGE {
        return format!("nft insert rule {chain} meta ibrname {starred} accept");
    }
    // A shell would take the star for itself.
    let starred = if starred.contains('*') { format!("'\"{starred}\"'") } else { starred };
    let commands = both(&|_, key| format!("nft insert rule {chain} {key} {starred} accept"));
    match commands.is_empty() {
        // By an interface that is not ours: whom it may speak with is for its owner to say.
        true => format!("nft list chain {chain}"),
        false => commands,
    }
}
