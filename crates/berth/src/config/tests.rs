use std::path::Path;

use super::settings::Value;
use super::*;

fn gather(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &str)],
) -> Result<Settings, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, file).unwrap();
    Settings::gather(&Sources {
        file: Some(path),
        environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        flags: flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
    })
}

fn config(file: &str, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Config {
    Config::lower(&gather(file, environment, flags).unwrap()).unwrap()
}

fn refusal(file: &str, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> String {
    let lowered = gather(file, environment, flags).and_then(|settings| Config::lower(&settings));
    let text = lowered.unwrap_err().to_string();
    // The directory's name differs from run to run.
    text.find("config.toml").map(|at| text[at..].to_owned()).unwrap_or(text)
}

#[test]
fn nothing_needs_to_be_set() {
    let config = config("", &[], &[]);
    assert_eq!(config.name, "berth");
    assert_eq!(config.socket, Path::new("/run/berth/berth.sock"));
    assert_eq!(config.root, Path::new("/var/lib/berth"));
    assert_eq!(config.admin_socket(), Path::new("/run/berth/admin.sock"));
    assert_eq!(config.cgroup.root, "/berth");
    assert_eq!(config.network.bridge, "berth0");
    assert!(config.network.subnets.is_empty(), "a free one is chosen on the host");
    assert_eq!(config.streaming.address, std::net::Ipv4Addr::LOCALHOST);
    assert_eq!((config.streaming.port, config.streaming.idle), (0, Duration::from_secs(4 * 3600)));
    assert!(config.streaming.tls.is_none());
    assert_eq!(config.shutdown.drain, Duration::from_secs(10));
    assert_eq!(config.registry.certs_d.len(), 2);
}

#[test]
fn the_later_source_wins() {
    let file = "[network]\nmtu = 1400\n";
    let variable = [("BERTH_NETWORK_MTU", "1450")];
    assert_eq!(config(file, &[], &[]).network.mtu, 1400);
    assert_eq!(config(file, &variable, &[]).network.mtu, 1450);
    assert_eq!(config(file, &variable, &[("network.mtu", "9000")]).network.mtu, 9000);
    let dump = dump(&gather(file, &variable, &[("network.mtu", "9000")]).unwrap());
    assert!(dump.contains("# flag --network-mtu"), "{dump}");
}

#[test]
fn instances_share_nothing() {
    let other = config("", &[], &[("name", "blue")]);
    assert_eq!(other.state, Path::new("/run/berth-blue"));
    assert_eq!(other.socket, Path::new("/run/berth-blue/berth.sock"));
    assert_eq!(other.root, Path::new("/var/lib/berth-blue"));
    assert_eq!((other.network.bridge.as_str(), other.cgroup.root.as_str()), ("blue0", "/berth-blue"));
    let moved = config("", &[], &[("state", "/tmp/x/")]);
    assert_eq!((moved.state, moved.socket), ("/tmp/x".into(), "/tmp/x/berth.sock".into()));
    let set = config("", &[], &[("state", "/tmp/x"), ("socket", "/tmp/y.sock")]);
    assert_eq!(set.socket, Path::new("/tmp/y.sock"));
}

#[test]
fn every_setting_has_a_file_key_a_variable_and_a_flag() {
    let all = gather("", &[], &[]).unwrap();
    for setting in SETTINGS {
        let (value, _) = all.get(setting.key).unwrap().clone();
        let text = match &value {
            Value::Text(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Switch(switch) => switch.to_string(),
            Value::List(items) => items.join(","),
        };
        let by_variable = gather("", &[(&setting.variable(), &text)], &[]).unwrap();
        assert_eq!(
            by_variable.get(setting.key).unwrap(),
            &(value.clone(), Origin::Environment(setting.variable()))
        );
        let by_flag = gather("", &[], &[(setting.key, &text)]).unwrap();
        assert_eq!(by_flag.get(setting.key).unwrap().0, value);
    }
}

#[test]
fn refusals_name_the_place_and_what_was_meant() {
    let table: &[(&str, &str)] = &[
        ("nam = \"x\"", "config.toml:1:1: unknown key \"nam\", did you mean \"name\"?"),
        (
            "# a comment\n[network]\n  mtuu = 1500\n",
            "config.toml:3:3: unknown key \"network.mtuu\", did you mean \"network.mtu\"?",
        ),
        ("[netwrok]\nmtu = 1", "config.toml:1:2: unknown key \"netwrok\", did you mean \"network\"?"),
        ("mtu = 1500", "config.toml:1:1: unknown key \"mtu\", did you mean \"network.mtu\"?"),
        ("zzzzz = 1", "config.toml:1:1: unknown key \"zzzzz\""),
        ("zzzzz = 1\n[network]\nmtuu = 1", "config.toml:1:1: unknown key \"zzzzz\""),
        ("name = 5", "config.toml:1:8: name: expected a text, found a whole number"),
        ("[network]\nmtu = \"big\"", "config.toml:2:7: network.mtu: expected a whole number, found a text"),
        (
            "[pods]\nprivileged_without_host_devices = \"yes\"",
            "config.toml:2:35: pods.privileged_without_host_devices: expected true or false, found a text",
        ),
        ("[network]\nmtu = 15", "config.toml:2:7: network.mtu: 15 is neither 0 nor between 1280 and 65535"),
        (
            "[network]\nsubnets = [\"10.0.0.0/8\", 7]",
            "config.toml:2:26: network.subnets: expected a list of texts, found a whole number",
        ),
        (
            "[network]\nsubnets = [\"10.0.0.1/8\"]",
            "config.toml:2:11: network.subnets: \"10.0.0.1/8\": the address has bits below the prefix",
        ),
        (
            "[network]\nsubnets = [\"10.0.0.0/8\", \"11.0.0.0/8\"]",
            "config.toml:2:11: network.subnets: at most one subnet of each IP version",
        ),
        (
            "[network]\nsubnets = [\"fd00::/40\"]",
            "config.toml:2:11: network.subnets: \"fd00::/40\" is no subnet",
        ),
        (
            "[network]\ncni_handler_dirs = [\"berth=/x\", \"kata=/y\"]",
            "config.toml:2:20: network.cni_handler_dirs: there is no runtime handler \"kata\", only \"berth\"",
        ),
        ("network = 3", "config.toml:1:1: unknown key \"network\""),
        ("state = \"run\"", "config.toml:1:9: state: \"run\" is not an absolute path without \"..\""),
        ("[log]\nlevel = \"a=b=c\"", "config.toml:2:9: log.level: \"a=b=c\" is neither a level nor"),
        ("[shutdown]\ndrain = \"10\"", "config.toml:2:9: shutdown.drain: \"10\" is no time such as"),
        ("[streaming]\naddress = \"node\"", "config.toml:2:11: streaming.address: \"node\" is no IP address"),
        ("[streaming]\nport = 70000", "config.toml:2:8: streaming.port: 70000 is not within 0 to 65535"),
        ("[streaming]\nidle_timeout = \"0s\"", "config.toml:2:16: streaming.idle_timeout: \"0s\" is no time"),
        ("[streaming]\ntls_cert = \"/c\"", "default: streaming.tls_key: is needed with streaming.tls_cert"),
        (
            "[streaming]\ntls_client_ca = \"/c\"",
            "config.toml:2:17: streaming.tls_client_ca: is of no use without",
        ),
        ("name = \"Upper\"", "config.toml:1:8: name: \"Upper\" is not 1 to 12"),
        ("name = ", "config.toml:1:8: "),
    ];
    for (file, expected) in table {
        let got = refusal(file, &[], &[]);
        assert!(got.starts_with(expected), "{file:?}: {got}");
    }
    assert_eq!(
        refusal("", &[("BERTH_NETWORK_MTU", "x")], &[]),
        "environment BERTH_NETWORK_MTU: network.mtu: \"x\" is not a whole number"
    );
    assert_eq!(
        refusal("", &[], &[("log.format", "xml")]),
        "flag --log-format: log.format: \"xml\" is neither \"text\" nor \"json\""
    );
    let long = format!("/{}", "x".repeat(110));
    assert!(refusal("", &[], &[("socket", &long)]).contains("at most 106 bytes"));
}

#[test]
fn a_variable_that_sets_nothing_is_told() {
    let settings = gather("", &[("BERTH_NETWORK_MTUU", "1"), ("BERTH_CONFIG", "/x")], &[]).unwrap();
    assert_eq!(
        settings.warnings,
        ["the environment variable BERTH_NETWORK_MTUU sets nothing; did you mean BERTH_NETWORK_MTU?"]
    );
}

#[test]
fn the_default_file_says_what_holds_without_it() {
    let commented = default_text().unwrap();
    assert_eq!(config(&commented, &[], &[]), config("", &[], &[]));
    let uncommented: String = commented
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(config(&uncommented, &[], &[]), config("", &[], &[]), "{uncommented}");
    for setting in SETTINGS {
        let origin = &gather(&uncommented, &[], &[]).unwrap().get(setting.key).unwrap().1.clone();
        assert!(matches!(origin, Origin::File { .. }), "{} is not in the default file", setting.key);
    }
}

#[test]
fn the_shipped_file_is_the_default_file() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config.toml");
    let shipped = std::fs::read_to_string(shipped).unwrap();
    assert_eq!(shipped, default_text().unwrap(), "renew it: berth config default > deploy/config.toml");
}

#[test]
fn a_dump_is_a_config() {
    let flags = [("name", "blue"), ("network.mtu", "1400"), ("registry.certs_d", "/a,/b")];
    let settings = gather("", &[], &flags).unwrap();
    assert_eq!(config(&dump(&settings), &[], &[]), Config::lower(&settings).unwrap());
}
