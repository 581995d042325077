//! Arguments, environment, working directory, standard input and stop signals: the request over the image.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use berth_cri_api::v1::*;

use super::{Lab, Log, RICH, owned};
use crate::checks::Checks;

fn rich(config: &mut ContainerConfig) {
    config.image = Some(ImageSpec { image: RICH.into(), ..Default::default() });
}

pub(super) async fn run(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    for (what, command, args, expected) in [
        ("neither: the image's entrypoint and cmd", &[][..], &[][..], "\"of\"\n\"the image\"\n"),
        ("args: the entrypoint, not the cmd", &[], &["a", "b c"], "\"a\"\n\"b c\"\n"),
        ("command: neither of the image's", &["/guest", "words", "x"], &[], "\"x\"\n"),
        ("command and args", &["/guest", "words"], &["$(y)", ""], "\"$(y)\"\n\"\"\n"),
    ] {
        let said = lab
            .said(&|c| {
                rich(c);
                (c.command, c.args) = (owned(command), owned(args));
            })
            .await?;
        checks.that(&format!("command and args over the image: {what}"), said == expected, said);
    }
    let said = lab
        .said(&|c| {
            rich(c);
            c.args = owned(&["env"]);
            let var = |key: &str, value: &str| KeyValue { key: key.into(), value: value.into() };
            c.envs = vec![var("BOTH", "request"), var("ONLY", "request"), var("EMPTY", "")];
        })
        .await?;
    let has = |line: &str| said.lines().any(|found| found == line);
    let all =
        ["FROM=image", "BOTH=request", "ONLY=request", "EMPTY=", "PATH=/", "HOSTNAME=process", "HOME=/srv"];
    checks.that(
        "environment: the image's, over it the request's, HOME of passwd",
        all.iter().all(|l| has(l)),
        &said,
    );
    checks.that(
        "  each name once",
        said.lines().filter(|line| line.starts_with("BOTH=")).count() == 1,
        &said,
    );
    for (what, dir, expected) in
        [("the image's", "", "/srv/dir\n"), ("the request's", "/elsewhere", "/elsewhere\n")]
    {
        let said = lab
            .said(&|c| {
                rich(c);
                c.args = owned(&["cwd"]);
                c.working_dir = dir.into();
            })
            .await?;
        checks.that(&format!("working directory: {what}"), said == expected, said);
    }
    for (what, command) in [("by PATH", "guest"), ("by its path", "/guest")] {
        let said =
            lab.said(&|c| (c.command, c.args) = (owned(&[command]), owned(&["echo", "found"]))).await?;
        checks.that(&format!("a program {what}"), said == "found\n", said);
    }
    stdin(checks, lab).await?;
    signals(checks, lab).await
}

async fn stdin(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    let said = lab.said(&|c| c.args = owned(&["stdin"])).await?;
    checks.that("stdin: not asked for, it has ended", said == "0 bytes\n", said);
    for once in [false, true] {
        let id = lab.start(&|c| (c.args, c.stdin, c.stdin_once) = (owned(&["stdin"]), true, once)).await?;
        let link = lab.tool(&id, &["link", "/proc/1/fd/0"]).await?;
        let state = lab.client.status(&id).await?.state;
        let waits = link.starts_with("pipe:") && state == i32::from(ContainerState::ContainerRunning);
        checks.that(&format!("stdin: kept open for attach, stdin_once {once}"), waits, link);
        lab.kill(&id).await?;
    }
    Ok(())
}

async fn signals(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    for (what, of_image, asked, name, expected) in [
        ("TERM, when nobody names one", false, Signal::RuntimeDefault, "SIGNAL_SIGTERM", "got 15\n"),
        ("the image's", true, Signal::RuntimeDefault, "SIGNAL_SIGUSR1", "got 10\n"),
        ("the request's over the image's", true, Signal::Sigusr2, "SIGNAL_SIGUSR2", "got 12\n"),
        ("the request's", false, Signal::Sigquit, "SIGNAL_SIGQUIT", "got 3\n"),
    ] {
        let id = lab
            .start(&|c| {
                if of_image {
                    rich(c);
                }
                c.args = owned(&["signal"]);
                c.stop_signal = asked.into();
            })
            .await?;
        let status = lab.client.status(&id).await?;
        checks.that(
            &format!("stop signal in the status: {what}"),
            status.stop_signal().as_str_name() == name,
            status.stop_signal,
        );
        let path = Path::new(&status.log_path);
        Log::wait(path, "waiting").await?;
        lab.client.stop(&id, Duration::from_secs(60)).await?;
        let status = lab.client.status(&id).await?;
        let text = Log::read(path)?.text();
        checks.that(
            "  comes to the process, which ends by itself",
            text.ends_with(expected) && status.exit_code == 0,
            text,
        );
    }
    let unborn = lab.create(&|_| {}).await?;
    lab.client.stop(&unborn, Duration::from_secs(5)).await?;
    let state = lab.client.status(&unborn).await?.state;
    checks.that(
        "a stop of what never ran: no error",
        state == i32::from(ContainerState::ContainerCreated),
        state,
    );
    Ok(())
}
