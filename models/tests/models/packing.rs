//! Checkpoints as AutoAWQ and AutoGPTQ write them, packed from known codes.

use half::f16;
use ingot_models::formats::safetensors::{StoredType, TensorDecl, write};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Which layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Layout {
    Awq,
    /// Zeros are stored minus one.
    Gptq,
    /// Zeros are stored as they are.
    GptqV2,
}

/// A quantized matrix: `w[row][col] = (code - zero) * scale`.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
    /// Columns a scale.
    pub(crate) group: usize,
    /// By row and column.
    pub(crate) codes: Vec<u8>,
    /// By row and group.
    pub(crate) zeros: Vec<u8>,
    /// By row and group.
    pub(crate) scales: Vec<f16>,
}

impl Known {
    /// Codes, zeros and scales out of nothing, but always the same.
    pub(crate) fn new(n_rows: usize, n_cols: usize, group: usize, seed: u32) -> Self {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        let n_groups = n_rows * (n_cols / group);
        let codes = (0..n_rows * n_cols).map(|_| (next() % 16) as u8).collect();
        // From 1 to 15: a stored zero of GPTQ's version 1 is one less.
        let zeros = (0..n_groups).map(|_| 1 + (next() % 15) as u8).collect();
        let scales = (0..n_groups).map(|_| f16::from_f32((1 + next() % 1000) as f32 / 8192.0)).collect();
        Self { n_rows, n_cols, group, codes, zeros, scales }
    }

    /// The number at a place as mlx-lm has it: the bias rounded to f16.
    pub(crate) fn number(&self, row: usize, col: usize) -> f32 {
        let at = row * (self.n_cols / self.group) + col / self.group;
        let scale = self.scales[at].to_f32();
        let bias = f16::from_f32(-f32::from(self.zeros[at]) * scale).to_f32();
        f32::from(self.codes[row * self.n_cols + col]) * scale + bias
    }

    /// The tensors of the module at `path`.
    pub(crate) fn tensors(&self, layout: Layout, path: &str) -> Vec<(TensorDecl, Vec<u8>)> {
        let (n_rows, n_cols, n_groups) = (self.n_rows, self.n_cols, self.n_cols / self.group);
        let code = |row: usize, col: usize| u32::from(self.codes[row * n_cols + col]);
        let zero = |row: usize, group: usize| u32::from(self.zeros[row * n_groups + group]);
        let decl = |ending: &str, stored: StoredType, shape: &[usize]| TensorDecl {
            name: format!("{path}.{ending}"),
            stored,
            shape: shape.to_vec(),
        };
        let words = |words: Vec<u32>| words.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
        let pack = |of: &dyn Fn(usize) -> u32| (0..8).fold(0, |word, place| word | of(place) << (4 * place));
        // AutoAWQ puts these columns of eight at the places 0, 1, 2 ...
        const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
        let mut weight = Vec::new();
        let mut zeros = Vec::new();
        let weight_shape = if layout == Layout::Awq {
            for col in 0..n_cols {
                weight.extend((0..n_rows / 8).map(|eight| pack(&|place| code(8 * eight + ORDER[place], col))));
            }
            [n_cols, n_rows / 8]
        } else {
            for eight in 0..n_cols / 8 {
                weight.extend((0..n_rows).map(|row| pack(&|place| code(row, 8 * eight + place))));
            }
            [n_cols / 8, n_rows]
        };
        for group in 0..n_groups {
            let stored = |eight: usize, place: usize| match layout {
                Layout::Awq => zero(8 * eight + ORDER[place], group),
                Layout::Gptq => zero(8 * eight + place, group) - 1,
                Layout::GptqV2 => zero(8 * eight + place, group),
            };
            zeros.extend((0..n_rows / 8).map(|eight| pack(&|place| stored(eight, place))));
        }
        let scale = |ix: usize| self.scales[ix % n_rows * n_groups + ix / n_rows];
        let scales = (0..n_groups * n_rows).flat_map(|ix| scale(ix).to_le_bytes()).collect();
        let mut all = vec![
            (decl("qweight", StoredType::I32, &weight_shape), words(weight)),
            (decl("qzeros", StoredType::I32, &[n_groups, n_rows / 8]), words(zeros)),
            (decl("scales", StoredType::F16, &[n_groups, n_rows]), scales),
        ];
        if layout != Layout::Awq {
            let groups = (0..n_cols).map(|col| (col / self.group) as u32).collect();
            all.push((decl("g_idx", StoredType::I32, &[n_cols]), words(groups)));
        }
        all
    }
}

/// What `config.json` says of a layout.
pub(crate) fn quantization_config(layout: Layout, group: usize) -> Value {
    match layout {
        Layout::Awq => serde_json::json!({
            "quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": true,
            "modules_to_not_convert": null
        }),
        _ => serde_json::json!({
            "quant_method": "gptq", "bits": 4, "group_size": group, "desc_act": false, "sym": false,
            "checkpoint_format": if layout == Layout::Gptq { "gptq" } else { "gptq_v2" }
        }),
    }
}

/// Writes a Llama of one layer whose linear layers are packed, with known codes by module path.
pub(crate) fn write_folder(folder: &Path, layout: Layout, config: &Value, group: usize) -> BTreeMap<String, Known> {
    let size = |name: &str| config[name].as_u64().expect("a size") as usize;
    let (hidden, width) = (size("hidden_size"), size("intermediate_size"));
    let head_dim = hidden / size("num_attention_heads");
    let kv = head_dim * size("num_key_value_heads");
    let modules = [
        ("self_attn.q_proj", hidden, hidden),
        ("self_attn.k_proj", kv, hidden),
        ("self_attn.v_proj", kv, hidden),
        ("self_attn.o_proj", hidden, hidden),
        ("mlp.gate_proj", width, hidden),
        ("mlp.up_proj", width, hidden),
        ("mlp.down_proj", hidden, width),
    ];
    let (mut tensors, mut known) = (Vec::new(), BTreeMap::new());
    for (seed, (module, n_rows, n_cols)) in modules.into_iter().enumerate() {
        let path = format!("model.layers.0.{module}");
        let matrix = Known::new(n_rows, n_cols, group, seed as u32);
        tensors.extend(matrix.tensors(layout, &path));
        known.insert(path, matrix);
    }
    let n_vocab = size("vocab_size");
    let mut float = |name: &str, shape: &[usize], of: &dyn Fn(usize) -> f32| {
        let n = shape.iter().product();
        let bytes = (0..n).flat_map(|ix| f16::from_f32(of(ix)).to_le_bytes()).collect();
        tensors.push((TensorDecl { name: name.into(), stored: StoredType::F16, shape: shape.to_vec() }, bytes));
    };
    let noise = |ix: usize| ((ix * 7919 + ix / 13) % 97) as f32 / 97.0 - 0.5;
    float("model.embed_tokens.weight", &[n_vocab, hidden], &noise);
    float("lm_head.weight", &[n_vocab, hidden], &|ix| noise(3 * ix + 1));
    for name in ["model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"] {
        float(&format!("{name}.weight"), &[hidden], &|_| 1.0);
    }
    let decls: Vec<TensorDecl> = tensors.iter().map(|(decl, _)| decl.clone()).collect();
    let fill = |ix: usize, out: &mut [u8]| out.copy_from_slice(&tensors[ix].1);
    write(&folder.join("model.safetensors"), &BTreeMap::new(), &decls, fill).expect("a file can be written");
    let mut config = config.clone();
    config["quantization_config"] = quantization_config(layout, group);
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a file can be written");
    known
}
