//! Configurations, tokenizers and chat templates that are wrong.

use crate::{assert_error, config};
use ingot_models::Error;
use ingot_models::Files;
use ingot_models::config::{LayerQuant, ModelSpec, Quant};
use ingot_models::formats::affine::QuantShape;
use ingot_models::formats::small_float::SmallFloat;
use ingot_models::text::chat_template::{ChatOptions, ChatTemplate};
use ingot_models::text::tokenizer::{SpecialTokens, Tokenizer};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::tempdir;

/// Results that would fill the memory are refused before they exist.
#[test]
fn templates_cannot_ask_for_all_memory() {
    for text in [
        "{% set x = 'a' * 1000000 %}{{ x.replace('a', x) }}",
        "{% set x = 'a' * 1000000 %}{{ x.replace('', x) }}",
        "{% set x = 'a' * 1000000 %}{{ x.join(x) }}",
        "{{ '{:>1000000000000}'.format(1) }}",
        "{{ [1, 2, 3] | tojson(separators=('x' * 1000000, ':')) }}",
        "{{ [1, 2, 3] | tojson(indent='x' * 1000000) }}",
    ] {
        let rendered = ChatTemplate::new(text, SpecialTokens::new()).render(&json!([]), &ChatOptions::default());
        assert!(rendered.is_err(), "{text}");
    }
    let fine = "{{ 'a-b'.replace('-', '+') }} {{ ', '.join(['x', 'y']) }} {{ '{:>4}'.format(1) }}";
    let rendered = ChatTemplate::new(fine, SpecialTokens::new()).render(&json!([]), &ChatOptions::default());
    assert_eq!(rendered.expect("small texts are fine"), "a+b x, y    1");
}

fn parse(change: Value) -> Result<ModelSpec, Error> {
    let mut config = config();
    for (name, value) in change.as_object().expect("an object") {
        config[name] = value.clone();
    }
    ModelSpec::parse(Path::new("config.json"), &config)
}

#[test]
fn fields_absent_or_absurd() {
    let spec = parse(json!({})).expect("right");
    assert_eq!((spec.head_dim, spec.eos_ids.as_slice(), spec.bos_id), (16, &[2][..], Some(1)));
    for name in ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"] {
        for absurd in [
            json!(0),
            json!(-1),
            json!(1.5),
            json!("64"),
            json!(4_294_967_296u64),
            json!(1e300),
            json!([]),
            json!(null),
        ] {
            let found = if absurd.is_null() { "absent".into() } else { absurd.to_string() };
            assert_error(parse(json!({name: absurd})), &["config.json", name, &found, "must be"]);
        }
    }
    for absurd in [json!(0), json!(-1e-5), json!("1e-5"), json!(2), json!(null)] {
        assert_error(parse(json!({"rms_norm_eps": absurd})), &["rms_norm_eps", "above 0"]);
    }
    assert_error(
        parse(json!({"num_key_value_heads": 3})),
        &["num_key_value_heads", "3", "divisor of num_attention_heads = 4"],
    );
    assert_error(parse(json!({"num_key_value_heads": 8})), &["num_key_value_heads", "from 1 to 4"]);
    assert_error(
        parse(json!({"num_attention_heads": 5, "num_key_value_heads": 5})),
        &["num_attention_heads", "hidden_size = 64"],
    );
    assert_error(parse(json!({"head_dim": 33})), &["head_dim", "33", "even"]);
    assert_error(parse(json!({"head_dim": 0})), &["head_dim"]);
    assert_error(parse(json!({"max_position_embeddings": 0})), &["max_position_embeddings"]);
    assert_error(parse(json!({"attention_bias": "no"})), &["attention_bias", "true or false"]);
    assert_error(parse(json!({"hidden_act": "relu"})), &["hidden_act", "relu", "silu"]);
    assert_error(parse(json!({"eos_token_id": -1})), &["eos_token_id", "token id"]);
    assert_error(parse(json!({"eos_token_id": [1, "x"]})), &["eos_token_id"]);
    assert_error(parse(json!({"layer_types": ["sliding_attention"]})), &["layer_types", "full_attention"]);
    assert_error(ModelSpec::parse(Path::new("config.json"), &json!([])), &["config.json", "not a JSON object"]);
    let long = "x".repeat(10_000);
    assert!(parse(json!({"hidden_act": long})).expect_err("wrong").to_string().len() < 300, "a value is shortened");
}

#[test]
fn architectures() {
    assert_error(parse(json!({"model_type": "mamba"})), &["architecture `mamba` is not known", "llama"]);
    assert_error(
        parse(json!({"model_type": null, "architectures": ["GPT2LMHeadModel"]})),
        &["GPT2LMHeadModel", "llama"],
    );
    assert_error(parse(json!({"model_type": null})), &["model_type", "absent", "llama"]);
    parse(json!({"model_type": null, "architectures": ["LlamaForCausalLM"]})).expect("the class is enough");
}

#[test]
fn rotary_positions() {
    let scaling = |scaling: Value| parse(json!({"rope_scaling": scaling}));
    assert_error(scaling(json!({"type": "longrope", "factor": 4.0})), &["rope_scaling.type", "longrope", "yarn"]);
    assert_error(scaling(json!({"type": "yarn"})), &["rope_scaling.factor", "absent"]);
    assert_error(
        scaling(json!({"type": "yarn", "factor": 2, "beta_fast": 1})),
        &["rope_scaling.beta_fast", "beta_slow"],
    );
    assert_error(
        parse(json!({"rope_theta": 1, "rope_scaling": {"type": "yarn", "factor": 2}})),
        &["rope_theta", "greater than 1"],
    );
    assert_error(scaling(json!({"rope_type": "linear"})), &["rope_scaling.factor", "absent"]);
    assert_error(scaling(json!({"rope_type": "linear", "factor": 0})), &["rope_scaling.factor", "0"]);
    assert_error(scaling(json!({"factor": 2})), &["rope_scaling.rope_type", "absent"]);
    assert_error(scaling(json!("linear")), &["rope_scaling", "an object"]);
    let llama3 = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4, "original_max_position_embeddings": 32});
    assert_error(scaling(llama3.clone()), &["high_freq_factor", "greater than low_freq_factor = 4"]);
    let mut llama3 = llama3;
    llama3["low_freq_factor"] = 1.into();
    llama3["original_max_position_embeddings"] = 0.into();
    assert_error(scaling(llama3), &["rope_scaling.original_max_position_embeddings", "0"]);
    assert_error(parse(json!({"rope_theta": 0})), &["rope_theta"]);
    assert_error(
        parse(json!({"rope_parameters": {"rope_theta": -1, "rope_type": "default"}})),
        &["rope_parameters.rope_theta"],
    );
    assert_error(parse(json!({"partial_rotary_factor": 0.5})), &["partial_rotary_factor", "0.5"]);
}

#[test]
fn quantization_settings() {
    let quantization =
        |object: Value| parse(json!({"quantization": object})).map(|spec| spec.quantization.expect("there is one"));
    assert_error(quantization(json!({"bits": 4})), &["quantization.group_size", "absent", "[32, 64, 128]"]);
    assert_error(quantization(json!({"bits": 7, "group_size": 64})), &["quantization.bits", "7"]);
    assert_error(
        quantization(json!({"bits": 4, "group_size": 32, "mode": "mxfp3"})),
        &["quantization.mode", "mxfp3", "nvfp4"],
    );
    assert_error(
        quantization(json!({"bits": 8, "group_size": 32, "mode": "mxfp4"})),
        &["quantization.bits", "8", "[4]"],
    );
    let layer = json!({"bits": 4, "group_size": 64, "a.b": {"mode": "nvfp4", "group_size": 32}});
    assert_error(quantization(layer), &["quantization.a.b.group_size", "32", "[16]"]);
    assert_error(
        parse(json!({"quantization_config": {"quant_method": "bitsandbytes", "bits": 4}})),
        &["bitsandbytes", "not supported"],
    );
    let map =
        quantization(json!({"bits": 4, "group_size": 64, "a": false, "b": {"bits": 8}, "c": true})).expect("right");
    assert_eq!(map.overrides["a"], LayerQuant::Float);
    assert_eq!(map.overrides["c"], LayerQuant::Quantized(map.default));
    let affine = |bits, group| LayerQuant::Quantized(Quant::Affine(QuantShape { bits, group }));
    assert_eq!(map.overrides["b"], affine(8, 64));
    // An object without a mode is affine whatever the file's mode.
    let router = json!({"group_size": 64, "bits": 8});
    let mixed = json!({"bits": 4, "group_size": 32, "mode": "mxfp4", "a": router, "b": {"mode": "nvfp4"}, "c": {}});
    let map = quantization(mixed).expect("right");
    assert_eq!(map.default, Quant::SmallFloat(SmallFloat::Mxfp4));
    assert_eq!((map.overrides["a"], map.overrides["c"]), (affine(8, 64), affine(4, 64)));
    assert_eq!(map.overrides["b"], LayerQuant::Quantized(Quant::SmallFloat(SmallFloat::Nvfp4)));
}

#[test]
fn files_of_a_folder() {
    let folder = tempdir().expect("a temporary folder can be made");
    let put = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a temporary file can be written")
    };
    assert_error(ModelSpec::load(folder.path()), &["config.json", "no such file"]);
    put("config.json", "{ not json");
    assert_error(ModelSpec::load(folder.path()), &["config.json", "not valid JSON"]);
    put("config.json", &config().to_string());
    put("generation_config.json", r#"{"eos_token_id": [7, 2]}"#);
    assert_eq!(ModelSpec::load(folder.path()).expect("right").eos_ids, [2, 7]);
    put("generation_config.json", r#"{"eos_token_id": "x"}"#);
    assert_error(ModelSpec::load(folder.path()), &["generation_config.json", "eos_token_id"]);

    assert_error(Tokenizer::load(&Files::folder(folder.path()), &[]), &["tokenizer.json", "no such file"]);
    put("tokenizer.json", "{}");
    assert_error(Tokenizer::load(&Files::folder(folder.path()), &[]), &["tokenizer.json", "not a tokenizer"]);
    put("tokenizer.json", "\u{0}");
    assert_error(Tokenizer::load(&Files::folder(folder.path()), &[]), &["tokenizer.json", "not a tokenizer"]);

    assert!(ChatTemplate::load(&Files::folder(folder.path())).expect("no template is right").is_none());
    put("tokenizer_config.json", r#"{"chat_template": 3}"#);
    assert_error(ChatTemplate::load(&Files::folder(folder.path())), &["tokenizer_config.json", "chat_template"]);
    put(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<s>"}, "chat_template": [{"name": "default", "template": "{{ bos_token }}d"}, {"name": "tool_use", "template": "t"}]}"#,
    );
    let template = ChatTemplate::load(&Files::folder(folder.path())).expect("right").expect("there is one");
    assert_eq!(template.render(&json!([]), &ChatOptions::default()).expect("renders"), "<s>d");
    let options = ChatOptions { tools: Some(json!([{}])), ..ChatOptions::default() };
    assert_eq!(template.render(&json!([]), &options).expect("renders"), "t");
    put("chat_template.jinja", "file");
    let template = ChatTemplate::load(&Files::folder(folder.path())).expect("right").expect("there is one");
    assert_eq!(template.render(&json!([]), &options).expect("renders"), "file");
}

fn render(template: &str) -> Result<String, Error> {
    ChatTemplate::new(template, SpecialTokens::new())
        .render(&json!([{"role": "user", "content": "<é'>"}]), &ChatOptions::default())
}

#[test]
fn templates() {
    assert_error(render("{% if %}"), &["chat template"]);
    assert_error(render("{{ raise_exception('not like this') }}"), &["not like this"]);
    assert_error(render("{% include 'config.json' %}"), &["chat template"]);
    assert_eq!(render("{{ messages[0] | tojson }}").expect("renders"), r#"{"role": "user", "content": "<é'>"}"#);
    let indented = render("{{ [1, {'b': 1.0, 'a': none}] | tojson(indent=2, sort_keys=true) }}").expect("renders");
    assert_eq!(indented, "[\n  1,\n  {\n    \"a\": null,\n    \"b\": 1.0\n  }\n]");
    assert_eq!(
        render("{{ [] | tojson(indent=2) }}{{ 'é' | tojson(ensure_ascii=true) }}").expect("renders"),
        r#"[]"\u00e9""#
    );
    assert_eq!(render("a{% generation %}b{%- endgeneration -%} c").expect("renders"), "abc");
    assert_eq!(
        render("{% for i in range(5) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}").expect("renders"),
        "01"
    );
    assert_eq!(render("{{ true }}{{ none }}{{ [1, 'a'] }}").expect("renders"), "TrueNone[1, 'a']");
}

#[test]
fn hostile_templates_end() {
    let nest = "{% set x = namespace(t=[]) %}{% for b in range(3) %}{% for a in range(100000) %}{% set x.t = [x.t] %}{% endfor %}{% endfor %}";
    let failing = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".into(),
        "{% set x = namespace(t='aaaaaaaaaaaaaaaa') %}{% for a in range(60) %}{% set x.t = x.t + x.t %}{% endfor %}"
            .into(),
        "{{ 'aaaaaaaaaaaaaaaa' * 1000000000000 }}".into(),
        "{{ 'aaaaaaaaaaaaaaaa' * 100000000 }}".into(),
        format!("{nest}{{{{ x.t | tojson }}}}"),
        "{% if a %}".repeat(6_000),
        "{{".to_owned() + &"[".repeat(60_000),
        "x".repeat(2 << 20),
    ];
    for template in failing {
        let begin = Instant::now();
        assert_error(render(&template), &["chat template"]);
        assert!(begin.elapsed() < Duration::from_secs(20), "{} took {:?}", &template[..60], begin.elapsed());
    }
    // Whether these render is not the point: they must end, and not overflow the stack.
    let deep = ["-", "+1", " or a", "|list", "[0]", " not "];
    let deep = deep.map(|unit| format!("{{{{ a{}1 }}}}", unit.repeat((60_000 / unit.len()).min(8000))));
    let nested = ["{{ x.t }}", "{{ x.t == x.t }}"].map(|end| nest.to_owned() + end);
    for template in deep.iter().chain(&nested) {
        let begin = Instant::now();
        let _ = render(template);
        assert!(begin.elapsed() < Duration::from_secs(20), "{} took {:?}", &template[..60], begin.elapsed());
    }
    assert_error(render(&format!("{{{{ a{} }}}}", "+1".repeat(10_000))), &["10000 operators"]);
}
