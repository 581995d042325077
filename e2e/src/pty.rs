//! A program at a terminal, and somebody who types.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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

/// A terminal's setting, as stty(1) writes it down.
fn modes(terminal: &OwnedFd) -> Result<String> {
    let said = Command::new("stty").arg("-g").stdin(Stdio::from(terminal.try_clone()?)).output()?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

impl Drop for Pty {
    fn drop(&mut self) {
        // Ended, if all went well.
        end(&mut self.child);
    }
}

/// Waits for a program's end; its code, `None` for a signal.
pub(crate) async fn ended(child: &mut Child) -> Result<Option<i32>> {
    ended_within(child, Duration::from_secs(30)).await
}

/// The same of one that may take longer.
pub(crate) async fn ended_within(child: &mut Child, bound: Duration) -> Result<Option<i32>> {
    let end = Instant::now() + bound;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        if Instant::now() > end {
            bail!("it did not end within {} s", bound.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A program that goes with whoever runs it.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.0.id().cast_signed()), signal)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// Kills a program, if it still runs, and waits for that.
pub(crate) fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
