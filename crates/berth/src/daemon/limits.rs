use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the number of descriptors the daemon may have open to what it is allowed: each pod costs a few.
/// Gives the bound that holds.
pub(super) fn raise_descriptors() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}
