/// What a directory tree takes on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// A path on the filesystem in question.
    pub mountpoint: String,
    pub used_bytes: u64,
    pub inodes_used: u64,
}
