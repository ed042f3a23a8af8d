//! Other engines at the same measurements: each runs as a program of its own, once a repeat, in turn with this one.

use super::Test;
use crate::args::DeviceArgs;
use anyhow::{Context, Result, anyhow, bail};
use ingot::DeviceChoice;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

/// What `--against` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Against {
    /// llama.cpp's `llama-bench`, and where it is.
    LlamaBench(PathBuf),
    /// mlx-lm, and the Python that has it.
    Mlx(PathBuf),
}

impl FromStr for Against {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("llama-bench", path)) if !path.is_empty() => Ok(Self::LlamaBench(path.into())),
            Some(("mlx", path)) if !path.is_empty() => Ok(Self::Mlx(path.into())),
            None if text == "mlx" => Ok(Self::Mlx("python3".into())),
            _ => Err("it must be llama-bench=PROGRAM, mlx or mlx=PYTHON".into()),
        }
    }
}

/// Another engine, ready to run.
pub(super) struct Peer {
    kind: Against,
    model: PathBuf,
    on_cpu: bool,
    n_threads: Option<u16>,
}

impl Peer {
    /// `asked` is what the engine is to load, `ours` the folder of our own model.
    pub(super) fn new(kind: &Against, asked: Option<&Path>, ours: Option<&Path>, device: &DeviceArgs) -> Result<Self> {
        let model = match (kind, asked, ours) {
            (_, Some(asked), _) => asked.to_owned(),
            (Against::Mlx(_), None, Some(ours)) => ours.to_owned(),
            (Against::LlamaBench(_), None, _) => {
                bail!("llama-bench needs a GGUF file of the same shape: name it with --against-model")
            }
            (Against::Mlx(_), None, None) => {
                bail!("mlx needs a checkpoint folder of the same shape: name it with --against-model")
            }
        };
        let on_cpu = device.device == DeviceChoice::Cpu;
        Ok(Self { kind: kind.clone(), model, on_cpu, n_threads: device.threads })
    }

    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Against::LlamaBench(_) => "llama-bench",
            Against::Mlx(_) => "mlx",
        }
    }

    /// Tokens a second at a measurement; `None` if the engine's program does not do it.
    ///
    /// # Errors
    /// What the program says if it fails, or if what it prints is not what is known.
    pub(super) fn speed(&self, test: Test) -> Result<Option<f64>> {
        let Some(mut command) = self.command(test) else { return Ok(None) };
        let shown = format!("{command:?}");
        let output = command.output().with_context(|| format!("{shown} cannot be run"))?;
        let (printed, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            let last = told.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
            bail!("{shown} failed ({}): {last}", output.status);
        }
        let speed = match self.kind {
            Against::LlamaBench(_) => llama_bench_speed(&printed),
            Against::Mlx(_) => mlx_speed(&printed, matches!(test, Test::Prefill { .. })),
        };
        speed
            .map(Some)
            .ok_or_else(|| anyhow!("{shown} printed no speed: {:?}", printed.chars().take(200).collect::<String>()))
    }

    fn command(&self, test: Test) -> Option<Command> {
        let numbers = |n: u32| n.to_string();
        match &self.kind {
            Against::LlamaBench(program) => {
                // llama-bench decodes one sequence at a time.
                let (p, g, d) = match test {
                    Test::Prefill { n_tokens } => (n_tokens, 0, 0),
                    Test::Decode { n_tokens, depth, batch: 1 } => (0, n_tokens, depth),
                    Test::Decode { .. } => return None,
                };
                let mut command = Command::new(program);
                command.arg("-m").arg(&self.model).args(["-o", "json", "-r", "1"]);
                command.args(["-p", &numbers(p), "-n", &numbers(g), "-d", &numbers(d)]);
                command.args(["-ngl", if self.on_cpu { "0" } else { "99" }]);
                if let Some(n) = self.n_threads {
                    command.args(["-t", &n.to_string()]);
                }
                Some(command)
            }
            Against::Mlx(python) => {
                // A decode needs a prompt; mlx-lm times the two apart.
                let (p, g, b) = match test {
                    Test::Prefill { n_tokens } => (n_tokens, 1, 1),
                    Test::Decode { n_tokens, depth, batch } => (depth.max(1), n_tokens, batch),
                };
                let mut command = Command::new(python);
                command.args(["-m", "mlx_lm", "benchmark", "--model"]).arg(&self.model);
                command.args(["-p", &numbers(p), "-g", &numbers(g), "-b", &numbers(b), "-n", "1"]);
                Some(command)
            }
        }
    }
}

/// `avg_ts` of the one test in the list that `llama-bench -o json` prints.
fn llama_bench_speed(printed: &str) -> Option<f64> {
    let tests: Value = serde_json::from_str(printed.get(printed.find('[')?..)?.trim()).ok()?;
    positive(tests.as_array()?.last()?["avg_ts"].as_f64()?)
}

/// `prompt_tps` or `generation_tps` of the last line of `mlx_lm benchmark` that has it (that of the averages).
fn mlx_speed(printed: &str, is_prefill: bool) -> Option<f64> {
    let name = if is_prefill { "prompt_tps=" } else { "generation_tps=" };
    let line = printed.lines().rev().find(|line| line.contains(name))?;
    let number = line.split(name).nth(1)?.split([',', ' ']).next()?;
    positive(number.trim().parse().ok()?)
}

fn positive(speed: f64) -> Option<f64> {
    (speed.is_finite() && speed > 0.0).then_some(speed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_with_their_programs() {
        assert_eq!("llama-bench=/x/llama-bench".parse(), Ok(Against::LlamaBench("/x/llama-bench".into())));
        assert_eq!("mlx".parse(), Ok(Against::Mlx("python3".into())));
        assert_eq!("mlx=/v/bin/python".parse(), Ok(Against::Mlx("/v/bin/python".into())));
        for wrong in ["llama-bench", "llama-bench=", "mlx=", "vllm=/x", ""] {
            assert!(wrong.parse::<Against>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn speeds_are_read_from_what_programs_print() {
        let printed = "ggml_init: found 1 device\n[\n {\"n_prompt\": 0, \"n_gen\": 128, \"avg_ts\": 330.5, \"stddev_ts\": 0.0}\n]\n";
        assert_eq!(llama_bench_speed(printed), Some(330.5));
        for wrong in ["", "[]", "[{}]", "[{\"avg_ts\": 0}]", "{\"avg_ts\": 1}", "[{\"avg_ts\": \"x\"}]"] {
            assert_eq!(llama_bench_speed(wrong), None, "{wrong}");
        }
        let printed = "Running warmup..\nTrial 1:  prompt_tps=900.1, generation_tps=150.2, peak_memory=4.9\n\
                       Averages: prompt_tps=901.500, generation_tps=151.250, peak_memory=4.900\n";
        assert_eq!((mlx_speed(printed, true), mlx_speed(printed, false)), (Some(901.5), Some(151.25)));
        assert_eq!(mlx_speed("nothing", true), None);
    }
}
