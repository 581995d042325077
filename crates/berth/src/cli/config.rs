use super::{CliError, print};
use crate::config::{self, Config, Settings};

pub(super) fn default() -> Result<(), CliError> {
    print(&config::default_text()?)
}

/// Also of settings that do not hold together: it is how one finds out why.
pub(super) fn dump(settings: &Settings) -> Result<(), CliError> {
    print(&config::dump(settings))?;
    Config::lower(settings)?;
    Ok(())
}

pub(super) fn check(settings: &Settings) -> Result<(), CliError> {
    Config::lower(settings)?;
    for warning in &settings.warnings {
        print(&format!("warning: {warning}\n"))?;
    }
    print("the settings hold\n")
}
