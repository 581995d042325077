use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;

use super::*;

#[test]
fn packets_carry_bytes_and_descriptors() {
    let (near, far) = seqpacket_pair().unwrap();
    let (reader, writer) = pipe(None).unwrap();
    send_packet(near.as_fd(), b"one", &[writer.as_fd(), reader.as_fd()]).unwrap();
    send_packet(near.as_fd(), b"two", &[]).unwrap();
    let mut buffer = [0; 16];
    let (length, fds) = recv_packet(far.as_fd(), &mut buffer).unwrap();
    assert_eq!((&buffer[..length], fds.len()), (&b"one"[..], 2));
    let mut fds = fds.into_iter().map(File::from);
    fds.next().unwrap().write_all(b"through").unwrap();
    drop(writer);
    let mut text = String::new();
    fds.next().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
    let (length, fds) = recv_packet(far.as_fd(), &mut buffer).unwrap();
    assert_eq!((&buffer[..length], fds.len()), (&b"two"[..], 0));
    drop(near);
    assert_eq!(recv_packet(far.as_fd(), &mut buffer).unwrap().0, 0);
}

#[test]
fn received_descriptors_close_on_exec() {
    let (near, far) = seqpacket_pair().unwrap();
    send_packet(near.as_fd(), b"x", &[near.as_fd()]).unwrap();
    let (_, fds) = recv_packet(far.as_fd(), &mut [0; 4]).unwrap();
    let flags = nix::fcntl::fcntl(&fds[0], nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
}

#[test]
fn a_cut_packet_is_an_error() {
    let (near, far) = seqpacket_pair().unwrap();
    send_packet(near.as_fd(), b"much too long", &[]).unwrap();
    assert_eq!(recv_packet(far.as_fd(), &mut [0; 4]).unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn as_many_descriptors_as_one_packet_carries() {
    let (near, far) = seqpacket_pair().unwrap();
    let many = vec![near.as_fd(); MAX_FDS];
    send_packet(near.as_fd(), b"x", &many).unwrap();
    assert_eq!(recv_packet(far.as_fd(), &mut [0; 4]).unwrap().1.len(), MAX_FDS);
}

#[test]
fn a_sealed_memory_file_is_readable_and_fixed() {
    let fd = sealed_memfd(c"test", b"content").unwrap();
    let mut buffer = [0; 16];
    let length = read_at(&fd, &mut buffer, 0).unwrap();
    assert_eq!(&buffer[..length], b"content");
    let error = File::from(fd).write_all(b"x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn listen_connect_and_ask_who() {
    let directory = std::env::temp_dir().join(format!("berth-sys-fd-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("socket");
    let listener = listen_seqpacket(&path).unwrap();
    // A second life at the same path.
    drop(listener);
    let listener = listen_seqpacket(&path).unwrap();
    assert_eq!(accept_packet(listener.as_fd()).unwrap_err().kind(), ErrorKind::WouldBlock);
    let client = connect_seqpacket(&path).unwrap();
    let server = accept_packet(listener.as_fd()).unwrap();
    let peer = peer_credentials(server.as_fd()).unwrap();
    assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
    assert!(peer.is_root() || peer.uid != 0);
    send_packet(client.as_fd(), b"hello", &[]).unwrap();
    assert_eq!(recv_packet(server.as_fd(), &mut [0; 8]).unwrap().0, 5);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_pipe_may_be_larger_and_may_not_block() {
    let (reader, writer) = pipe(Some(1 << 20)).unwrap();
    set_nonblocking(reader.as_fd(), true).unwrap();
    assert_eq!(read(&reader, &mut [0; 4]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(write(&writer, b"abc").unwrap(), 3);
    assert_eq!(read(&reader, &mut [0; 4]).unwrap(), 3);
    assert!(nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETPIPE_SZ).unwrap() >= 1 << 16);
}
