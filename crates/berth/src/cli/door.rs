//! Berth under the names of containerd's programs, for kind: `kind load docker-image` and `kind load image-archive` run `ctr` and
//! `containerd` inside a node. What they ask there is answered, by Berth's own verbs; whatever else is asked is refused, since a
//! person who types it means a containerd that is not there.
//!
//! kind's words (kubernetes-sigs/kind, pkg/cluster/nodeutils/util.go):
//!
//!     containerd config dump
//!     ctr --namespace=k8s.io images import --all-platforms --digests --snapshotter=overlayfs -
//!     ctr --namespace=k8s.io images tag --force ID NAME
//!
//! and `images import -` alone, as its older releases have it and as people type it in its stead.

use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};

/// Kubernetes' images; others are of no use to a kubelet.
const NAMESPACE: &str = "k8s.io";
/// What kind hands back to an import.
const SNAPSHOTTER: &str = "overlayfs";
/// Where kind's releases look for the snapshotter, by the version of the configuration.
const DUMP: &str = "\
# Berth's answer to kind, which looks here for the snapshotter and at nothing else.
version = 2

[plugins.\"io.containerd.grpc.v1.cri\".containerd]
snapshotter = \"overlayfs\"
";

/// What a call under another name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// These words to `berth`.
    Verb(Vec<OsString>),
    /// This on standard output.
    Says(&'static str),
    /// Nothing: what was asked.
    Refused(String),
}

/// `None` for what is called by Berth's own name.
pub(super) fn call(arguments: &[OsString]) -> Option<Call> {
    let program = Path::new(arguments.first()?).file_name()?.to_str()?;
    let parser = match program {
        "ctr" => ctr(),
        "containerd" => containerd(),
        _ => return None,
    };
    let asked = parser.try_get_matches_from(arguments).ok().and_then(|matches| match program {
        "ctr" => of_ctr(&matches),
        _ => Some(Call::Says(DUMP)),
    });
    Some(asked.unwrap_or_else(|| {
        let words: Vec<_> = arguments.iter().skip(1).map(|word| word.to_string_lossy()).collect();
        Call::Refused(format!("{program} {}", words.join(" ")).trim_end().to_owned())
    }))
}

fn plain(name: &'static str) -> Command {
    Command::new(name).disable_help_flag(true).disable_help_subcommand(true).subcommand_required(true)
}

fn containerd() -> Command {
    plain("containerd").subcommand(plain("config").subcommand(Command::new("dump").disable_help_flag(true)))
}

fn ctr() -> Command {
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let one = |name: &'static str, word: &'static str| Arg::new(name).long(name).value_parser([word]);
    let import = Command::new("import")
        .disable_help_flag(true)
        .args([flag("all-platforms"), flag("digests"), one("snapshotter", SNAPSHOTTER)])
        .arg(Arg::new("FILE").required(true));
    let tag = Command::new("tag")
        .disable_help_flag(true)
        .arg(flag("force").required(true))
        .args([Arg::new("IMAGE").required(true), Arg::new("NAME").required(true)]);
    plain("ctr")
        .arg(one("namespace", NAMESPACE).short('n').required(true))
        .subcommand(plain("images").subcommands([import, tag]))
}

fn of_ctr(matches: &ArgMatches) -> Option<Call> {
    let (verb, matches) = matches.subcommand()?.1.subcommand()?;
    let names: &[&str] = if verb == "import" { &["FILE"] } else { &["IMAGE", "NAME"] };
    let words = names.iter().map(|name| matches.get_one::<String>(name).cloned());
    let words: Vec<OsString> = words.map(|word| word.map(OsString::from)).collect::<Option<_>>()?;
    // A file that is called like a flag is none.
    let begin = ["berth", "image", verb, "--"].map(OsString::from);
    Some(Call::Verb(begin.into_iter().chain(words).collect()))
}

/// What is said of a call that is refused.
pub(super) fn refusal(asked: &str) -> String {
    format!(
        "{asked}: this is Berth's door for `kind load`, not containerd; it knows `ctr --namespace={NAMESPACE} images import`, \
         `images tag --force` and `containerd config dump`. For all else: `berth image --help` and crictl"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Option<Call> {
        call(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    fn verb(line: &str) -> Option<Call> {
        Some(Call::Verb(line.split(' ').map(OsString::from).collect()))
    }

    #[test]
    fn what_kind_runs_is_a_verb_of_ours() {
        for line in [
            "/usr/local/bin/ctr --namespace=k8s.io images import --all-platforms --digests --snapshotter=overlayfs -",
            "ctr --namespace=k8s.io images import --digests --snapshotter=overlayfs -",
            "ctr --namespace=k8s.io images import -",
            "ctr -n k8s.io images import -",
            "ctr -n=k8s.io images import --all-platforms -",
        ] {
            assert_eq!(asked(line), verb("berth image import -- -"), "{line}");
        }
        let line = "ctr --namespace=k8s.io images tag --force sha256:ab docker.io/library/a:1";
        assert_eq!(asked(line), verb("berth image tag -- sha256:ab docker.io/library/a:1"));
        assert_eq!(asked("containerd config dump"), Some(Call::Says(DUMP)));
        assert_eq!(asked("berth image import -"), None);
        assert_eq!(asked("/opt/berth-1.2/berth serve"), None);
        assert_eq!(call(&[]), None);
    }

    #[test]
    fn all_else_is_refused_as_it_was_asked() {
        for line in [
            "ctr",
            "ctr --help",
            "ctr images import -",
            "ctr -n default images import -",
            "ctr -n k8s.io images ls",
            "ctr -n k8s.io images import",
            "ctr -n k8s.io images import --base-name x -",
            "ctr -n k8s.io images import --snapshotter=native -",
            "ctr -n k8s.io images tag a b",
            "ctr -n k8s.io run a b",
            "containerd",
            "containerd --version",
            "containerd config default",
        ] {
            assert_eq!(asked(line), Some(Call::Refused(line.to_owned())), "{line}");
        }
    }
}
