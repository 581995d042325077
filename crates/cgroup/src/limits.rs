use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};

use crate::CgroupError;

/// What a cgroup is held to; `None` leaves the kernel's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// v1 scale: 2 to 262144.
    pub(crate) cpu_shares: Option<u64>,
    /// Microseconds per period; negative is unlimited.
    pub(crate) cpu_quota: Option<i64>,
    /// Microseconds.
    pub(crate) cpu_period: Option<u64>,
    pub(crate) cpus: Option<String>,
    pub(crate) mems: Option<String>,
    /// Bytes.
    pub(crate) memory: Option<i64>,
    /// Memory and swap together, bytes; -1 is unlimited.
    pub(crate) memory_and_swap: Option<i64>,
    pub(crate) memory_reservation: Option<i64>,
    pub(crate) pids: Option<i64>,
    /// Page size as the kernel spells it, bytes.
    pub(crate) hugepages: Vec<(String, i64)>,
    /// v2 file, value.
    pub(crate) unified: Vec<(String, String)>,
    /// `None`: no device rules at all.
    pub(crate) devices: Option<Vec<LinuxDeviceCgroup>>,
}

impl Limits {
    /// From the OCI form (runtime spec, "Control groups").
    pub fn from_oci(oci: &LinuxResources) -> Result<Self, CgroupError> {
        let mut limits = Self::default();
        if let Some(cpu) = oci.cpu() {
            limits.cpu_shares = cpu.shares().filter(|n| *n > 0);
            limits.cpu_quota = cpu.quota().filter(|n| *n != 0);
            limits.cpu_period = cpu.period().filter(|n| *n > 0);
            limits.cpus = cpu.cpus().clone().filter(|s| !s.is_empty());
            limits.mems = cpu.mems().clone().filter(|s| !s.is_empty());
        }
        if let Some(memory) = oci.memory() {
            limits.memory = memory.limit().filter(|n| *n != 0);
            limits.memory_and_swap = memory.swap().filter(|n| *n != 0);
            limits.memory_reservation = memory.reservation().filter(|n| *n != 0);
        }
        limits.pids = oci.pids().map(|pids| pids.limit()).filter(|n| *n != 0);
        for page in oci.hugepage_limits().iter().flatten() {
            let size = page.page_size();
            if size.is_empty() || !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
                let problem = format!("{size:?} is no page size");
                return Err(CgroupError::Limit { limit: "hugepage_limits".into(), problem });
            }
            limits.hugepages.push((size.clone(), page.limit()));
        }
        for (file, value) in oci.unified().iter().flatten() {
            if file.is_empty()
                || file.contains(['/', '\0'])
                || !file.contains('.')
                || file.starts_with("cgroup.")
            {
                let problem = "is no file of a controller".to_owned();
                return Err(CgroupError::Limit { limit: format!("unified[{file:?}]"), problem });
            }
            limits.unified.push((file.clone(), value.clone()));
        }
        limits.devices = oci.devices().clone().filter(|rules| !rules.is_empty());
        Ok(limits)
    }
}
