//! Reading and showing figures.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::checks::Checks;

/// Times of one thing, again and again.
#[derive(Default)]
pub(crate) struct Series(Vec<Duration>);

impl Series {
    pub(crate) fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// In milliseconds; `share` of them are not above it.
    pub(crate) fn quantile(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.0.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1000.0)
    }
}

/// The table, line by line; a budget is a check.
pub(crate) struct Report<'a> {
    checks: &'a mut Checks,
}

impl<'a> Report<'a> {
    pub(crate) fn new(checks: &'a mut Checks) -> Self {
        Self::beside(checks, "containerd")
    }

    /// The second column is another's than containerd's.
    pub(crate) fn beside(checks: &'a mut Checks, peer: &str) -> Self {
        println!("\n  {:<34} {:>12} {:>12} {:>7}   budget", "", "berth", peer, "ratio");
        Self { checks }
    }

    /// Medians in milliseconds, with the 90th percentile where there is a budget.
    pub(crate) fn times(&mut self, what: &str, ours: &mut Series, theirs: &mut Series, budget: Option<f64>) {
        self.line(what, ours.quantile(0.5), theirs.quantile(0.5), "ms", budget);
        if ours.0.len() > 1 && budget.is_some() {
            self.line("  90 % within", ours.quantile(0.9), theirs.quantile(0.9), "ms", None);
        }
    }

    /// The budget is for us, in the same unit, and met when not exceeded. `theirs` is NaN where only ours is measured.
    pub(crate) fn line(&mut self, what: &str, ours: f64, theirs: f64, unit: &str, budget: Option<f64>) {
        self.row(what, (ours, theirs), unit, budget.map(|budget| ("≤", budget, ours <= budget)));
    }

    /// More is better, and so much is wanted.
    pub(crate) fn at_least(&mut self, what: &str, ours: f64, theirs: f64, unit: &str, wanted: f64) {
        self.row(what, (ours, theirs), unit, Some(("≥", wanted, ours >= wanted)));
    }

    fn row(
        &mut self,
        what: &str,
        (ours, theirs): (f64, f64),
        unit: &str,
        budget: Option<(&'static str, f64, bool)>,
    ) {
        let compared = ours > 0.0 && !theirs.is_nan();
        let ratio = if compared { format!("{:.1}x", theirs / ours) } else { "-".into() };
        // A share says nothing with one digit.
        let shown = |value: f64| match value {
            value if value.is_nan() => "-".to_owned(),
            value if unit.is_empty() => format!("{value:.2}"),
            value => format!("{value:.1}"),
        };
        let (ours, theirs) = (shown(ours), shown(theirs));
        let verdict = match budget {
            None => String::new(),
            Some((sign, bound, met)) => {
                format!("{sign} {} {}", (bound * 100.0).round() / 100.0, if met { "✔" } else { "✘" })
            }
        };
        println!("  {what:<34} {ours:>9} {unit:<3}{theirs:>9} {unit:<3}{ratio:>6}   {verdict}");
        if let Some((_, _, met)) = budget {
            self.checks.count(met);
        }
    }
}

/// Proportional set size of a process in bytes (proc(5), smaps_rollup).
pub(crate) fn pss(pid: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("smaps_rollup has no Pss")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

/// Processor time of a process since its start (proc(5), stat, fields 14 and 15).
pub(crate) fn ticks(pid: i32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(')').context("stat has no name")?;
    let field = |n: usize| fields.split_whitespace().nth(n - 3).and_then(|f| f.parse::<u64>().ok());
    let ticks = field(14).zip(field(15)).map(|(user, system)| user + system).context("stat is short")?;
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(Duration::from_secs_f64(ticks as f64 / hertz as f64))
}

/// Mounts of this mount namespace.
pub(crate) fn mounts() -> Result<usize> {
    Ok(std::fs::read_to_string("/proc/self/mountinfo")?.lines().count())
}
