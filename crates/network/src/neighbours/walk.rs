//! A packet through a chain and those it leads to, as far as both are known.

use std::io;

use berth_netlink::nft::{Base, ChainName, Element, Expression, Rule, Verdict};

use super::packet::Packet;
use super::registers::{Answer, Registers};
use super::xt::{self, Does};

/// Where rules come from.
pub(crate) trait Tables {
    fn rules(&self, of: &ChainName) -> io::Result<Vec<Rule>>;
    fn element(&self, of: &ChainName, set: &str, key: &[u8]) -> io::Result<Element>;
}

/// What stops a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    Policy,
    /// By its place in the chain, from 1, and handle.
    Rule {
        place: usize,
        handle: u64,
        how: &'static str,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// The chain that the kernel calls, and the one it happens in.
    pub(crate) base: ChainName,
    pub(crate) chain: ChainName,
    pub(crate) cause: Cause,
    /// False: something on the way is not known.
    pub(crate) sure: bool,
}

/// As the kernel's, NFT_JUMP_STACK_SIZE.
const DEPTH: usize = 16;
/// Rules looked at for one packet; whoever has more on one packet's way is not waited for.
const RULES: usize = 20_000;

enum End {
    Accepted,
    Dropped(Block),
    /// The chain ended, by itself or by a return.
    Through,
}

enum Action {
    None,
    Take(Verdict, &'static str),
}

struct Walk<'a, T> {
    tables: &'a T,
    base: &'a ChainName,
    packet: &'a mut Packet,
    /// Something that is not known may have let it pass before.
    doubt: bool,
    perhaps: Option<Block>,
    left: usize,
}

/// What of a base chain stops the packet, if anything does. Marks that rules write stay with the packet.
pub(crate) fn through<T: Tables>(tables: &T, base: &Base, packet: &mut Packet) -> io::Result<Option<Block>> {
    let mut walk = Walk { tables, base: &base.name, packet, doubt: false, perhaps: None, left: RULES };
    Ok(match walk.chain(&base.name, true, 0)? {
        End::Accepted => walk.perhaps,
        End::Dropped(block) => Some(block),
        End::Through if base.drops => {
            let (base, chain) = (base.name.clone(), base.name.clone());
            Some(Block { base, chain, cause: Cause::Policy, sure: !walk.doubt })
        }
        End::Through => walk.perhaps,
    })
}

impl<T: Tables> Walk<'_, T> {
    fn chain(&mut self, chain: &ChainName, certain: bool, depth: usize) -> io::Result<End> {
        if depth > DEPTH {
            return Ok(End::Through);
        }
        for (at, rule) in self.tables.rules(chain)?.iter().enumerate() {
            self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::FileTooLarge)?;
            let (answer, action) = self.rule(chain, rule)?;
            let Action::Take(verdict, how) = action else { continue };
            let certain = certain && answer == Answer::Yes;
            match verdict {
                _ if answer == Answer::No => {}
                Verdict::Continue => {}
                Verdict::Accept if certain => return Ok(End::Accepted),
                Verdict::Return if answer == Answer::Yes => return Ok(End::Through),
                Verdict::Accept | Verdict::Return => self.doubt = true,
                Verdict::Drop | Verdict::Queue => {
                    let cause = Cause::Rule { place: at + 1, handle: rule.handle, how };
                    let sure = certain && verdict == Verdict::Drop && !self.doubt;
                    let block = Block { base: self.base.clone(), chain: chain.clone(), cause, sure };
                    if certain && verdict == Verdict::Drop {
                        return Ok(End::Dropped(block));
                    }
                    self.perhaps.get_or_insert(block);
                }
                Verdict::Jump(ref to) | Verdict::Goto(ref to) if to.is_empty() => {}
                Verdict::Jump(ref to) | Verdict::Goto(ref to) => {
                    let next = ChainName { chain: to.clone(), ..chain.clone() };
                    let end = self.chain(&next, certain, depth + 1)?;
                    match (end, &verdict) {
                        (End::Through, Verdict::Goto(_)) if certain => return Ok(End::Through),
                        (End::Through, _) => {}
                        (decided, _) => return Ok(decided),
                    }
                }
            }
            if answer == Answer::Yes && matches!(verdict, Verdict::Accept | Verdict::Drop | Verdict::Queue) {
                // Whoever came here went no further; whether somebody came is not known.
                return Ok(End::Through);
            }
        }
        Ok(End::Through)
    }

    fn rule(&mut self, chain: &ChainName, rule: &Rule) -> io::Result<(Answer, Action)> {
        let (mut registers, mut answer) = (Registers::default(), Answer::Yes);
        for step in &rule.steps {
            match step {
                Expression::Verdict(verdict) => {
                    let how = if *verdict == Verdict::Queue { "queue" } else { "drop" };
                    return Ok((answer, Action::Take(verdict.clone(), how)));
                }
                Expression::Reject => return Ok((answer, Action::Take(Verdict::Drop, "reject"))),
                Expression::Nat => return Ok((answer, Action::Take(Verdict::Accept, ""))),
                Expression::Target { name, revision, info } => match xt::does(name, *revision, info) {
                    Does::Drop => {
                        let how = if name == "REJECT" { "reject" } else { "drop" };
                        return Ok((answer, Action::Take(Verdict::Drop, how)));
                    }
                    Does::Accept => return Ok((answer, Action::Take(Verdict::Accept, ""))),
                    Does::Asks => return Ok((answer, Action::Take(Verdict::Queue, "queue"))),
                    Does::GoesOn => {}
                    Does::Marks { mark, mask } => self.mark(answer, mark, mask),
                    Does::Something => self.doubt = true,
                },
                Expression::Lookup { set, from, to: Some(0), .. } => {
                    match self.look_up(chain, set, &registers.known(*from))? {
                        Some(Element::Verdict(verdict)) => {
                            return Ok((answer, Action::Take(verdict, "drop")));
                        }
                        Some(_) => return Ok((Answer::No, Action::None)),
                        None => answer = answer.and(Answer::Perhaps),
                    }
                }
                Expression::SetMeta { key: 3, from } => {
                    let bytes = registers.get(*from, 4).to_vec();
                    for (own, new) in self.packet.mark.iter_mut().zip(bytes) {
                        *own = if answer == Answer::Yes { new } else { None };
                    }
                }
                other => answer = answer.and(self.compute(chain, other, &mut registers)?),
            }
            if answer == Answer::No {
                break;
            }
        }
        Ok((answer, Action::None))
    }

    fn mark(&mut self, answer: Answer, mark: u32, mask: u32) {
        let own: Option<Vec<u8>> = self.packet.mark.iter().copied().collect();
        let own = own.and_then(|own| own.first_chunk::<4>().map(|own| u32::from_ne_bytes(*own)));
        self.packet.mark = match (answer, own) {
            (Answer::Yes, Some(own)) => ((own & !mask) ^ mark).to_ne_bytes().map(Some),
            _ => [None; 4],
        };
    }

    /// `None`: the key is not known whole.
    fn look_up(&self, chain: &ChainName, set: &str, key: &[u8]) -> io::Result<Option<Element>> {
        match self.tables.element(chain, set, key) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Loads and compares; a step that does neither says yes.
    fn compute(&self, chain: &ChainName, step: &Expression, registers: &mut Registers) -> io::Result<Answer> {
        let packet = &*self.packet;
        match step {
            Expression::Meta { key, to } => registers.set(*to, &packet.meta(*key)),
            Expression::Payload { base, offset, length, to } => {
                registers.set(*to, &packet.header(*base, *offset as usize, *length as usize));
            }
            Expression::Ct { key, to } => registers.set(*to, &packet.connection(*key)),
            Expression::Fib { result, flags, to } => registers.set(*to, &packet.routes(*result, *flags)),
            Expression::Load { to, value } => {
                registers.set(*to, &value.iter().copied().map(Some).collect::<Vec<_>>());
            }
            Expression::Bitwise { from, to, mask, xor } => {
                let masked =
                    registers.get(*from, mask.len()).iter().zip(mask).zip(xor).map(|((byte, mask), xor)| {
                        match byte {
                            Some(byte) => Some((byte & mask) ^ xor),
                            None if *mask == 0 => Some(*xor),
                            None => None,
                        }
                    });
                let masked: Vec<_> = masked.collect();
                registers.set(*to, &masked);
            }
            Expression::Swap { from, to, length, size } => {
                let size = (*size as usize).max(1);
                let bytes = registers.get(*from, *length as usize);
                let turned: Vec<_> = bytes.chunks(size).flat_map(|c| c.iter().rev().copied()).collect();
                registers.set(*to, &turned);
            }
            Expression::Compare { from, how, value } => {
                let order = || registers.order(*from, value);
                return Ok(match how {
                    0 => registers.equals(*from, value),
                    1 => registers.equals(*from, value).not(),
                    _ => order().map_or(Answer::Perhaps, |order| {
                        match how {
                            2 => order.is_lt(),
                            3 => order.is_le(),
                            4 => order.is_gt(),
                            _ => order.is_ge(),
                        }
                        .into()
                    }),
                });
            }
            Expression::Range { from, not, low, high } => {
                return Ok(match (registers.order(*from, low), registers.order(*from, high)) {
                    (Some(low), Some(high)) => ((low.is_ge() && high.is_le()) != *not).into(),
                    _ => Answer::Perhaps,
                });
            }
            Expression::Lookup { set, from, to, not } => {
                return Ok(match self.look_up(chain, set, &registers.known(*from))? {
                    Some(Element::Absent) => (*not).into(),
                    Some(Element::Value(value)) if to.is_some() => {
                        registers.set(to.unwrap_or(8), &value.iter().copied().map(Some).collect::<Vec<_>>());
                        Answer::Yes
                    }
                    Some(_) => (!*not).into(),
                    None => Answer::Perhaps,
                });
            }
            Expression::Match { name, revision, info } => {
                return Ok(xt::matches(packet, name, *revision, info));
            }
            Expression::Other(_) => {
                // What it may have loaded is not known.
                *registers = Registers::default();
                return Ok(Answer::Perhaps);
            }
            _ => {}
        }
        Ok(Answer::Yes)
    }
}
