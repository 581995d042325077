//! Whether a pod still has what its plugins gave it.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::{Cni, CniError};
use crate::record::Record;

impl Cni {
    /// Asks the plugins that connected the pod. Gives why they are not asked, where that is so.
    pub fn check(
        &self,
        record: &Record,
        netns: BorrowedFd<'_>,
        timeout: Duration,
    ) -> Result<Option<String>, CniError> {
        if record.disable_check {
            return Ok(Some("the configuration says disableCheck".into()));
        }
        if !record.version.has_check() {
            return Ok(Some(format!("CNI {} has no CHECK", record.version.as_str())));
        }
        if record.result.is_none() {
            return Ok(Some("the plugins' result is not known".into()));
        }
        self.chain.check(record, netns, timeout.min(self.settings.timeout))?;
        Ok(None)
    }
}
