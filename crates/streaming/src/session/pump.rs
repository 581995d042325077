use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::outlet::Poured;
use super::{Ended, Outlet};
use crate::pipe::{WORTH, enlarge, spliceable};

/// Sends what a descriptor gives on a channel, up to its end. Once `over` is set an empty descriptor has ended too.
pub(super) async fn pump(
    outlet: &Outlet,
    channel: u32,
    from: &AsyncFd<OwnedFd>,
    mut over: watch::Receiver<bool>,
) -> Result<(), Ended> {
    // What a turn takes is a box of its own: between turns there is no need for its room.
    let mut spring =
        Spring { outlet, channel, from, spliceable: spliceable(from.get_ref()), enlarged: false, last: 0 };
    loop {
        let was_over = *over.borrow_and_update();
        if was_over {
            match Box::pin(spring.pour()).await? {
                Poured::Some(_) => continue,
                Poured::Empty | Poured::End => return Ok(()),
            }
        }
        tokio::select! {
            ready = from.readable() => {
                let Ok(mut ready) = ready else { return Ok(()) };
                match Box::pin(spring.pour()).await? {
                    Poured::Some(_) => ready.retain_ready(),
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

/// A descriptor and how much it gave last.
struct Spring<'a> {
    outlet: &'a Outlet,
    channel: u32,
    from: &'a AsyncFd<OwnedFd>,
    spliceable: bool,
    enlarged: bool,
    /// Bytes.
    last: usize,
}

impl Spring<'_> {
    async fn pour(&mut self) -> Result<Poured, Ended> {
        if self.spliceable && self.last >= WORTH && !std::mem::replace(&mut self.enlarged, true) {
            enlarge(self.from.get_ref());
        }
        let spliced = match self.spliceable && self.last >= WORTH {
            true => self.outlet.splice(self.channel, self.from).await?,
            false => None,
        };
        let poured = match spliced {
            Some(poured) => poured,
            None => self.outlet.pour(self.channel, self.from).await?,
        };
        if let Poured::Some(length) = poured {
            self.last = length;
        }
        Ok(poured)
    }
}
