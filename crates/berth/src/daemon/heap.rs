//! Memory that a burst of work left behind goes back to the kernel.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

/// How often it is looked at whether there was work.
const LOOK: Duration = Duration::from_secs(5);
/// Processor time in microseconds that leaves something worth looking for; a daemon at rest takes less in [`LOOK`].
const WORK: i64 = 50_000;

/// Never ends.
pub(super) async fn give_back() {
    let mut before = used();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = used();
        if now - before < WORK {
            continue;
        }
        before = now;
        // Nothing is lost if the thread cannot be had.
        let _ = tokio::task::spawn_blocking(berth_sys::process::trim_heap).await;
    }
}

/// Processor time of this process in microseconds.
fn used() -> i64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0 };
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() * 1_000_000 + time.tv_usec())
        .sum()
}
