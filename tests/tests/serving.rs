//! The world and its tick with tiny random models: any order of arrivals and cancellations, few pages, steps in flight.

#[path = "serving/artifact.rs"]
mod artifact;
#[path = "serving/form.rs"]
mod form;
#[path = "serving/gpu.rs"]
mod gpu;
#[path = "serving/grammar.rs"]
mod grammar;
#[path = "serving/hub.rs"]
mod hub;
#[path = "serving/keeping.rs"]
mod keeping;
#[path = "serving/library.rs"]
mod library;
#[path = "serving/measuring.rs"]
mod measuring;
// The models' own tests play more troubles.
#[allow(dead_code)]
#[path = "../../models/tests/models/play_hub.rs"]
mod play_hub;
#[path = "serving/prompt_cache.rs"]
mod prompt_cache;
#[path = "serving/random.rs"]
mod random;
#[path = "serving/sampled.rs"]
mod sampled;
#[path = "serving/stranger.rs"]
mod stranger;
#[path = "serving/set_back.rs"]
mod set_back;
#[path = "serving/support.rs"]
mod support;
#[path = "serving/tiles.rs"]
mod tiles;
