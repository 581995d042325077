//! nf_tables by netlink, in transactions. The numbers are those of linux/netfilter/nf_tables.h.

mod batch;
mod expression;
mod table;
#[cfg(test)]
mod tests;

pub use table::{Forward, Pod, Table, Tables};
