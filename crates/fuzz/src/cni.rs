use std::path::Path;

use berth_cni::{CniResult, Known, NetworkConf, VERSIONS};

/// A file of somebody's in the directory of configurations.
pub(crate) fn conflist(input: &[u8]) {
    let path = Path::new("/etc/cni/net.d/10-fuzz.conflist");
    let lines = 1 + input.iter().filter(|byte| **byte == b'\n').count();
    let conf = match NetworkConf::read(path, input) {
        Ok(conf) => conf,
        Err(error) => {
            assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{error} of {lines} lines");
            return;
        }
    };
    assert!(conf.versions.is_sorted() && !conf.versions.is_empty());
    assert!(!conf.name.contains('/') && !conf.name.starts_with('.'), "{:?}", conf.name);
    for plugin in conf.plugins {
        let name = Path::new(&plugin.kind).file_name();
        assert!(
            name.is_some_and(|name| name == plugin.kind.as_str()),
            "{:?} is more than a name",
            plugin.kind
        );
        // What is recorded of a pod's connection is read again at its end.
        let written = serde_json::to_vec(&plugin).unwrap();
        let again = NetworkConf::read_plugin(path, &written).unwrap();
        assert_eq!(again, plugin);
        assert_eq!(Known::read(&plugin.conf), plugin.known);
    }
}

/// What a plugin answers; the first byte says in which version.
pub(crate) fn result(input: &[u8]) {
    let Some((first, text)) = input.split_first() else { return };
    let version = VERSIONS[usize::from(*first) % VERSIONS.len()];
    let Ok(value) = serde_json::from_slice(text) else { return };
    let Ok(result) = CniResult::read(value, version) else { return };
    let most = if version.has_chains() { result.ips.len() } else { 2 };
    assert!(result.ips.len() <= most && result.addresses("eth0").len() <= most);
    for to in VERSIONS {
        // As it is told to the next plugin, which may tell it to another.
        let once = CniResult::read(result.write(to), to).unwrap();
        let twice = CniResult::read(once.write(to), to).unwrap();
        assert_eq!(once, twice, "told in {to:?}");
    }
    let newest = VERSIONS[VERSIONS.len() - 1];
    assert_eq!(CniResult::read(result.write(newest), newest).unwrap(), result);
}
