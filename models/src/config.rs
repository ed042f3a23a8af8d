//! `config.json` and `generation_config.json` -> [`ModelSpec`], every field checked.
//!
//! Both ways of writing are read: transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and transformers 5
//! (`rope_parameters`, `dtype`, `layer_types`).

mod fields;
mod quant;

use crate::error::{Error, Result};
use crate::files::Files;
use fields::Fields;
use serde_json::Value;
use std::path::Path;

pub use quant::{LayerQuant, QuantMap};

/// A model family, built by the file of that name in `arch/`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Architecture {
    /// Llama 1 to 3, SmolLM2, TinyLlama and everything else of `model_type` `llama`.
    Llama,
}

impl Architecture {
    /// Every known one.
    pub const ALL: [Self; 1] = [Self::Llama];

    /// The `model_type` of `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
        }
    }
    /// The class in `architectures`, for files without `model_type`.
    fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
        }
    }
}

/// How rotary frequencies are stretched for contexts longer than the training's.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Long waves divided by `factor`, short ones kept, a blend between.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Waves longer than `original_max_positions / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Waves shorter than `original_max_positions / high_freq_factor` are short; greater than `low_freq_factor`.
        high_freq_factor: f64,
        /// Positions that the model was first trained on.
        original_max_positions: u32,
    },
}

/// Rotary position embedding.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RopeSpec {
    /// Base of the frequencies.
    pub theta: f64,
    /// Stretching.
    pub scaling: RopeScaling,
}

/// Activation of the gated MLP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HiddenAct {
    /// `x * sigmoid(x)`.
    Silu,
}

/// A model's configuration, checked: sizes are positive and fit each other, so that no product of two of them overflows u64.
#[derive(Clone, PartialEq, Debug)]
pub struct ModelSpec {
    /// Which file of `arch/` builds it.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Decoder layers.
    pub n_layers: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: u32,
    /// Elements a head; even.
    pub head_dim: u32,
    /// Width of the MLP.
    pub intermediate_size: u32,
    /// Rows of the embedding.
    pub vocab_size: u32,
    /// Epsilon of the norms.
    pub rms_norm_eps: f32,
    /// Rotary position embedding.
    pub rope: RopeSpec,
    /// Longest context in tokens that the model was trained for.
    pub max_position_embeddings: u32,
    /// Whether the head is the embedding. `None`: the file is silent, and the head is tied if the checkpoint has none.
    pub tie_word_embeddings: Option<bool>,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// Activation of the MLP.
    pub hidden_act: HiddenAct,
    /// Ids that end a text, of both files, sorted, each once.
    pub eos_ids: Vec<u32>,
    /// Id that begins a text.
    pub bos_id: Option<u32>,
    /// The type the weights were trained in, as written (`bfloat16`).
    pub dtype: Option<String>,
    /// MLX's quantization settings.
    pub quantization: Option<QuantMap>,
}

impl ModelSpec {
    /// Reads `config.json` and, if there is one, `generation_config.json` of a checkpoint folder.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let files = Files::folder(folder);
        let Some(config) = files.json("config.json")? else {
            let what = "no such file; a checkpoint folder needs config.json beside its weights";
            return Err(Error::Missing { path, what: what.into() });
        };
        let mut spec = Self::parse(&path, &config)?;
        let path = folder.join("generation_config.json");
        if let Some(config) = files.json("generation_config.json")? {
            spec.eos_ids.extend(Fields::root(&path, &config)?.ids("eos_token_id")?);
            spec.eos_ids.sort_unstable();
            spec.eos_ids.dedup();
        }
        Ok(spec)
    }

    /// Reads a configuration; `path` is for messages only.
    pub fn parse(path: &Path, config: &Value) -> Result<Self> {
        let fields = Fields::root(path, config)?;
        let architecture = architecture(&fields)?;
        let hidden_size = fields.u32("hidden_size", 2..=1 << 20)?;
        let n_heads = fields.u32("num_attention_heads", 1..=4096)?;
        let n_kv_heads = fields.u32_or("num_key_value_heads", 1..=n_heads, n_heads)?;
        if n_heads % n_kv_heads != 0 {
            return Err(fields.wrong("num_key_value_heads", format!("a divisor of num_attention_heads = {n_heads}")));
        }
        let head_dim = match fields.opt_u32("head_dim", 2..=4096)? {
            Some(head_dim) => head_dim,
            None if hidden_size % n_heads == 0 => hidden_size / n_heads,
            None => {
                let allowed = format!("a divisor of hidden_size = {hidden_size}, since head_dim is absent");
                return Err(fields.wrong("num_attention_heads", allowed));
            }
        };
        if head_dim % 2 != 0 || head_dim > 4096 {
            return Err(fields
                .wrong("head_dim", "even and at most 4096 (without it, hidden_size / num_attention_heads must be)"));
        }
        let max_position_embeddings = fields.u32_or("max_position_embeddings", 1..=1 << 27, 2048)?;
        check_layer_types(&fields)?;
        let mut eos_ids = fields.ids("eos_token_id")?;
        eos_ids.sort_unstable();
        eos_ids.dedup();
        Ok(Self {
            architecture,
            hidden_size,
            n_layers: fields.u32("num_hidden_layers", 1..=4096)?,
            n_heads,
            n_kv_heads,
            head_dim,
            intermediate_size: fields.u32("intermediate_size", 1..=1 << 22)?,
            vocab_size: fields.u32("vocab_size", 1..=1 << 24)?,
            rms_norm_eps: fields.positive("rms_norm_eps", 1.0)? as f32,
            rope: rope(&fields)?,
            max_position_embeddings,
            tie_word_embeddings: fields.opt_bool("tie_word_embeddings")?,
            attention_bias: fields.opt_bool("attention_bias")?.unwrap_or(false),
            mlp_bias: fields.opt_bool("mlp_bias")?.unwrap_or(false),
            hidden_act: hidden_act(&fields)?,
            eos_ids,
            bos_id: fields.ids("bos_token_id")?.first().copied(),
            dtype: match fields.opt_str("dtype")? {
                Some(dtype) => Some(dtype.to_owned()),
                None => fields.opt_str("torch_dtype")?.map(str::to_owned),
            },
            quantization: quant::quantization(&fields)?,
        })
    }
}

fn architecture(fields: &Fields<'_>) -> Result<Architecture> {
    let class = || fields.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    let found = match fields.opt_str("model_type")? {
        Some(name) => Architecture::ALL.into_iter().find(|a| a.name() == name).ok_or(name),
        None => match class() {
            Some(name) => Architecture::ALL.into_iter().find(|a| a.class() == name).ok_or(name),
            None => {
                return Err(fields.wrong("model_type", format!("one of {}", known_architectures())));
            }
        },
    };
    found.map_err(|name| Error::UnknownArchitecture {
        path: fields.path().to_path_buf(),
        found: name.to_owned(),
        known: known_architectures(),
    })
}

fn known_architectures() -> String {
    Architecture::ALL.map(Architecture::name).join(", ")
}

fn hidden_act(fields: &Fields<'_>) -> Result<HiddenAct> {
    match fields.opt_str("hidden_act")? {
        None | Some("silu" | "swish") => Ok(HiddenAct::Silu),
        Some(_) => Err(fields.wrong("hidden_act", "`silu`, the only activation of the llama architecture")),
    }
}

/// transformers 5 lists each layer's attention; llama has one kind.
fn check_layer_types(fields: &Fields<'_>) -> Result<()> {
    let Some(types) = fields.get("layer_types") else {
        return Ok(());
    };
    let plain = types.as_array().is_some_and(|list| list.iter().all(|kind| kind == "full_attention"));
    if plain {
        Ok(())
    } else {
        Err(fields.wrong("layer_types", "a list of `full_attention`, the only kind of the llama architecture"))
    }
}

fn rope(fields: &Fields<'_>) -> Result<RopeSpec> {
    let parameters = fields.child("rope_parameters")?;
    let scaling = match &parameters {
        Some(parameters) => Some(parameters.clone()),
        None => fields.child("rope_scaling")?,
    };
    let theta = match &parameters {
        Some(parameters) if parameters.get("rope_theta").is_some() => parameters.positive("rope_theta", 1e12)?,
        _ if fields.get("rope_theta").is_some() => fields.positive("rope_theta", 1e12)?,
        _ => 10_000.0,
    };
    for place in [Some(fields), scaling.as_ref()].into_iter().flatten() {
        if place.get("partial_rotary_factor").is_some_and(|factor| factor.as_f64() != Some(1.0)) {
            return Err(place.wrong("partial_rotary_factor", "1 or absent: the llama architecture rotates whole heads"));
        }
    }
    let scaling = match scaling {
        None => RopeScaling::None,
        Some(scaling) => rope_scaling(fields, &scaling)?,
    };
    Ok(RopeSpec { theta, scaling })
}

fn rope_scaling(fields: &Fields<'_>, scaling: &Fields<'_>) -> Result<RopeScaling> {
    const ALLOWED: &str = "`default`, `linear` or `llama3`";
    let key = if scaling.get("rope_type").is_some() { "rope_type" } else { "type" };
    match scaling.opt_str(key)? {
        Some("default") => Ok(RopeScaling::None),
        None if scaling.is_empty() || scaling.has_only("rope_theta") => Ok(RopeScaling::None),
        None => Err(scaling.wrong("rope_type", ALLOWED)),
        Some("linear") => Ok(RopeScaling::Linear { factor: scaling.at_least_one("factor")? }),
        Some("llama3") => {
            let low_freq_factor = scaling.positive("low_freq_factor", 1e6)?;
            let high_freq_factor = scaling.positive("high_freq_factor", 1e6)?;
            if high_freq_factor <= low_freq_factor {
                return Err(
                    scaling.wrong("high_freq_factor", format!("greater than low_freq_factor = {low_freq_factor}"))
                );
            }
            let positions = 1..=1 << 27;
            let original = scaling.opt_u32("original_max_position_embeddings", positions.clone())?;
            Ok(RopeScaling::Llama3 {
                factor: scaling.at_least_one("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_positions: match original {
                    Some(original) => original,
                    None => fields.u32("original_max_position_embeddings", positions)?,
                },
            })
        }
        Some(_) => Err(scaling.wrong(key, ALLOWED)),
    }
}
