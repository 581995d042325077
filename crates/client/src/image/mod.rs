//! Images by what CRI can say of them: pulled, listed, removed.

mod list;
mod pull;
mod remove;
mod show;

use clap::{Arg, ArgAction, ArgMatches, Command};

pub(crate) use pull::ensure;
pub use show::Show;

use crate::ClientError;
use crate::command::{flag, value};
use crate::node::Node;
use crate::terminal::ask_password;

/// The verbs below `image` that this crate has.
pub const VERBS: &[&str] = &["pull", "list", "remove"];

/// One for each of [`VERBS`].
pub fn commands() -> Vec<Command> {
    vec![
        pull_arguments(Command::new("pull").about("Pull images"))
            .after_help(
                "Ctrl-C ends this program; the daemon goes on pulling, as it does for any client.\n\n\
                 With --platform an image that this machine does not run is known by its id and its digest alone, which \
                 inspect, export, push and remove take: names stand for what this machine runs, so that no pod is given \
                 another's. A container of it ends at once, unless the kernel has an interpreter for it (binfmt_misc).",
            ),
        list_arguments(Command::new("list").visible_alias("ls").about("List images")),
        Command::new("remove")
            .visible_alias("rm")
            .about("Remove images, each with all its names; what is not used by others leaves the disk")
            .arg(
                flag("force", "Also those that containers use; their layers stay until those are gone")
                    .short('f'),
            )
            .arg(flag("json", "An object for each, for programs"))
            .arg(
                Arg::new("IMAGE")
                    .required(true)
                    .num_args(1..)
                    .help("A name, a digest, or an id or its beginning"),
            ),
    ]
}

pub(crate) fn pull_arguments(command: Command) -> Command {
    command
        .args(login_arguments())
        .arg(value(
            "platform",
            "OS/ARCH[/VARIANT]",
            "What it has for this platform, such as linux/arm64; else for this machine",
        ))
        .arg(flag("json", "An object for each at its end, for programs; no progress"))
        .arg(Arg::new("IMAGE").required(true).num_args(1..).help("[HOST/]REPOSITORY[:TAG][@DIGEST]"))
}

pub(crate) fn list_arguments(command: Command) -> Command {
    command
        .arg(flag("quiet", "Only their ids").short('q'))
        .arg(flag("digests", "With the digests by which registries know them"))
        .arg(flag("json", "A list for programs, with all of it"))
        .arg(
            value("filter", "WHICH", "used, unused, pinned or untagged; several narrow it down")
                .short('f')
                .action(ArgAction::Append)
                .value_parser(["used", "unused", "pinned", "untagged"]),
        )
        .arg(
            Arg::new("PATTERN")
                .num_args(0..)
                .help("Only what is called so; * and ? stand for letters, host and tag may be left away"),
        )
}

/// `--creds` and `--creds-stdin`, also of verbs that are not this crate's.
pub fn login_arguments() -> [Arg; 2] {
    [
        value("creds", "USER[:PASSWORD]", "In place of those in files; without a password it is asked for"),
        flag("creds-stdin", "The same from the first line of standard input, where nobody sees it")
            .conflicts_with("creds"),
    ]
}

/// User and password, where some are given.
pub fn login(matches: &ArgMatches) -> Result<Option<(String, String)>, ClientError> {
    let option = if matches.get_flag("creds-stdin") { "creds-stdin" } else { "creds" };
    let text = match matches.get_one::<String>("creds") {
        Some(text) => text.clone(),
        None if option == "creds-stdin" => {
            let mut line = String::new();
            let read = std::io::stdin().read_line(&mut line);
            read.map_err(|source| ClientError::Io { doing: "read standard input", source })?;
            line.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => return Ok(None),
    };
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user.to_owned(), password.to_owned()),
        None if option == "creds" => (text.clone(), ask_password(&text)?),
        None => {
            let problem = "the first line has no colon between user and password".to_owned();
            return Err(ClientError::Option { option, problem });
        }
    };
    match user.is_empty() {
        true => Err(ClientError::Option { option, problem: "the user is empty".to_owned() }),
        false => Ok(Some((user, password))),
    }
}

fn names(matches: &ArgMatches) -> Vec<String> {
    matches.get_many::<String>("IMAGE").into_iter().flatten().cloned().collect()
}

/// `verb` is one of [`VERBS`].
pub(crate) async fn run(node: &mut Node, verb: &str, matches: &ArgMatches) -> Result<u8, ClientError> {
    let json = matches.get_flag("json");
    match verb {
        "pull" => {
            let platform = matches.get_one::<String>("platform").cloned();
            let wish = pull::Wish { login: login(matches)?, platform };
            pull::command(node, &names(matches), wish, json).await
        }
        "list" => list::command(node, matches).await,
        _ => remove::command(node, &names(matches), matches.get_flag("force"), json).await,
    }
}
