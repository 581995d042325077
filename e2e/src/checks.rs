use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What was shown, line by line as it happens.
pub(crate) struct Checks {
    passed: usize,
    failed: usize,
    since: Instant,
}

impl Default for Checks {
    fn default() -> Self {
        Self { passed: 0, failed: 0, since: Instant::now() }
    }
}

impl Checks {
    pub(crate) fn note<E: Display>(&mut self, what: &str, result: Result<(), E>) {
        let took = self.since.elapsed();
        self.since = Instant::now();
        let millis = took.as_secs_f64() * 1000.0;
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("  ✔ {what:<74} {millis:>8.1} ms");
            }
            Err(error) => {
                self.failed += 1;
                println!("  ✘ {what:<74} {millis:>8.1} ms\n      {error}");
            }
        }
    }

    pub(crate) fn that(&mut self, what: &str, holds: bool, found: impl Display) {
        self.note(what, if holds { Ok(()) } else { Err(format!("found: {found}")) });
    }

    /// A check whose line is printed elsewhere.
    pub(crate) fn count(&mut self, passed: bool) {
        *(if passed { &mut self.passed } else { &mut self.failed }) += 1;
        self.since = Instant::now();
    }

    pub(crate) fn end(&self, lane: &str) -> bool {
        println!("{lane}: {} passed, {} failed", self.passed, self.failed);
        self.failed == 0
    }
}

/// Waits for a state; the bound is for what never comes.
pub(crate) async fn until<T, F: Future<Output = Result<Option<T>>>>(
    what: &str,
    look: impl FnMut() -> F,
) -> Result<T> {
    within(30, what, look).await
}

/// The same for what may take longer, in seconds.
pub(crate) async fn within<T, F: Future<Output = Result<Option<T>>>>(
    seconds: u64,
    what: &str,
    mut look: impl FnMut() -> F,
) -> Result<T> {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("waited {seconds} s for {what}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
