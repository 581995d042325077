//! Standard output and error, written by a thread of their own: a reader who pauses stops the stream, not the program.

use std::io::{self, Write as _};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::ClientError;

/// Pieces that wait to be written.
const WAITING: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Stdout,
    Stderr,
}

#[derive(Debug)]
pub(crate) struct Output {
    send: mpsc::Sender<(To, Vec<u8>)>,
    thread: JoinHandle<()>,
}

impl Output {
    pub(crate) fn start() -> Self {
        let (send, mut receive) = mpsc::channel::<(To, Vec<u8>)>(WAITING);
        let thread = std::thread::spawn(move || {
            while let Some((to, bytes)) = receive.blocking_recv() {
                let written = match to {
                    To::Stdout => write(io::stdout().lock(), &bytes),
                    To::Stderr => write(io::stderr().lock(), &bytes),
                };
                if written.is_err() {
                    // Whoever sends on learns it.
                    return;
                }
            }
        });
        Self { send, thread }
    }

    /// `false`: nobody reads any more.
    pub(crate) async fn write(&self, to: To, bytes: Vec<u8>) -> bool {
        self.send.send((to, bytes)).await.is_ok()
    }

    /// Returns when all is written; whoever reads may take any time.
    pub(crate) async fn finish(self) {
        drop(self.send);
        // It ends with the channel; a panic in it has said so itself.
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}

fn write(mut to: impl io::Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// For verbs that print and end.
pub(crate) fn print(text: &str) -> Result<(), ClientError> {
    let written = io::stdout().write_all(text.as_bytes());
    written.map_err(|source| ClientError::Io { doing: "write to standard output", source })
}

/// A line about what goes on, for the person.
pub(crate) fn tell(text: &str) {
    // Nobody reads it: then it need not be said.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Rows in columns as wide as their widest cell.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// `12.3 MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let (mut number, mut unit) = (bytes as f64, 0);
    while number >= 1000.0 && unit + 1 < UNITS.len() {
        (number, unit) = (number / 1000.0, unit + 1);
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{number:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_sizes() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        assert_eq!(table(&[row("ID", "NAME"), row("abc", "x")]), "ID   NAME\nabc  x\n");
        assert_eq!(
            [0, 999, 1000, 12_345_678, 5_000_000_000_000].map(size),
            ["0 B", "999 B", "1.0 kB", "12.3 MB", "5000.0 GB"]
        );
    }
}
