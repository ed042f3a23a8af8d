//! The world and its tick with tiny random models: any order of arrivals and cancellations, few pages, steps in flight.

#[path = "serving/artifact.rs"]
mod artifact;
#[path = "serving/gpu.rs"]
mod gpu;
#[path = "serving/measuring.rs"]
mod measuring;
#[path = "serving/random.rs"]
mod random;
#[path = "serving/sampled.rs"]
mod sampled;
#[path = "serving/stranger.rs"]
mod stranger;
#[path = "serving/support.rs"]
mod support;
#[path = "serving/tiles.rs"]
mod tiles;
