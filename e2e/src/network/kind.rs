//! The kinds of network a node can have.

use anyhow::Result;

use crate::daemon::Daemon;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Without any configuration.
    Embedded,
}

impl Kind {
    pub(super) const ALL: [Self; 1] = [Self::Embedded];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Embedded => "the embedded network",
        }
    }

    /// A daemon with this network.
    pub(super) async fn daemon(self) -> Result<Daemon> {
        match self {
            Self::Embedded => Daemon::new().await,
        }
    }
}
