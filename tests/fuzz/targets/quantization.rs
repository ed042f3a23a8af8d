#![no_main]

use ingot_fuzz::{bounded, checkpoints};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bounded(bytes, checkpoints::quantization));
