//! nf_tables by netlink, in transactions. The numbers are those of linux/netfilter/nf_tables.h.

mod batch;
mod decode;
mod expression;
mod read;
mod standing;
mod table;
#[cfg(test)]
mod tests;

pub use decode::{Expression, Rule, Verdict};
pub use read::{Base, ChainName, Element, Reader};
pub use standing::{Held, HeldState, Standing};
pub use table::{Forward, Pod, Table, Tables};
