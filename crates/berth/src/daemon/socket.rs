use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// A listening socket whose file goes with it.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

/// Binds at a name of its own, narrows the mode to 0600, then renames: nobody ever sees the socket wider, and an
/// earlier daemon's file is replaced in one step. Call it with the instance's lock held only.
pub(super) fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push("~");
    let fresh = PathBuf::from(fresh);
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok((listener, SocketFile(path.to_owned())))
}

impl SocketFile {
    /// Takes the file at `path` into care.
    pub(super) fn of(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), error = &error as &dyn std::error::Error, "a socket file stays");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_the_file_goes_with_the_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("berth.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (listener, file) = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let connecting = tokio::net::UnixStream::connect(&path);
        assert!(connecting.await.is_ok());
        drop((listener, file));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "something is left");
    }
}
