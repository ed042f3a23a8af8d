//! A profile in the trace event format that Perfetto and Chrome read: complete events, microseconds.

use ingot::{Ceilings, Profile};
use serde_json::{Value, json};

/// The trace of a step: one slice a launch, with its figures as arguments.
pub(super) fn of(profile: &Profile, ceilings: &Ceilings, model: &str, device: &str) -> Value {
    let name =
        |what: &str, name: &str| json!({ "ph": "M", "pid": 1, "tid": 1, "name": what, "args": { "name": name } });
    let launches = profile.launches.iter().map(|launch| {
        let rate = |amount: u64| amount as f64 / launch.time_s.max(1e-12) / 1e9;
        json!({
            "ph": "X",
            "pid": 1,
            "tid": 1,
            "ts": launch.start_s * 1e6,
            "dur": launch.time_s * 1e6,
            "name": launch.name,
            "cat": launch.name.split(' ').next(),
            "args": {
                "kernel": format!("p{}", launch.kernel),
                "bytes": launch.cost.bytes(),
                "flops": launch.cost.flops,
                "GB/s": rate(launch.cost.bytes()),
                "GFLOP/s": rate(launch.cost.flops),
                "share of limit": super::share(&launch.cost, launch.time_s, ceilings),
            },
        })
    });
    let names = [name("process_name", device), name("thread_name", model)];
    json!({ "displayTimeUnit": "ns", "traceEvents": names.into_iter().chain(launches).collect::<Vec<_>>() })
}
