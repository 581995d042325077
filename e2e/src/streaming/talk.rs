//! The lane's client, a program over client-go's packages (`e2e/streaming`), and what it is told and says.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::pty::end;

pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(super) err: String,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        format!("{} {:?} {:?}", self.code, self.out, self.err)
    }
}

fn program() -> Result<PathBuf> {
    let program = std::env::var_os("BERTH_E2E_STREAMS").context("BERTH_E2E_STREAMS names the client")?;
    Ok(program.into())
}

/// Runs the client to its end.
pub(crate) fn client_of(words: &[&str], url: &str) -> Result<Answer> {
    Talk::begin(words, url)?.end()
}

/// A client that is talked with.
pub(super) struct Talk {
    pub(super) child: Child,
    input: Option<ChildStdin>,
    pub(super) output: BufReader<ChildStdout>,
}

impl Talk {
    pub(super) fn begin(words: &[&str], url: &str) -> Result<Self> {
        let mut child = Command::new(program()?)
            .args(words)
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("a pipe")?);
        Ok(Self { child, input, output })
    }

    pub(super) fn say(&mut self, text: &str) -> Result<()> {
        let input = self.input.as_mut().context("the input is closed")?;
        input.write_all(text.as_bytes())?;
        Ok(input.flush()?)
    }

    /// Reads lines up to one that contains `part`; the end of the stream is an error.
    pub(super) fn hear(&mut self, part: &str) -> Result<()> {
        let mut heard = String::new();
        while self.output.read_line(&mut heard)? > 0 {
            if heard.contains(part) {
                return Ok(());
            }
        }
        let rest = self.child.wait_with_err()?;
        anyhow::bail!("never said {part:?}: {heard:?} {rest:?}")
    }

    /// Asks for the terminal's size until it is this one: sizes and input go out side by side.
    pub(super) fn sized(&mut self, wanted: &str) -> Result<()> {
        let mut said = String::new();
        for _ in 0..200 {
            self.say("size\n")?;
            loop {
                said.clear();
                anyhow::ensure!(self.output.read_line(&mut said)? > 0, "the stream ended");
                // The terminal echoes the question.
                if said.starts_with("size ") {
                    break;
                }
            }
            if said.trim() == wanted {
                return Ok(());
            }
        }
        anyhow::bail!("{wanted:?} never came, the last was {said:?}")
    }

    /// Closes its input and waits.
    pub(super) fn end(mut self) -> Result<Answer> {
        self.input = None;
        let mut out = String::new();
        std::io::Read::read_to_string(&mut self.output, &mut out)?;
        let err = self.child.wait_with_err()?;
        let code = self.child.wait()?.code().unwrap_or(-1);
        Ok(Answer { code, out, err })
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // It has ended, or its lane has failed.
        end(&mut self.child);
    }
}

trait WaitWithErr {
    fn wait_with_err(&mut self) -> Result<String>;
}

impl WaitWithErr for Child {
    fn wait_with_err(&mut self) -> Result<String> {
        let mut text = String::new();
        if let Some(mut err) = self.stderr.take() {
            std::io::Read::read_to_string(&mut err, &mut text)?;
        }
        self.wait()?;
        Ok(text)
    }
}
