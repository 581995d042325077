//! Arguments, environment, working directory and stop signal: the request over the image.

use std::collections::HashMap;

use berth_model::{ContainerConfig, SandboxConfig, Signal};
use oci_spec::image::ImageConfiguration;

use crate::{PlanError, ResolvedUser};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `command` replaces the entrypoint and with it the image's cmd; `args` replaces the cmd (CRI comments on both).
pub(crate) fn argv(
    container: &ContainerConfig,
    image: &ImageConfiguration,
) -> Result<Vec<String>, PlanError> {
    let config = image.config().as_ref();
    let entrypoint = config.and_then(|c| c.entrypoint().clone()).unwrap_or_default();
    let cmd = config.and_then(|c| c.cmd().clone()).unwrap_or_default();
    let (mut argv, rest) = match (container.command.is_empty(), container.args.is_empty()) {
        (false, _) => (container.command.clone(), container.args.clone()),
        (true, false) => (entrypoint, container.args.clone()),
        (true, true) => (entrypoint, cmd),
    };
    argv.extend(rest);
    match argv.first() {
        None => {
            Err(PlanError::invalid("config.command", "neither the request nor the image names a command"))
        }
        Some(first) if first.is_empty() => {
            Err(PlanError::invalid("config.command", "the command is an empty string"))
        }
        Some(_) => Ok(argv),
    }
}

/// Defaults, then the image's, then the request's; a later value replaces an earlier one in its place.
pub(crate) fn env(
    sandbox: &SandboxConfig,
    container: &ContainerConfig,
    image: &ImageConfiguration,
    user: &ResolvedUser,
) -> Result<Vec<String>, PlanError> {
    let mut env: Vec<(String, String)> = Vec::new();
    // An image may bring any number of them.
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut set = |key: &str, value: String| match places.get(key) {
        Some(place) => env[*place].1 = value,
        None => {
            places.insert(key.to_owned(), env.len());
            env.push((key.to_owned(), value));
        }
    };
    set("PATH", DEFAULT_PATH.into());
    if !sandbox.hostname.is_empty() {
        set("HOSTNAME", sandbox.hostname.clone());
    }
    if container.tty {
        set("TERM", "xterm".into());
    }
    let of_image = image.config().as_ref().and_then(|c| c.env().clone()).unwrap_or_default();
    for entry in of_image.iter().filter(|e| !e.contains('\0')) {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        if !key.is_empty() {
            set(key, value.to_owned());
        }
    }
    for (n, entry) in container.envs.iter().enumerate() {
        let field = || format!("config.envs[{n}]");
        if entry.key.is_empty() || entry.key.contains(['=', '\0']) {
            return Err(PlanError::invalid(field(), format!("{:?} is no name of a variable", entry.key)));
        }
        let value = String::from_utf8(entry.value.clone());
        let value = value.map_err(|_| PlanError::invalid(field(), "the value is not UTF-8"))?;
        if value.contains('\0') {
            return Err(PlanError::invalid(field(), "the value contains a NUL byte"));
        }
        set(&entry.key, value);
    }
    if !places.contains_key("HOME") {
        env.push(("HOME".into(), user.home.clone()));
    }
    Ok(env.into_iter().map(|(key, value)| format!("{key}={value}")).collect())
}

/// The request's, else the image's, else `/`.
pub(crate) fn cwd(container: &ContainerConfig, image: &ImageConfiguration) -> String {
    let of_image = || image.config().as_ref().and_then(|c| c.working_dir().clone());
    let given = Some(container.working_dir.clone()).filter(|dir| !dir.is_empty());
    match given.or_else(of_image).filter(|dir| !dir.is_empty()) {
        None => "/".into(),
        Some(dir) if dir.starts_with('/') => dir,
        // Relative ones are seen from the root, as OCI images use them.
        Some(dir) => format!("/{dir}"),
    }
}

/// The request's, else the image's, else TERM; an image's word that is no signal counts as none.
pub fn stop_signal(container: &ContainerConfig, image: &ImageConfiguration) -> Signal {
    let of_image = || image.config().as_ref().and_then(|c| c.stop_signal().clone());
    let parse = |text: String| Signal::parse(&text).ok();
    container.stop_signal.or_else(|| of_image().and_then(parse)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::EnvVar;
    use serde_json::json;

    fn image(config: serde_json::Value) -> ImageConfiguration {
        let all = json!({"architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": []}, "history": []});
        serde_json::from_value(all).unwrap()
    }

    fn own(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn command_and_args_over_the_image() {
        let image = image(json!({"Entrypoint": ["e"], "Cmd": ["c"]}));
        for (command, args, expected) in [
            (&[][..], &[][..], &["e", "c"][..]),
            (&["x"], &[], &["x"]),
            (&["x"], &["y"], &["x", "y"]),
            (&[], &["y"], &["e", "y"]),
        ] {
            let container = ContainerConfig { command: own(command), args: own(args), ..Default::default() };
            assert_eq!(argv(&container, &image).unwrap(), own(expected), "{command:?} {args:?}");
        }
        assert!(argv(&ContainerConfig::default(), &ImageConfiguration::default()).is_err());
    }

    #[test]
    fn environment_layers() {
        let image = image(json!({"Env": ["PATH=/img", "A=1", "B=2", "=x"]}));
        let sandbox = SandboxConfig { hostname: "pod".into(), ..Default::default() };
        let var = |key: &str, value: &str| EnvVar { key: key.into(), value: value.into() };
        let container =
            ContainerConfig { envs: vec![var("B", "3"), var("C", "")], tty: true, ..Default::default() };
        let user = ResolvedUser { home: "/root".into(), ..Default::default() };
        let found = env(&sandbox, &container, &image, &user).unwrap();
        assert_eq!(
            found,
            own(&["PATH=/img", "HOSTNAME=pod", "TERM=xterm", "A=1", "B=3", "C=", "HOME=/root"])
        );
        for bad in [var("", "x"), var("A=B", "x"), var("A", "x\0y")] {
            let container = ContainerConfig { envs: vec![bad.clone()], ..Default::default() };
            let error = env(&sandbox, &container, &image, &user).unwrap_err().to_string();
            assert!(error.contains("config.envs[0]"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn working_directory() {
        let image = image(json!({"WorkingDir": "/srv"}));
        let with = |dir: &str| ContainerConfig { working_dir: dir.into(), ..Default::default() };
        assert_eq!(cwd(&with(""), &image), "/srv");
        assert_eq!(cwd(&with("/x"), &image), "/x");
        assert_eq!(cwd(&with("x"), &image), "/x");
        assert_eq!(cwd(&with(""), &ImageConfiguration::default()), "/");
    }

    #[test]
    fn stop_signals() {
        let image = image(json!({"StopSignal": "SIGQUIT"}));
        let asked = ContainerConfig { stop_signal: Some(Signal::KILL), ..Default::default() };
        assert_eq!(stop_signal(&asked, &image), Signal::KILL);
        assert_eq!(stop_signal(&ContainerConfig::default(), &image).name(), "SIGQUIT");
        assert_eq!(stop_signal(&ContainerConfig::default(), &ImageConfiguration::default()), Signal::TERM);
    }
}
