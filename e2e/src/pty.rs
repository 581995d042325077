//! A program at a terminal, and somebody who types.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::checks::until;

pub(crate) struct Pty {
    master: File,
    /// Kept open, so that the terminal stays when the program has ended.
    terminal: OwnedFd,
    child: Child,
    /// How it was set before the program came.
    pub(crate) before: String,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Pty {
    /// Starts it as the leader of a session with a terminal of this size.
    pub(crate) fn start(program: &Command, columns: u16, rows: u16) -> Result<Self> {
        let master = File::options().read(true).write(true).open("/dev/ptmx")?;
        let terminal = berth_sys::tty::open_peer(master.as_fd())?;
        berth_sys::tty::resize(master.as_fd(), columns, rows)?;
        hear_interrupts()?;
        let stream = || -> Result<Stdio> { Ok(Stdio::from(terminal.try_clone()?)) };
        let before = modes(&terminal)?;
        // setsid(1) gives the terminal to the session, and becomes the program.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(program.get_program()).args(program.get_args());
        let child = command.stdin(stream()?).stdout(stream()?).stderr(stream()?).spawn()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, shown) = (master.try_clone()?, seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO once the last end of the terminal is closed.
            while let Ok(length) = reader.read(&mut buffer) {
                shown.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
            }
        });
        Ok(Self { master, terminal, child, before, seen })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// To type with.
    pub(crate) fn keys(&self) -> impl std::io::Write + '_ {
        &self.master
    }

    pub(crate) fn send(&mut self, keys: &str) -> Result<()> {
        Ok(self.master.write_all(keys.as_bytes())?)
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        Ok(berth_sys::tty::resize(self.master.as_fd(), columns, rows)?)
    }

    pub(crate) fn seen(&self) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Waits until this is on the screen.
    pub(crate) async fn expect(&self, text: &str) -> Result<()> {
        let what = format!("{text:?} on the terminal");
        let shown = until(&what, || async { Ok(self.seen().contains(text).then_some(())) }).await;
        match shown {
            Err(error) => bail!("{error}; it shows {:?}", self.seen()),
            shown => shown,
        }
    }

    /// How it is set now.
    pub(crate) fn modes(&self) -> Result<String> {
        modes(&self.terminal)
    }

    /// The program's exit code, once all that it wrote is seen: what is written after it comes after it.
    pub(crate) async fn ended(&mut self) -> Result<Option<i32>> {
        const END: &str = "\x1b[end of the program";
        let code = ended(&mut self.child).await?;
        File::from(self.terminal.try_clone()?).write_all(END.as_bytes())?;
        self.expect(END).await?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let length = seen.len().saturating_sub(END.len());
        seen.truncate(length);
        drop(seen);
        Ok(code)
    }
}

/// Who starts a lane in the background has it ignore SIGINT, and programs inherit that (execve(2)); a signal that is handled
/// they get as a terminal's shell gives it to them.
fn hear_interrupts() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default();
    let interrupt = 1 << (nix::sys::signal::Signal::SIGINT as u32 - 1);
    if u64::from_str_radix(ignored.trim(), 16)? & interrupt != 0 {
        // The handler stays when the listener goes.
        drop(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?);
    }
    Ok(())
}

/// A terminal's setting, as stty(1) writes it down.
fn modes(terminal: &OwnedFd) -> Result<String> {
    let said = Command::new("stty").arg("-g").stdin(Stdio::from(terminal.try_clone()?)).output()?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

impl Drop for Pty {
    fn drop(&mut self) {
        // Ended, if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a program's end; its code, `None` for a signal.
pub(crate) async fn ended(child: &mut Child) -> Result<Option<i32>> {
    for _ in 0..3000 {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("it did not end within 30 s")
}
