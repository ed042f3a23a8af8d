#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ingot_fuzz::checkpoints::config(bytes));
