use crate::Streams;

/// What a channel is for. The numbers are those of WebSocket channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Error = 3,
    Resize = 4,
}

const ALL: [Line; 5] = [Line::Stdin, Line::Stdout, Line::Stderr, Line::Error, Line::Resize];

impl Line {
    /// By the header `streamType` of a SPDY stream.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "stdin" => Self::Stdin,
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            "error" => Self::Error,
            "resize" => Self::Resize,
            _ => return None,
        })
    }
}

/// Which channel is which.
#[derive(Debug, Default)]
pub(super) struct Lines {
    channels: [Option<u32>; 5],
    /// The highest channel that was opened.
    pub(super) last: u32,
}

impl Lines {
    /// What a client opens that asked for these streams. `resize`: its version knows terminal sizes.
    pub(super) fn wanted(streams: Streams, resize: bool) -> Vec<Line> {
        let asked = |line: &Line| match line {
            Line::Stdin => streams.stdin,
            Line::Stdout => streams.stdout,
            Line::Stderr => streams.stderr,
            Line::Error => true,
            Line::Resize => resize && streams.tty,
        };
        ALL.into_iter().filter(asked).collect()
    }

    /// The fixed channels of WebSocket.
    pub(super) fn channels(streams: Streams) -> Self {
        let mut lines = Self::default();
        for line in Self::wanted(streams, true) {
            lines.open(line, line as u32);
        }
        lines
    }

    /// False if the line is open already, or the channel is not the next.
    pub(super) fn open(&mut self, line: Line, channel: u32) -> bool {
        let fresh = channel > self.last || self.channels.iter().all(Option::is_none);
        match self.channels.get_mut(line as usize) {
            Some(place @ None) if fresh => {
                *place = Some(channel);
                self.last = channel;
                true
            }
            _ => false,
        }
    }

    pub(super) fn has(&self, wanted: &[Line]) -> bool {
        wanted.iter().all(|line| self.channel(*line).is_some())
    }

    pub(super) fn channel(&self, line: Line) -> Option<u32> {
        self.channels.get(line as usize).copied().flatten()
    }

    pub(super) fn line(&self, channel: u32) -> Option<Line> {
        ALL.into_iter().find(|line| self.channel(*line) == Some(channel))
    }

    /// The first channel that the server writes to.
    pub(super) fn first_out(&self) -> u32 {
        let outputs = [Line::Stdout, Line::Stderr, Line::Error];
        outputs.into_iter().find_map(|line| self.channel(line)).unwrap_or(Line::Error as u32)
    }
}
