//! The command line: arguments from the settings table, one function per verb, errors to exit codes.

mod ask;
mod client;
mod config;
mod door;
mod image;
mod network;
mod screen;

use std::path::PathBuf;
use std::process::ExitCode;

use berth_client::ClientError;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::admin::client::AskError;
use crate::admin::protocol::chain;
use crate::config::{Config, ConfigError, SETTINGS, Settings, Sources};
use crate::daemon::{self, DaemonError};

/// Exit codes by sysexits(3).
const EX_USAGE: u8 = 64;
const EX_UNAVAILABLE: u8 = 69;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("{verb}")]
    Client { verb: &'static str, source: ClientError },
    #[error("open {path}")]
    Open { path: String, source: std::io::Error },
    #[error("import {path}")]
    Import { path: String, source: AskError },
    #[error("write to standard output")]
    Output { source: std::io::Error },
    #[error("an archive is nothing for a terminal: use -o FILE or a pipe")]
    Terminal,
    #[error("the archive goes to standard output, where --json would go: use -o FILE")]
    TwoOutputs,
    #[error("a directory is not compressed")]
    CompressedDirectory,
    #[error("{}", errors.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; "))]
    Several { errors: Vec<CliError> },
    #[error("with --archive there is one destination")]
    OneDestination,
    #[error("{}", door::refusal(asked))]
    Door { asked: String },
    #[error("the daemon's answer was lost")]
    Lost,
    #[error("not without --yes: reset ends and removes every pod of the instance {name:?}")]
    Unconfirmed { name: String },
    #[error(
        "not without --yes: network reset removes bridges, tables and interfaces of the instance {name:?}"
    )]
    UnconfirmedNetwork { name: String },
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Terminal
            | Self::TwoOutputs
            | Self::CompressedDirectory
            | Self::OneDestination
            | Self::Door { .. }
            | Self::Unconfirmed { .. }
            | Self::UnconfirmedNetwork { .. } => EX_USAGE,
            Self::Daemon(error) => error.exit_code(),
            Self::Client { verb, source } => source.exit_code(verb),
            Self::Ask(AskError::NoDaemon { .. }) => EX_UNAVAILABLE,
            Self::Several { errors } => errors.iter().map(Self::exit_code).max().unwrap_or(1),
            Self::Ask(_) | Self::Lost | Self::Open { .. } | Self::Import { .. } | Self::Output { .. } => 1,
        }
    }

    /// What a person can do about it.
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Ask(AskError::NoDaemon { .. })
            | Self::Client { source: ClientError::NoDaemon { .. }, .. } => Some(
                "start it with `berth serve`; one with another --name or --state is reached with the same flags",
            ),
            Self::Client { source: ClientError::InUse { .. }, .. } => Some(
                "--force takes the names away all the same; layers stay until the last container is gone",
            ),
            Self::Client { source: ClientError::Left { .. }, .. } => {
                Some("`berth status` shows how far it is; the same pull again waits for it")
            }
            Self::Client { verb, source: ClientError::Call { doing, status } }
                if verb.ends_with("pull") && !status.message().starts_with("image reference")
                    || doing.starts_with("pull ") && status.message().starts_with("Registry") =>
            {
                Some("`berth image explain IMAGE` tries each step of it")
            }
            _ => None,
        }
    }
}

/// Runs the verb that `arguments` name, by whichever name this program was called.
pub(crate) fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let done = match door::call(&arguments) {
        None => return verb(&arguments),
        Some(door::Call::Verb(words)) => return verb(&words),
        Some(door::Call::Says(text)) => print(text),
        Some(door::Call::Refused(asked)) => Err(CliError::Door { asked }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            error.exit_code().into()
        }
    }
}

fn verb(arguments: &[std::ffi::OsString]) -> ExitCode {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are errors to clap, and go to stdout. If the terminal is gone nobody reads either.
            let _ = error.print();
            return if error.use_stderr() { EX_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match dispatch(&matches) {
        Ok(code) => code.into(),
        Err(error) => {
            complain(&error);
            error.exit_code().into()
        }
    }
}

#[expect(clippy::print_stderr, reason = "the command line's one place that tells what went wrong")]
fn complain(error: &CliError) {
    eprintln!("berth: {}", chain(error));
    if let Some(hint) = error.hint() {
        eprintln!("berth: {hint}");
    }
}

/// Writes to stdout; a closed pipe is an error, not a panic.
fn print(text: &str) -> Result<(), CliError> {
    use std::io::Write as _;
    std::io::stdout().write_all(text.as_bytes()).map_err(|source| CliError::Output { source })
}

fn command() -> Command {
    let verb = |name, about: &'static str| Command::new(name).about(about);
    let command = Command::new("berth")
        .about("A Kubernetes container runtime: answers CRI v1 on a unix socket")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(verb("serve", "Run the daemon in the foreground"))
        .subcommand(
            verb("config", "Show or check the settings")
                .subcommand_required(true)
                .subcommand(verb("default", "Print every setting with its meaning and default, as a file"))
                .subcommand(verb("dump", "Print what holds here, with the origin of each value"))
                .subcommand(verb("check", "Say whether the settings hold; exit code 64 if not")),
        )
        .subcommand(
            verb("image", "Images of the running daemon")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .after_help(image::HELP)
                .subcommands(berth_client::image_commands())
                .subcommands(image::commands()),
        )
        .subcommand(network::command())
        .subcommand(
            verb("status", "One screen about the running daemon")
                .arg(json_flag("The same as JSON, for programs")),
        )
        .subcommand(
            verb("reset", "End and remove every pod, the network and the control groups; images stay")
                .arg(Arg::new("yes").long("yes").action(ArgAction::SetTrue).help("Really do it")),
        )
        .subcommand(verb("version", "Print the version"))
        .subcommands(berth_client::commands());
    settings_flags(command)
}

fn json_flag(help: &'static str) -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help(help)
}

/// Settings that say which daemon is meant; the others are for the daemon itself.
const SELECT: [&str; 4] = ["name", "state", "root", "socket"];

/// `--config` and one flag per setting, for every verb; shown are all where a daemon or its settings are the matter.
fn settings_flags(command: Command) -> Command {
    let shown = |command: Command| command.args(settings_args());
    let hide = |arg: Arg| {
        let id = arg.get_id().as_str();
        let selects = id == "config" || SELECT.contains(&id);
        arg.global(true).hide(!selects)
    };
    let config = |config: Command| {
        let names: Vec<String> = config.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
        names.into_iter().fold(config, |config, name| config.mut_subcommand(name, shown))
    };
    let command = command.mut_subcommand("serve", shown).mut_subcommand("config", config);
    command
        .args(settings_args().map(hide))
        .after_help("Every setting is a flag of every verb; `berth serve --help` shows them all.")
}

fn settings_args() -> impl Iterator<Item = Arg> {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("Read this file in place of those under /etc/berth [env: BERTH_CONFIG]");
    let flags = SETTINGS.iter().map(|setting| {
        let first =
            setting.help.split_once(". ").map_or(setting.help, |(first, _)| first).trim_end_matches('.');
        Arg::new(setting.key)
            .long(setting.flag())
            .value_name(setting.key.rsplit('.').next().unwrap_or_default().to_uppercase())
            .help(format!("{first} [env: {}]", setting.variable()))
    });
    std::iter::once(file).chain(flags).map(|arg| arg.help_heading("Settings"))
}

/// The settings by files, environment and the flags of `matches`.
fn settings(matches: &ArgMatches) -> Result<Settings, CliError> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, _)| name.starts_with("BERTH_"))
        .collect();
    let flags = SETTINGS.iter().filter_map(|setting| {
        matches.get_one::<String>(setting.key).map(|value| (setting.key, value.clone()))
    });
    let file = matches.get_one::<PathBuf>("config").cloned();
    let file = file.or_else(|| std::env::var_os("BERTH_CONFIG").map(PathBuf::from));
    Ok(Settings::gather(&Sources { file, environment, flags: flags.collect() })?)
}

fn dispatch(matches: &ArgMatches) -> Result<u8, CliError> {
    let Some((verb, of_verb)) = matches.subcommand() else { return Ok(0) };
    if let Some(verb) = berth_client::VERBS.iter().find(|known| **known == verb) {
        return client::run(verb, &Config::lower(&settings(of_verb)?)?, of_verb);
    }
    match (verb, of_verb.subcommand()) {
        ("serve", _) => {
            let settings = settings(of_verb)?;
            daemon::serve(&Config::lower(&settings)?, &settings.warnings)?;
        }
        ("config", Some(("default", _))) => config::default()?,
        ("config", Some(("dump", matches))) => config::dump(&settings(matches)?)?,
        ("config", Some((_, matches))) => config::check(&settings(matches)?)?,
        ("image", Some((verb, matches))) => {
            let config = Config::lower(&settings(matches)?)?;
            match verb {
                "pull" => return client::run("image pull", &config, matches),
                "list" => return client::run("image list", &config, matches),
                "remove" => return client::run("image remove", &config, matches),
                "push" => image::push(&config, matches)?,
                "tag" => image::tag(&config, matches)?,
                "inspect" => image::inspect(&config, matches)?,
                "prune" => image::prune(&config, matches)?,
                "explain" => return image::explain(&config, matches),
                "export" => image::export(&config, matches)?,
                "verify" => return image::verify(&config, matches),
                _ => image::import(&config, matches)?,
            }
        }
        ("network", Some((verb, matches))) => {
            return network::run(verb, &Config::lower(&settings(matches)?)?, matches);
        }
        ("status", _) => ask::status(&Config::lower(&settings(of_verb)?)?, of_verb.get_flag("json"))?,
        ("reset", _) => ask::reset(&Config::lower(&settings(of_verb)?)?, of_verb.get_flag("yes"))?,
        _ => print(&format!("berth {}\n", env!("CARGO_PKG_VERSION")))?,
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        super::command().debug_assert();
    }
}
