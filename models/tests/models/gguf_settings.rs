//! Settings of GGUF files as converters write them: ends of texts, scalings of the rotation, words; and errors in a file's own words.

use crate::assert_error;
use crate::gguf_files::{Tensor, write};
use ingot_models::config::RopeScaling;
use ingot_models::text::tokenizer::Tokenizer;
use ingot_models::{Error, Model};
use serde_json::{Value, json};

/// Opens a file of one small layer without tensors, with settings besides; keys of the architecture begin with a point.
fn open(architecture: &str, more: &[(&str, Value)]) -> Result<Model, Error> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    let own = [
        (".block_count", json!(1)),
        (".context_length", json!(64)),
        (".embedding_length", json!(32)),
        (".feed_forward_length", json!(32)),
        (".attention.head_count", json!(1)),
        ("tokenizer.ggml.tokens", json!(["a", "b"])),
        ("general.architecture", json!(architecture)),
    ];
    let is_changed = |key: &str| more.iter().any(|(other, _)| *other == key);
    let all = own.iter().filter(|(key, _)| !is_changed(key)).chain(more);
    let all: Vec<(String, Value)> = all
        .map(|(key, value)| match key.strip_prefix('.') {
            Some(key) => (format!("{architecture}.{key}"), value.clone()),
            None => ((*key).to_owned(), value.clone()),
        })
        .collect();
    let all: Vec<(&str, Value)> = all.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let freqs = [2f32; 16].map(f32::to_le_bytes).concat();
    let tensors: &[Tensor<'_>] = if is_changed("factors") { &[("rope_freqs.weight", 0, &[16], &freqs)] } else { &[] };
    write(&path, &all, tensors);
    Model::open(&path)
}

#[test]
fn ends_of_texts_are_known_by_their_tokens() {
    let ends = |tokens: &[(&str, u32)], more: &[(&str, Value)]| {
        let (texts, kinds): (Vec<&str>, Vec<u32>) = tokens.iter().copied().unzip();
        let lists = [("tokenizer.ggml.tokens", json!(texts)), ("tokenizer.ggml.token_type", json!(kinds))];
        let all: Vec<(&str, Value)> = lists.into_iter().chain(more.iter().cloned()).collect();
        open("llama", &all).unwrap_or_else(|error| panic!("{error}")).spec.eos_ids
    };
    let eos = [("tokenizer.ggml.eos_token_id", json!(1))];
    let qwen = [("a", 1), ("<|endoftext|>", 3), ("<|im_start|>", 3), ("<|im_end|>", 4)];
    assert_eq!(ends(&qwen, &eos), [1, 3]);
    assert_eq!(ends(&qwen, &[]), [1, 3]);
    assert_eq!(ends(&[("<bos>", 3), ("<eos>", 3), ("<end_of_turn>", 4), ("</s>", 4)], &eos), [1, 2]);
    assert_eq!(ends(&[("<|eot_id|>", 3), ("x", 1), ("<|eom_id|>", 3), ("</s>", 3)], &eos), [0, 1, 2, 3]);
    // Ordinary text ends nothing.
    assert_eq!(ends(&[("<|im_end|>", 1), ("b", 1)], &eos), [1]);
    // Where there are channels, `<|end|>` is the end of one message of several.
    assert_eq!(ends(&[("<|end|>", 3), ("b", 1)], &[]), [0]);
    assert_eq!(ends(&[("<|end|>", 3), ("<|return|>", 3), ("<|call|>", 3)], &[]), [1, 2]);
}

#[test]
fn scalings_of_the_rotation_are_those_of_llama_cpp() {
    let scaling = |settings: &[(&str, Value)]| {
        open("llama", settings).unwrap_or_else(|error| panic!("{settings:?}: {error}")).spec.rope.scaling
    };
    let (linear, yarn) = (json!("linear"), (".rope.scaling.type", json!("yarn")));
    let factor = (".rope.scaling.factor", json!(4.5));
    assert_eq!(scaling(&[]), RopeScaling::None);
    assert_eq!(scaling(std::slice::from_ref(&factor)), RopeScaling::Linear { factor: 4.5 });
    assert_eq!(scaling(&[(".rope.scale_linear", json!(2.5))]), RopeScaling::Linear { factor: 2.5 });
    assert_eq!(scaling(&[(".rope.scale_linear", json!(2.5)), factor.clone()]), RopeScaling::Linear { factor: 4.5 });
    assert_eq!(scaling(&[(".rope.scaling.type", linear.clone())]), RopeScaling::None);
    assert_eq!(scaling(&[(".rope.scaling.type", json!("none")), factor.clone()]), RopeScaling::None);
    let betas = [(".rope.scaling.yarn_beta_fast", json!(16.5)), (".rope.scaling.yarn_beta_slow", json!(2.5))];
    let more = [(".rope.scaling.attn_factor", json!(0.5)), (".rope.scaling.original_context_length", json!(32))];
    let all: Vec<_> = [yarn.clone(), factor.clone()].into_iter().chain(betas).chain(more).collect();
    let RopeScaling::Yarn { factor: found, beta_fast, beta_slow, original_max_positions, attention_factor, .. } =
        scaling(&all)
    else {
        panic!("no yarn")
    };
    assert_eq!((found, beta_fast, beta_slow, original_max_positions), (4.5, 16.5, 2.5, 32));
    assert!((attention_factor - 0.5 * (0.1 * 4.5f64.ln() + 1.0)).abs() < 1e-9, "{attention_factor}");
    let refused = |settings: &[(&str, Value)], parts: &[&str]| assert_error(open("llama", settings), parts);
    let factors = ("factors", json!(true));
    refused(&[factor.clone(), factors.clone()], &["rope_freqs.weight", "linear"]);
    refused(&[yarn.clone(), factor.clone(), factors], &["rope_freqs.weight", "yarn"]);
    refused(&[(".rope.scaling.factor", json!(0.5))], &["`llama.rope.scaling.factor`", "from 1"]);
    refused(&[(".rope.scaling.attn_factor", json!(1.5))], &["`llama.rope.scaling.attn_factor`", "yarn"]);
    refused(&[(".rope.scaling.alpha", json!(1000.5))], &["`llama.rope.scaling.alpha`"]);
    refused(&[(".rope.scaling.type", json!("longrope"))], &["`llama.rope.scaling.type`", "longrope", "yarn"]);
    refused(
        &[(".rope.scaling.type", json!("none")), (".rope.scaling.attn_factor", json!(1.5))],
        &["`llama.rope.scaling.attn_factor`", "yarn"],
    );
    // What llama.cpp does not heed in these architectures changes nothing.
    let plain = scaling(&[yarn.clone(), factor.clone()]);
    for key in ["yarn_ext_factor", "yarn_attn_factor", "yarn_log_multiplier"] {
        let key = format!(".rope.scaling.{key}");
        assert_eq!(scaling(&[yarn.clone(), factor.clone(), (&key, json!(0.878))]), plain, "{key}");
    }
    // Granite's files say by it that nothing is rotated.
    let finetuned = |architecture| open(architecture, &[(".rope.scaling.finetuned", json!(false))]);
    assert_error(finetuned("granite"), &["`granite.rope.scaling.finetuned` is false"]);
    assert!(finetuned("llama").is_ok());
}

#[test]
fn errors_are_in_the_words_of_the_file() {
    let odd = open("qwen2", &[(".attention.head_count", json!(3)), (".attention.key_length", json!(7))]);
    assert_error(odd, &["model.gguf: `qwen2.attention.key_length` is 7; it must be even"]);
    let uneven = open("llama", &[(".attention.head_count", json!(4)), (".attention.head_count_kv", json!(3))]);
    let parts = ["`llama.attention.head_count_kv` is 3", "a divisor of llama.attention.head_count = 4"];
    assert_error(uneven, &parts);
    let betas = [(".rope.scaling.yarn_beta_fast", json!(0.5)), (".rope.scaling.type", json!("yarn"))];
    assert_error(
        open("llama", &betas),
        &["`llama.rope.scaling.yarn_beta_fast`", "llama.rope.scaling.yarn_beta_slow = 1"],
    );
    let bare = open("llama", &[]).expect("opens");
    let message = bare.graph().expect_err("there are no tensors").to_string();
    assert!(message.contains("tensor `token_embd.weight` is missing") && !message.contains("config.json"), "{message}");
}

/// Some converters tell of every layer what all have.
#[test]
fn numbers_may_be_lists_of_equals() {
    let shape = |model: Model| {
        let spec = model.spec;
        let experts = spec.experts.map(|experts| (experts.n_active, experts.intermediate_size));
        (spec.n_heads, spec.n_kv_heads, spec.intermediate_size, experts)
    };
    let of = |architecture: &str, lists: bool| {
        let value = |n: u32| if lists { json!([n, n]) } else { json!(n) };
        let settings = [
            (".block_count", json!(2)),
            (".attention.head_count", value(4)),
            (".attention.head_count_kv", value(2)),
            (".feed_forward_length", value(48)),
        ];
        let width = (".expert_feed_forward_length", value(32));
        let experts = [(".expert_count", json!(4)), (".expert_used_count", value(2)), width];
        let experts = experts.into_iter().filter(|_| architecture == "qwen3moe");
        let all: Vec<(&str, Value)> = settings.into_iter().chain(experts).collect();
        shape(open(architecture, &all).unwrap_or_else(|error| panic!("{error}")))
    };
    for architecture in ["llama", "qwen3moe"] {
        assert_eq!(of(architecture, true), of(architecture, false));
    }
    for (key, list) in [
        (".attention.head_count", json!([4, 2])),
        (".attention.head_count_kv", json!([4, 0])),
        (".feed_forward_length", json!([0, 0])),
    ] {
        let told = format!("`llama{key}` is {list}");
        assert_error(open("llama", &[(".block_count", json!(2)), (key, list)]), &[&told, "the same for all layers"]);
    }
}

#[test]
fn models_that_see_later_tokens_are_refused() {
    assert!(open("llama", &[(".attention.causal", json!(true))]).is_ok());
    assert_error(open("llama", &[(".attention.causal", json!(false))]), &["`llama.attention.causal` is false"]);
}

#[test]
fn shares_of_experts_are_those_of_a_softmax() {
    let gated = |kind: u32| {
        let experts = [(".expert_count", json!(4)), (".expert_used_count", json!(2))];
        let all: Vec<_> = experts.into_iter().chain([(".expert_gating_func", json!(kind))]).collect();
        open("llama", &all)
    };
    assert!(gated(0).is_ok() && gated(1).is_ok());
    assert_error(gated(2), &["`llama.expert_gating_func` is 2", "a softmax"]);
}

#[test]
fn errors_of_a_tokenizer_name_the_file() {
    let load = |more: &[(&str, Value)]| {
        let model = open("llama", more).unwrap_or_else(|error| panic!("{error}"));
        let error = Tokenizer::load(&model.files, &[]).map(drop).expect_err("no tokenizer").to_string();
        assert!(error.contains("model.gguf: ") && !error.contains("tokenizer.json"), "{error}");
        error
    };
    assert!(load(&[]).contains("holds no tokenizer"));
    // A merge of what is no token.
    let merges = [("tokenizer.ggml.model", json!("gpt2")), ("tokenizer.ggml.merges", json!(["x y"]))];
    let error = load(&merges);
    assert!(error.contains("`tokenizer.ggml.*`") && error.contains("convert the model again"), "{error}");
}

/// Where words end: every part of the text is a token that any two parts merge to, so a word is one token.
#[test]
fn words_are_cut_as_their_names_say() {
    let letter = |byte: u8| match byte {
        b'\n' => 'Ċ',
        b' ' => 'Ġ',
        byte => char::from(byte),
    };
    let text = "ab 12345 c1;\n\n  d";
    let letters: Vec<char> = text.bytes().map(letter).collect();
    let part = |from: usize, to: usize| letters[from..to].iter().collect::<String>();
    let mut tokens: Vec<String> = letters.iter().map(|letter| letter.to_string()).collect();
    let mut merges = Vec::new();
    for n in 2..=letters.len() {
        for from in 0..=letters.len() - n {
            tokens.push(part(from, from + n));
            merges.extend((1..n).map(|at| format!("{} {}", part(from, from + at), part(from + at, from + n))));
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    tokens.retain(|token| seen.insert(token.clone()));
    let cut = |pre: Option<&str>| {
        let lists = [("tokenizer.ggml.tokens", json!(tokens)), ("tokenizer.ggml.merges", json!(merges))];
        let name = pre.map(|pre| ("tokenizer.ggml.pre", json!(pre)));
        let model = ("tokenizer.ggml.model", json!("gpt2"));
        let all: Vec<(&str, Value)> = lists.into_iter().chain(name).chain([model]).collect();
        let model = open("llama", &all)?;
        let tokenizer = Tokenizer::load(&model.files, &[])?;
        let ids = tokenizer.encode(text, false)?;
        Ok(ids.into_iter().map(|id| tokenizer.token(id).expect("a token")).collect::<Vec<_>>().join("|"))
    };
    for (names, expected) in [
        (&[None, Some("default")][..], "ab|Ġ|123|45|Ġc|1|;|ĊĊĠ|Ġd"),
        (&[Some("gpt-2"), Some("a.x-4.0")], "ab|Ġ12345|Ġc|1|;|ĊĊĠ|Ġd"),
        (&[Some("smollm"), Some("minerva-7b")], "ab|Ġ|1|2|3|4|5|Ġc|1|;|ĊĊĠ|Ġd"),
        (
            &[Some("llama-bpe"), Some("falcon3"), Some("pixtral"), Some("midm-2.0"), Some("smaug-bpe")],
            "ab|Ġ|123|45|Ġc|1|;ĊĊ|Ġ|Ġd",
        ),
        (&[Some("qwen2"), Some("kormo")], "ab|Ġ|1|2|3|4|5|Ġc|1|;ĊĊ|Ġ|Ġd"),
        (&[Some("seed-coder")], "ab|Ġ|1|2|3|4|5|Ġc|1|;|ĊĊ|Ġ|Ġd"),
        (&[Some("deepseek-llm")], "ab|Ġ|12345|Ġc|1|;|Ċ|Ċ|Ġ|Ġd"),
        (&[Some("deepseek-coder")], "ab|Ġ|1|2|3|4|5|Ġc|1|;|Ċ|Ċ|Ġ|Ġd"),
    ] {
        for name in names {
            assert_eq!(cut(*name).unwrap_or_else(|error: Error| panic!("{error}")), expected, "{name:?}");
        }
    }
    assert_error(cut(Some("gemma4")), &["model.gguf", "`gemma4`", "llama-bpe", "tokenizer.json"]);
}
