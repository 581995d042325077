//! Credentials of the calling thread by raw system calls: the C library would signal all threads to change too, and the
//! callers have one.

use std::io;

use crate::fd::done;

/// Capability sets; bit n is capability n of capabilities(7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

/// Supplementary groups, exactly these (setgroups(2)).
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and count are those of one live slice; gid_t is u32.
    done(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })
}

/// Real, effective and saved group (setresgid(2)).
pub fn set_gid(gid: u32) -> io::Result<()> {
    // SAFETY: integers only.
    done(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })
}

/// Real, effective and saved user (setresuid(2)). Without [`keep_capabilities`] a user other than root has none after.
pub fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: integers only.
    done(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

/// Permitted capabilities survive [`set_uid`] (PR_SET_KEEPCAPS); cleared by execve(2).
pub fn keep_capabilities() -> io::Result<()> {
    // SAFETY: an integer option.
    done(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1_u64, 0_u64, 0_u64, 0_u64) }.into())
}

/// Removes from the bounding set every capability the kernel knows that is not in `keep` (PR_CAPBSET_DROP).
pub fn drop_bounding(keep: u64) -> io::Result<()> {
    for capability in 0..64_u64 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        // Reading tells which numbers the kernel knows, and dropping what is not there would need a privilege.
        // SAFETY: integers only.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0_u64, 0_u64, 0_u64) } {
            0 => {}
            // SAFETY: integers only.
            1 => done(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0_u64, 0_u64, 0_u64) }.into())?,
            // Above the kernel's last capability.
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// capset(2) for this thread.
pub fn set_capabilities(sets: Capabilities) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    /// _LINUX_CAPABILITY_VERSION_3: two records of 32 bits.
    const VERSION: u32 = 0x2008_0522;
    let half = |shift: u32| Data {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let header = Header { version: VERSION, pid: 0 };
    let data = [half(0), half(32)];
    // SAFETY: header and the two records of version 3 are alive and have the kernel's layout.
    done(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })
}

/// Empties the ambient set.
pub fn clear_ambient() -> io::Result<()> {
    ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)
}

/// Adds these to the ambient set; each must be permitted and inheritable.
pub fn raise_ambient(wanted: u64) -> io::Result<()> {
    for capability in (0..64).filter(|capability| wanted & (1 << capability) != 0) {
        ambient(libc::PR_CAP_AMBIENT_RAISE, capability)?;
    }
    Ok(())
}

fn ambient(operation: i32, capability: u64) -> io::Result<()> {
    let operation = u64::from(operation.cast_unsigned());
    // SAFETY: integers only.
    done(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, operation, capability, 0_u64, 0_u64) }.into())
}

/// Installs a compiled filter (seccomp(2), SECCOMP_SET_MODE_FILTER): `struct sock_filter` records of 8 bytes each. Needs
/// no_new_privs or CAP_SYS_ADMIN.
///
/// # Errors
/// `InvalidInput` when the length is not a multiple of 8 or the records are more than the kernel can count.
pub fn install_seccomp(filter: &[u8], flags: u32) -> io::Result<()> {
    if !filter.len().is_multiple_of(8) || filter.len() / 8 > 4096 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let program = libc::sock_fprog {
        len: (filter.len() / 8) as u16,
        // The kernel copies the records byte by byte and asks for no alignment.
        filter: filter.as_ptr().cast_mut().cast(),
    };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `program` and the records it points to are alive; the length in it is theirs. The kernel only reads.
    done(unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) })
}
