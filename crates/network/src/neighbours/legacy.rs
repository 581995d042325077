//! Tables of iptables-legacy, which nf_tables does not show. Read by its own program where one of them is in use: its
//! form in the kernel is the program's business.

use std::collections::BTreeMap;
use std::io;
use std::process::{Command, Stdio};

use berth_netlink::nft::{Base, ChainName, Expression, Rule, Verdict};

use super::LEGACY;
use super::packet::{Hook, IPV4, IPV6};

#[derive(Debug, Default)]
pub(super) struct Legacy {
    pub(super) bases: Vec<Base>,
    pub(super) chains: BTreeMap<ChainName, Vec<Rule>>,
}

const NAMES: [&str; 2] = ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];

/// A file of the tables that were used since the namespace began.
fn is_used(names: &str) -> bool {
    std::fs::read_to_string(names).is_ok_and(|text| !text.trim().is_empty())
}

pub(crate) fn in_use() -> bool {
    NAMES.into_iter().any(is_used)
}

/// Of both IP versions. Where the program is missing nothing is known.
pub(super) fn read() -> io::Result<Legacy> {
    let mut all = Legacy::default();
    for (names, program, family) in
        [(NAMES[0], "iptables-legacy-save", IPV4), (NAMES[1], "ip6tables-legacy-save", IPV6)]
    {
        if !is_used(names) {
            continue;
        }
        let done = Command::new(program).stdin(Stdio::null()).stderr(Stdio::null()).output();
        match done {
            Ok(done) if done.status.success() => {
                parse(&String::from_utf8_lossy(&done.stdout), LEGACY | family, &mut all);
            }
            _ => tracing::debug!(program, "tables of iptables-legacy are in use and not looked at"),
        }
    }
    Ok(all)
}

/// Hooks and priorities that the kernel's own tables have (linux/netfilter_ipv4.h).
fn base(table: &str, chain: &str) -> Option<(u32, i32)> {
    let hook = match chain {
        "PREROUTING" => Hook::PreRouting,
        "INPUT" => Hook::Input,
        "FORWARD" => Hook::Forward,
        "OUTPUT" => Hook::Output,
        "POSTROUTING" => Hook::PostRouting,
        _ => return None,
    };
    let priority = match table {
        "raw" => -300,
        "mangle" => -150,
        "filter" => 0,
        "security" => 50,
        _ => return None,
    };
    Some((hook.number(IPV4), priority))
}

/// The text of iptables-save(8).
fn parse(text: &str, family: u8, all: &mut Legacy) {
    let mut table = String::new();
    for line in text.lines() {
        let name = |chain: &str| ChainName { family, table: table.clone(), chain: chain.to_owned() };
        if let Some(begins) = line.strip_prefix('*') {
            table = begins.trim().to_owned();
        } else if let Some(rest) = line.strip_prefix(':') {
            let mut words = rest.split_whitespace();
            let (Some(chain), Some(policy)) = (words.next(), words.next()) else { continue };
            all.chains.entry(name(chain)).or_default();
            if let Some((hook, priority)) = base(&table, chain) {
                let (kind, devices, drops) = ("filter".to_owned(), Vec::new(), policy == "DROP");
                all.bases.push(Base { name: name(chain), kind, hook, priority, devices, drops });
            }
        } else if let Some(rest) = line.strip_prefix("-A ") {
            let words: Vec<&str> = rest.split_whitespace().collect();
            if let Some((chain, words)) = words.split_first() {
                all.chains.entry(name(chain)).or_default().push(rule(words));
            }
        }
    }
}

fn rule(words: &[&str]) -> Rule {
    let (mut steps, mut end) = (Vec::new(), None);
    let (mut not, mut at) = (false, 0);
    while at < words.len() {
        let (word, value) = (words[at], words.get(at + 1).copied().unwrap_or_default());
        let how = u32::from(std::mem::take(&mut not));
        at += 2;
        match word {
            "!" => {
                not = true;
                at -= 1;
            }
            "-i" | "-o" => {
                steps.push(Expression::Meta { key: if word == "-i" { 6 } else { 7 }, to: 1 });
                let mut name = value.as_bytes().to_vec();
                match name.last() {
                    Some(b'+') => drop(name.pop()),
                    _ => name.resize(16, 0),
                }
                steps.push(Expression::Compare { from: 1, how, value: name });
            }
            // A module's name says nothing; what is asked of it follows.
            "-m" if ["conntrack", "state", "comment", "tcp", "udp"].contains(&value) => {}
            "--ctstate" | "--state" => {
                let bit = |state: &str| match state {
                    "NEW" => 8_u32,
                    "ESTABLISHED" => 2,
                    _ => 0,
                };
                let mask = value.split(',').map(bit).fold(0, |all, bit| all | bit).to_ne_bytes().to_vec();
                steps.push(Expression::Ct { key: 0, to: 1 });
                steps.push(Expression::Bitwise { from: 1, to: 1, mask, xor: vec![0; 4] });
                steps.push(Expression::Compare { from: 1, how: 1 - how, value: vec![0; 4] });
            }
            "-j" | "-g" => end = Some((word, value)),
            "--comment" => {
                // Of several words it is in quotes.
                if value.starts_with('"') {
                    while at <= words.len() && !words[at - 1].ends_with('"') {
                        at += 1;
                    }
                }
            }
            "--reject-with" => {}
            // Not understood: it may match or not.
            other => steps.push(Expression::Other(other.to_owned())),
        }
    }
    steps.extend(end.map(|(how, target)| match target {
        "ACCEPT" => Expression::Verdict(Verdict::Accept),
        "DROP" => Expression::Verdict(Verdict::Drop),
        "RETURN" => Expression::Verdict(Verdict::Return),
        "REJECT" => Expression::Reject,
        "NFQUEUE" => Expression::Verdict(Verdict::Queue),
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "CT" => Expression::Aside(target.to_owned()),
        _ if how == "-g" => Expression::Verdict(Verdict::Goto(target.to_owned())),
        _ => Expression::Verdict(Verdict::Jump(target.to_owned())),
    }));
    Rule { handle: 0, steps }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_writes() {
        let mut all = Legacy::default();
        let text = "*filter\n:FORWARD DROP [0:0]\n:OWN - [0:0]\n-A FORWARD ! -i eth+ -m conntrack --ctstate NEW,ESTABLISHED \
                    -m comment --comment \"two words\" -j OWN\n-A OWN -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n";
        parse(text, LEGACY | IPV4, &mut all);
        assert!(all.bases[0].drops && all.bases[0].hook == 2, "{:?}", all.bases);
        let of = |chain: &str| {
            let name = ChainName { family: LEGACY | IPV4, table: "filter".into(), chain: chain.into() };
            all.chains[&name][0].steps.clone()
        };
        assert_eq!(of("FORWARD")[1], Expression::Compare { from: 1, how: 1, value: b"eth".to_vec() });
        assert_eq!(of("FORWARD").last(), Some(&Expression::Verdict(Verdict::Jump("OWN".into()))));
        // -p is not understood: it may be rejected.
        assert_eq!(of("OWN"), [Expression::Other("-p".into()), Expression::Reject]);
    }
}
