//! `berth network`: what pods are connected to, and whether it works.

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{CliError, json_flag, print};
use crate::admin::client::{AskError, ask};
use crate::admin::protocol::Request;
use crate::config::Config;

mod check;
mod instance;
mod pod;
mod tree;

pub(super) fn command() -> Command {
    let pod = || Arg::new("POD").help("Its name, with or without the namespace, or the beginning of its id");
    Command::new("network")
        .about("Look at the pods' network, try it, or take it down")
        .subcommand_required(true)
        .subcommand(
            Command::new("inspect")
                .about("Draw what a pod, or the whole instance, is connected to, by the kernel")
                .arg(pod())
                .arg(json_flag("The same as JSON, for programs")),
        )
        .subcommand(
            Command::new("check")
                .about("Try a pod's network hop by hop and name the one that fails; exit code 1 if any does")
                .arg(pod().required(true))
                .arg(json_flag("The same as JSON, for programs")),
        )
        .subcommand(
            Command::new("reset")
                .about("Remove bridges, tables and interfaces; not while pods use them, and the next one makes them anew")
                .arg(Arg::new("yes").long("yes").action(ArgAction::SetTrue).help("Really do it")),
        )
}

pub(super) fn run(verb: &str, config: &Config, matches: &ArgMatches) -> Result<u8, CliError> {
    let socket = config.admin_socket();
    let pod = || matches.get_one::<String>("POD").cloned();
    match verb {
        "inspect" => {
            let pod = pod();
            let of_pod = pod.is_some();
            let told = ask(&socket, &Request::NetworkInspect { pod }, None)?;
            let text = match of_pod {
                _ if matches.get_flag("json") => format!("{told:#}\n"),
                true => pod::draw(&read(told)?),
                false => instance::draw(&config.name, &read(told)?),
            };
            print(&text)?;
            Ok(0)
        }
        "check" => {
            let told = ask(&socket, &Request::NetworkCheck { pod: pod().unwrap_or_default() }, None)?;
            let text = matches.get_flag("json").then(|| format!("{told:#}\n"));
            let checked = read(told)?;
            print(&text.unwrap_or_else(|| check::draw(&checked)))?;
            Ok(u8::from(check::has_failed(&checked)))
        }
        _ if !matches.get_flag("yes") => Err(CliError::UnconfirmedNetwork { name: config.name.clone() }),
        _ => {
            ask(&socket, &Request::NetworkReset {}, None)?;
            print(&format!("the network of {} is gone; the next pod makes it anew\n", config.name))?;
            Ok(0)
        }
    }
}

fn read<T: DeserializeOwned>(told: Value) -> Result<T, CliError> {
    serde_json::from_value(told).map_err(|source| AskError::Decode { source }.into())
}
