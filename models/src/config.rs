//! `config.json` and `generation_config.json` -> [`ModelSpec`], every field checked.
//!
//! Both ways of writing are read: transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and transformers 5
//! (`rope_parameters`, `dtype`, `layer_types`).

mod attention;
mod experts;
mod fields;
mod quant;
mod rope;
mod scales;

use crate::error::{Error, Result};
use crate::files::Files;
use crate::formats::packed::Packer;
use fields::Fields;
use ingot_ir::kv::Window;
use serde_json::{Value, json};
use std::path::Path;

pub use experts::ExpertSpec;
pub use quant::{LayerQuant, Quant, QuantMap};
pub use rope::{RopeScaling, RopeSpec};
pub use scales::Scales;

/// A model family, built by the file of that name in `arch/`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Architecture {
    /// Llama 1 to 3, SmolLM2, TinyLlama and everything else of `model_type` `llama`.
    Llama,
    /// Mistral 7B and its successors of `model_type` `mistral`: Llama with an optional sliding window.
    Mistral,
    /// Mixtral of `model_type` `mixtral`: Mistral with a mixture of experts for MLP.
    Mixtral,
    /// Qwen 1.5 to 2.5 of `model_type` `qwen2`: Llama with biases of q, k and v.
    Qwen2,
    /// Qwen 3 of `model_type` `qwen3`: Llama with norms of the heads of q and k.
    Qwen3,
    /// Gemma of `model_type` `gemma`: norms about 1, scaled embeddings, GELU.
    Gemma,
    /// Gemma 2 of `model_type` `gemma2`: norms after attention and MLP too, bounded scores and logits, every second layer
    /// with a window.
    Gemma2,
    /// Gemma 3 of `model_type` `gemma3_text`, or the language model of one of `gemma3`: norms of heads in place of the
    /// bounds, and a rotation of its own for layers with a window.
    Gemma3,
    /// Granite 3 of `model_type` `granite`: Llama with factors on embeddings, sums, scores and logits.
    Granite,
    /// Qwen 3 with a mixture of experts, of `model_type` `qwen3_moe`.
    Qwen3Moe,
}

impl Architecture {
    /// Every known one.
    pub const ALL: [Self; 10] = [
        Self::Llama,
        Self::Mistral,
        Self::Mixtral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Qwen3Moe,
        Self::Gemma,
        Self::Gemma2,
        Self::Gemma3,
        Self::Granite,
    ];

    /// The `model_type` of `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Mixtral => "mixtral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma => "gemma",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::Granite => "granite",
            Self::Qwen3Moe => "qwen3_moe",
        }
    }
    /// Whether mlx-lm keeps 8 bits for the routers of this family.
    pub(crate) fn has_fine_router(self) -> bool {
        matches!(self, Self::Qwen3Moe)
    }
    /// The class in `architectures`, for files without `model_type`.
    fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Mixtral => "MixtralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gemma => "GemmaForCausalLM",
            Self::Gemma2 => "Gemma2ForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
            Self::Granite => "GraniteForCausalLM",
            Self::Qwen3Moe => "Qwen3MoeForCausalLM",
        }
    }
    fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma | Self::Gemma2 | Self::Gemma3)
    }
}

/// Activation of the gated MLP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HiddenAct {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU, tanh form.
    Gelu,
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
    /// The mixture of experts that stands for the MLP of some layers.
    pub experts: Option<ExpertSpec>,
    /// Rows of the embedding.
    pub vocab_size: u32,
    /// Epsilon of the norms.
    pub rms_norm_eps: f32,
    /// Rotary position embedding.
    pub rope: RopeSpec,
    /// That of layers with a window, most often the same.
    pub local_rope: RopeSpec,
    /// Factors and bounds.
    pub scales: Scales,
    /// What each layer's queries see, a window a layer.
    pub windows: Vec<Window>,
    /// Longest context in tokens that the model was trained for.
    pub max_position_embeddings: u32,
    /// Whether the head is the embedding. `None`: the file is silent, and the head is tied if the checkpoint has none.
    pub tie_word_embeddings: Option<bool>,
    /// Whether q, k, v and o have biases, where the architecture leaves it open.
    pub attention_bias: bool,
    /// Whether gate, up and down have biases, where the architecture leaves it open.
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
    /// Who packed the weights, if they are AWQ's or GPTQ's.
    pub packer: Option<Packer>,
}

impl ModelSpec {
    /// Reads `config.json` and, if there is one, `generation_config.json` of a checkpoint folder.
    pub fn load(folder: &Path) -> Result<Self> {
        Self::of(&Files::folder(folder))
    }

    /// The same of files wherever they are.
    pub fn of(files: &Files) -> Result<Self> {
        let path = files.path("config.json");
        let Some(config) = files.json("config.json")? else {
            let what = "no such file; a checkpoint folder needs config.json beside its weights";
            return Err(Error::Missing { path, what: what.into() });
        };
        let mut spec = Self::parse(&path, &config)?;
        let path = files.path("generation_config.json");
        if let Some(config) = files.json("generation_config.json")? {
            spec.eos_ids.extend(Fields::root(&path, &config)?.ids("eos_token_id")?);
            spec.eos_ids.sort_unstable();
            spec.eos_ids.dedup();
        }
        Ok(spec)
    }

    /// Reads a configuration; `path` is for messages only.
    pub fn parse(path: &Path, config: &Value) -> Result<Self> {
        let language = language_model(config);
        let fields = Fields::root(path, language.as_ref().unwrap_or(config))?;
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
        let (rope, local_rope) = rope::ropes(&fields, architecture, max_position_embeddings)?;
        let n_layers = fields.u32("num_hidden_layers", 1..=4096)?;
        let mut eos_ids = fields.ids("eos_token_id")?;
        eos_ids.sort_unstable();
        eos_ids.dedup();
        let intermediate_size = fields.u32("intermediate_size", 1..=1 << 22)?;
        Ok(Self {
            architecture,
            hidden_size,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            intermediate_size,
            experts: experts::experts(&fields, architecture, n_layers, intermediate_size)?,
            vocab_size: fields.u32("vocab_size", 1..=1 << 24)?,
            rms_norm_eps: fields.positive("rms_norm_eps", 1.0)? as f32,
            rope,
            local_rope,
            scales: scales::scales(&fields, architecture, hidden_size, head_dim)?,
            windows: attention::windows(&fields, architecture, n_layers)?,
            max_position_embeddings,
            tie_word_embeddings: fields.opt_bool("tie_word_embeddings")?.or(architecture.is_gemma().then_some(true)),
            attention_bias: fields.opt_bool("attention_bias")?.unwrap_or(false),
            mlp_bias: fields.opt_bool("mlp_bias")?.unwrap_or(false),
            hidden_act: hidden_act(&fields, architecture)?,
            eos_ids,
            bos_id: fields.ids("bos_token_id")?.first().copied(),
            dtype: match fields.opt_str("dtype")? {
                Some(dtype) => Some(dtype.to_owned()),
                None => fields.opt_str("torch_dtype")?.map(str::to_owned),
            },
            quantization: quant::quantization(&fields)?,
            packer: quant::packer(&fields)?,
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

/// The settings of the language model of a checkpoint that has more (`gemma3`): those of `text_config` over the others, and
/// where both are silent what transformers assumes. `None` if the configuration is that of a language model.
fn language_model(config: &Value) -> Option<Value> {
    let text = config.get("text_config")?.as_object()?;
    let mut all = config.as_object()?.clone();
    all.remove("text_config");
    if text.get("model_type").and_then(Value::as_str) == Some(Architecture::Gemma3.name()) {
        let assumed = json!({
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131_072, "rope_theta": 1e6, "sliding_window": 4096,
        });
        for (name, value) in assumed.as_object()? {
            all.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    let told = text.iter().filter(|(_, value)| !value.is_null());
    all.extend(told.map(|(name, value)| (name.clone(), value.clone())));
    Some(Value::Object(all))
}

/// Gemma's files name theirs `hidden_activation`; what old ones call `hidden_act` was never it.
fn hidden_act(fields: &Fields<'_>, architecture: Architecture) -> Result<HiddenAct> {
    const GELU: &str = "`gelu_pytorch_tanh`, the only activation that is known of Gemma";
    if architecture.is_gemma() {
        return match fields.opt_str("hidden_activation")? {
            None | Some("gelu_pytorch_tanh") => Ok(HiddenAct::Gelu),
            Some(_) => Err(fields.wrong("hidden_activation", GELU)),
        };
    }
    match fields.opt_str("hidden_act")? {
        None | Some("silu" | "swish") => Ok(HiddenAct::Silu),
        Some(_) => Err(fields.wrong("hidden_act", "`silu`, the only activation of a gated MLP that is known")),
    }
}
