//! `ingot doctor`: what each device can and cannot do, and whether the chosen one computes what it should.

use crate::output;
use anyhow::{Result, bail};
use clap::Args;
use ingot::ir::memory::counted;
use ingot::runtime::gpu::{AdapterInfo, DeviceKind};
use ingot::{Check, DeviceChoice, DeviceInfo, Diagnosis, DoctorOptions, Tiles};
use serde_json::{Value, json};

/// Flags of `ingot doctor`.
#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// The device to check: auto, cpu, gpu, or a part of an adapter's name (see `ingot devices`)
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Tiles of matrix products: stored (what `ingot tune` kept), builtin, or a file that it wrote
    #[arg(long, value_name = "TILES", default_value = "stored")]
    tiles: Tiles,
    /// Leave out weight formats that differ from others in a number alone
    #[arg(long)]
    quick: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command. What fails is told before the exit code says so.
pub(crate) fn run(args: &DoctorArgs) -> Result<()> {
    let devices = ingot::devices();
    if !args.json {
        for device in &devices {
            output::println(&text(device))?;
        }
    }
    let mut told = Ok(());
    let mut tell = |check: &Check| {
        if !args.json && told.is_ok() {
            told = output::println(&line(check));
        }
    };
    let options = DoctorOptions {
        device: args.device.clone(),
        quick: args.quick,
        tiles: args.tiles.clone(),
        progress: Some(&mut tell),
    };
    let found = ingot::doctor(options)?;
    told?;
    let (name, n, n_failed) = (found.device.name(), found.checks.len(), found.n_failed());
    if args.json {
        output::println(&object(&devices, &found).to_string())?;
    } else {
        let n_kernels = found.n_kernels();
        output::println(&format!("\n{name}: {n_kernels} kernels in {n} models, {n_failed} of which failed"))?;
    }
    if n_failed > 0 {
        bail!("{n_failed} of {n} checks failed on {name}; update its driver, or use another --device");
    }
    Ok(())
}

/// Something that a device can do or not, and what follows for models.
struct Ability {
    what: &'static str,
    has: bool,
    so: String,
}

fn abilities(device: &DeviceInfo) -> Vec<Ability> {
    let info = match device {
        DeviceInfo::Cpu { n_threads } => {
            let n = *n_threads as u64;
            let so = format!("{} {} every model in f32", counted(n, "thread"), if n == 1 { "runs" } else { "run" });
            return vec![Ability { what: "run models", has: true, so }];
        }
        DeviceInfo::Gpu(info) => info,
    };
    let ability = |what, has, yes: &str, no: &str| Ability { what, has, so: if has { yes } else { no }.to_owned() };
    let lanes = match info.subgroup {
        Some((least, most)) if least == most => format!("sums in registers of {least} lanes"),
        Some((least, most)) => format!("sums in registers of {least} to {most} lanes"),
        None => String::new(),
    };
    let binding = info.max_binding_bytes;
    vec![
        ability(
            "be chosen by itself",
            info.kind != DeviceKind::Cpu,
            "`--device auto` takes it",
            "a software rasterizer is slower than the CPU kernels, so it must be named",
        ),
        ability("subgroups", info.subgroup.is_some(), &lanes, "sums go through workgroup memory"),
        ability("f16 arithmetic", info.f16, "products may be taken in half precision", "products are taken in f32"),
        ability(
            "matrix units",
            ingot::target_of(info).has_matrix_units(),
            "prompts and steps of many sequences take them",
            "prompts are read with ordinary arithmetic",
        ),
        ability(
            "large matrices",
            binding >= 1 << 30,
            "a matrix is one buffer up to the binding limit",
            "matrices are split at the binding limit",
        ),
        ability(
            "timestamps",
            info.timestamps,
            "steps are timed by the device's clock",
            "steps are timed by the processor's clock, and profile does not work",
        ),
        ability(
            "timestamps in passes",
            info.timestamps_in_passes,
            "kernels are timed where they run",
            "profile gives each kernel a pass of its own",
        ),
        ability(
            "pipeline cache",
            info.pipeline_cache,
            "later starts find the driver's kernels",
            "kernels are compiled at every start, unless the driver keeps them",
        ),
        ability("mapped weights", mapped(info), "weights are written where they stay", "weights cross the bus once"),
    ]
}

/// Whether weights are filled where the device reads them: where it shares the processor's memory.
fn mapped(info: &AdapterInfo) -> bool {
    info.mappable_storage && matches!(info.kind, DeviceKind::Integrated | DeviceKind::Cpu)
}

fn text(device: &DeviceInfo) -> String {
    let mut text = device.to_string();
    for Ability { what, has, so } in abilities(device) {
        text += &format!("\n  {} {what:<21} {so}", if has { "+" } else { "-" });
    }
    text
}

fn line(check: &Check) -> String {
    let Check { name, kernels, error, failure, time } = check;
    let (word, why) = match failure {
        None => ("ok  ", String::new()),
        Some(why) => ("FAIL", format!(": {why}")),
    };
    format!("{word} {name:<34} {:>3} kernels, error {error:.1e}, {:.2} s{why}", kernels.len(), time.as_secs_f64())
}

fn object(devices: &[DeviceInfo], found: &Diagnosis) -> Value {
    let abilities = |device: &DeviceInfo| -> Vec<Value> {
        let ability = |Ability { what, has, so }| json!({ "what": what, "has": has, "so": so });
        abilities(device).into_iter().map(ability).collect()
    };
    let devices = devices.iter().map(|device| json!({ "name": device.name(), "abilities": abilities(device) }));
    let checks = found.checks.iter().map(|check| {
        json!({
            "name": check.name,
            "ok": check.failure.is_none(),
            "failure": check.failure,
            // JSON has no infinity.
            "error": check.error.is_finite().then_some(check.error),
            "seconds": check.time.as_secs_f64(),
            "kernels": check.kernels,
        })
    });
    json!({
        "devices": devices.collect::<Vec<_>>(),
        "checked": found.device.name(),
        "target": found.target,
        "kernels": found.n_kernels(),
        "failed": found.n_failed(),
        "checks": checks.collect::<Vec<_>>(),
    })
}
