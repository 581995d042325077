//! What a URL stands for: once, and not for long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berth_ids::ErrorClass;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{Failure, Target};

/// How long a token waits for its client.
pub(crate) const LIFETIME: Duration = Duration::from_secs(60);
/// Tokens that wait at once.
pub(crate) const WAITING_MAX: usize = 1000;

#[derive(Default)]
struct Waiting {
    targets: HashMap<String, (Target, Instant)>,
}

/// Hands out URLs; clones share what waits.
#[derive(Clone)]
pub struct Urls {
    /// Scheme, host and port.
    base: Arc<str>,
    waiting: Arc<Mutex<Waiting>>,
}

impl std::fmt::Debug for Urls {
    /// Tokens are secrets: they are not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Urls").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Urls {
    pub(crate) fn new(base: String) -> Self {
        Self { base: base.into(), waiting: Arc::default() }
    }

    /// `http://HOST:PORT`, without a path.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A URL that leads to the target once, within the next minute.
    pub fn url(&self, target: Target) -> Result<String, Failure> {
        let verb = verb(&target);
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| Failure::new(ErrorClass::Internal, format!("make a token: {error}")))?;
        let token = format!("{:032x}", u128::from_be_bytes(random));
        let url = format!("{}/{verb}/{token}", self.base);
        let now = Instant::now();
        let mut waiting = self.waiting.lock();
        if waiting.targets.len() >= WAITING_MAX {
            waiting.targets.retain(|_, (_, until)| *until > now);
        }
        if waiting.targets.len() >= WAITING_MAX {
            let problem = format!("{WAITING_MAX} streams wait for their clients");
            return Err(Failure::new(ErrorClass::ResourceExhausted, problem));
        }
        waiting.targets.insert(token, (target, now + LIFETIME));
        Ok(url)
    }

    /// Tokens that wait for their clients.
    pub(crate) fn waiting(&self) -> usize {
        let now = Instant::now();
        self.waiting.lock().targets.values().filter(|(_, until)| *until > now).count()
    }

    /// What a request's path stands for; never again.
    pub(crate) fn redeem(&self, path: &str) -> Option<Target> {
        let (asked, token) = path.strip_prefix('/')?.split_once('/')?;
        let (target, until) = self.waiting.lock().targets.remove(token)?;
        (until > Instant::now() && verb(&target) == asked).then_some(target)
    }
}

fn verb(target: &Target) -> &'static str {
    match target {
        Target::Exec { .. } => "exec",
        Target::Attach { .. } => "attach",
        Target::PortForward { .. } => "portforward",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target::PortForward { sandbox: "s".into(), ports: vec![] }
    }

    fn path(url: &str) -> &str {
        url.strip_prefix("http://h:1").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_leads_there_once_and_for_a_minute() {
        let urls = Urls::new("http://h:1".into());
        let url = urls.url(target()).unwrap();
        assert_eq!(path(&url).len(), "/portforward/".len() + 32);
        assert_eq!(urls.redeem(path(&url)), Some(target()));
        assert_eq!(urls.redeem(path(&url)), None, "once");
        let url = urls.url(target()).unwrap();
        tokio::time::advance(LIFETIME).await;
        assert_eq!(urls.redeem(path(&url)), None, "late");
        let url = urls.url(target()).unwrap();
        assert_eq!(urls.redeem(&path(&url).replace("portforward", "exec")), None, "another verb");
        for odd in ["", "/", "/exec", "/exec/", "//", "/portforward/xyz"] {
            assert_eq!(urls.redeem(odd), None, "{odd}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_wait_as_may() {
        let urls = Urls::new("http://h:1".into());
        for _ in 0..WAITING_MAX {
            urls.url(target()).unwrap();
        }
        assert_eq!(urls.url(target()).unwrap_err().class, ErrorClass::ResourceExhausted);
        tokio::time::advance(LIFETIME).await;
        urls.url(target()).unwrap();
    }
}
