//! The processes of a cgroup, and what they hold open (proc(5)).

use std::path::PathBuf;

use berth_model::ProcessUsage;

use crate::Cgroup;

/// Descriptors looked at per cgroup; one that has more is reported with this many.
const DESCRIPTORS_MAX: u64 = 65_536;

impl Cgroup {
    /// Counts processes, and with `open` their descriptors and sockets. One that ends meanwhile counts with what was seen
    /// of it.
    pub fn process_usage(&self, open: bool) -> ProcessUsage {
        let pids = self.processes();
        let mut usage = ProcessUsage { processes: pids.len() as u64, ..ProcessUsage::default() };
        if !open {
            return usage;
        }
        for pid in &pids {
            let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
            for entry in entries.filter_map(Result::ok) {
                if usage.descriptors >= DESCRIPTORS_MAX {
                    break;
                }
                usage.descriptors += 1;
                let target = std::fs::read_link(entry.path()).unwrap_or_else(|_| PathBuf::new());
                usage.sockets += u64::from(target.to_string_lossy().starts_with("socket:["));
            }
        }
        let limits = pids.first().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/limits")).ok());
        usage.open_files_limit = limits.as_deref().and_then(open_files);
        usage
    }
}

/// The soft limit; `unlimited` is the largest number there is.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files() {
        let head = "Limit                     Soft Limit           Hard Limit           Units     \n";
        for (line, limit) in [
            ("Max open files            1024                 524288               files     \n", Some(1024)),
            ("Max open files            unlimited            unlimited            files\n", Some(u64::MAX)),
            ("Max processes             7 7 processes\n", None),
        ] {
            assert_eq!(open_files(&format!("{head}{line}")), limit, "{line}");
        }
    }
}
