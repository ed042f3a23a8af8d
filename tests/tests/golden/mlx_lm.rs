//! The real mlx-lm opens what is written here and computes the same. It is asked where a Python has it: the one that
//! `INGOT_MLX_PYTHON` names, else `python3`.

use super::support::{devices, load};
use ingot::models::formats::affine::QuantShape;
use ingot::{ConvertOptions, Recipe, convert};
use ingot_tests::shared::{shared, skip};
use ingot_tests::tolerance::{CPU_LOGITS, relative_l2};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Prints the logits of ids for each folder, a line of JSON. All floats are widened, so that both compute in single precision.
const SCRIPT: &str = "
import json, sys
import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.utils import load_model
from pathlib import Path
mx.set_default_device(mx.cpu)
wide = lambda p: p.astype(mx.float32) if mx.issubdtype(p.dtype, mx.floating) else p
for folder in sys.argv[2:]:
    model, _ = load_model(Path(folder))
    model.update(tree_map(wide, model.parameters()))
    print(json.dumps(model(mx.array([json.loads(sys.argv[1])]))[0].tolist()))
";

/// A Python that has mlx-lm.
fn python() -> Option<String> {
    let python = std::env::var("INGOT_MLX_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import mlx_lm"]).output().is_ok_and(|run| run.status.success());
    if !has {
        skip(&format!("{python} has no mlx-lm to open what is converted (pip install mlx-lm, INGOT_MLX_PYTHON)"));
    }
    has.then_some(python)
}

/// Every mode, the recipes, experts, and forms by module with groups of their own.
fn cases() -> Vec<(&'static str, Option<Recipe>)> {
    let recipe = |mode, bits, group, mixed| Some(Recipe::new(mode, Some(bits), Some(group), mixed).expect("a recipe"));
    let shape = |bits, group| QuantShape { bits, group };
    let shapes = [("model.layers.0.mlp.down_proj", shape(6, 32)), ("model.embed_tokens", shape(8, 64))];
    let shapes = shapes.map(|(path, shape)| (path.to_owned(), shape)).into();
    vec![
        ("llama", None),
        ("llama", recipe("affine", 3, 64, None)),
        ("llama", recipe("affine", 5, 32, None)),
        ("llama", recipe("affine", 4, 64, Some("mixed_3_6"))),
        ("llama", Some(Recipe::Listed { default: shape(3, 128), shapes })),
        ("llama", recipe("mxfp4", 4, 32, None)),
        ("llama", recipe("mxfp8", 8, 32, None)),
        ("llama", recipe("nvfp4", 4, 16, None)),
        ("qwen3_moe", recipe("affine", 4, 64, None)),
        ("mixtral", recipe("affine", 4, 32, None)),
        ("gguf/llama-q4_1.gguf", None),
        ("gguf/llama-q8_0.gguf", None),
    ]
}

#[test]
fn mlx_lm_opens_what_is_converted_and_computes_the_same() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut made: Vec<(String, PathBuf)> = Vec::new();
    for (ix, (name, quantize)) in cases().into_iter().enumerate() {
        let Some(source) = shared(&format!("golden/{name}")) else { continue };
        let out = folder.path().join(ix.to_string());
        let label = format!("{name} as {quantize:?}");
        let options = ConvertOptions { quantize, ..ConvertOptions::default() };
        convert(&source, &out, &options, &mut |_, _| true).unwrap_or_else(|error| panic!("{label}: {error}"));
        made.push((label, out));
    }
    let ids: Vec<u32> = (0..24u32).map(|ix| (ix * ix * 7 + ix * 13 + 5) % 300).collect();
    let folders = made.iter().map(|(_, out)| out.as_path());
    let run = Command::new(python).args(["-c", SCRIPT, &format!("{ids:?}")]).args(folders).output().expect("it runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let told = String::from_utf8(run.stdout).expect("UTF-8");
    assert_eq!(told.lines().count(), made.len(), "{told}");
    let device = &devices()[0];
    let logits = |path: &Path| load(path, device, |_| {}).logits(&ids).expect("logits").0;
    for ((label, out), line) in made.iter().zip(told.lines()) {
        let expected: Vec<Vec<f32>> = serde_json::from_str(line).expect("rows of numbers");
        let error = relative_l2(&logits(out), &expected.concat());
        assert!(error <= CPU_LOGITS, "{label} is off by {error:.1e} of mlx-lm's logits");
    }
}
