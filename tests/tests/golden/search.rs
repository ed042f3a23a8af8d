//! Bits by matrix for mixtures of experts: those of a layer are one matrix, however they are stored.

use ingot::{Cache, Candidates, ConvertOptions, DeviceChoice, LoadOptions, Model, Recipe, Target, Widths, Windows};
use ingot::{compare, convert, sensitivities};
use ingot_tests::shared::shared;
use std::path::Path;

const TEXT: &str = "Once upon a time there was a little dragon who loved pizza. Every day the dragon flew to the village \
                    and asked for a slice. The people were afraid at first, but soon they were friends.";
const WINDOWS: Windows = Windows { n_tokens: 64, most: Some(2), seed: None };

fn options() -> LoadOptions {
    LoadOptions { device: DeviceChoice::Cpu, cache: Cache::Off, ..LoadOptions::default() }
}

fn to(source: &Path, out: &Path, quantize: Option<Recipe>) -> f64 {
    let options = ConvertOptions { quantize, ..ConvertOptions::default() };
    let converted = convert(source, out, &options, &mut |_, _| true);
    converted.unwrap_or_else(|error| panic!("{}: {error}", out.display())).bits_per_weight()
}

/// How far a folder's predictions are from another's.
fn divergence(from: &Path, of: &Path) -> f64 {
    let load = |path: &Path| Model::load(path, options()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    compare(&mut load(from), &mut load(of), TEXT, WINDOWS, &mut |_, _| {}).expect("both read the text").kl().mean()
}

#[test]
fn experts_are_searched_as_one_matrix_of_a_layer() {
    for (name, module) in [("mixtral", "block_sparse_moe"), ("qwen3_moe", "mlp")] {
        let (Some(golden), Some(tokenizer)) = (shared(&format!("golden/{name}")), shared("golden/tokenizer")) else {
            continue;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let [single, stacked, equal, mix] = ["single", "stacked", "equal", "mix"].map(|name| folder.path().join(name));
        std::fs::create_dir(&single).expect("a folder");
        for source in [golden, tokenizer] {
            for entry in std::fs::read_dir(source).expect("a fixture").flatten() {
                std::fs::copy(entry.path(), single.join(entry.file_name())).expect("a copy");
            }
        }
        to(&single, &stacked, None);
        let widths = Widths::new(2, 8, 32).expect("widths");
        let quarter = Recipe::new("affine", Some(4), Some(32), None).expect("a recipe");
        let target = Target::BitsPerWeight(to(&single, &equal, Some(quarter)));
        let measure = |path: &Path| {
            let candidates = Candidates::measure(path, widths, &mut |_, _| {}).expect("measured");
            let shape = candidates.equal(target).expect("the target is no less than the lowest width takes");
            let found = sensitivities(path, &candidates.matrices, shape, TEXT, WINDOWS, &mut options, &mut |_, _| {});
            (candidates, found.unwrap_or_else(|error| panic!("{name}: {error}")))
        };
        let (candidates, found) = measure(&single);
        assert_eq!(measure(&stacked).1, found, "{name}: stored as stacks it is another model");
        let experts = format!("model.layers.1.{module}.switch_mlp.");
        let of_experts: Vec<_> = found.iter().filter(|(path, _)| path.starts_with(&experts)).collect();
        assert!(of_experts.len() == 3 && of_experts.iter().all(|(_, damage)| *damage > 0.0), "{name}: {of_experts:?}");

        // Where experts suffer, they get more bits than all would have, and the whole is nearer than with equal bits.
        let recipe = candidates.recipe(&found, target).expect("a recipe");
        let Recipe::Listed { shapes, .. } = &recipe else { panic!("{recipe:?}") };
        let widths: Vec<_> = shapes.iter().filter(|(path, _)| path.contains("switch_mlp")).collect();
        assert!(!widths.is_empty(), "{name}: no experts have more bits than the fewest");
        let is_listed = |json: &str| widths.iter().all(|(path, _)| json.contains(path.as_str()));
        to(&single, &mix, Some(recipe.clone()));
        assert!(is_listed(&std::fs::read_to_string(mix.join("config.json")).expect("a configuration")), "{name}");
        let (of_mix, of_equal) = (divergence(&single, &mix), divergence(&single, &equal));
        assert!(of_mix < of_equal, "{name}: {of_mix} against {of_equal}");
    }
}
