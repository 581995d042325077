//! Rules of others as the kernel tells them, attribute by attribute (linux/netfilter/nf_tables.h).

use crate::attributes::{find as inside, read as attributes};

/// What a rule says of a packet that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    /// To a program, which decides.
    Queue,
    Continue,
    Return,
    Jump(String),
    Goto(String),
}

/// One step of a rule. Registers have the kernel's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    Meta {
        key: u32,
        to: u32,
    },
    /// Writes one of the packet's marks or flags.
    SetMeta {
        key: u32,
        from: u32,
    },
    Payload {
        base: u32,
        offset: u32,
        length: u32,
        to: u32,
    },
    Ct {
        key: u32,
        to: u32,
    },
    Fib {
        result: u32,
        flags: u32,
        to: u32,
    },
    /// `how` is of `NFT_CMP_*`.
    Compare {
        from: u32,
        how: u32,
        value: Vec<u8>,
    },
    Range {
        from: u32,
        not: bool,
        low: Vec<u8>,
        high: Vec<u8>,
    },
    /// (register & mask) ^ xor.
    Bitwise {
        from: u32,
        to: u32,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    /// Turns the bytes of each `size` of them.
    Swap {
        from: u32,
        to: u32,
        length: u32,
        size: u32,
    },
    /// In a set; with `to` in a map. Register 0 is the verdict.
    Lookup {
        set: String,
        from: u32,
        to: Option<u32>,
        not: bool,
    },
    Load {
        to: u32,
        value: Vec<u8>,
    },
    Verdict(Verdict),
    /// Answers the sender, and drops.
    Reject,
    /// Translates an address: the chain's verdict is to accept.
    Nat,
    /// Of xtables, with its struct as the kernel has it.
    Match {
        name: String,
        revision: u32,
        info: Vec<u8>,
    },
    Target {
        name: String,
        revision: u32,
        info: Vec<u8>,
    },
    /// Does something and goes on: counter, log.
    Aside(String),
    /// May match or not: limit, numgen.
    Other(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub handle: u64,
    pub steps: Vec<Expression>,
}

/// Big-endian, of up to eight bytes.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b))
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

pub(super) fn verdict(bytes: &[u8]) -> Option<Verdict> {
    let all = attributes(bytes);
    let code = number(inside(&all, 1)?) as u32;
    let chain = || inside(&all, 2).map(text);
    Some(match code.cast_signed() {
        -1 | -2 => Verdict::Continue,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        code if code & 0xff == 0 => Verdict::Drop,
        code if code & 0xff == 3 => Verdict::Queue,
        _ => Verdict::Accept,
    })
}

pub(super) fn rule(body: &[u8]) -> Option<Rule> {
    let all = attributes(body);
    let list = inside(&all, 4).map(attributes).unwrap_or_default();
    let steps = list.iter().map(|(_, bytes)| expression(bytes)).collect();
    Some(Rule { handle: number(inside(&all, 3)?), steps })
}

fn expression(bytes: &[u8]) -> Expression {
    let all = attributes(bytes);
    let name = inside(&all, 1).map(text).unwrap_or_default();
    let data = inside(&all, 2).map(attributes).unwrap_or_default();
    known(&name, &data).unwrap_or(Expression::Other(name))
}

fn known(name: &str, data: &[(u16, &[u8])]) -> Option<Expression> {
    let n = |kind| inside(data, kind).map(|bytes| number(bytes) as u32);
    let value = |kind| inside(&attributes(inside(data, kind)?), 1).map(<[u8]>::to_vec);
    Some(match name {
        "meta" => match (n(1), n(3)) {
            (Some(to), _) => Expression::Meta { key: n(2)?, to },
            (None, from) => Expression::SetMeta { key: n(2)?, from: from? },
        },
        "payload" if inside(data, 5).is_some() => Expression::Aside(name.into()),
        "payload" => Expression::Payload { base: n(2)?, offset: n(3)?, length: n(4)?, to: n(1)? },
        "ct" => match n(1) {
            Some(to) => Expression::Ct { key: n(2)?, to },
            None => Expression::Aside(name.into()),
        },
        "fib" => Expression::Fib { to: n(1)?, result: n(2)?, flags: n(3)? },
        "cmp" => Expression::Compare { from: n(1)?, how: n(2)?, value: value(3)? },
        "range" => Expression::Range { from: n(1)?, not: n(2)? == 1, low: value(3)?, high: value(4)? },
        "bitwise" if n(6).unwrap_or(0) == 0 => {
            Expression::Bitwise { from: n(1)?, to: n(2)?, mask: value(4)?, xor: value(5)? }
        }
        "byteorder" => Expression::Swap { from: n(1)?, to: n(2)?, length: n(4)?, size: n(5)? },
        "lookup" => Expression::Lookup {
            set: inside(data, 1).map(text)?,
            from: n(2)?,
            to: n(3),
            not: n(5).unwrap_or(0) & 1 == 1,
        },
        "immediate" if n(1)? == 0 => {
            let inner = attributes(inside(data, 2)?);
            Expression::Verdict(verdict(inside(&inner, 2)?)?)
        }
        "immediate" => Expression::Load { to: n(1)?, value: value(2)? },
        "reject" => Expression::Reject,
        "nat" | "masq" | "redir" | "tproxy" => Expression::Nat,
        "match" => Expression::Match {
            name: inside(data, 1).map(text)?,
            revision: n(2).unwrap_or(0),
            info: inside(data, 3)?.to_vec(),
        },
        "target" => Expression::Target {
            name: inside(data, 1).map(text)?,
            revision: n(2).unwrap_or(0),
            info: inside(data, 3)?.to_vec(),
        },
        "queue" => Expression::Verdict(Verdict::Queue),
        "counter" | "log" | "notrack" | "dynset" | "dup" | "objref" | "flow_offload" | "last"
        | "synproxy" => Expression::Aside(name.into()),
        _ => return None,
    })
}
