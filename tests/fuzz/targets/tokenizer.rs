#![no_main]

use ingot_fuzz::{bounded, checkpoints};

// A panic of the crate `tokenizers` that is caught is no finding; one that is not still ends the run.
libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| bounded(bytes, checkpoints::tokenizer)
);
