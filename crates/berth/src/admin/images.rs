//! What a person asks about images beyond archives.

use serde::{Deserialize, Serialize};

/// Below the request `image`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ImageVerb {
    /// What is stored, to a registry; without `to`, to where its name says.
    Push {
        image: String,
        to: Option<String>,
        login: Option<Password>,
    },
    /// What is in the archive whose descriptor travels beside it.
    PushArchive {
        to: Option<String>,
        login: Option<Password>,
    },
    Inspect {
        image: String,
    },
    /// Forgets what nobody uses, or says what it would forget.
    Prune {
        dry_run: bool,
    },
    /// Tries each step of a pull.
    Explain {
        image: String,
        login: Option<Password>,
    },
    /// Pulls and pushes of one reference that go on or have just ended.
    Transfers {
        of: String,
    },
}

impl ImageVerb {
    /// Whether a descriptor travels with it.
    pub(super) fn carries(&self) -> Option<&'static str> {
        matches!(self, Self::PushArchive { .. }).then_some("push_archive")
    }

    /// Nobody waits for it but the one who asked: it ends with the connection.
    pub(super) fn ends_with_client(&self) -> bool {
        matches!(self, Self::Push { .. } | Self::PushArchive { .. } | Self::Explain { .. })
    }
}

/// A user and a password, for the host of the image's name. Never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Password {
    pub(crate) username: String,
    pub(crate) password: String,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}
