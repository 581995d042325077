//! `host-local`: addresses of ranges of this machine, round and round.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_cni::{Call, CniResult, Dns, HostLocal, InUse, IpConfig, PluginError};
use berth_ids::ErrorClass;

use super::ranges::{Span, circle};
use super::store::{Store, lock_file};
use crate::plugin::{fail, refused};

const PLACE: &str = "/var/lib/cni/networks";
/// How long the directory's lock is waited for; a call holds it for less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(10);
/// Addresses tried one by one before the directory is read as a whole.
const TRIES: usize = 16;
/// A resolv.conf is not read beyond this.
const RESOLV_CONF: u64 = 64 * 1024;

fn directory(conf: &HostLocal, network: &str) -> PathBuf {
    conf.data_dir.as_deref().unwrap_or_else(|| Path::new(PLACE)).join(network)
}

fn open(conf: &HostLocal, network: &str) -> Result<Store, PluginError> {
    let directory = directory(conf, network);
    let (opening, lock) = (fail(format!("open {}", directory.display())), lock_file(&directory));
    Store::open(directory, PATIENCE).map_err(|error| match error.kind() {
        // A pod, an end and a garbage collection are tried again.
        ErrorKind::WouldBlock => {
            let why =
                format!("somebody else has held the lock {} for more than {PATIENCE:?}", lock.display());
            PluginError::new(PluginError::TRY_AGAIN, why)
        }
        _ => opening(error),
    })
}

/// The pod's own ranges come before those of the configuration.
fn sets(conf: &HostLocal, call: &Call<'_>) -> Result<Vec<Vec<Span>>, PluginError> {
    let all = call.runtime.ip_ranges.iter().flatten().chain(&conf.ranges);
    let sets: Vec<Vec<Span>> =
        all.map(|set| set.iter().map(Span::new).collect()).collect::<Result<_, PluginError>>()?;
    if sets.is_empty() || sets.iter().any(Vec::is_empty) {
        return Err(PluginError::new(PluginError::INVALID_CONFIG, "host-local has no ranges"));
    }
    Ok(sets)
}

pub(super) fn lease(conf: &HostLocal, call: &Call<'_>) -> Result<CniResult, PluginError> {
    let sets = sets(conf, call)?;
    let dns = conf.resolv_conf.as_deref().map(resolver).transpose()?.unwrap_or_default();
    let mut asked: Vec<IpAddr> = Vec::new();
    for text in call.runtime.ips.iter().flatten() {
        let ip = text.split('/').next().unwrap_or_default();
        asked.push(ip.parse().map_err(|_| refused(format!("{text:?} is no address")))?);
    }
    let store = open(conf, call.network)?;
    let mut ips = Vec::new();
    let mut taken = Vec::new();
    for (index, set) in sets.iter().enumerate() {
        let wanted = asked.iter().position(|ip| set.iter().any(|span| span.contains(*ip)));
        let wanted = wanted.map(|at| asked.remove(at));
        match take(&store, index, set, wanted, call) {
            Ok(ip) => {
                taken.push(ip.address.address);
                ips.push(ip);
            }
            Err(error) => return Err(undo(&store, &taken, error)),
        }
    }
    match asked.first() {
        Some(stray) => Err(undo(&store, &taken, refused(format!("{stray} is of none of the ranges")))),
        None => Ok(CniResult { ips, routes: conf.routes.clone(), dns, ..Default::default() }),
    }
}

fn undo(store: &Store, taken: &[IpAddr], error: PluginError) -> PluginError {
    for ip in taken {
        if let Err(problem) = store.give_back(*ip) {
            tracing::warn!(%ip, error = %problem, "an address stays taken until it is collected");
        }
    }
    error
}

fn take(
    store: &Store,
    index: usize,
    set: &[Span],
    wanted: Option<IpAddr>,
    call: &Call<'_>,
) -> Result<IpConfig, PluginError> {
    let trying = |ip: IpAddr| {
        store.take(ip, call.container, call.interface).map_err(fail(format!("take address {ip}")))
    };
    let given = |span: &Span, ip: IpAddr| {
        let address = span.cidr(ip).ok_or_else(|| refused("an address has no such prefix"))?;
        Ok(IpConfig { interface: None, address, gateway: Some(span.gateway) })
    };
    if let Some(ip) = wanted {
        let span = set.iter().find(|span| span.contains(ip)).ok_or_else(|| refused("no range"))?;
        if span.gateway == ip {
            return Err(refused(format!("{ip} is the gateway's")));
        }
        let mine = store.owner(ip).map_err(fail(format!("look whose {ip} is")))?;
        return match mine.is_some_and(|owner| owner.is(call.container, call.interface)) || trying(ip)? {
            true => given(span, ip),
            false => Err(refused(format!("{ip} is another pod's"))),
        };
    }
    let last = store.last(index);
    // What an earlier call of the same pod took and was cut off before it could say: most often the last one given.
    if let Some(ip) = last
        && let Some(span) = set.iter().find(|span| span.contains(ip))
        && let Ok(Some(owner)) = store.owner(ip)
        && owner.is(call.container, call.interface)
    {
        return given(span, ip);
    }
    let remember = |ip: IpAddr| store.set_last(index, ip).map_err(fail(format!("remember {ip} as the last")));
    for (span, ip) in circle(set, last).take(TRIES) {
        if trying(ip)? {
            remember(ip)?;
            return given(span, ip);
        }
    }
    let taken = store.taken().map_err(fail("read which addresses are taken"))?;
    // As many as there are must be passed over at most, however wide the ranges.
    for (span, ip) in circle(set, last).take(taken.len() + TRIES).filter(|(_, ip)| !taken.contains(ip)) {
        if trying(ip)? {
            remember(ip)?;
            return given(span, ip);
        }
    }
    let spans = set.iter().map(|span| format!("{}-{}", span.at(span.first), span.at(span.last)));
    let why = format!("every address of {} is in use", spans.collect::<Vec<_>>().join(", "));
    Err(PluginError { class: Some(ErrorClass::ResourceExhausted), ..refused(why) })
}

pub(super) fn release(conf: &HostLocal, call: &Call<'_>) -> Result<(), PluginError> {
    // A network that never was has nothing to give back.
    if !directory(conf, call.network).exists() {
        return Ok(());
    }
    let store = open(conf, call.network)?;
    let told = call.previous.map(|result| result.addresses(call.interface)).unwrap_or_default();
    let mine = |ip: IpAddr| match store.owner(ip) {
        Ok(owner) => owner.is_some_and(|owner| owner.is(call.container, call.interface)),
        Err(_) => false,
    };
    let known = !told.is_empty() && told.iter().all(|ip| mine(*ip));
    let all = match known {
        true => told,
        // What was given is not known, or only in part: whoever bears the pod's name.
        false => store.taken().map_err(fail("read which addresses are taken"))?.into_iter().collect(),
    };
    for ip in all.into_iter().filter(|ip| mine(*ip)) {
        store.give_back(ip).map_err(fail(format!("give {ip} back")))?;
    }
    Ok(())
}

pub(super) fn check(conf: &HostLocal, call: &Call<'_>) -> Result<(), PluginError> {
    let store = open(conf, call.network)?;
    for ip in call.previous.map(|result| result.addresses(call.interface)).unwrap_or_default() {
        let owner = store.owner(ip).map_err(fail(format!("look whose {ip} is")))?;
        if !owner.is_some_and(|owner| owner.is(call.container, call.interface)) {
            return Err(refused(format!("{ip} is not the pod's any more")));
        }
    }
    Ok(())
}

pub(super) fn gc(conf: &HostLocal, network: &str, in_use: &[InUse]) -> Result<(), PluginError> {
    if !directory(conf, network).exists() {
        return Ok(());
    }
    let store = open(conf, network)?;
    for ip in store.taken().map_err(fail("read which addresses are taken"))? {
        let Some(owner) = store.owner(ip).map_err(fail(format!("look whose {ip} is")))? else { continue };
        if !in_use.iter().any(|used| owner.is(&used.container, &used.interface)) {
            tracing::info!(network, %ip, container = owner.container, "an address of no pod is given back");
            store.give_back(ip).map_err(fail(format!("give {ip} back")))?;
        }
    }
    Ok(())
}

/// Whether an address is left in each set of ranges.
pub(super) fn status(conf: &HostLocal, network: &str) -> Result<(), PluginError> {
    let mut sets = Vec::new();
    for set in &conf.ranges {
        sets.push(set.iter().map(Span::new).collect::<Result<Vec<_>, _>>()?);
    }
    if !directory(conf, network).exists() {
        return Ok(());
    }
    let taken = open(conf, network)?.taken().map_err(fail("read which addresses are taken"))?;
    for set in sets {
        if circle(&set, None).take(taken.len() + 1).all(|(_, ip)| taken.contains(&ip)) {
            return Err(PluginError::new(PluginError::NOT_AVAILABLE, "every address is in use"));
        }
    }
    Ok(())
}

/// resolv.conf(5).
fn resolver(path: &Path) -> Result<Dns, PluginError> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(RESOLV_CONF).read_to_string(&mut text));
    read.map_err(fail(format!("read {}", path.display())))?;
    Ok(parse_resolver(&text))
}

fn parse_resolver(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words.next()),
            Some("domain") => dns.domain = words.next().unwrap_or_default(),
            // The last list holds.
            Some("search") => dns.search = words.collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf() {
        let dns = parse_resolver(
            "# a comment\nnameserver 10.0.0.1\nnameserver fd00::1 x\nsearch a b\nsearch c\noptions ndots:5\ndomain d\nnameserver\n",
        );
        assert_eq!(dns.nameservers, ["10.0.0.1", "fd00::1"]);
        assert_eq!(
            (dns.search, dns.domain, dns.options),
            (vec!["c".into()], "d".into(), vec!["ndots:5".into()])
        );
    }
}
