//! The default profile against containerd's, call by call: the compiled filter is run over every number.

use super::*;

/// A line of the file: number, name, and the words that say when the call is allowed (see the file's head).
struct Fact {
    number: u32,
    name: &'static str,
    words: Vec<&'static str>,
}

fn facts() -> Vec<Fact> {
    let text = include_str!("../../../testdata/containerd-x86_64.tsv");
    let parse = |line: &'static str| {
        let fields: Vec<_> = line.split('\t').collect();
        Fact { number: fields[0].parse().unwrap(), name: fields[1], words: fields[2].split(' ').collect() }
    };
    text.lines().filter(|line| !line.starts_with('#')).map(parse).collect()
}

/// Names of the facts, bits of capabilities(7).
const CAPS: [(&str, u8); 14] = [
    ("DAC_READ_SEARCH", 2),
    ("SYS_MODULE", 16),
    ("SYS_RAWIO", 17),
    ("SYS_CHROOT", 18),
    ("SYS_PTRACE", 19),
    ("SYS_PACCT", 20),
    ("SYS_ADMIN", 21),
    ("SYS_BOOT", 22),
    ("SYS_NICE", 23),
    ("SYS_TIME", 25),
    ("SYS_TTY_CONFIG", 26),
    ("SYSLOG", 34),
    ("PERFMON", 38),
    ("BPF", 39),
];

/// AUDIT_WRITE, CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, MKNOD, NET_BIND_SERVICE, NET_RAW, SETFCAP, SETGID, SETPCAP, SETUID
/// and SYS_CHROOT: what containers have unless they ask otherwise.
const USUAL: u64 = 0xa804_25fb;

/// sched.h: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACES: u64 =
    0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;

fn verdict(words: &[&str], caps: u64, first: u64) -> Action {
    let holds = |word: &&str| match *word {
        "yes" => true,
        "no" | "enosys" => false,
        "family" => first != 38 && first != 40,
        "persona" => [0, 8, 0x20000, 0x20008, 0xffff_ffff].contains(&first),
        "flags" => first & NAMESPACES == 0,
        name => {
            let bit = CAPS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name}")).1;
            caps & (1 << bit) != 0
        }
    };
    match words.iter().any(holds) {
        true => Action::Allow,
        false if words.contains(&"enosys") => Action::Errno(ENOSYS),
        false => Action::Errno(1),
    }
}

/// First arguments around which some rule changes its mind, each also with a bit of the upper half.
fn firsts() -> Vec<u64> {
    let mut all = vec![0, 3, 9, 17, 37, 38, 39, 40, 41, 0x20000, 0x20008, 0x20009, 0xffff_fffe, 0xffff_ffff];
    // What fork(3) and pthread_create(3) pass.
    all.extend([0x0120_0011, 0x003d_0f00]);
    all.extend((0..32).map(|bit| 1_u64 << bit));
    let high: Vec<u64> = all.iter().map(|low| low | 1 << 32).collect();
    all.extend(high);
    all
}

#[test]
fn every_verdict_is_containerds() {
    let facts = facts();
    let highest = facts.iter().map(|fact| fact.number).max().unwrap();
    let mut sets = vec![0, USUAL, u64::MAX, !(1 << 21)];
    sets.extend((0..41).map(|bit| 1_u64 << bit));
    let firsts = firsts();
    for caps in sets {
        let program = compile(&default_profile(caps)).unwrap();
        for number in 0..600 {
            let fact = facts.iter().find(|fact| fact.number == number);
            // Only these look at an argument.
            let looks = ["socket", "clone", "clone3", "personality"];
            let looks = fact.is_some_and(|fact| looks.contains(&fact.name));
            for first in if looks { &firsts[..] } else { &[0, u64::MAX][..] } {
                let wanted = match fact {
                    Some(fact) => verdict(&fact.words, caps, *first),
                    None if number > highest => Action::Errno(ENOSYS),
                    None => Action::Errno(1),
                };
                let found = run(&program, ARCH_X86_64, number, [*first, 0, 0, 0, 0, 0]);
                let name = fact.map_or("of no call", |fact| fact.name);
                assert_eq!(
                    found,
                    value(wanted),
                    "{number} {name}, first argument {first:#x}, capabilities {caps:#x}"
                );
            }
        }
    }
}

#[test]
fn our_numbers_are_the_kernels() {
    for fact in facts() {
        let ours = X86_64.iter().find(|(known, _)| *known == fact.name);
        assert_eq!(ours.map(|(_, number)| *number), Some(fact.number), "{}", fact.name);
    }
}
