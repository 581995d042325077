//! Device rules on cgroup v2: compiled to a small eBPF program and attached.

use std::os::fd::AsFd as _;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::CgroupError;

/// `struct bpf_cgroup_dev_ctx`: access and type in one word, then major and minor.
const TYPE_BLOCK: i32 = 1;
const TYPE_CHARACTER: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

fn instruction(code: u8, dst: u8, src: u8, offset: i16, imm: i32) -> [u8; 8] {
    let (o, i) = (offset.to_le_bytes(), imm.to_le_bytes());
    [code, dst | (src << 4), o[0], o[1], i[0], i[1], i[2], i[3]]
}

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_EQUAL: u8 = 0x15;
const EXIT: u8 = 0x95;

/// The last rule that fits decides, so the program asks in reverse; nothing fits: refused.
pub(crate) fn program(rules: &[LinuxDeviceCgroup]) -> Vec<[u8; 8]> {
    let mut code = vec![
        // r2 access, r3 type, r4 major, r5 minor
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND, 3, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 2, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut block: Vec<(u8, u8, i32)> = Vec::new();
        match rule.typ() {
            Some(LinuxDeviceType::B) => block.push((JUMP_NOT_EQUAL, 3, TYPE_BLOCK)),
            Some(LinuxDeviceType::C | LinuxDeviceType::U | LinuxDeviceType::P) => {
                block.push((JUMP_NOT_EQUAL, 3, TYPE_CHARACTER));
            }
            _ => {}
        }
        for (register, number) in [(4, rule.major()), (5, rule.minor())] {
            if let Some(number) = number.filter(|n| *n >= 0).and_then(|n| i32::try_from(n).ok()) {
                block.push((JUMP_NOT_EQUAL, register, number));
            }
        }
        let access = rule.access().clone().unwrap_or_else(|| "rwm".into());
        let bit = |letter: char, bit: i32| if access.contains(letter) { bit } else { 0 };
        let bits = bit('m', MKNOD) | bit('r', READ) | bit('w', WRITE);
        // Allowed: nothing is asked beyond the rule. Denied: something of the rule is asked.
        let (mask, leave) = if rule.allow() { (!bits & 7, JUMP_NOT_EQUAL) } else { (bits, JUMP_EQUAL) };
        // Behind the tests: copy, mask, jump, verdict, exit.
        let tests = block.len() as i16;
        for (at, (jump, register, value)) in (0..).zip(block) {
            code.push(instruction(jump, register, 0, tests - at - 1 + 5, value));
        }
        code.push(instruction(MOVE_REGISTER, 0, 2, 0, 0));
        code.push(instruction(AND, 0, 0, 0, mask));
        code.push(instruction(leave, 0, 0, 2, 0));
        code.push(instruction(MOVE, 0, 0, 0, i32::from(rule.allow())));
        code.push(instruction(EXIT, 0, 0, 0, 0));
    }
    code.push(instruction(MOVE, 0, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

pub(crate) fn attach(directory: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), CgroupError> {
    let fail = || CgroupError::file("put the device rules on", directory);
    let cgroup = std::fs::File::open(directory).map_err(fail())?;
    let program = berth_sys::bpf::load_device_program(&program(rules)).map_err(fail())?;
    berth_sys::bpf::attach_device_program(cgroup.as_fd(), program.as_fd()).map_err(fail())
}
