//! What a person asks about images, and what is answered.

use serde::{Deserialize, Serialize};

/// Below the request `image`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ImageVerb {
    /// What is in the archive whose descriptor travels beside it, which is shown under the name that it is `called`.
    Import {
        called: String,
        /// What images without a name of their own are called.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Gives an image one name more.
    Tag {
        image: String,
        name: String,
    },
    /// Names or ids, to the descriptor that travels beside it: a directory, or what an archive is written to.
    Export {
        images: Vec<String>,
        called: String,
        #[serde(default)]
        compress: Option<Compress>,
    },
    /// Compares the layers of one image, or of all, with what was unpacked; to repair them the registries are told who asks.
    Verify {
        image: Option<String>,
        repair: bool,
        #[serde(default)]
        login: Option<Password>,
    },
    /// What a reference stands for on another platform: `os/architecture[/variant]`.
    Pull {
        image: String,
        platform: String,
        login: Option<Password>,
    },
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
    /// What goes on or has just ended: of one reference or archive, or all of it.
    Transfers {
        of: Option<String>,
    },
}

impl ImageVerb {
    /// Whether a descriptor travels with it.
    pub(super) fn carries(&self) -> Option<&'static str> {
        match self {
            Self::Import { .. } => Some("import"),
            Self::Export { .. } => Some("export"),
            Self::PushArchive { .. } => Some("push_archive"),
            _ => None,
        }
    }

    /// Nobody waits for it but the one who asked.
    pub(super) fn ends_with_client(&self) -> bool {
        self.carries().is_some() || matches!(self, Self::Push { .. } | Self::Explain { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Compress {
    Gzip,
    Zstd,
}

/// An image in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ArchivedImage {
    pub(crate) id: String,
    /// References that the archive gives it; none for an archive without names.
    pub(crate) names: Vec<String>,
}

/// What an export wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExportedArchive {
    pub(crate) images: Vec<ArchivedImage>,
    pub(crate) layers: u64,
    /// Of the archive.
    pub(crate) bytes: u64,
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

/// What a verification found of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VerifiedLayer {
    pub(crate) layer: String,
    pub(crate) images: Vec<String>,
    pub(crate) state: VerifiedState,
    /// The first things that are not as they were unpacked.
    pub(crate) found: Vec<String>,
    /// Why it could not be brought again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VerifiedState {
    Whole,
    /// Unpacked by a release that wrote nothing down to compare with.
    Unrecorded,
    Damaged,
    Repaired,
}
