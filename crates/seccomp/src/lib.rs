//! See crates/ARCHITECTURE.md.
