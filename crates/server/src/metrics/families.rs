use berth_cri_api::v1::MetricType;

/// A name with its meaning.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    /// Its own, after those that all have.
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

macro_rules! families {
    ($($id:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $id: Family =
            Family { name: $name, kind: MetricType::$kind, labels: &[$($label),*], help: $help };)*
        /// All of them.
        pub(super) const ALL: &[Family] = &[$($id),*];
    };
}

families! {
    BLKIO Counter "container_blkio_device_usage_total" ["device", "major", "minor", "operation"] "Bytes moved to and from a block device.";
    CPU_PERIODS Counter "container_cpu_cfs_periods_total" [] "Periods of the CPU quota that passed.";
    CPU_THROTTLED_PERIODS Counter "container_cpu_cfs_throttled_periods_total" [] "Periods in which the CPU quota was used up.";
    CPU_THROTTLED Counter "container_cpu_cfs_throttled_seconds_total" [] "Seconds spent waiting for the next period of the CPU quota.";
    CPU_SYSTEM Counter "container_cpu_system_seconds_total" [] "Seconds of CPU time in the kernel.";
    CPU_USAGE Counter "container_cpu_usage_seconds_total" [] "Seconds of CPU time.";
    CPU_USER Counter "container_cpu_user_seconds_total" [] "Seconds of CPU time in programs.";
    DESCRIPTORS Gauge "container_file_descriptors" [] "Open file descriptors of all processes.";
    FS_INODES_FREE Gauge "container_fs_inodes_free" ["device"] "Free inodes of the filesystem the writable layer is on.";
    FS_INODES Gauge "container_fs_inodes_total" ["device"] "Inodes of the filesystem the writable layer is on.";
    FS_LIMIT Gauge "container_fs_limit_bytes" ["device"] "Size of the filesystem the writable layer is on.";
    FS_READ_BYTES Counter "container_fs_reads_bytes_total" ["device"] "Bytes read from a block device.";
    FS_READS Counter "container_fs_reads_total" ["device"] "Reads from a block device.";
    FS_USAGE Gauge "container_fs_usage_bytes" ["device"] "Bytes the writable layer takes.";
    FS_WRITE_BYTES Counter "container_fs_writes_bytes_total" ["device"] "Bytes written to a block device.";
    FS_WRITES Counter "container_fs_writes_total" ["device"] "Writes to a block device.";
    HUGETLB_PEAK Gauge "container_hugetlb_max_usage_bytes" ["pagesize"] "The most bytes of huge pages used so far.";
    HUGETLB_USAGE Gauge "container_hugetlb_usage_bytes" ["pagesize"] "Bytes of huge pages in use.";
    LAST_SEEN Gauge "container_last_seen" [] "When it was last measured, in seconds since the epoch.";
    LOG_DROPPED Counter "container_log_dropped_bytes_total" [] "Bytes of log that could not be written, as on a full disk.";
    MEMORY_CACHE Gauge "container_memory_cache" [] "Bytes of page cache.";
    MEMORY_FAILCNT Counter "container_memory_failcnt" [] "How often the memory limit was hit.";
    MEMORY_FAILURES Counter "container_memory_failures_total" ["failure_type", "scope"] "Page faults.";
    MEMORY_KERNEL Gauge "container_memory_kernel_usage" [] "Bytes of kernel memory.";
    MEMORY_MAPPED Gauge "container_memory_mapped_file" [] "Bytes of mapped files.";
    MEMORY_PEAK Gauge "container_memory_max_usage_bytes" [] "The most memory used so far, in bytes.";
    MEMORY_RSS Gauge "container_memory_rss" [] "Bytes of anonymous memory.";
    MEMORY_SWAP Gauge "container_memory_swap" [] "Bytes of swap in use.";
    MEMORY_USAGE Gauge "container_memory_usage_bytes" [] "Bytes of memory in use, page cache included.";
    MEMORY_WORKING_SET Gauge "container_memory_working_set_bytes" [] "Bytes of memory in use without inactive file pages.";
    RECEIVED_BYTES Counter "container_network_receive_bytes_total" ["interface"] "Bytes received.";
    RECEIVED_ERRORS Counter "container_network_receive_errors_total" ["interface"] "Errors while receiving.";
    RECEIVED_DROPPED Counter "container_network_receive_packets_dropped_total" ["interface"] "Received packets that were dropped.";
    RECEIVED_PACKETS Counter "container_network_receive_packets_total" ["interface"] "Packets received.";
    SENT_BYTES Counter "container_network_transmit_bytes_total" ["interface"] "Bytes sent.";
    SENT_ERRORS Counter "container_network_transmit_errors_total" ["interface"] "Errors while sending.";
    SENT_DROPPED Counter "container_network_transmit_packets_dropped_total" ["interface"] "Packets dropped while sending.";
    SENT_PACKETS Counter "container_network_transmit_packets_total" ["interface"] "Packets sent.";
    OOM_EVENTS Counter "container_oom_events_total" [] "Processes the kernel killed for want of memory.";
    PRESSURE_CPU_STALLED Counter "container_pressure_cpu_stalled_seconds_total" [] "Seconds in which no task got the CPU it wanted.";
    PRESSURE_CPU_WAITING Counter "container_pressure_cpu_waiting_seconds_total" [] "Seconds in which some task waited for the CPU.";
    PRESSURE_IO_STALLED Counter "container_pressure_io_stalled_seconds_total" [] "Seconds in which every task waited for I/O.";
    PRESSURE_IO_WAITING Counter "container_pressure_io_waiting_seconds_total" [] "Seconds in which some task waited for I/O.";
    PRESSURE_MEMORY_STALLED Counter "container_pressure_memory_stalled_seconds_total" [] "Seconds in which every task waited for memory.";
    PRESSURE_MEMORY_WAITING Counter "container_pressure_memory_waiting_seconds_total" [] "Seconds in which some task waited for memory.";
    PROCESSES Gauge "container_processes" [] "Processes.";
    SOCKETS Gauge "container_sockets" [] "Open sockets of all processes.";
    SPEC_CPU_PERIOD Gauge "container_spec_cpu_period" [] "Period of the CPU quota, in microseconds.";
    SPEC_CPU_QUOTA Gauge "container_spec_cpu_quota" [] "CPU time allowed in a period, in microseconds.";
    SPEC_CPU_SHARES Gauge "container_spec_cpu_shares" [] "Share of the CPU beside other containers.";
    SPEC_MEMORY_LIMIT Gauge "container_spec_memory_limit_bytes" [] "Memory limit; 0 is none.";
    SPEC_MEMORY_RESERVATION Gauge "container_spec_memory_reservation_limit_bytes" [] "Memory kept from reclaim under pressure; 0 is none.";
    SPEC_MEMORY_SWAP Gauge "container_spec_memory_swap_limit_bytes" [] "Swap limit; 0 is none.";
    START_TIME Gauge "container_start_time_seconds" [] "When it was started, in seconds since the epoch.";
    THREADS Gauge "container_threads" [] "Threads of all processes.";
    THREADS_MAX Gauge "container_threads_max" [] "Threads allowed; 0 is no limit.";
    ULIMITS Gauge "container_ulimits_soft" ["ulimit"] "Soft limits of the first process.";
}

/// Bytes, packets, errors, dropped.
pub(super) const RECEIVED: [Family; 4] =
    [RECEIVED_BYTES, RECEIVED_PACKETS, RECEIVED_ERRORS, RECEIVED_DROPPED];
pub(super) const SENT: [Family; 4] = [SENT_BYTES, SENT_PACKETS, SENT_ERRORS, SENT_DROPPED];
