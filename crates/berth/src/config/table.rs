//! Every setting there is. Flags, environment names, file keys, help, the default file and the nearest-key hints all
//! come from this one table, so they cannot drift apart.

use super::settings::{Settings, Value};

/// The form a value has before it is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Number,
    /// `true` or `false`.
    Switch,
    /// In the environment and in flags the items are separated by commas.
    List,
}

/// Where the value comes from when nobody sets it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Default {
    /// As it would be written in the environment.
    Fixed(&'static str),
    /// From settings further up in the table; with the keys it was derived from.
    Derived(fn(&Settings) -> Value, &'static str),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// `section.key`, or `key` for those of the instance itself.
    pub(crate) key: &'static str,
    pub(crate) form: Form,
    pub(super) default: Default,
    /// What it means, with its unit. The first sentence is the flag's help.
    pub(crate) help: &'static str,
}

impl Setting {
    /// `BERTH_SECTION_KEY`.
    pub(crate) fn variable(&self) -> String {
        format!("BERTH_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// `section-key`, without the dashes in front.
    pub(crate) fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    pub(crate) fn find(key: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }
}

/// In the order of the file; what derives stands below what it derives from.
pub(crate) static SETTINGS: &[Setting] = &[
    Setting {
        key: "name",
        form: Form::Text,
        default: Default::Fixed("berth"),
        help: "Name of the instance, 1 to 12 of a-z, 0-9 and -. \
               Instances of different names live side by side: every default below that is said to follow the name \
               differs between them.",
    },
    Setting {
        key: "state",
        form: Form::Text,
        default: Default::Derived(|s| per_name(s, "/run/berth"), "name"),
        help: "Directory for what a reboot may take: sockets, pod directories, the lock. \
               Follows the name: /run/berth, else /run/berth-NAME.",
    },
    Setting {
        key: "root",
        form: Form::Text,
        default: Default::Derived(|s| per_name(s, "/var/lib/berth"), "name"),
        help: "Directory for what stays: database, image layers, writable layers. \
               Follows the name: /var/lib/berth, else /var/lib/berth-NAME.",
    },
    Setting {
        key: "preload",
        form: Form::Text,
        default: Default::Derived(|s| Value::Text(format!("{}/preload", s.text("root"))), "root"),
        help: "Directory whose *.tar* archives (OCI or `docker save`, plain, gzip or zstd) are imported at start, each once \
               until it changes or an image of it is missing. It need not be there. Follows the root directory.",
    },
    Setting {
        key: "socket",
        form: Form::Text,
        default: Default::Derived(|s| Value::Text(format!("{}/berth.sock", s.text("state"))), "state"),
        help: "Unix socket on which CRI is answered, mode 0600. Follows the state directory.",
    },
    Setting {
        key: "shim",
        form: Form::Text,
        default: Default::Fixed(""),
        help: "The berth-shim program. Empty: beside this program, else in ../libexec/berth next to it.",
    },
    Setting {
        key: "log.level",
        form: Form::Text,
        default: Default::Fixed("info"),
        help: "error, warn, info or debug, also per part: info,berth_pods=debug.",
    },
    Setting {
        key: "log.format",
        form: Form::Text,
        default: Default::Fixed("text"),
        help: "text for people, json for collectors. One line per event on stderr.",
    },
    Setting {
        key: "network.bridge",
        form: Form::Text,
        default: Default::Derived(|s| Value::Text(format!("{}0", s.text("name"))), "name"),
        help: "Name of the bridge that connects the pods, at most 15 bytes. Follows the name: NAME0.",
    },
    Setting {
        key: "network.subnets",
        form: Form::List,
        default: Default::Fixed(""),
        help: "Addresses for pods: one subnet of IPv4 (/8 to /29), of IPv6 (/48 to /124) or one of each, the first \
               address of each the bridge's, the first version the pods' primary. \
               Empty: the first of each version that the host has no route to, kept over restarts. \
               The search starts at 10.85.0.0/16, under another name at a /24 that the name points at, and ends \
               before 10.96.0.0/12, where kubeadm has Services; of IPv6 it starts at a /64 of the unique local \
               addresses that the name points at.",
    },
    Setting {
        key: "network.mtu",
        form: Form::Number,
        default: Default::Fixed("0"),
        help: "Largest packet of the bridge and of the pods' eth0, in bytes, 1280 to 65535. \
               0: that of the interface the default route leaves by.",
    },
    Setting {
        key: "network.isolate_host",
        form: Form::Switch,
        default: Default::Fixed("false"),
        help: "Pods reach no service of the host's own, only its ports that lead to pods. A node-local DNS or \
               agent that listens on the host is then out of their reach.",
    },
    Setting {
        key: "network.ip_preference",
        form: Form::Text,
        default: Default::Fixed("cni"),
        help: "Which address of a pod is its primary: ipv4, ipv6, or cni for the first that its network gives.",
    },
    Setting {
        key: "network.cni_conf_dir",
        form: Form::Text,
        default: Default::Fixed("/etc/cni/net.d"),
        help: "Directory of CNI configurations (.conflist, .conf, .json), of which the first by name is used. \
               Without any in it pods are connected by Berth itself. Changes are seen without a restart. Empty: CNI is off.",
    },
    Setting {
        key: "network.cni_handler_dirs",
        form: Form::List,
        default: Default::Fixed(""),
        help: "Directories of CNI configurations for pods of one runtime handler, as HANDLER=DIRECTORY. \
               It counts before network.cni_conf_dir.",
    },
    Setting {
        key: "network.cni_bin_dirs",
        form: Form::List,
        default: Default::Fixed("/opt/cni/bin,/usr/lib/cni,/usr/libexec/cni"),
        help: "Directories searched in order for the programs of CNI plugins.",
    },
    Setting {
        key: "network.cni_netns_dir",
        form: Form::Text,
        default: Default::Fixed("/run/netns"),
        help: "Directory below which pods' network namespaces are bound to NAME-POD, where a plugin is a program.",
    },
    Setting {
        key: "network.cni_in_process",
        form: Form::Switch,
        default: Default::Fixed("true"),
        help: "Whether standard CNI plugins are done without their programs, where every field of their configuration is \
               understood. Pods that run end the way they were made.",
    },
    Setting {
        key: "network.cni_timeout",
        form: Form::Text,
        default: Default::Fixed("60s"),
        help: "How long one CNI plugin may take before it is killed, such as 30s or 2m.",
    },
    Setting {
        key: "network.cni_retry",
        form: Form::Text,
        default: Default::Fixed("1h"),
        help: "How long a CNI plugin that fails to give a pod's network back is asked again. The pod's end does not wait for it.",
    },
    Setting {
        key: "registry.certs_d",
        form: Form::List,
        default: Default::Fixed("/etc/berth/certs.d,/etc/containerd/certs.d"),
        help: "Directories searched in order for HOST/hosts.toml: mirrors, plain HTTP, certificates.",
    },
    Setting {
        key: "registry.auth_files",
        form: Form::List,
        default: Default::Fixed("/etc/berth/auth.json,/root/.docker/config.json"),
        help: "Files in the form of docker's config.json with credentials by host, in order. \
               They are read when a registry asks for credentials and the request has none: auths, credHelpers and \
               credsStore, whose programs docker-credential-NAME are looked for in PATH.",
    },
    Setting {
        key: "registry.stall_timeout",
        form: Form::Text,
        default: Default::Fixed("60s"),
        help: "How long a registry may take without a byte before the transfer counts as broken, such as 30s or 2m. \
               A broken transfer is taken up again where it was cut.",
    },
    Setting {
        key: "images.pinned",
        form: Form::List,
        default: Default::Fixed(""),
        help: "Images that the kubelet does not collect when nobody uses them: names, ids, or patterns with * for anything \
               over names in full, such as registry.k8s.io/*. They can still be removed by name.",
    },
    Setting {
        key: "cgroup.root",
        form: Form::Text,
        default: Default::Derived(|s| per_name(s, "/berth"), "name"),
        help: "Control group for pods that come without a parent of their own. \
               Follows the name: /berth, else /berth-NAME.",
    },
    Setting {
        key: "pods.kill_wait",
        form: Form::Text,
        default: Default::Fixed("10s"),
        help: "How long a killed process is waited for before the call fails, such as 500ms, 10s or 2m.",
    },
    Setting {
        key: "pods.privileged_without_host_devices",
        form: Form::Switch,
        default: Default::Fixed("false"),
        help: "Whether privileged containers go without the host's device nodes. \
               Then they have the default ones and those they ask for, and may use no others.",
    },
    Setting {
        key: "streaming.address",
        form: Form::Text,
        default: Default::Fixed("127.0.0.1"),
        help: "Address on which exec, attach and port-forward are served, and which their URLs name. \
               The kubelet comes from the same machine; another address than a loopback one wants TLS with a client CA.",
    },
    Setting {
        key: "streaming.port",
        form: Form::Number,
        default: Default::Fixed("0"),
        help: "Port of the streaming server. 0: any free one.",
    },
    Setting {
        key: "streaming.tls_cert",
        form: Form::Text,
        default: Default::Fixed(""),
        help: "Certificate of the streaming server in PEM, with its chain. \
               Empty: no TLS. Changed files are used for new streams within 10 seconds.",
    },
    Setting {
        key: "streaming.tls_key",
        form: Form::Text,
        default: Default::Fixed(""),
        help: "Key of the certificate, in PEM.",
    },
    Setting {
        key: "streaming.tls_client_ca",
        form: Form::Text,
        default: Default::Fixed(""),
        help: "Certificates in PEM, one of which must have signed what a client shows. Empty: clients show nothing.",
    },
    Setting {
        key: "streaming.tls_min_version",
        form: Form::Text,
        default: Default::Fixed("1.2"),
        help: "Oldest version of TLS that is spoken, 1.2 or 1.3.",
    },
    Setting {
        key: "streaming.idle_timeout",
        form: Form::Text,
        default: Default::Fixed("4h"),
        help: "How long a stream may go without a byte before it is ended, such as 30m or 4h.",
    },
    Setting {
        key: "client.tls_ca",
        form: Form::Text,
        default: Default::Fixed(""),
        help: "Certificates in PEM, one of which must have signed the streaming server's, for berth run, exec and attach. \
               Empty: streaming.tls_cert itself is trusted, and no other.",
    },
    Setting {
        key: "client.tls_cert",
        form: Form::Text,
        default: Default::Fixed(""),
        help: "Certificate in PEM that berth run, exec and attach show to a streaming server with streaming.tls_client_ca.",
    },
    Setting {
        key: "client.tls_key",
        form: Form::Text,
        default: Default::Fixed(""),
        help: "Key of that certificate, in PEM.",
    },
    Setting {
        key: "shutdown.drain",
        form: Form::Text,
        default: Default::Fixed("10s"),
        help: "How long requests in flight may take after SIGTERM. The pods go on running either way.",
    },
];

const USUAL_NAME: &str = "berth";

fn per_name(settings: &Settings, base: &str) -> Value {
    match settings.text("name") {
        USUAL_NAME => Value::Text(base.to_owned()),
        name => Value::Text(format!("{base}-{name}")),
    }
}
