//! Container output as CRI log lines: `<time> <stream> <P|F> <text>`.

use std::io;
use std::os::fd::OwnedFd;

use crate::clock;

/// Longer lines are written in parts tagged `P`, the last one `F` (CRI log format).
const LINE_MAX: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The bytes of a stream that are not a whole line yet.
#[derive(Debug, Default)]
pub(crate) struct Pending(Vec<u8>);

impl Pending {
    /// Appends finished lines of `bytes` to `out`; what comes after the last line end stays here.
    pub(crate) fn take(&mut self, stream: Stream, time: &str, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = rest.iter().position(|b| *b == b'\n');
            let room = LINE_MAX - self.0.len();
            match end {
                Some(end) if end <= room => {
                    self.0.extend_from_slice(&rest[..end]);
                    self.flush(stream, time, 'F', out);
                    rest = &rest[end + 1..];
                }
                _ => {
                    let (now, later) = rest.split_at(room.min(rest.len()));
                    self.0.extend_from_slice(now);
                    rest = later;
                    if self.0.len() == LINE_MAX {
                        self.flush(stream, time, 'P', out);
                    }
                }
            }
        }
    }

    /// The stream ended: text without a line end is a part.
    pub(crate) fn finish(&mut self, stream: Stream, time: &str, out: &mut Vec<u8>) {
        if !self.0.is_empty() {
            self.flush(stream, time, 'P', out);
        }
    }

    fn flush(&mut self, stream: Stream, time: &str, tag: char, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{time} {} {tag} ", stream.name()).as_bytes());
        out.append(&mut self.0);
        out.push(b'\n');
    }
}

/// Where lines go. What cannot be written is counted and dropped: a full disk never stops the container.
#[derive(Debug, Default)]
pub(crate) struct Log {
    file: Option<OwnedFd>,
    dropped: u64,
    /// The file ends in the middle of a line: the rest was dropped.
    torn: bool,
}

impl Log {
    pub(crate) fn new(file: Option<OwnedFd>) -> Self {
        Self { file, dropped: 0, torn: false }
    }

    pub(crate) fn reopen(&mut self, file: OwnedFd) {
        self.file = Some(file);
        self.torn = false;
    }

    /// Nothing more comes: a file that is removed from here on gives its room back.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn write(&mut self, mut lines: &[u8]) {
        let Some(file) = &self.file else { return };
        // Readers take a log by lines: one that was cut off gets its end before the next begins.
        let mut begun = false;
        while !lines.is_empty() {
            let next = if self.torn { b"\n" } else { lines };
            match berth_sys::fd::write(file, next) {
                Ok(_) if self.torn => self.torn = false,
                Ok(written) => {
                    begun = !lines[..written].ends_with(b"\n");
                    lines = &lines[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.dropped += lines.len() as u64;
                    self.torn |= begun;
                    return;
                }
            }
        }
    }

    pub(crate) fn write_batch(
        &mut self,
        pending: &mut Pending,
        stream: Stream,
        bytes: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) {
        if self.file.is_none() {
            return;
        }
        // One time for a batch: its lines were read together.
        let time = clock::rfc3339(clock::now());
        out.clear();
        match bytes {
            Some(bytes) => pending.take(stream, &time, bytes, out),
            None => pending.finish(stream, &time, out),
        }
        self.write(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]], end: bool) -> String {
        let (mut pending, mut out) = (Pending::default(), Vec::new());
        for chunk in chunks {
            pending.take(Stream::Stdout, "T", chunk, &mut out);
        }
        if end {
            pending.finish(Stream::Stdout, "T", &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn whole_and_partial_lines() {
        assert_eq!(lines(&[b"a\nb\n"], true), "T stdout F a\nT stdout F b\n");
        assert_eq!(lines(&[b"a", b"b\n", b"c"], true), "T stdout F ab\nT stdout P c\n");
        assert_eq!(lines(&[b"\n"], true), "T stdout F \n");
        assert_eq!(lines(&[b"x"], false), "");
    }

    #[test]
    fn a_line_that_was_cut_off_is_ended_before_the_next() {
        // A pipe takes what fits, as a disk does.
        let (reader, writer) = berth_sys::fd::pipe(Some(4096)).unwrap();
        berth_sys::fd::set_nonblocking(std::os::fd::AsFd::as_fd(&writer), true).unwrap();
        let mut log = Log::new(Some(writer));
        let mut long = vec![b'x'; 5000];
        long.push(b'\n');
        log.write(&long);
        assert_eq!(log.dropped(), 5001 - 4096);
        log.write(b"lost\n");
        assert_eq!(log.dropped(), 5001 - 4096 + 5);
        let mut buffer = vec![0; 8192];
        let length = berth_sys::fd::read(&reader, &mut buffer).unwrap();
        assert_eq!(length, 4096);
        log.write(b"next\n");
        log.write(b"last\n");
        let length = berth_sys::fd::read(&reader, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"\nnext\nlast\n");
    }

    #[test]
    fn long_lines_are_split() {
        let long = vec![b'x'; LINE_MAX + 5];
        let text = lines(&[&long, b"\n"], true);
        let parts: Vec<_> = text.lines().collect();
        assert_eq!(parts.len(), 2);
        assert!(parts[0].starts_with("T stdout P ") && parts[0].len() == LINE_MAX + 11);
        assert_eq!(parts[1], "T stdout F xxxxx");
        // A line of exactly the limit, with its end in the same chunk, is whole.
        let mut exact = vec![b'y'; LINE_MAX];
        exact.push(b'\n');
        assert_eq!(lines(&[&exact], true).lines().count(), 1);
    }
}
