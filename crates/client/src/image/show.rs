//! Transfers as a person sees them: a bar for each layer at a terminal, a line where one begins and ends in a pipe.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;

use berth_model::{Direction, Part, PartState as State, Transfer};

use crate::find::SHORT;
use crate::output::{size, tell};

/// What a terminal has when it does not say.
const USUAL: (u16, u16) = (80, 24);
/// Letters of a bar.
const BAR: usize = 30;

/// Shows one transfer on standard error.
#[derive(Debug)]
pub struct Show {
    to: To,
    /// Rows on the terminal that are ours.
    drawn: usize,
    /// What was said of each layer.
    said: HashMap<String, State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Nobody,
    Terminal,
    Pipe,
}

impl Show {
    pub fn to_stderr() -> Self {
        let to = if std::io::stderr().is_terminal() { To::Terminal } else { To::Pipe };
        Self { to, drawn: 0, said: HashMap::new() }
    }

    pub fn nothing() -> Self {
        Self { to: To::Nobody, drawn: 0, said: HashMap::new() }
    }

    pub fn is_shown(&self) -> bool {
        self.to != To::Nobody
    }

    pub fn update(&mut self, transfer: &Transfer) {
        match self.to {
            To::Nobody => {}
            To::Pipe => lines(&mut self.said, transfer).iter().for_each(|line| tell(&format!("{line}\n"))),
            To::Terminal => {
                let size = berth_sys::tty::size(std::io::stderr().as_fd()).ok();
                let size = size.filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or(USUAL);
                let bars = bars(transfer, size.0.into(), size.1.into());
                let mut text = self.back();
                for bar in &bars {
                    text += &format!("{bar}\x1b[K\n");
                }
                // What was drawn below.
                text += "\x1b[J";
                self.drawn = bars.len();
                tell(&text);
            }
        }
    }

    /// To the first row.
    fn back(&self) -> String {
        if self.drawn == 0 { "\r".to_owned() } else { format!("\r\x1b[{}A", self.drawn) }
    }

    /// Takes bars away; lines stay.
    pub fn clear(&mut self) {
        if self.to == To::Terminal && self.drawn > 0 {
            tell(&format!("{}\x1b[J", self.back()));
            self.drawn = 0;
        }
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        self.clear();
    }
}

fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..SHORT).unwrap_or(hex)
}

/// What has become of each layer since `said`.
fn lines(said: &mut HashMap<String, State>, transfer: &Transfer) -> Vec<String> {
    let mut lines = Vec::new();
    for part in &transfer.parts {
        let before = said.get(&part.digest).copied().unwrap_or_default();
        if part.state == before || before.is_end() {
            continue;
        }
        let begun = matches!(before, State::Moving);
        let name = short(&part.digest);
        match part.state {
            State::Waiting => continue,
            State::Preparing => lines.push(format!("{name}: {}", preparing(transfer.direction))),
            State::Copying => lines.push(format!("{name}: is copied")),
            State::There => lines.push(format!("{name}: there already")),
            State::Mounted => lines.push(format!("{name}: taken from another repository")),
            State::Moving | State::Done => {
                if !begun {
                    lines.push(format!("{name}: begins, {}", size(part.bytes)));
                }
                if part.state == State::Done {
                    lines.push(format!("{name}: done"));
                }
            }
        }
        said.insert(part.digest.clone(), part.state);
    }
    lines
}

fn preparing(direction: Direction) -> &'static str {
    if direction == Direction::Export { "is measured" } else { "is compressed" }
}

/// A row for each layer and one for all; where they are too many, for those that move.
fn bars(transfer: &Transfer, columns: usize, rows: usize) -> Vec<String> {
    let parts = &transfer.parts;
    if parts.is_empty() {
        let what = if transfer.direction == Direction::Import { "reading it" } else { "looking it up" };
        return vec![what.to_owned()];
    }
    if let [only] = &parts[..]
        && only.state == State::Copying
    {
        return vec![cut(&bar(only, transfer.direction), columns)];
    }
    let room = rows.saturating_sub(2).max(1);
    let fits = parts.len() < room;
    let shown = parts
        .iter()
        .filter(|part| fits || matches!(part.state, State::Moving | State::Preparing | State::Copying));
    let mut bars: Vec<String> = shown.take(room - 1).map(|part| bar(part, transfer.direction)).collect();
    let done = parts.iter().filter(|part| part.state.is_end()).count();
    let sum = |of: fn(&Part) -> u64| parts.iter().map(of).fold(0, u64::saturating_add);
    let moved = format!("{} of {}", size(sum(|part| part.bytes_done)), size(sum(|part| part.bytes)));
    bars.push(format!("{done} of {} layers, {moved}", parts.len()));
    bars.iter().map(|bar| cut(bar, columns)).collect()
}

/// The last column stays free: some terminals go to the next row there.
fn cut(bar: &str, columns: usize) -> String {
    bar.chars().take(columns.saturating_sub(1)).collect()
}

fn bar(part: &Part, direction: Direction) -> String {
    let name = short(&part.digest);
    match part.state {
        State::Waiting => format!("{name}  waiting"),
        State::Preparing => format!("{name}  {}", preparing(direction)),
        State::Copying | State::Moving if part.bytes == 0 => format!("{name}  {}", size(part.bytes_done)),
        State::There => format!("{name}  there already"),
        State::Mounted => format!("{name}  taken from another repository"),
        State::Done => format!("{name}  done, {}", size(part.bytes)),
        State::Moving
            if part.bytes_done >= part.bytes && matches!(direction, Direction::Pull | Direction::Import) =>
        {
            format!("{name}  unpacking")
        }
        State::Copying | State::Moving => {
            let full = u128::from(part.bytes_done) * BAR as u128 / u128::from(part.bytes.max(1));
            let full = usize::try_from(full).unwrap_or(BAR).min(BAR);
            let (have, want) = (size(part.bytes_done), size(part.bytes));
            format!("{name}  [{}{}] {have} of {want}", "#".repeat(full), "-".repeat(BAR - full))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: char, bytes: u64, bytes_done: u64, state: State) -> Part {
        Part { digest: format!("sha256:{}", name.to_string().repeat(64)), bytes, bytes_done, state }
    }

    fn transfer(parts: Vec<Part>) -> Transfer {
        Transfer { parts, ..Transfer::default() }
    }

    #[test]
    fn a_bar_for_each_layer() {
        assert_eq!(bars(&transfer(vec![]), 80, 24), ["looking it up"]);
        let some = transfer(vec![
            part('a', 10, 10, State::Done),
            part('b', 2_000_000, 500_000, State::Moving),
            part('c', 7, 0, State::Waiting),
            part('d', 7, 7, State::There),
            part('e', 7, 7, State::Moving),
        ]);
        let expected = [
            "aaaaaaaaaaaa  done, 10 B",
            "bbbbbbbbbbbb  [#######-----------------------] 500.0 kB of 2.0 MB",
            "cccccccccccc  waiting",
            "dddddddddddd  there already",
            "eeeeeeeeeeee  unpacking",
            "2 of 5 layers, 500.0 kB of 2.0 MB",
        ];
        assert_eq!(bars(&some, 80, 24), expected);
        // Too many for the terminal: those that move, and the sum.
        let few = bars(&some, 20, 5);
        assert_eq!(few, ["bbbbbbbbbbbb  [####", "eeeeeeeeeeee  unpac", "2 of 5 layers, 500."]);
    }

    #[test]
    fn a_line_where_a_layer_begins_and_ends() {
        let mut said = HashMap::new();
        let mut told = |state, done| lines(&mut said, &transfer(vec![part('a', 10, done, state)]));
        assert_eq!(told(State::Waiting, 0), Vec::<String>::new());
        assert_eq!(told(State::Moving, 1), ["aaaaaaaaaaaa: begins, 10 B"]);
        assert_eq!(told(State::Moving, 5), Vec::<String>::new());
        assert_eq!(told(State::Done, 10), ["aaaaaaaaaaaa: done"]);
        assert_eq!(told(State::Done, 10), Vec::<String>::new());
        // Looked at too seldom: both are said all the same.
        let mut said = HashMap::new();
        let both =
            lines(&mut said, &transfer(vec![part('b', 1, 1, State::Done), part('c', 1, 1, State::There)]));
        assert_eq!(both, ["bbbbbbbbbbbb: begins, 1 B", "bbbbbbbbbbbb: done", "cccccccccccc: there already"]);
    }

    #[test]
    fn an_archive_on_its_way() {
        let archive = |parts| Transfer { direction: Direction::Import, parts, ..Transfer::default() };
        let copied = |bytes, done| {
            let part = Part { digest: "archive".into(), bytes, bytes_done: done, state: State::Copying };
            archive(vec![part])
        };
        assert_eq!(bars(&archive(vec![]), 80, 24), ["reading it"]);
        assert_eq!(bars(&copied(0, 1500), 80, 24), ["archive  1.5 kB"]);
        let half = ["archive  [###############---------------] 1.0 kB of 2.0 kB"];
        assert_eq!(bars(&copied(2000, 1000), 80, 24), half);
        let mut said = HashMap::new();
        assert_eq!(lines(&mut said, &copied(0, 1)), ["archive: is copied"]);
        // Layers take its place.
        let layers = archive(vec![part('a', 10, 10, State::Done), part('b', 0, 0, State::There)]);
        let expected = ["aaaaaaaaaaaa: begins, 10 B", "aaaaaaaaaaaa: done", "bbbbbbbbbbbb: there already"];
        assert_eq!(lines(&mut said, &layers), expected);
        let export = |state| Transfer {
            direction: Direction::Export,
            parts: vec![part('a', 7, 7, state)],
            ..Transfer::default()
        };
        assert_eq!(bars(&export(State::Preparing), 80, 24)[0], "aaaaaaaaaaaa  is measured");
        assert!(bars(&export(State::Moving), 80, 24)[0].ends_with("] 7 B of 7 B"));
    }
}
