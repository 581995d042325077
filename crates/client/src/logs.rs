//! Logs in CRI format, as the daemon's shims write them: `TIME STREAM P|F TEXT`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::arguments::Logs;
use crate::node::Node;
use crate::output::To;
use crate::{ClientError, find};

/// How often a log is looked at for more.
const LOOK: Duration = Duration::from_millis(100);
const BUFFER: usize = 64 * 1024;
/// No entry is longer: a shim splits lines at 16 KiB.
const ENTRY_MAX: usize = 64 * 1024;

pub(crate) async fn logs(node: &mut Node, wanted: &Logs) -> Result<u8, ClientError> {
    let container = find::container(node, &wanted.name).await?;
    let path = node.status(&container.id).await?.log_path;
    if path.is_empty() {
        return Err(ClientError::NoLog { id: container.id });
    }
    let mut log = Log::open(PathBuf::from(path))?;
    let mut printer = Printer { timestamps: wanted.timestamps, tail: wanted.tail.map(|_| VecDeque::new()) };
    log.read(|entry| printer.take(entry, wanted.tail))?;
    printer.print_tail()?;
    let mut runs = wanted.follow;
    while runs {
        // Before the read: what it wrote last is there by then.
        runs = node.status(&container.id).await?.finished_at == 0;
        log.read(|entry| printer.take(entry, None))?;
        log.follow_rotation()?;
        if runs {
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(0)
}

/// All of it, to standard output and error.
pub(crate) fn copy(path: &Path) -> Result<(), ClientError> {
    let mut printer = Printer { timestamps: false, tail: None };
    Log::open(path.to_owned())?.read(|entry| printer.take(entry, None))
}

struct Entry<'a> {
    time: &'a [u8],
    to: To,
    /// The line ends here.
    whole: bool,
    text: &'a [u8],
}

/// Without its line end; what is no entry is shown as it is.
fn entry(line: &[u8]) -> Entry<'_> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(time), Some(stream @ (b"stdout" | b"stderr")), Some(tag @ (b"P" | b"F")), Some(text)) => {
            Entry {
                time,
                to: if stream == b"stderr" { To::Stderr } else { To::Stdout },
                whole: tag == b"F",
                text,
            }
        }
        _ => Entry { time: b"", to: To::Stdout, whole: true, text: line },
    }
}

struct Log {
    path: PathBuf,
    file: File,
    /// Of an entry that is not whole yet.
    kept: Vec<u8>,
}

impl Log {
    fn open(path: PathBuf) -> Result<Self, ClientError> {
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file, kept: Vec::new() }),
            Err(source) => Err(ClientError::File { doing: "open", path, source }),
        }
    }

    /// Tells each whole entry up to the end of the file.
    fn read(
        &mut self,
        mut tell: impl FnMut(&Entry<'_>) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(ClientError::File { doing: "read", path: self.path.clone(), source });
                }
            };
            let mut rest = &buffer[..length];
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let (line, after) = (&rest[..end], &rest[end + 1..]);
                rest = after;
                if self.kept.is_empty() {
                    tell(&entry(line))?;
                } else {
                    self.kept.extend_from_slice(line);
                    let whole = std::mem::take(&mut self.kept);
                    tell(&entry(&whole))?;
                }
            }
            self.kept.extend_from_slice(&rest[..rest.len().min(ENTRY_MAX.saturating_sub(self.kept.len()))]);
        }
    }

    /// Goes on with the file that took this one's place, if one did.
    fn follow_rotation(&mut self) -> Result<(), ClientError> {
        let new = |now: &std::fs::Metadata, was: &std::fs::Metadata| {
            (now.dev(), now.ino()) != (was.dev(), was.ino())
        };
        match (std::fs::metadata(&self.path), self.file.metadata()) {
            (Ok(now), Ok(was)) if new(&now, &was) => *self = Self::open(std::mem::take(&mut self.path))?,
            // Between the old one and the new.
            _ => {}
        }
        Ok(())
    }
}

struct Printer {
    timestamps: bool,
    /// The last lines, until the end is seen.
    tail: Option<VecDeque<(To, Vec<u8>)>>,
}

impl Printer {
    fn take(&mut self, entry: &Entry<'_>, lines: Option<usize>) -> Result<(), ClientError> {
        let mut text = Vec::with_capacity(entry.text.len() + 40);
        if self.timestamps && !entry.time.is_empty() {
            text.extend_from_slice(entry.time);
            text.push(b' ');
        }
        text.extend_from_slice(entry.text);
        if entry.whole {
            text.push(b'\n');
        }
        match (&mut self.tail, lines) {
            (Some(tail), Some(lines)) => {
                tail.push_back((entry.to, text));
                while tail.len() > lines {
                    tail.pop_front();
                }
                Ok(())
            }
            _ => print(entry.to, &text),
        }
    }

    fn print_tail(&mut self) -> Result<(), ClientError> {
        self.tail.take().into_iter().flatten().try_for_each(|(to, text)| print(to, &text))
    }
}

fn print(to: To, text: &[u8]) -> Result<(), ClientError> {
    let written = match to {
        To::Stdout => io::stdout().write_all(text).and_then(|()| io::stdout().flush()),
        To::Stderr => io::stderr().write_all(text),
    };
    written.map_err(|source| ClientError::Io { doing: "write to standard output", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_become_what_was_written() {
        let shown = |line: &[u8]| {
            let entry = entry(line);
            (entry.to, entry.whole, String::from_utf8_lossy(entry.text).into_owned())
        };
        assert_eq!(shown(b"2026-01-01T00:00:00Z stdout F a b"), (To::Stdout, true, "a b".into()));
        assert_eq!(shown(b"2026-01-01T00:00:00Z stderr P "), (To::Stderr, false, String::new()));
        assert_eq!(shown(b"something else"), (To::Stdout, true, "something else".into()));
    }

    #[test]
    fn a_log_is_read_as_it_grows_and_is_rotated() {
        let directory = std::env::temp_dir().join(format!("berth-client-log-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("0.log");
        std::fs::write(&path, "t stdout F one\nt stdout P tw").unwrap();
        let mut log = Log::open(path.clone()).unwrap();
        let mut all = Vec::new();
        let mut look = |log: &mut Log| {
            log.read(|entry| {
                all.push(String::from_utf8_lossy(entry.text).into_owned());
                Ok(())
            })
            .unwrap();
            log.follow_rotation().unwrap();
        };
        look(&mut log);
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"o\n").unwrap();
        std::fs::rename(&path, directory.join("old")).unwrap();
        look(&mut log);
        std::fs::write(&path, "t stdout F three\n").unwrap();
        look(&mut log);
        look(&mut log);
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(all, ["one", "two", "three"]);
    }
}
