//! The loop: one epoll over everything the shim waits for.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use berth_shim_wire::{Event, ExitRecord, Packet, Reply, StepError};
use berth_sys::{fd as sysfd, process};
use nix::fcntl::OFlag;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;

use crate::births::{Birth, Kind};
use crate::containers::{self, Container, Exec, status};
use crate::daemon::Daemon;
use crate::host::Host;
use crate::note;

/// What an epoll event is about: the kind in the high half of its number, whose in the low one.
const LISTENER: u64 = 1 << 32;
const DAEMON: u64 = 2 << 32;
const SIGNALS: u64 = 3 << 32;
const BIRTH: u64 = 4 << 32;
const OUTPUT: u64 = 5 << 32;
pub(crate) const TAP: u64 = 6 << 32;

/// Read at once from a container's output.
const BATCH: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) id: String,
    pub(crate) host: Host,
    pub(crate) epoll: Epoll,
    listener: OwnedFd,
    directory: OwnedFd,
    signals: SignalFd,
    pub(crate) daemon: Option<Daemon>,
    /// Counts connections: an answer is for the one that asked.
    pub(crate) generation: u64,
    pub(crate) is_set_up: bool,
    pub(crate) births: BTreeMap<u32, Birth>,
    /// Those that wait for their report: prepared parts of containers, by birth.
    pub(crate) unborn: BTreeMap<u32, Container>,
    /// Snapshots that wait for births to end: sequence, and of which connection.
    pub(crate) asked: Vec<(u32, u64)>,
    pub(crate) containers: BTreeMap<u32, Container>,
    pub(crate) execs: Vec<Exec>,
    pub(crate) next: u32,
    /// Process 1 of the pod's shared pid namespace, made when first needed.
    pub(crate) pod_init: Option<(i32, OwnedFd)>,
    pub(crate) ending: bool,
    /// The request that asked for the end.
    pub(crate) end_sequence: u32,
}

impl Shim {
    pub(crate) fn start(id: String) -> io::Result<Self> {
        // The standard streams brought descriptors; the numbers go back to being streams of nobody.
        let listener = sysfd::duplicate(io::stdin())?;
        let directory = sysfd::duplicate(io::stdout())?;
        // Run from memory, it would be called by the number of a descriptor.
        nix::sys::prctl::set_name(c"berth-shim")?;
        process::session_leader()?;
        process::set_child_subreaper()?;
        process::set_dumpable(false)?;
        process::umask(0o077);
        // Not the first to go when memory runs out; refused without CAP_SYS_RESOURCE, then it stays the daemon's.
        let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let host = Host::leave()?;
        nix::unistd::dup2_stdin(&host.null)?;
        nix::unistd::dup2_stdout(&host.null)?;

        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
        Ok(Self {
            id,
            host,
            epoll,
            listener,
            directory,
            signals,
            daemon: None,
            generation: 0,
            is_set_up: false,
            births: BTreeMap::new(),
            unborn: BTreeMap::new(),
            asked: Vec::new(),
            containers: BTreeMap::new(),
            execs: Vec::new(),
            next: 1,
            pod_init: None,
            ending: false,
            end_sequence: 0,
        })
    }

    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 32];
        let mut buffer = vec![0; BATCH];
        let mut lines = Vec::new();
        while !(self.ending && self.is_empty()) {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(nix::Error::EINTR) => continue,
                waited => waited?,
            };
            for event in &events[..count] {
                let (kind, whose) = (event.data() & !0xffff_ffff, event.data() as u32);
                match kind {
                    LISTENER => self.accept(),
                    DAEMON => self.talk(event.events(), &mut buffer),
                    SIGNALS => self.reap(&mut buffer, &mut lines),
                    BIRTH => self.check_birth(whose),
                    OUTPUT => self.pump(whose, &mut buffer, &mut lines),
                    TAP => self.tapped(event.data(), event.events()),
                    _ => {}
                }
            }
        }
        self.answer_end();
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.births.is_empty()
            && self.execs.is_empty()
            && self.pod_init.is_none()
            && self.containers.values().all(|c| c.exit.is_some())
    }

    /// The last one who connects is the daemon.
    fn accept(&mut self) {
        let Ok(socket) = sysfd::accept_packet(self.listener.as_fd()) else { return };
        match sysfd::peer_credentials(socket.as_fd()) {
            Ok(peer) if peer.is_root() => {}
            _ => return note("a connection of somebody else than root is refused"),
        }
        self.disconnect();
        let wanted = EpollEvent::new(EpollFlags::EPOLLIN, DAEMON);
        if self.epoll.add(&socket, wanted).is_ok() {
            self.generation += 1;
            self.daemon = Some(Daemon::new(socket));
        }
    }

    pub(crate) fn disconnect(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        let _ = self.epoll.delete(&daemon.socket);
        // Nobody is left who would attach.
        for number in self.containers.keys().copied().collect::<Vec<_>>() {
            self.release(number);
        }
        // Nobody is left to read what these say.
        self.execs.iter().filter(|exec| exec.die_with_daemon).for_each(Exec::kill);
        for birth in self.births.values() {
            if let Kind::Exec { die_with_daemon: true, kill, .. } = &birth.kind {
                containers::kill(&birth.pidfd, kill.as_ref());
            }
        }
    }

    /// Reads the output of a container that was held back for somebody to attach.
    pub(crate) fn release(&mut self, number: u32) {
        if let Some(container) = self.containers.get_mut(&number)
            && std::mem::take(&mut container.held)
        {
            self.settle(number);
        }
    }

    fn talk(&mut self, events: EpollFlags, buffer: &mut [u8]) {
        let Some(daemon) = &mut self.daemon else { return };
        if events.contains(EpollFlags::EPOLLOUT) && daemon.flush().is_err() {
            return self.disconnect();
        }
        if events.contains(EpollFlags::EPOLLIN) {
            match sysfd::recv_packet(daemon.socket.as_fd(), buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok((length, fds)) if length > 0 => match berth_shim_wire::decode_packet(&buffer[..length]) {
                    Ok(packet) => self.packet(packet, fds),
                    Err(error) => {
                        note(&format!("a broken frame: {error}"));
                        return self.disconnect();
                    }
                },
                _ => return self.disconnect(),
            }
        } else if events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return self.disconnect();
        }
        self.want_writes();
    }

    fn packet(&mut self, packet: Packet, mut fds: Vec<OwnedFd>) {
        match packet {
            Packet::Request(sequence, request) => self.request(sequence, request, fds),
            Packet::Unknown(sequence) => {
                let error = StepError {
                    step: berth_shim_wire::UNKNOWN_REQUEST.into(),
                    object: String::new(),
                    errno: 0,
                };
                self.answer(sequence, &Reply::Failed(error), Vec::new());
            }
            Packet::Indirect(sequence, length) => {
                if fds.is_empty() {
                    return self.disconnect();
                }
                let memory = fds.remove(0);
                let mut bytes = vec![0; length];
                let whole = sysfd::read_at(&memory, &mut bytes, 0).is_ok_and(|read| read == length);
                match berth_shim_wire::decode_packet(&bytes) {
                    Ok(Packet::Request(inner, request)) if whole && inner == sequence => {
                        self.request(sequence, request, fds);
                    }
                    _ => self.disconnect(),
                }
            }
        }
    }

    /// An answer to the connection that asked; one that is gone needs none.
    pub(crate) fn answer(&mut self, sequence: u32, reply: &Reply, fds: Vec<OwnedFd>) {
        if let Some(daemon) = &mut self.daemon
            && daemon.reply(sequence, reply, fds).is_err()
        {
            self.disconnect();
        }
        self.want_writes();
    }

    pub(crate) fn tell(&mut self, event: &Event) {
        if let Some(daemon) = &mut self.daemon
            && daemon.event(event).is_err()
        {
            self.disconnect();
        }
        self.want_writes();
    }

    fn want_writes(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        let out = if daemon.waits() { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        let mut wanted = EpollEvent::new(EpollFlags::EPOLLIN | out, DAEMON);
        let _ = self.epoll.modify(&daemon.socket, &mut wanted);
    }

    /// Watches a birth's report.
    pub(crate) fn watch_birth(&mut self, number: u32, birth: Birth) -> io::Result<()> {
        self.epoll.add(&birth.report, EpollEvent::new(EpollFlags::EPOLLIN, BIRTH | u64::from(number)))?;
        self.births.insert(number, birth);
        Ok(())
    }

    fn check_birth(&mut self, number: u32) {
        if let Some(outcome) = self.births.get_mut(&number).and_then(Birth::progress) {
            self.finish_birth(number, outcome);
        }
    }

    fn pump(&mut self, whose: u32, buffer: &mut [u8], lines: &mut Vec<u8>) {
        let (number, index) = (whose >> 1, (whose & 1) as usize);
        if let Some(container) = self.containers.get_mut(&number) {
            container.pump(index, buffer, lines, &self.epoll);
            self.settle(number);
        }
    }

    /// A reader left, or has room again.
    fn tapped(&mut self, event: u64, events: EpollFlags) {
        let epoll = &self.epoll;
        let whose = self
            .containers
            .iter_mut()
            .find_map(|(number, container)| container.taps.event(event, events, epoll).then_some(*number));
        if let Some(number) = whose {
            self.settle(number);
        }
    }

    /// After anything that has to do with a container's readers: its output is read or waits for them, and ends are told.
    pub(crate) fn settle(&mut self, number: u32) {
        let Some(container) = self.containers.get_mut(&number) else { return };
        if let Err(error) = container.watch(OUTPUT | u64::from(number << 1), &self.epoll) {
            note(&format!("the output of {} is lost: {error}", container.id));
        }
        for (attach_id, cut) in container.taps.news() {
            self.tell(&Event::AttachEnded { attach_id, cut });
        }
    }

    /// Collects every child that ended: containers, execs, the pod's init, and orphans that became ours.
    fn reap(&mut self, buffer: &mut [u8], lines: &mut Vec<u8>) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while let Ok(Some(exit)) = process::wait_any() {
            // Ended right after execve, or failed before it: the report is complete now.
            let unborn =
                self.births.iter().find(|(_, birth)| birth.pid == exit.pid).map(|(number, _)| *number);
            if let Some(number) = unborn {
                self.check_birth(number);
            }
            let ended = self.containers.iter_mut().find(|(_, c)| c.pid == exit.pid && c.exit.is_none());
            if let Some((number, container)) = ended {
                let number = *number;
                container.drain(buffer, lines, &self.epoll);
                container.log.close();
                container.stdin = None;
                let status = status(exit, container.was_oom_killed(exit));
                container.exit = Some(status);
                let container_id = container.id.clone();
                self.settle(number);
                self.end_execs(&container_id);
                self.record(&container_id, ExitRecord { status });
                self.tell(&Event::ContainerExited { container_id, status });
            } else if let Some(at) = self.execs.iter().position(|exec| exec.pid == exit.pid) {
                let exec = self.execs.swap_remove(at);
                self.tell(&Event::ExecExited { exec_id: exec.id, status: status(exit, false) });
            } else if self.pod_init.as_ref().is_some_and(|(pid, _)| *pid == exit.pid) {
                self.pod_init = None;
            }
        }
    }

    /// With its first process a container's execs end; the kernel sees to it only in a pid namespace of the container's own.
    fn end_execs(&self, ended: &str) {
        self.execs.iter().filter(|exec| exec.container == ended).for_each(Exec::kill);
        for birth in self.births.values() {
            if let Kind::Exec { container, kill, .. } = &birth.kind
                && container == ended
            {
                containers::kill(&birth.pidfd, kill.as_ref());
            }
        }
    }

    /// For a daemon that finds no shim: written beside and renamed, so that it is whole or not there.
    fn record(&self, container: &str, record: ExitRecord) {
        let write = || -> io::Result<()> {
            let name = |suffix: &str| std::ffi::CString::new(format!("{container}{suffix}"));
            let (new, last) = (name(".exit.tmp")?, name(".exit")?);
            let flags =
                OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
            let mode = Mode::from_bits_truncate(0o600);
            let file = nix::fcntl::openat(&self.directory, new.as_c_str(), flags, mode)?;
            sysfd::write(&file, record.format().as_bytes())?;
            Ok(nix::fcntl::renameat(&self.directory, new.as_c_str(), &self.directory, last.as_c_str())?)
        };
        if let Err(error) = write() {
            note(&format!("no exit record of {container}: {error}"));
        }
    }

    pub(crate) fn remove_record(&self, container: &str) {
        if let Ok(name) = std::ffi::CString::new(format!("{container}.exit")) {
            let _ = nix::unistd::unlinkat(
                &self.directory,
                name.as_c_str(),
                nix::unistd::UnlinkatFlags::NoRemoveDir,
            );
        }
    }
}
