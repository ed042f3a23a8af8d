//! Scratch.
use ingot::{Cache, DeviceChoice, GenerateOptions, LoadOptions, Model, RandomShape};
use std::time::Instant;
fn main() {
    let shape = RandomShape::named(&std::env::args().nth(1).unwrap()).unwrap();
    let mut model = Model::load_random(
        &shape,
        LoadOptions { device: DeviceChoice::Gpu, cache: Cache::Off, context: Some(2048), ..LoadOptions::default() },
    )
    .unwrap();
    let options = GenerateOptions { max_tokens: 300, ignore_eos: true, ..GenerateOptions::default() };
    for round in 0..3 {
        let mut times = vec![];
        let start = Instant::now();
        model
            .generate(&[1], &options, |_| {
                times.push(start.elapsed().as_secs_f64() * 1e3);
                true
            })
            .unwrap();
        if round == 0 {
            continue;
        }
        let d: Vec<String> = times.windows(2).map(|w| format!("{:.2}", w[1] - w[0])).collect();
        println!("{}", d.join(" "));
    }
}
