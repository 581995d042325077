//! The verbs and their arguments.

use clap::{Arg, ArgAction, Command};

use crate::image;

/// The verbs of this crate.
pub const VERBS: &[&str] = &["run", "exec", "attach", "ps", "logs", "stop", "rm", "images", "pull"];

pub(crate) fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

pub(crate) fn value(name: &'static str, form: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(form).help(help)
}

fn list(name: &'static str, short: char, form: &'static str, help: &'static str) -> Arg {
    value(name, form, help).short(short).action(ArgAction::Append)
}

fn container() -> Arg {
    Arg::new("CONTAINER").required(true).help("Its name, or the beginning of its id")
}

fn containers() -> Arg {
    container().action(ArgAction::Append).num_args(1..)
}

fn interactive() -> [Arg; 2] {
    [
        flag("interactive", "Pass standard input on").short('i'),
        flag("tty", "Give it a terminal, shown on this one").short('t'),
    ]
}

/// One for each of [`VERBS`].
pub fn commands() -> Vec<Command> {
    let verb = |name, about: &'static str| Command::new(name).about(about);
    let trailing = |name, required| {
        Arg::new(name)
            .required(required)
            .num_args(if required { 1.. } else { 0.. })
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
    };
    vec![
        verb("run", "Run a program of an image in a pod of its own; ends with the program's exit code")
            .args(interactive())
            .arg(flag("rm", "Leave nothing when it has ended"))
            .arg(flag("detach", "Print its id and leave it running").short('d'))
            .arg(list("publish", 'p', "[IP:]PORT:PORT[/udp]", "Port of the host, port of the container"))
            .arg(list(
                "volume",
                'v',
                "HOST:PATH[:ro]",
                "Directory or file of the host, where it is seen; ro, rro, rslave or rshared",
            ))
            .arg(list("env", 'e', "NAME[=VALUE]", "Variable; without a value, ours"))
            .arg(value("memory", "BYTES", "Most memory it may use, with k, m or g").short('m'))
            .arg(value("cpus", "NUMBER", "Most processors it may use, such as 0.5"))
            // Not by the name of the setting, which names the instance; that is --instance here.
            .arg(Arg::new("as").long("name").value_name("NAME").help("What to call it; else it gets a name"))
            .arg(
                Arg::new("name")
                    .long("instance")
                    .value_name("NAME")
                    .help("The daemon's instance, --name of the other verbs"),
            )
            .arg(value("workdir", "PATH", "Working directory, in place of the image's").short('w'))
            .arg(value("user", "USER[:GROUP]", "By name or number, in place of the image's").short('u'))
            .arg(value("entrypoint", "PROGRAM", "In place of the image's"))
            .arg(value("hostname", "NAME", "The pod's; else its name"))
            .arg(
                value("pull", "WHEN", "missing, always or never")
                    .default_value("missing")
                    .value_parser(["missing", "always", "never"]),
            )
            .arg(flag("host-network", "In the host's network"))
            .arg(flag("privileged", "With all capabilities and devices of the host"))
            .arg(flag("read-only", "With a root filesystem it cannot write to"))
            .arg(Arg::new("IMAGE").required(true))
            .arg(trailing("COMMAND", false).help("Arguments in place of the image's")),
        verb("exec", "Run one more program in a container; ends with its exit code")
            .args(interactive())
            .arg(container())
            .arg(trailing("COMMAND", true)),
        verb("attach", "Connect to the program of a container; ends with its exit code").arg(container()),
        verb("ps", "List containers")
            .arg(flag("all", "Also those that do not run").short('a'))
            .arg(flag("quiet", "Only their ids").short('q')),
        verb("logs", "Print what a container wrote")
            .arg(flag("follow", "Go on until it has ended").short('f'))
            .arg(flag("timestamps", "With the time of each line").short('t'))
            .arg(
                value("tail", "LINES", "Only so many of the last lines")
                    .short('n')
                    .value_parser(clap::value_parser!(usize)),
            )
            .arg(container()),
        verb("stop", "Stop containers, and the pods that run made for them")
            .arg(
                value("time", "SECONDS", "Until they are killed")
                    .short('t')
                    .value_parser(clap::value_parser!(u32))
                    .default_value("10"),
            )
            .arg(containers()),
        verb("rm", "Remove containers, and the pods that run made for them")
            .arg(flag("force", "Kill those that run").short('f'))
            .arg(containers()),
        image::list_arguments(verb("images", "List images; short for image list")),
        image::pull_arguments(verb("pull", "Pull images; short for image pull")),
    ]
}
