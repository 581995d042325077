use super::*;
use crate::default_profile;

mod facts;

/// What the kernel would return: an interpreter of the instructions used here.
fn run(program: &Program, arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let (mut at, mut a) = (0_usize, 0_u32);
    loop {
        let c = &program.bytes[at * 8..at * 8 + 8];
        let (op, jt, jf) = (u16::from_le_bytes([c[0], c[1]]), c[2], c[3]);
        let k = u32::from_le_bytes([c[4], c[5], c[6], c[7]]);
        at += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match op {
            LOAD if k == NUMBER => a = number,
            LOAD if k == ARCHITECTURE => a = arch,
            LOAD => {
                let whole = arguments[((k - 16) / 8) as usize];
                a = if (k - 16).is_multiple_of(8) { whole as u32 } else { (whole >> 32) as u32 };
            }
            AND => a &= k,
            JUMP => at += k as usize,
            JEQ => at += jump(a == k),
            JGT => at += jump(a > k),
            JGE => at += jump(a >= k),
            RETURN => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// What the profile says, read directly.
fn expected(profile: &Profile, table: &[(&str, u32)], newest: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let holds = |c: &Condition| {
        let a = arguments[usize::from(c.index)];
        match c.compare {
            Compare::Equal => a == c.value,
            Compare::NotEqual => a != c.value,
            Compare::Less => a < c.value,
            Compare::LessOrEqual => a <= c.value,
            Compare::Greater => a > c.value,
            Compare::GreaterOrEqual => a >= c.value,
            Compare::MaskedEqual => a & c.value == c.second,
        }
    };
    let name = table.iter().find(|(_, n)| *n == number).map(|(name, _)| *name);
    let rule = profile.rules.iter().find(|r| {
        name.is_some_and(|name| r.names.iter().any(|n| n == name)) && r.conditions.iter().all(holds)
    });
    match rule {
        Some(rule) => value(rule.action),
        None if number > newest && matches!(profile.default, Action::Errno(_)) => {
            value(Action::Errno(ENOSYS))
        }
        None => value(profile.default),
    }
}

const CORNERS: [u64; 12] =
    [0, 1, 8, 37, 38, 40, 0x20000, 0x1000_0000, 0xffff_ffff, 0x1_0000_0000, 0x2_0000_0026, u64::MAX];

fn check(profile: &Profile) {
    let program = compile(profile).unwrap();
    for (arch, table) in [(ARCH_X86_64, X86_64), (ARCH_I386, I386)] {
        let named = |name: &str| profile.rules.iter().any(|r| r.names.iter().any(|n| n == name));
        let newest = table.iter().filter(|(name, _)| named(name)).map(|(_, n)| *n).max().unwrap_or(0);
        for number in 0..600 {
            for a in CORNERS {
                for b in [0, a, u64::MAX] {
                    let arguments = [a, b, a, b, a, b];
                    let found = run(&program, arch, number, arguments);
                    assert_eq!(
                        found,
                        expected(profile, table, newest, number, arguments),
                        "{arch:#x} {number} {a:#x} {b:#x}"
                    );
                }
            }
        }
    }
    assert_eq!(run(&program, ARCH_X86_64, X32 + 1, [0; 6]), value(Action::Errno(ENOSYS)));
    assert_eq!(run(&program, 5, 1, [0; 6]), value(Action::KillProcess));
}

#[test]
fn the_default_profile_means_what_it_says() {
    check(&default_profile(0));
    check(&default_profile(u64::MAX));
}

#[test]
fn every_comparison_at_its_corners() {
    use Compare::*;
    for compare in [Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual, MaskedEqual] {
        for value in CORNERS {
            let one = Condition { index: 1, compare, value, second: value & 0x26 };
            let two = Condition { index: 0, compare: NotEqual, value: 8, second: 0 };
            let rule = |names: &[&str], conditions: Vec<Condition>| Rule {
                names: names.iter().map(|n| (*n).to_owned()).collect(),
                action: Action::Allow,
                conditions,
            };
            let rules = vec![rule(&["read"], vec![one]), rule(&["read", "write"], vec![two, one])];
            check(&Profile { default: Action::Errno(1), rules, flags: 0 });
        }
    }
}

#[test]
fn what_the_default_profile_forbids() {
    let number = |name: &str| X86_64.iter().find(|(n, _)| *n == name).unwrap().1;
    let plain = compile(&default_profile(0)).unwrap();
    let all = compile(&default_profile(u64::MAX)).unwrap();
    let allow = value(Action::Allow);
    for name in [
        "mount",
        "bpf",
        "unshare",
        "setns",
        "init_module",
        "kexec_load",
        "reboot",
        "open_by_handle_at",
        "swapon",
        "keyctl",
    ] {
        assert_ne!(run(&plain, ARCH_X86_64, number(name), [0; 6]), allow, "{name}");
    }
    for name in ["read", "execve", "futex", "openat", "clone", "fchmodat2"] {
        assert_eq!(run(&plain, ARCH_X86_64, number(name), [0; 6]), allow, "{name}");
    }
    assert_eq!(run(&all, ARCH_X86_64, number("mount"), [0; 6]), allow);
    // A new user namespace by clone, and clone3 whose flags no filter can see.
    assert_ne!(run(&plain, ARCH_X86_64, number("clone"), [0x1000_0000, 0, 0, 0, 0, 0]), allow);
    assert_eq!(run(&plain, ARCH_X86_64, number("clone3"), [0; 6]), value(Action::Errno(ENOSYS)));
    assert_ne!(run(&plain, ARCH_X86_64, number("socket"), [40, 0, 0, 0, 0, 0]), allow);
    assert_eq!(run(&plain, ARCH_X86_64, number("socket"), [2, 0, 0, 0, 0, 0]), allow);
}

#[test]
fn profiles_from_json() {
    let json = br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":17},
        {"names":["chmod"],"action":"SCMP_ACT_ERRNO","excludes":{"caps":["CAP_SYS_ADMIN"]}},
        {"names":["socket"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#;
    let profile = Profile::from_json(json, 0).unwrap();
    check(&profile);
    let program = compile(&profile).unwrap();
    assert_eq!(run(&program, ARCH_X86_64, 83, [0; 6]), value(Action::Errno(17)));
    assert_eq!(Profile::from_json(json, u64::MAX).unwrap().rules.len(), 2);
    for (bad, part) in [
        (&b"{}"[..], "defaultAction"),
        (br#"{"defaultAction":"X"}"#, "defaultAction"),
        (br#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["X"]}"#, "flags[0]"),
        (br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["x"],"action":"SCMP_ACT_ALLOW","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#, "syscalls[0].args[0].index"),
    ] {
        let error = Profile::from_json(bad, 0).unwrap_err().to_string();
        assert!(error.contains(part), "{error} lacks {part}");
    }
}
