//! Traffic control: how fast an interface sends (tc(8)). The numbers are those of linux/pkt_sched.h and linux/pkt_cls.h.

use std::io;

use crate::Routes;
use crate::attributes::{Attributes, find, read};

const NEW_QDISC: u16 = 36;
const GET_QDISC: u16 = 38;
const NEW_FILTER: u16 = 44;
const CREATE: u16 = 0x400;
const REPLACE: u16 = 0x100;
const DUMP: u16 = 0x300;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;

const ROOT: u32 = 0xffff_ffff;
const INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
const FIRST: u32 = 1 << 16;

/// A token bucket: so many bytes a second, and so many at once after silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub bytes: u64,
    pub burst: u32,
}

/// Packets wait at most so long behind the bucket, in microseconds.
const LATENCY: u64 = 25_000;

const PARAMETERS: u16 = 1;
const RATE64: u16 = 4;
/// The unit of times in traffic control, in nanoseconds.
const TICK: u64 = 64;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|word| u32::from_ne_bytes(*word))
}

impl Rate {
    /// Of the options of a token bucket: the burst is told as the time that fills it.
    fn read(options: &[u8]) -> Option<Self> {
        let all = read(options);
        let parameters = find(&all, PARAMETERS)?;
        let long = find(&all, RATE64).and_then(|bytes| bytes.first_chunk::<8>().copied());
        let bytes =
            long.map_or_else(|| word(parameters, 8).map(u64::from), |b| Some(u64::from_ne_bytes(b)))?;
        let fill = u128::from(word(parameters, 28)?) * u128::from(TICK);
        let burst = (fill * u128::from(bytes)).div_ceil(1_000_000_000);
        Some(Self { bytes, burst: u32::try_from(burst).unwrap_or(u32::MAX) })
    }

    /// struct tc_tbf_qopt.
    fn parameters(self) -> Vec<u8> {
        const ETHERNET: u8 = 1;
        let short = u32::try_from(self.bytes).unwrap_or(u32::MAX);
        let fill = u64::from(self.burst).saturating_mul(1_000_000_000) / self.bytes.max(1) / TICK;
        let waiting = self.bytes.saturating_mul(LATENCY) / 1_000_000;
        let limit = u32::try_from(waiting).unwrap_or(u32::MAX).saturating_add(self.burst);
        let mut bytes = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0];
        bytes.extend(short.to_ne_bytes());
        bytes.extend([0; 12]);
        bytes.extend(limit.to_ne_bytes());
        bytes.extend(u32::try_from(fill).unwrap_or(u32::MAX).to_ne_bytes());
        bytes.extend([0; 4]);
        bytes
    }
}

/// struct tcmsg.
fn head(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for word in [index, handle, parent, info] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

impl Routes {
    /// What the interface sends is held to a rate; whatever did so before is replaced.
    pub fn limit(&self, index: u32, rate: Rate) -> io::Result<()> {
        const BURST: u16 = 6;
        let mut options = Attributes::default().bytes(PARAMETERS, &rate.parameters());
        if rate.bytes > u64::from(u32::MAX) {
            options = options.bytes(RATE64, &rate.bytes.to_ne_bytes());
        }
        let options = options.native(BURST, rate.burst);
        let what = Attributes::default().text(KIND, "tbf").bytes(OPTIONS, options.encoded());
        let mut body = head(index, FIRST, ROOT, 0);
        body.extend(what.encoded());
        self.raw(NEW_QDISC, CREATE | REPLACE, &body)
    }

    /// What the interface receives is sent by `to` instead: an ifb, whose rate can be limited and which then hands it on.
    pub fn redirect(&self, index: u32, to: u32) -> io::Result<()> {
        let mut body = head(index, INGRESS_HANDLE, INGRESS, 0);
        body.extend(Attributes::default().text(KIND, "ingress").encoded());
        self.raw(NEW_QDISC, CREATE | REPLACE, &body)?;
        const PRIORITY: u32 = 1;
        const EVERY_PROTOCOL: u16 = 3;
        let mut body = head(index, 0, INGRESS_HANDLE, PRIORITY << 16 | u32::from(EVERY_PROTOCOL.to_be()));
        const CLASS: u16 = 1;
        const SELECTOR: u16 = 5;
        const ACTIONS: u16 = 7;
        // One key that every packet has: no bit is compared.
        const TERMINAL: u8 = 1;
        const KEYS: u8 = 1;
        let mut selector = vec![TERMINAL, 0, KEYS];
        selector.resize(16 + 16, 0);
        let mut mirred = Vec::new();
        const STOLEN: u32 = 4;
        const REDIRECT: u32 = 1;
        for word in [0, 0, STOLEN, 0, 0, REDIRECT, to] {
            mirred.extend(word.to_ne_bytes());
        }
        let action =
            Attributes::default().text(1, "mirred").nested(2, Attributes::default().bytes(2, &mirred));
        let options = Attributes::default()
            .native(CLASS, FIRST | 1)
            .bytes(SELECTOR, &selector)
            .nested(ACTIONS, Attributes::default().nested(1, action));
        body.extend(Attributes::default().text(KIND, "u32").bytes(OPTIONS, options.encoded()).encoded());
        self.raw(NEW_FILTER, CREATE, &body)
    }

    /// The kinds of the interface's queueing disciplines.
    pub fn disciplines(&self, index: u32) -> io::Result<Vec<String>> {
        Ok(self.qdiscs(index)?.into_iter().map(|(kind, _)| kind).collect())
    }

    /// What the interface's sending is held to by [`Routes::limit`], if it is.
    pub fn limited(&self, index: u32) -> io::Result<Option<Rate>> {
        let bucket = self.qdiscs(index)?.into_iter().find(|(kind, _)| kind == "tbf");
        Ok(bucket.and_then(|(_, options)| Rate::read(&options)))
    }

    /// Kind and options of each.
    fn qdiscs(&self, index: u32) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut found = Vec::new();
        for body in self.raw_dump(GET_QDISC, DUMP, &head(index, 0, 0, 0))? {
            let all = body.get(20..).map(read).unwrap_or_default();
            if let (Some(kind), true) = (find(&all, KIND), word(&body, 4) == Some(index)) {
                let kind = String::from_utf8_lossy(kind).trim_end_matches('\0').to_owned();
                found.push((kind, find(&all, OPTIONS).unwrap_or_default().to_vec()));
            }
        }
        Ok(found)
    }
}
