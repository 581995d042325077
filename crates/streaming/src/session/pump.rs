use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::outlet::Poured;
use super::{Ended, Outlet};

/// Sends what a descriptor gives on a channel, up to its end. Once `over` is set an empty descriptor has ended too.
pub(super) async fn pump(
    outlet: &Outlet,
    channel: u32,
    from: &AsyncFd<OwnedFd>,
    mut over: watch::Receiver<bool>,
) -> Result<(), Ended> {
    loop {
        let was_over = *over.borrow_and_update();
        if was_over {
            match outlet.pour(channel, from).await? {
                Poured::Some => continue,
                Poured::Empty | Poured::End => return Ok(()),
            }
        }
        tokio::select! {
            ready = from.readable() => {
                let Ok(mut ready) = ready else { return Ok(()) };
                match outlet.pour(channel, from).await? {
                    Poured::Some => ready.retain_ready(),
                    Poured::Empty => ready.clear_ready(),
                    Poured::End => return Ok(()),
                }
            }
            changed = over.changed() => if changed.is_err() {
                // Whoever would say so is gone.
                return Ok(());
            }
        }
    }
}
