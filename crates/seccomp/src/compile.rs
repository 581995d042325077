//! Profile to classic BPF (seccomp(2), "Filters").

use std::collections::BTreeMap;

use crate::syscalls::{I386, X86_64};
use crate::{Action, Compare, Condition, Profile, Rule, SeccompError};

/// A filter ready to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// `struct sock_filter` records.
    pub bytes: Vec<u8>,
    pub flags: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const RETURN: u16 = 0x06;

const ARCH_X86_64: u32 = 0xc000_003e;
const ARCH_I386: u32 = 0x4000_0003;
/// Set in the numbers of the x32 ABI.
const X32: u32 = 0x4000_0000;
const ENOSYS: u16 = 38;
/// The kernel's limit (BPF_MAXINSNS).
const LONGEST: usize = 4096;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

fn low(index: u8) -> u32 {
    16 + u32::from(index) * 8
}

fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// SECCOMP_RET_* and its data.
fn value(action: Action) -> u32 {
    match action {
        Action::Allow => 0x7fff_0000,
        Action::Log => 0x7ffc_0000,
        Action::Trace(data) => 0x7ff0_0000 | u32::from(data),
        Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
        Action::Trap => 0x0003_0000,
        Action::KillThread => 0,
        Action::KillProcess => 0x8000_0000,
    }
}

fn give(action: Action) -> Instruction {
    plain(RETURN, value(action))
}

pub fn compile(profile: &Profile) -> Result<Program, SeccompError> {
    let wide = architecture(profile, X86_64);
    let narrow = architecture(profile, I386);
    // Which architecture the call came by; one that this kernel cannot have ends the process.
    let mut code = vec![plain(LOAD, ARCHITECTURE), branch(JEQ, ARCH_X86_64, 0, 1)];
    code.push(plain(JUMP, 3));
    code.push(branch(JEQ, ARCH_I386, 0, 1));
    code.push(plain(JUMP, 4 + wide.len() as u32));
    code.push(give(Action::KillProcess));
    code.push(plain(LOAD, NUMBER));
    code.push(branch(JGE, X32, 0, 1));
    code.push(give(Action::Errno(ENOSYS)));
    code.extend(wide);
    code.push(plain(LOAD, NUMBER));
    code.extend(narrow);
    if code.len() > LONGEST {
        return Err(SeccompError::Long(code.len()));
    }
    let mut bytes = Vec::with_capacity(code.len() * 8);
    for i in code {
        bytes.extend_from_slice(&i.code.to_le_bytes());
        bytes.extend_from_slice(&[i.jt, i.jf]);
        bytes.extend_from_slice(&i.k.to_le_bytes());
    }
    Ok(Program { bytes, flags: profile.flags })
}

/// What happens to one number: conditional rules in order, then an action.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict<'a> {
    conditional: Vec<&'a Rule>,
    otherwise: Action,
}

/// The tree for one architecture; the number is in the accumulator.
fn architecture(profile: &Profile, table: &[(&str, u32)]) -> Vec<Instruction> {
    let numbers: BTreeMap<&str, u32> = table.iter().copied().collect();
    let mut verdicts: BTreeMap<u32, Verdict<'_>> = BTreeMap::new();
    let mut settled: std::collections::BTreeSet<u32> = std::collections::BTreeSet::new();
    for rule in &profile.rules {
        // Names of other architectures and of newer kernels are nothing here.
        for number in rule.names.iter().filter_map(|name| numbers.get(name.as_str())) {
            if settled.contains(number) {
                continue;
            }
            let fresh = || Verdict { conditional: Vec::new(), otherwise: profile.default };
            let verdict = verdicts.entry(*number).or_insert_with(fresh);
            if rule.conditions.is_empty() {
                verdict.otherwise = rule.action;
                settled.insert(*number);
            } else {
                verdict.conditional.push(rule);
            }
        }
    }
    // A call newer than every one the profile names was not thought of when the profile was made: for the program it does
    // not exist, so that it falls back instead of failing (EPERM would make new C libraries give up). runc draws the line
    // at the same place.
    let newest = verdicts.keys().max().copied().unwrap_or(0);
    let unknown = match profile.default {
        Action::Errno(_) => Action::Errno(ENOSYS),
        other => other,
    };
    let simple = |otherwise| Verdict { conditional: Vec::new(), otherwise };
    let mut ranges: Vec<(u32, Verdict<'_>)> = Vec::new();
    for number in 0..=newest {
        let verdict = verdicts.remove(&number).unwrap_or_else(|| simple(profile.default));
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((number, verdict));
        }
    }
    ranges.push((newest + 1, simple(unknown)));
    tree(&ranges)
}

/// `ranges` begin at their numbers; each block ends by returning.
fn tree(ranges: &[(u32, Verdict<'_>)]) -> Vec<Instruction> {
    if let [(_, verdict)] = ranges {
        return leaf(verdict);
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let (below, above) = (tree(left), tree(right));
    let pivot = right.first().map_or(0, |(number, _)| *number);
    // Conditional jumps reach 255 instructions, the plain one any number.
    let mut code = match u8::try_from(below.len()) {
        Ok(near) => vec![branch(JGE, pivot, near, 0)],
        Err(_) => vec![branch(JGE, pivot, 0, 1), plain(JUMP, below.len() as u32)],
    };
    code.extend(below);
    code.extend(above);
    code
}

fn leaf(verdict: &Verdict<'_>) -> Vec<Instruction> {
    let mut code = Vec::new();
    for rule in &verdict.conditional {
        let mut block: Vec<Step> = rule.conditions.iter().flat_map(condition).collect();
        block.push(Step::Do(give(rule.action)));
        let end = block.len();
        for (at, step) in block.into_iter().enumerate() {
            // To the first instruction behind this rule; a rule has at most six conditions of six steps.
            let out = (end - at - 1) as u8;
            code.push(match step {
                Step::Do(instruction) => instruction,
                Step::UnlessOut(code, k) => branch(code, k, 0, out),
                Step::IfOut(code, k) => branch(code, k, out, 0),
                Step::IfOver(code, k, over) => branch(code, k, over, 0),
                Step::UnlessOver(code, k, over) => branch(code, k, 0, over),
            });
        }
    }
    code.push(give(verdict.otherwise));
    code
}

/// A piece of a condition.
#[derive(Clone, Copy)]
enum Step {
    Do(Instruction),
    /// Leaves the rule unless the comparison holds.
    UnlessOut(u16, u32),
    /// Leaves the rule if it holds.
    IfOut(u16, u32),
    /// Skips so many instructions if it holds: the condition is met.
    IfOver(u16, u32, u8),
    UnlessOver(u16, u32, u8),
}

/// 64 bits compared as two halves.
fn condition(of: &Condition) -> Vec<Step> {
    use Step::{Do, IfOut, IfOver, UnlessOut, UnlessOver};
    let load_low = Do(plain(LOAD, low(of.index)));
    let load_high = Do(plain(LOAD, low(of.index) + 4));
    let (high, less) = ((of.value >> 32) as u32, of.value as u32);
    match of.compare {
        Compare::Equal => vec![load_low, UnlessOut(JEQ, less), load_high, UnlessOut(JEQ, high)],
        Compare::NotEqual => vec![load_low, UnlessOver(JEQ, less, 2), load_high, IfOut(JEQ, high)],
        Compare::MaskedEqual => vec![
            load_low,
            Do(plain(AND, less)),
            UnlessOut(JEQ, of.second as u32),
            load_high,
            Do(plain(AND, high)),
            UnlessOut(JEQ, (of.second >> 32) as u32),
        ],
        Compare::Greater => {
            vec![load_high, IfOver(JGT, high, 3), UnlessOut(JEQ, high), load_low, UnlessOut(JGT, less)]
        }
        Compare::GreaterOrEqual => {
            vec![load_high, IfOver(JGT, high, 3), UnlessOut(JEQ, high), load_low, UnlessOut(JGE, less)]
        }
        Compare::Less => {
            vec![load_high, IfOut(JGT, high), UnlessOver(JEQ, high, 2), load_low, IfOut(JGE, less)]
        }
        Compare::LessOrEqual => {
            vec![load_high, IfOut(JGT, high), UnlessOver(JEQ, high, 2), load_low, IfOut(JGT, less)]
        }
    }
}

#[cfg(test)]
mod tests;
