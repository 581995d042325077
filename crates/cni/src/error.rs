use std::fmt;

use berth_ids::ErrorClass;
use serde::{Deserialize, Serialize};

/// What a plugin says when it fails (CNI 1.1, section 5, "Error"). 1 to 99 are the specification's, 100 and more the
/// plugin's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginError {
    pub code: u32,
    #[serde(default)]
    pub msg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
    /// Of one that needs no program; programs have no word for it.
    #[serde(skip)]
    pub class: Option<ErrorClass>,
}

impl PluginError {
    /// The plugin does not speak the configuration's version.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// There is nothing to clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    pub const INVALID_CONFIG: u32 = 7;
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: ADD would fail.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: ADD would fail, and pods that run may be cut off.
    pub const LIMITED: u32 = 51;

    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new(), class: None }
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.msg.is_empty() {
            true => write!(f, "error {}", self.code)?,
            false => write!(f, "{} (code {})", self.msg, self.code)?,
        }
        match self.details.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", self.details),
        }
    }
}

impl std::error::Error for PluginError {}
