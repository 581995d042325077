//! libFuzzer's way in. Which target: the variable `BERTH_FUZZ`, one of the directories of `corpus`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| berth_fuzz::chosen()(input));
