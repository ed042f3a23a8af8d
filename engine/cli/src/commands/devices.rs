//! `ingot devices`: what can run a model, with the limits and features that decide how.

use crate::output;
use anyhow::Result;
use clap::Args;
use ingot::DeviceInfo;
use ingot::runtime::gpu::device::CooperativeShape;
use ingot::runtime::gpu::{self, AdapterInfo};
use serde_json::{Value, json};

/// Flags of `ingot devices`.
#[derive(Args)]
pub(crate) struct DevicesArgs {
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &DevicesArgs) -> Result<()> {
    let devices = ingot::devices();
    let auto = auto(&devices);
    if args.json {
        let list: Vec<_> = devices.iter().enumerate().map(|(ix, device)| object(device, ix == auto)).collect();
        return output::println(&serde_json::to_string_pretty(&list)?);
    }
    for (ix, device) in devices.iter().enumerate() {
        let mark = if ix == auto { " <- --device auto" } else { "" };
        output::println(&text(device, mark))?;
    }
    if devices.len() == 1 {
        output::println("no Vulkan or Metal driver was found")?;
    }
    Ok(())
}

/// The index of the device that `--device auto` takes.
fn auto(devices: &[DeviceInfo]) -> usize {
    let gpu = gpu::find("gpu").ok();
    let chosen = gpu.as_ref().map(|adapter| adapter.info());
    let is_chosen = |device: &DeviceInfo| match device {
        DeviceInfo::Cpu { .. } => false,
        DeviceInfo::Gpu(info) => Some(info) == chosen,
    };
    // The processor is first in the list, and the choice where no GPU is.
    devices.iter().position(is_chosen).unwrap_or(0)
}

fn text(device: &DeviceInfo, mark: &str) -> String {
    let info = match device {
        DeviceInfo::Cpu { n_threads } => {
            return format!(
                "CPU{mark}\n  {:<22}{n_threads}\n  {:<22}{}",
                "threads",
                "SIMD",
                or_none(&simd().join(", "))
            );
        }
        DeviceInfo::Gpu(info) => info,
    };
    let mut text = format!("{} ({}, {}){mark}", info.name, info.backend, info.kind.name());
    let mut line = |name: &str, value: String| text += &format!("\n  {name:<22}{value}");
    line("driver", or_none(&info.driver).to_owned());
    line("largest buffer", size(info.max_buffer_bytes));
    line("largest binding", size(info.max_binding_bytes));
    line("workgroup memory", size(info.workgroup_memory_bytes.into()));
    line("workgroup", format!("{} invocations, {} storage buffers", info.max_invocations, info.max_storage_buffers));
    line("subgroups", subgroups(info));
    line("f16", yes(info.f16).to_owned());
    line("cooperative matrices", or_none(&cooperative(&info.cooperative_matrix).join(", ")).to_owned());
    line("timestamps", timestamps(info).to_owned());
    line("immediates", if info.immediates_bytes > 0 { size(info.immediates_bytes.into()) } else { "no".into() });
    line("pipeline cache", yes(info.pipeline_cache).to_owned());
    line("mappable storage", yes(info.mappable_storage).to_owned());
    text
}

fn subgroups(info: &AdapterInfo) -> String {
    match info.subgroup {
        None => "no".into(),
        Some((least, most)) if least == most => format!("{least} lanes"),
        Some((least, most)) => format!("{least} to {most} lanes"),
    }
}

fn timestamps(info: &AdapterInfo) -> &'static str {
    match (info.timestamps, info.timestamps_in_passes) {
        (false, _) => "no",
        (true, false) => "around passes",
        (true, true) => "around passes and dispatches",
    }
}

/// The shapes, each once: `16x16x16 F16 -> F32`.
fn cooperative(shapes: &[CooperativeShape]) -> Vec<String> {
    let mut names: Vec<_> = shapes.iter().map(|s| format!("{}x{}x{} {} -> {}", s.m, s.n, s.k, s.ab, s.c)).collect();
    names.dedup();
    names
}

/// Limits are powers of two, or just below one.
fn size(n_bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().find(|(shift, _)| n_bytes >> shift > 0);
    unit.map_or_else(
        || format!("{n_bytes} B"),
        |(shift, name)| {
            let number = format!("{:.2}", n_bytes as f64 / (1u64 << shift) as f64);
            format!("{} {name}", number.trim_end_matches('0').trim_end_matches('.'))
        },
    )
}

fn yes(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

/// The processor's vector instruction sets, of those that kernels use or may use.
fn simd() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(target_arch = "aarch64")]
    let found = [("neon", true)];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let found: [(&str, bool); 0] = [];
    found.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect()
}

fn object(device: &DeviceInfo, auto: bool) -> Value {
    match device {
        DeviceInfo::Cpu { n_threads } => {
            json!({ "name": "CPU", "backend": "cpu", "kind": "processor", "auto": auto, "threads": n_threads, "simd": simd() })
        }
        DeviceInfo::Gpu(info) => json!({
            "name": info.name,
            "backend": info.backend,
            "kind": info.kind.name(),
            "auto": auto,
            "driver": info.driver,
            "max_buffer_bytes": info.max_buffer_bytes,
            "max_binding_bytes": info.max_binding_bytes,
            "binding_alignment_bytes": info.binding_alignment_bytes,
            "workgroup_memory_bytes": info.workgroup_memory_bytes,
            "max_invocations": info.max_invocations,
            "max_storage_buffers": info.max_storage_buffers,
            "max_workgroups": info.max_workgroups,
            "immediates_bytes": info.immediates_bytes,
            "subgroup": info.subgroup.map(|(least, most)| [least, most]),
            "f16": info.f16,
            "timestamps": info.timestamps,
            "timestamps_in_passes": info.timestamps_in_passes,
            "pipeline_cache": info.pipeline_cache,
            "mappable_storage": info.mappable_storage,
            "cooperative_matrix": cooperative(&info.cooperative_matrix),
        }),
    }
}
