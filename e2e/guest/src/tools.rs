use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::{health, net, process};

fn number(word: &str) -> io::Result<u64> {
    word.parse().map_err(|_| io::Error::other(format!("{word:?} is no number")))
}

/// The exit code of a tool.
pub(crate) fn run(words: &[&str]) -> io::Result<u8> {
    match words {
        ["true"] => {}
        // Tools one after the other, with `then` between them; the first that fails is the last.
        ["do", rest @ ..] => {
            for words in rest.split(|word| *word == "then") {
                let code = run(words)?;
                if code != 0 {
                    return Ok(code);
                }
            }
        }
        ["exists", path] => return Ok(u8::from(!Path::new(path).exists())),
        ["exit", code] => return Ok(number(code)? as u8),
        ["echo", rest @ ..] => println!("{}", rest.join(" ")),
        ["complain", rest @ ..] => eprintln!("{}", rest.join(" ")),
        ["sleep", seconds] => std::thread::sleep(Duration::from_secs(number(seconds)?)),
        ["cat", paths @ ..] => {
            for path in paths {
                io::stdout().write_all(&std::fs::read(path)?)?;
            }
        }
        ["ls", path] => {
            let mut names: Vec<_> =
                std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
            names.sort();
            names.iter().for_each(|name| println!("{}", name.to_string_lossy()));
        }
        ["link", path] => println!("{}", std::fs::read_link(path)?.display()),
        ["write", path, rest @ ..] => std::fs::write(path, rest.join(" "))?,
        ["append", path, rest @ ..] => {
            let mut file = std::fs::File::options().append(true).create(true).open(path)?;
            writeln!(file, "{}", rest.join(" "))?;
        }
        ["remove", path] => std::fs::remove_file(path)?,
        ["mount-tmpfs", path] => {
            let flags = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("guest"), *path, Some("tmpfs"), flags, Some("size=1m"))?;
        }
        ["mkdir", path] => std::fs::create_dir(path)?,
        ["stat", path] => {
            use std::os::unix::fs::MetadataExt as _;
            let seen = std::fs::symlink_metadata(path)?;
            println!("{} {} {:o} {} {}", seen.uid(), seen.gid(), seen.mode(), seen.size(), seen.rdev());
        }
        ["chown", path, uid] => std::os::unix::fs::chown(path, Some(number(uid)? as u32), None)?,
        ["cwd"] => println!("{}", std::env::current_dir()?.display()),
        ["env"] => std::env::vars().for_each(|(key, value)| println!("{key}={value}")),
        ["pids"] => pids()?,
        ["count", millis] => {
            let pause = Duration::from_millis(number(millis)?);
            for n in 0_u64.. {
                println!("line {n}");
                std::thread::sleep(pause);
            }
        }
        ["http", port, word] => net::serve(number(port)? as u16, word)?,
        ["web", port, bad] => health::web(number(port)? as u16, Path::new(bad))?,
        ["grpc", port, bad] => health::grpc(number(port)? as u16, Path::new(bad))?,
        ["tcp", port] => net::echo(number(port)? as u16)?,
        ["get", address] => println!("{}", net::get(address)?),
        ["alloc", mebibytes] => {
            let bytes = (number(mebibytes)? << 20) as usize;
            let mut memory = vec![0_u8; bytes];
            memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            println!("{} MiB are there", memory.iter().step_by(4096).filter(|b| **b == 1).count() / 256);
        }
        // As alloc, and keeps it.
        ["hold", mebibytes] => {
            let mut memory = vec![0_u8; (number(mebibytes)? << 20) as usize];
            memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            println!("{} MiB are held", memory.iter().step_by(4096).filter(|b| **b == 1).count() / 256);
            std::thread::sleep(Duration::from_secs(1_000_000));
            drop(memory);
        }
        // A file of ones, on disk when it returns.
        ["fill", path, mebibytes] => {
            let mut file = std::fs::File::create(path)?;
            for _ in 0..number(mebibytes)? {
                file.write_all(&[1; 1 << 20])?;
            }
            file.sync_all()?;
        }
        ["spin", seconds] => {
            let end = Instant::now() + Duration::from_secs(number(seconds)?);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        }
        ["stdin"] => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text)?;
            println!("{} bytes", text.len());
        }
        // Its input, as it comes.
        ["copy"] => {
            let mut buffer = vec![0; 1 << 16];
            loop {
                match io::stdin().read(&mut buffer)? {
                    0 => break,
                    length => io::stdout().write_all(&buffer[..length])?,
                }
                io::stdout().flush()?;
            }
        }
        ["talk"] => return talk(),
        ["pause" | "top"] => pause()?,
        // With the set-user-id bit: what no_new_privs leaves of it.
        ["nnp"] => println!("Effective uid: {}", nix::unistd::geteuid()),
        ["words", rest @ ..] => rest.iter().for_each(|word| println!("{word:?}")),
        ["terminal"] => process::terminal()?,
        ["signal"] => process::signal()?,
        ["unshare"] => process::unshare()?,
        ["leave", seconds] => process::leave(seconds)?,
        ["hide", seconds] => process::hide(seconds)?,
        ["lines", count, length] => process::lines(number(count)?, number(length)? as usize)?,
        // As lines, and stays.
        ["lines", count, length, seconds] => {
            process::lines(number(count)?, number(length)? as usize)?;
            std::thread::sleep(Duration::from_secs(number(seconds)?));
        }
        ["part", text] => {
            print!("{text}");
            io::stdout().flush()?;
        }
        ["reopen", path] => drop(std::fs::OpenOptions::new().write(true).open(path)?),
        ["node", path, major, minor] => process::node(path, number(major)?, number(minor)?)?,
        ["pgrep", name] => return pgrep(name),
        ["ipcs", "-m"] => io::stdout().write_all(&std::fs::read("/proc/sysvipc/shm")?)?,
        _ => return Err(io::Error::other("unknown tool")),
    }
    Ok(0)
}

/// Answers lines: `size`, `exit CODE`, anything else by repeating it. Without more lines the code is 0.
fn talk() -> io::Result<u8> {
    println!("{}", if io::stdin().is_terminal() { "a terminal" } else { "no terminal" });
    for line in io::stdin().lines() {
        match line?.split_whitespace().collect::<Vec<_>>()[..] {
            ["size"] => {
                let (columns, rows) = berth_sys::tty::size(io::stdin().as_fd())?;
                println!("size {columns} {rows}");
            }
            ["exit", code] => return Ok(number(code)? as u8),
            ["complain", ref rest @ ..] => eprintln!("{}", rest.join(" ")),
            ref rest => println!("said {}", rest.join(" ")),
        }
    }
    Ok(0)
}

/// Until SIGTERM or SIGINT, which a first process has to wait for, since for it they have no default.
fn pause() -> io::Result<()> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block()?;
    ends.wait()?;
    Ok(())
}

/// The processes whose name contains `name`; 1 where there is none, as pgrep(1).
fn pgrep(name: &str) -> io::Result<u8> {
    let mut found = 1;
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let of = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if pid != std::process::id() && of.contains(name) {
            println!("{pid}");
            found = 0;
        }
    }
    Ok(found)
}

/// Every process this one can see, with its command.
fn pids() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else {
            continue;
        };
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        println!("{pid} {}", String::from_utf8_lossy(&command).replace('\0', " "));
    }
    Ok(())
}
