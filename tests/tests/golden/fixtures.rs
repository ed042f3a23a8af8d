//! The fixtures: logits within the tolerance, the same greedy ids wherever the reference's margin allows.

use super::support::{Device, devices, load, load_rounding, turn};
use ingot::compiler::TargetProfile;
use ingot::compiler::target::Fusion;
use ingot::ir::kv::KvType;
use ingot::{GenerateOptions, Model};
use ingot_models::convert::{GgufType, convert_gguf};
use ingot_tests::shared::shared;
use ingot_tests::tolerance::{CPU_LOGITS, GPU_LOGITS, INT8_LOGITS, KV4_LOGITS, KV8_LOGITS, relative_l2};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().expect("a list of ids");
    list.iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = tensors.tensor(name).expect("a tensor of the fixture");
    view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// A fixture's expectations, read once.
pub(crate) struct Expected {
    pub(crate) json: Value,
    bytes: Vec<u8>,
}

impl Expected {
    /// Of a folder those in it, of a file those beside it.
    pub(crate) fn read(model: &Path) -> Self {
        let file = |ending: &str| match model.is_dir() {
            true => model.join(format!("expected.{ending}")),
            false => model.with_extension(format!("expected.{ending}")),
        };
        let text = std::fs::read_to_string(file("json")).expect("expected.json");
        let bytes = std::fs::read(file("safetensors")).expect("expected.safetensors");
        Self { json: serde_json::from_str(&text).expect("valid JSON"), bytes }
    }
}

/// Checks all prompts of a fixture.
pub(crate) fn check(name: &str, expected: &Expected, model: &mut Model, device: &Device) {
    check_logits(if device.is_cpu { CPU_LOGITS } else { GPU_LOGITS }, name, expected, model, device);
    check_greedy(name, expected, model, device);
}

/// Checks the ids that follow all prompts of a fixture.
fn check_greedy(name: &str, expected: &Expected, model: &mut Model, device: &Device) {
    for (ix, prompt) in expected.json["prompts"].as_array().expect("prompts").iter().enumerate() {
        let what = format!("{name}, prompt {ix} on {:?}", device.choice);
        // Freely generated: a chunk, then one token at a time through the cache. Every fixture's margin is 0.08 or more.
        let greedy_ids = ids(&prompt["greedy_ids"]);
        let options =
            GenerateOptions { max_tokens: greedy_ids.len() as u32, ignore_eos: true, ..GenerateOptions::default() };
        let answer = model.generate(&ids(&prompt["ids"]), &options, |_| true);
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer.ids, greedy_ids, "{what}: greedy ids");
    }
}

/// Checks the logits of all prompts of a fixture.
fn check_logits(tolerance: f64, name: &str, expected: &Expected, model: &mut Model, device: &Device) {
    let tensors = SafeTensors::deserialize(&expected.bytes).expect("a safetensors file");
    let prompts = expected.json["prompts"].as_array().expect("prompts");
    for (ix, prompt) in prompts.iter().enumerate() {
        let (prompt_ids, greedy_ids) = (ids(&prompt["ids"]), ids(&prompt["greedy_ids"]));
        let what = format!("{name}, prompt {ix} on {:?}", device.choice);

        // The prompt and the reference's own continuation, but for the last id.
        let mut forced = prompt_ids.clone();
        forced.extend(&greedy_ids[..greedy_ids.len() - 1]);
        let (logits, n_vocab) = model.logits(&forced).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(logits.len(), forced.len() * n_vocab, "{what}");
        let rows = |first: usize, n: usize| &logits[first * n_vocab..(first + n) * n_vocab];

        let wanted = floats(&tensors, &format!("prompt{ix}.logits"));
        let first = prompt["logits_first_position"].as_u64().expect("a position") as usize;
        let error = relative_l2(rows(first, wanted.len() / n_vocab), &wanted);
        assert!(error <= tolerance, "{what}: prompt logits are off by {error:.2e}, allowed {tolerance:.0e}");
        let wanted = floats(&tensors, &format!("prompt{ix}.last_greedy_logits"));
        let error = relative_l2(rows(forced.len() - 1, 1), &wanted);
        assert!(error <= tolerance, "{what}: last logits are off by {error:.2e}, allowed {tolerance:.0e}");
    }
}

/// Of formats of the small Llama, those that a software rasterizer runs, which takes seconds for the kernels of each. The tests
/// of kernels show it all formats.
const FORMATS_ON_SOFTWARE: [&str; 6] = [
    "mlx/llama_affine_b3_g64",
    "mlx/llama_affine_b4_g64",
    "mlx/llama_affine_mixed",
    "mlx/llama_mxfp8",
    "mlx/llama_nvfp4",
    "gguf/llama256-q4_k_m.gguf",
];

fn fixture(name: &str, adjust: fn(&mut TargetProfile)) {
    let Some(folder) = shared(&format!("golden/{name}")) else { return };
    let expected = Expected::read(&folder);
    let is_format = ["mlx/llama", "gguf/llama"].iter().any(|prefix| name.starts_with(prefix));
    let is_chosen = !is_format || FORMATS_ON_SOFTWARE.contains(&name);
    for device in devices().into_iter().filter(|device| is_chosen || !device.is_software) {
        let _turn = turn(&device);
        let mut model = load(&folder, &device, adjust);
        check(name, &expected, &mut model, &device);
    }
}

fn as_it_is(_: &mut TargetProfile) {}

macro_rules! fixtures {
    ($($test:ident $name:literal)+) => {$(
        #[test]
        fn $test() {
            fixture($name, as_it_is);
        }
    )+};
}

fixtures! {
    llama "llama"
    llama_tied "llama_tied"
    llama_rope_linear "llama_rope_linear"
    llama_rope_llama3 "llama_rope_llama3"
    llama_sharded "llama_sharded"
    mistral "mistral"
    mixtral "mixtral"
    qwen2 "qwen2"
    qwen2_tied "qwen2_tied"
    qwen2_rope_yarn "qwen2_rope_yarn"
    qwen3 "qwen3"
    gemma "gemma"
    gemma2 "gemma2"
    gemma3_text "gemma3_text"
    gemma3_text_scaled "gemma3_text_scaled"
    granite "granite"
    qwen3_moe "qwen3_moe"
    mlx_affine_b2_g32 "mlx/llama_affine_b2_g32"
    mlx_affine_b3_g64 "mlx/llama_affine_b3_g64"
    mlx_affine_b4_g32 "mlx/llama_affine_b4_g32"
    mlx_affine_b4_g64 "mlx/llama_affine_b4_g64"
    mlx_affine_b4_g64_f16 "mlx/llama_affine_b4_g64_f16"
    mlx_affine_b6_g64 "mlx/llama_affine_b6_g64"
    mlx_affine_b8_g64 "mlx/llama_affine_b8_g64"
    mlx_mxfp4 "mlx/llama_mxfp4"
    mlx_mxfp8 "mlx/llama_mxfp8"
    mlx_nvfp4 "mlx/llama_nvfp4"
    mlx_affine_mixed "mlx/llama_affine_mixed"
    gguf_f16 "gguf/llama-f16.gguf"
    gguf_q8_0 "gguf/llama-q8_0.gguf"
    gguf_q4_0 "gguf/llama-q4_0.gguf"
    gguf_q4_1 "gguf/llama-q4_1.gguf"
    gguf_q5_0 "gguf/llama-q5_0.gguf"
    gguf_q5_1 "gguf/llama-q5_1.gguf"
    gguf_q2_k "gguf/llama256-q2_k.gguf"
    gguf_q3_k_m "gguf/llama256-q3_k_m.gguf"
    gguf_q4_k_m "gguf/llama256-q4_k_m.gguf"
    gguf_q5_k_m "gguf/llama256-q5_k_m.gguf"
    gguf_q6_k "gguf/llama256-q6_k.gguf"
    mlx_qwen2_affine_b4_g64 "mlx/qwen2_affine_b4_g64"
    mlx_gemma3_text_affine_b4_g64 "mlx/gemma3_text_affine_b4_g64"
    mlx_qwen3_moe_affine_b4_g64 "mlx/qwen3_moe_affine_b4_g64"
}

/// Activations rounded to 8 bits, for every width: all positions in one chunk, and again one token at a time through
/// the cache. Farther off than f32 may be, or nothing was rounded.
#[test]
fn rounded_activations_stay_near_the_reference() {
    let names = ["b2_g32", "b3_g64", "b4_g32", "b4_g64", "b4_g64_f16", "b6_g64", "b8_g64", "mixed"];
    for name in names {
        let Some(folder) = shared(&format!("golden/mlx/llama_affine_{name}")) else { continue };
        let expected = Expected::read(&folder);
        let tensors = SafeTensors::deserialize(&expected.bytes).expect("a safetensors file");
        let mut model = load_rounding(&folder);
        for (ix, prompt) in expected.json["prompts"].as_array().expect("prompts").iter().enumerate() {
            let (mut forced, greedy_ids) = (ids(&prompt["ids"]), ids(&prompt["greedy_ids"]));
            forced.extend(&greedy_ids[..greedy_ids.len() - 1]);
            let (logits, n_vocab) = model.logits(&forced).unwrap_or_else(|error| panic!("{name}: {error}"));
            let wanted = floats(&tensors, &format!("prompt{ix}.logits"));
            let first = prompt["logits_first_position"].as_u64().expect("a position") as usize;
            let last = floats(&tensors, &format!("prompt{ix}.last_greedy_logits"));
            for (first, wanted) in [(first, wanted), (forced.len() - 1, last)] {
                let error = relative_l2(&logits[first * n_vocab..][..wanted.len()], &wanted);
                println!("{name}, prompt {ix}, from position {first}: logits are off by {error:.1e}");
                assert!(error <= INT8_LOGITS, "{name}, prompt {ix}: logits are off by {error:.2e}");
                assert!(error > CPU_LOGITS, "{name}, prompt {ix}: nothing was rounded");
            }
            // The first token of an answer is chosen after a chunk, the next after a step of one row.
            let options = GenerateOptions { max_tokens: 2, ignore_eos: true, ..GenerateOptions::default() };
            let answer = model.generate(&ids(&prompt["ids"]), &options, |_| true).expect("an answer");
            let margins = prompt["greedy_margin"].as_array().expect("margins");
            let margins = margins.iter().map(|margin| margin.as_f64().expect("a margin"));
            let n_sure = margins.take(2).take_while(|margin| *margin > 1.0).count();
            assert_eq!(answer.ids[..n_sure], greedy_ids[..n_sure], "{name}, prompt {ix}: ids of wide margins");
        }
    }
}

/// Keys and values in the other device's type, and in codes. With single precision throughout, a GPU is as near to the
/// reference as the processor.
#[test]
fn keys_and_values_of_every_type() {
    let codes = |bits| KvType::Affine { bits, group: 32 };
    let types = [(KvType::F32, CPU_LOGITS), (KvType::F16, GPU_LOGITS), (codes(8), KV8_LOGITS), (codes(4), KV4_LOGITS)];
    // With a window of 32 too, for one of them.
    for (name, types) in [("llama", &types[..]), ("mistral", &types[2..3])] {
        let Some(folder) = shared(&format!("golden/{name}")) else { continue };
        let expected = Expected::read(&folder);
        for device in devices() {
            let _turn = turn(&device);
            for &(kv, tolerance) in types {
                let mut model = load(&folder, &device, move |target| target.kv_type = kv);
                let name = format!("{name} with {kv}");
                check_logits(tolerance, &name, &expected, &mut model, &device);
                if kv.group().is_none() {
                    check_greedy(&name, &expected, &mut model, &device);
                }
            }
        }
    }
}

/// Every large matrix in parts: a binding takes 25 kB, what the bins of 8 sampled rows need.
#[test]
fn a_tensor_larger_than_a_binding_is_split() {
    for name in ["llama", "llama_tied", "mlx/llama_affine_b4_g64"] {
        fixture(name, |target| {
            target.max_binding_bytes = 25 << 10;
            target.prefill_tokens = 8; // Activations are bound too.
        });
    }
}

/// No fusion: every op that may be on its own is.
#[test]
fn a_target_may_decline_every_fusion() {
    for name in ["llama", "mlx/llama_affine_b4_g64", "gemma3_text"] {
        fixture(name, |target| {
            target.declined = vec![
                Fusion::HeadNorm,
                Fusion::NormResidual,
                Fusion::EmbedScale,
                Fusion::NormPrologue,
                Fusion::Activation,
                Fusion::GatePairs,
                Fusion::Multiply,
                Fusion::Residual,
                Fusion::RopeKv,
                Fusion::HalfRows,
            ];
        });
    }
}

/// Kernels without subgroup operations, as on an adapter that lacks them.
#[test]
fn an_adapter_without_subgroups_works() {
    for name in ["llama", "mlx/llama_affine_b4_g64"] {
        fixture(name, |target| target.subgroups = false);
    }
}

/// Chunks that end within pages and tiles: 75 tokens in steps of 13, without and with a window of 32.
#[test]
fn the_chunk_size_does_not_matter() {
    for name in ["llama", "mistral"] {
        fixture(name, |target| {
            target.prefill_tokens = 13;
            target.prefill_q_tile = 4;
        });
    }
}

/// Every architecture written as a GGUF file by ourselves and opened again, on the processor.
#[test]
fn files_of_ours_give_the_same_logits() {
    let names = [
        "llama",
        "llama_tied",
        "llama_rope_linear",
        "llama_rope_llama3",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2_rope_yarn",
        "qwen3",
        "qwen3_moe",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gemma3_text_scaled",
        "granite",
    ];
    let device = &devices()[0];
    let write = |source: &Path, out: &Path, kind: &str| {
        let kind = GgufType::parse(kind).expect("a type");
        convert_gguf(source, out, kind, &mut |_, _| true).unwrap_or_else(|error| panic!("{error}"));
    };
    for name in names {
        let Some(source) = shared(&format!("golden/{name}")) else { continue };
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join(format!("{name}.gguf"));
        write(&source, &out, "f32");
        let mut model = load(&out, device, as_it_is);
        check(name, &Expected::read(&source), &mut model, device);
        // Rounded numbers compute what they are.
        let (codes, numbers) = (folder.path().join("q8_0.gguf"), folder.path().join("numbers.gguf"));
        write(&source, &codes, "q8_0");
        write(&codes, &numbers, "f32");
        let ids: Vec<u32> = (0..40u32).map(|ix| (ix * ix * 7 + ix * 13 + 5) % 300).collect();
        let logits = |path: &Path| load(path, device, as_it_is).logits(&ids).expect("logits").0;
        let error = relative_l2(&logits(&codes), &logits(&numbers));
        assert!(error <= CPU_LOGITS, "{name} in Q8_0 is off by {error:.1e} of its own numbers");
    }
}

/// The same configuration in transformers 5's words.
#[test]
fn transformers_5_configurations_give_the_same_logits() {
    for name in [
        "llama",
        "llama_tied",
        "llama_rope_linear",
        "llama_rope_llama3",
        "llama_sharded",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2_rope_yarn",
        "qwen3",
        "gemma2",
        "gemma3_text",
        "gemma3_text_scaled",
        "qwen3_moe",
    ] {
        let Some(source) = shared(&format!("golden/{name}")) else { continue };
        let copy = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(&source).expect("a fixture").flatten() {
            let file = entry.file_name();
            if file != "config.json" && file != "config.transformers5.json" {
                std::fs::copy(entry.path(), copy.path().join(&file)).expect("a copy");
            }
        }
        std::fs::copy(source.join("config.transformers5.json"), copy.path().join("config.json")).expect("a copy");
        let device = &devices()[0];
        let mut model = load(copy.path(), device, as_it_is);
        check(name, &Expected::read(&source), &mut model, device);
    }
}
