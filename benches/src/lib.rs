//! Ingot's benchmarks. `benches/` holds criterion groups, which `cargo test` runs once each as a check;
//! `src/bin/probe.rs` measures what the design rests on; README.md records what was found.
