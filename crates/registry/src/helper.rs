//! Docker's credential helpers: `docker-credential-NAME get`, the server on standard input, JSON on standard output.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::{Credentials, RegistryError};

/// Helpers may ask a cloud's metadata service.
const WAIT: Duration = Duration::from_secs(20);
/// Bytes of its answer.
const OUTPUT_MAX: u64 = 64 * 1024;
/// What helpers say, with exit code 1, when they have nothing for a server.
const NOTHING: &str = "credentials not found";
/// As a username it says that the secret is an identity token.
const TOKEN: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// `None`: it has none for this server.
pub(crate) async fn ask(name: &str, server: &str) -> Result<Option<Credentials>, RegistryError> {
    let program = format!("docker-credential-{name}");
    let fail = |problem: String| RegistryError::Helper {
        program: program.clone(),
        host: server.to_owned(),
        problem,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(fail("its name is none of letters, digits and - _ .".into()));
    }
    let mut command = Command::new(&program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // A group of its own, so that what it starts ends with it.
    let mut child =
        command.process_group(0).kill_on_drop(true).spawn().map_err(|error| fail(error.to_string()))?;
    let mut group = Group(child.id());
    let talked = tokio::time::timeout(WAIT, talk(&mut child, server)).await;
    let (output, ended) = match talked {
        Err(_) => return Err(fail(format!("it gave no answer within {} s", WAIT.as_secs()))),
        Ok(Err(error)) => return Err(fail(error.to_string())),
        Ok(Ok(done)) => done,
    };
    if ended.is_some() {
        // It ended by itself; an agent that it started may stay, and its number may soon be another's.
        group.0 = None;
    }
    drop(group);
    if output.len() as u64 > OUTPUT_MAX {
        return Err(fail(format!("its answer is longer than {OUTPUT_MAX} bytes")));
    }
    let Some(ended) = ended else { return Err(fail("it did not end".into())) };
    if !ended.success() {
        // The text is its error; it is not repeated, since nobody knows what is in it.
        return match String::from_utf8_lossy(&output).contains(NOTHING) {
            true => Ok(None),
            false => Err(fail(format!("it failed ({ended})"))),
        };
    }
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|_| fail("its answer is not of the known form".into()))?;
    Ok(match answer {
        Answer { secret, .. } if secret.is_empty() => None,
        Answer { username, secret } if username == TOKEN => Some(Credentials::Identity { token: secret }),
        Answer { username, secret } => Some(Credentials::Basic { username, password: secret }),
    })
}

type Done = (Vec<u8>, Option<std::process::ExitStatus>);

async fn talk(child: &mut Child, server: &str) -> std::io::Result<Done> {
    if let Some(mut input) = child.stdin.take() {
        match input.write_all(server.as_bytes()).await {
            // It may know without asking.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let mut output = Vec::new();
    if let Some(from) = child.stdout.take() {
        from.take(OUTPUT_MAX + 1).read_to_end(&mut output).await?;
    }
    if output.len() as u64 > OUTPUT_MAX {
        return Ok((output, None));
    }
    Ok((output, Some(child.wait().await?)))
}

/// Ended whatever way the call goes wrong.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        // Its number is not another's: the leader has not been waited for.
        if let Some(group) = self.0.and_then(|id| i32::try_from(id).ok()) {
            let _ = nix::sys::signal::killpg(
                nix::unistd::Pid::from_raw(group),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}
