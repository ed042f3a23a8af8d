//! Flags that several subcommands share, and readers of their values.

mod answer;
mod kv;

pub(crate) use answer::{AnswerArgs, FormArgs, SamplingArgs, max_tokens, unescape, variables};
pub(crate) use kv::KvArgs;

use crate::{progress, shipped};
use anyhow::{Context, Result};
use clap::Args;
use ingot::compiler::TargetProfile;
use ingot::{Activations, Cache, Ceilings, DeviceChoice, LoadOptions, Model, RandomShape, Tiles};
use std::path::{Path, PathBuf};

/// What runs the model, and with how much of the machine.
#[derive(Args, Clone)]
pub(crate) struct DeviceArgs {
    /// auto, cpu, gpu, or a part of an adapter's name (see `ingot devices`)
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Longest sequence in tokens [default: the model's, at most 8192; with --max-kv-size 131072]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Sequences at one time [default: 1, or the compiled file's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH))]
    pub max_batch: Option<u32>,
    /// Memory that may be used, e.g. 8G, 512M or 1.5GiB [default: what the device says]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory_budget: Option<u64>,
    /// Threads of the processor [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// What quantized matrices are multiplied with: f32 (on a GPU that has it f16), or int8 (rounded to 8 bits)
    #[arg(long, value_name = "TYPE", default_value_t = Activations::F32)]
    pub activations: Activations,
    #[command(flatten)]
    pub kv: KvArgs,
    /// Tokens of a prompt that are read in one step [default: the device's, or the compiled file's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub prefill_step_size: Option<u32>,
    /// Tiles of matrix products: stored (what `ingot tune` kept), builtin, or a file that it wrote
    #[arg(long, value_name = "TILES", default_value = "stored")]
    pub tiles: Tiles,
    /// Do not compare a compiled file's weights with their hashes
    #[arg(long)]
    pub no_verify: bool,
    /// Keep nothing for the next start, and use nothing that was kept (see `ingot cache`)
    #[arg(long)]
    pub no_cache: bool,
}

/// Limits of the GPU that a choice means, if it means one.
pub(crate) struct Limits(Option<(String, Ceilings)>);

impl Limits {
    /// The limits of the device that a model is on.
    pub(crate) fn of(self, model: &Model) -> Result<Ceilings> {
        match self.0 {
            Some((name, ceilings)) if name == model.device() => Ok(ceilings),
            _ => Ok(model.ceilings()?),
        }
    }
}

impl DeviceArgs {
    /// Loads the checkpoint in a folder, or an artifact.
    pub(crate) fn load(&self, folder: &Path) -> Result<Model> {
        Ok(Model::load(folder, self.options())?)
    }

    /// Measures the limits of the device before anything is loaded on it; [`Limits::of`] then tells a model's.
    pub(crate) fn limits(&self) -> Result<Limits> {
        Ok(Limits(ingot::ceilings(&self.device)?))
    }

    /// Loads a model of random weights.
    pub(crate) fn load_random(&self, shape: &RandomShape) -> Result<Model> {
        Ok(Model::load_random(shape, self.options())?)
    }

    /// Makes room for sequences of this many tokens, where the flags leave it open.
    pub(crate) fn make_room(&mut self, n_sequences: u32, n_tokens: u32) {
        self.max_batch = Some(self.max_batch.unwrap_or(1).max(n_sequences));
        if self.context.is_none() && (n_sequences > 1 || n_tokens > DEFAULT_CONTEXT) {
            self.context = Some(n_tokens.max(1));
        }
    }

    pub(crate) fn options(&self) -> LoadOptions {
        LoadOptions {
            device: self.device.clone(),
            context: self.context,
            max_batch: self.max_batch.unwrap_or(0),
            memory_budget: self.memory_budget,
            n_threads: self.threads.map(usize::from),
            progress: progress::bar("loading"),
            tiles: self.tiles.clone(),
            skip_verification: self.no_verify,
            activations: self.activations,
            kv_type: self.kv.kv_type(),
            max_kv_size: self.kv.max_kv_size,
            prefill_step_size: self.prefill_step_size,
            cache: if self.no_cache { Cache::Off } else { Cache::User },
            ..LoadOptions::default()
        }
    }
}

/// How a hub is used.
#[derive(Args, Clone, Copy)]
pub(crate) struct HubArgs {
    /// Take a hub's model from the cache and ask no hub (as HF_HUB_OFFLINE=1 does)
    #[arg(long)]
    pub offline: bool,
}

/// A checkpoint.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// Folder of a checkpoint, a GGUF file, a compiled file (.ingot), a model of the hub as owner/name[:QUANT][@revision], or the
    /// name of a shipped model [default: ingot-tales-14m]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    hub: HubArgs,
}

/// A checkpoint, named without a flag.
#[derive(Args)]
pub(crate) struct PathArgs {
    /// Folder of a checkpoint, a GGUF file, a model of the hub as owner/name[:QUANT][@revision], or the name of a shipped model
    /// [default: ingot-tales-14m]; bench and profile take a compiled file (.ingot) too
    #[arg(value_name = "MODEL")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    hub: HubArgs,
}

impl ModelArgs {
    /// The folder or file that is meant.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        shipped::folder(self.model.as_deref(), &self.hub)
    }
    /// The same, but the model that a prompt's file was written with if none is named; and the model's name, if it is not
    /// the folder's.
    pub(crate) fn folder_and_name(&self, prompt_file: Option<&Path>) -> Result<(PathBuf, Option<PathBuf>)> {
        let Some(file) = prompt_file.filter(|_| self.model.is_none()) else { return Ok((self.folder()?, self.name())) };
        let origin = ingot::prompt_origin(file)?;
        let written = || format!("{}: written with the model {}", file.display(), origin.display());
        let folder = shipped::folder(Some(&origin), &self.hub).with_context(written)?;
        Ok((folder, Some(origin)))
    }
    /// The name of the model in a prompt's file, if it is not the folder's: a shipped model's, or a hub's.
    pub(crate) fn name(&self) -> Option<PathBuf> {
        let asked = self.model.clone().unwrap_or_else(|| shipped::DEFAULT_MODEL.into());
        Some(asked).filter(|asked| !asked.exists())
    }
}

impl PathArgs {
    /// The folder or file that is meant.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        shipped::folder(self.model.as_deref(), &self.hub)
    }
}

/// Tokens of a sequence that a model is loaded for if nothing else is said.
const DEFAULT_CONTEXT: u32 = 8192;

/// Most sequences at one time.
pub(crate) const MAX_BATCH: i64 = 256;

/// What a model can be compiled for.
pub(crate) const TARGETS: [&str; 7] = [THIS, "apple", "vulkan", "nvidia", "cpu", "lavapipe", "webgpu"];

/// The device that `--device auto` would take.
const THIS: &str = "this";

/// The target of a name of [`TARGETS`], with tiles.
pub(crate) fn target(name: &str, tiles: &Tiles) -> Result<TargetProfile> {
    if name == THIS {
        return Ok(ingot::tuned_target(&DeviceChoice::Auto, tiles)?);
    }
    let mut target = TargetProfile::preset(name).with_context(|| format!("unknown target `{name}`"))?;
    tiles.set(&mut target, None)?;
    Ok(target)
}

/// Token ids on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Ids(pub Vec<u32>);

/// Ids separated by commas.
pub(crate) fn ids(text: &str) -> Result<Ids, String> {
    let id = |part: &str| part.trim().parse().map_err(|_| format!("`{}` is not a token id", part.trim()));
    text.split(',').map(id).collect::<Result<_, _>>().map(Ids)
}

/// A random model's shape by name.
pub(crate) fn shape(name: &str) -> Result<RandomShape, String> {
    RandomShape::named(name).map_err(|error| error.to_string())
}

/// Bytes with an optional unit: k, M, G, T in powers of 1000; Ki, Mi, Gi, Ti in powers of 1024; a closing B is allowed.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a number of bytes; write e.g. 8G, 512M or 1.5GiB");
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim();
    let unit = unit.strip_suffix('b').unwrap_or(unit);
    let (prefix, base) = unit.strip_suffix('i').map_or((unit, 1000f64), |prefix| (prefix, 1024.0));
    let power = ["", "k", "m", "g", "t"].iter().position(|known| *known == prefix).ok_or_else(wrong)?;
    if power == 0 && base == 1024.0 {
        return Err(wrong());
    }
    Ok((number * base.powi(power as i32)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_the_units_people_write() {
        for (text, expected) in [
            ("123", 123),
            ("8G", 8_000_000_000),
            ("512M", 512_000_000),
            ("1.5GiB", 3 << 29),
            ("4 kb", 4000),
            ("2Ti", 2 << 40),
            ("7B", 7),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "G", "8X", "1i", "-1", "1.2.3G", "nan"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ids_are_numbers_between_commas() {
        assert_eq!(ids("1, 2,3").map(|ids| ids.0), Ok(vec![1, 2, 3]));
        for text in ["", "1,,2", "-1", "x", "4294967296"] {
            assert!(ids(text).is_err(), "{text}");
        }
    }
}
