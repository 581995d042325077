//! What is written beside its name until it is whole, and goes if it never is, also by Ctrl-C.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, Signal, raise};

pub(super) struct Unfinished {
    beside: PathBuf,
    name: PathBuf,
    is_done: bool,
}

impl Unfinished {
    /// Made before other threads begin: those have the mask of this one.
    fn new(path: &str) -> io::Result<Self> {
        let beside = PathBuf::from(format!("{}.part", path.trim_end_matches('/')));
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block()?;
        let goes = beside.clone();
        std::thread::spawn(move || {
            let Ok(signal) = signals.wait() else { return };
            remove(&goes);
            // Then it does what it would have done.
            let _ = signals.thread_unblock();
            let _ = raise(signal);
        });
        Ok(Self { beside, name: PathBuf::from(path), is_done: false })
    }

    pub(super) fn file(path: &str) -> io::Result<(Self, File)> {
        let unfinished = Self::new(path)?;
        let file = File::create(&unfinished.beside)?;
        Ok((unfinished, file))
    }

    /// One that is there has to be empty.
    pub(super) fn directory(path: &str) -> io::Result<(Self, File)> {
        let there = match std::fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            entries => entries?.next(),
        };
        if there.is_some() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let unfinished = Self::new(path)?;
        // Of an export that was killed.
        remove(&unfinished.beside);
        std::fs::create_dir(&unfinished.beside)?;
        let directory = File::open(&unfinished.beside)?;
        Ok((unfinished, directory))
    }

    /// Gives it its name.
    pub(super) fn done(mut self) -> io::Result<()> {
        std::fs::rename(&self.beside, &self.name)?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_done {
            remove(&self.beside);
        }
    }
}

/// What is left of it is of no use to anybody.
fn remove(path: &Path) {
    let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
}
