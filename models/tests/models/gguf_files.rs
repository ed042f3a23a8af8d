//! GGUF files as other programs write them, made here: what a converter may say, and files in parts.

use crate::gguf_out::to_gguf;
use crate::{assert_error, golden};
use ingot_models::Model;
use ingot_models::convert::{ConvertOptions, GgufType, convert, convert_gguf};
use ingot_models::formats::gguf::{Gguf, GgufTensor};
use ingot_models::text::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::path::Path;

/// A tensor: name, type's number, sizes (slowest first), bytes.
pub(crate) type Tensor<'a> = (&'a str, u32, &'a [usize], &'a [u8]);

fn push_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A value without its type: whole numbers have 32 bits.
fn push_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::String(text) => push_text(text, out),
        Value::Bool(yes) => out.push(u8::from(*yes)),
        Value::Array(list) => {
            let kind = list.first().map_or(8, kind);
            out.extend(kind.to_le_bytes());
            out.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|value| push_value(value, out));
        }
        number => match number.as_i64() {
            Some(whole) => out.extend((whole as i32).to_le_bytes()),
            None => out.extend((number.as_f64().expect("a number") as f32).to_le_bytes()),
        },
    }
}

fn kind(value: &Value) -> u32 {
    match value {
        Value::String(_) => 8,
        Value::Bool(_) => 7,
        Value::Array(_) => 9,
        number => {
            if number.is_i64() {
                5
            } else {
                6
            }
        }
    }
}

pub(crate) fn write(path: &Path, settings: &[(&str, Value)], tensors: &[Tensor<'_>]) {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((settings.len() as u64).to_le_bytes());
    for (key, value) in settings {
        push_text(key, &mut out);
        out.extend(kind(value).to_le_bytes());
        push_value(value, &mut out);
    }
    let mut at = 0u64;
    for (name, kind, shape, bytes) in tensors {
        push_text(name, &mut out);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|size| out.extend((*size as u64).to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(at.to_le_bytes());
        at = (at + bytes.len() as u64).next_multiple_of(32);
    }
    for (_, _, _, bytes) in tensors {
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend_from_slice(bytes);
    }
    std::fs::write(path, out).expect("a temporary file");
}

/// A model as a file of a type.
fn file_of(source: &Path, to: &Path, kind: &str) -> Gguf {
    to_gguf(source, to, GgufType::parse(kind).expect("a type"))
}

/// Writes a file once more, with other settings and tensors.
fn rewrite(from: &Gguf, path: &Path, changed: &[(&str, Value)], tensors: &[Tensor<'_>]) {
    let own = from.metadata().iter().map(|(key, value)| (key.as_str(), value.clone()));
    let own = own.filter(|(key, _)| changed.iter().all(|(other, _)| other != key));
    let settings: Vec<(&str, Value)> = own.chain(changed.iter().cloned()).collect();
    write(path, &settings, tensors);
}

/// A tensor of a file under another name, with other sizes and bytes.
fn renamed<'a>(file: &Gguf, name: &'a str, like: &str, shape: &'a [usize], bytes: &'a [u8]) -> Tensor<'a> {
    (name, kind_of(file.tensors().iter().find(|tensor| tensor.name == like).expect("listed")), shape, bytes)
}

fn kind_of(tensor: &GgufTensor) -> u32 {
    match tensor.stored.name() {
        "F32" => 0,
        "F16" => 1,
        "Q4_0" => 2,
        "Q8_0" => 8,
        other => panic!("{other} is written nowhere here"),
    }
}

fn as_it_is<'a>(file: &'a Gguf, tensor: &'a GgufTensor) -> Tensor<'a> {
    (&tensor.name, kind_of(tensor), &tensor.shape, file.bytes(tensor))
}

/// All numbers and names of a model: its weights in an MLX folder.
fn weights(file: &Path, folder: &Path) -> Vec<u8> {
    let out = folder.join(file.file_stem().expect("a name"));
    let options = ConvertOptions { repack: true, ..ConvertOptions::default() };
    convert(file, &out, &options, &mut |_, _| true).unwrap_or_else(|error| panic!("{error}"));
    std::fs::read(out.join("model.safetensors")).expect("weights")
}

/// What llama.cpp's converter writes with `--fuse-qkv`.
#[test]
fn queries_keys_and_values_may_be_one_tensor() {
    let folder = tempfile::tempdir().expect("a folder");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("ingot-tales-1m");
    let sources =
        [(Some(shipped), "q8_0"), (golden("qwen2"), "f32"), (golden("qwen3"), "f16"), (golden("llama"), "f32")];
    for (ix, (source, kind)) in sources.into_iter().enumerate() {
        let Some(source) = source else { continue };
        let [plain, fused] = ["plain", "fused"].map(|name| folder.path().join(format!("{name}-{ix}.gguf")));
        let file = file_of(&source, &plain, kind);
        let mut joined: Vec<(String, String, Vec<usize>, Vec<u8>)> = Vec::new();
        let mut others = Vec::new();
        for tensor in file.tensors() {
            let name = &tensor.name;
            match ["attn_q.", "attn_k.", "attn_v."].iter().find(|part| name.contains(**part)) {
                None => others.push(as_it_is(&file, tensor)),
                Some(part) => {
                    let whole = name.replace(part, "attn_qkv.");
                    match joined.iter_mut().find(|(name, ..)| *name == whole) {
                        None => joined.push((whole, name.clone(), tensor.shape.clone(), file.bytes(tensor).to_vec())),
                        Some((_, _, shape, bytes)) => {
                            shape[0] += tensor.shape[0];
                            bytes.extend(file.bytes(tensor));
                        }
                    }
                }
            }
        }
        let mut tensors = others;
        tensors.extend(joined.iter().map(|(name, like, shape, bytes)| renamed(&file, name, like, shape, bytes)));
        assert!(tensors.len() < file.tensors().len());
        rewrite(&file, &fused, &[], &tensors);
        assert!(weights(&plain, folder.path()) == weights(&fused, folder.path()), "{}", source.display());
        if source.ends_with("llama") {
            let queries = file.tensors().iter().find(|tensor| tensor.name == "blk.0.attn_q.weight").expect("listed");
            let twice: Vec<_> = tensors.iter().copied().chain([as_it_is(&file, queries)]).collect();
            rewrite(&file, &fused, &[], &twice);
            assert_error(Model::open(&fused), &["tensor `blk.0.attn_q.weight`: stands twice"]);
            rewrite(&file, &fused, &[("llama.attention.head_count_kv", json!(1))], &tensors);
            assert_error(Model::open(&fused), &["attn_qkv.weight", "256 rows for 6 heads of 32"]);
        }
    }
}

/// Mixtral's first files have a tensor an expert.
#[test]
fn experts_may_be_single_tensors() {
    let Some(source) = golden("mixtral") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let [stacks, single] = ["stacks.gguf", "single.gguf"].map(|name| folder.path().join(name));
    let file = file_of(&source, &stacks, "q8_0");
    let (mut tensors, mut names) = (Vec::new(), Vec::new());
    for tensor in file.tensors() {
        match tensor.name.strip_suffix("_exps.weight") {
            None => tensors.push(as_it_is(&file, tensor)),
            Some(stem) => names.extend((0..tensor.shape[0]).map(|expert| (format!("{stem}.{expert}.weight"), tensor))),
        }
    }
    for (ix, (name, stack)) in names.iter().enumerate() {
        let n_experts = stack.shape[0];
        let n_bytes = file.bytes(stack).len() / n_experts;
        let own = &file.bytes(stack)[ix % n_experts * n_bytes..][..n_bytes];
        tensors.push(renamed(&file, name, &stack.name, &stack.shape[1..], own));
    }
    rewrite(&file, &single, &[], &tensors);
    assert!(weights(&stacks, folder.path()) == weights(&single, folder.path()));
    // A missing one is told as the file would have it.
    let graph = |tensors: &[Tensor<'_>]| {
        let broken = folder.path().join("broken.gguf");
        rewrite(&file, &broken, &[], tensors);
        Model::open(&broken).expect("opens").graph()
    };
    let without = |name: &str| tensors.iter().filter(|tensor| !tensor.0.contains(name)).copied().collect::<Vec<_>>();
    assert_error(graph(&without("blk.1.ffn_up.2.")), &["tensor `blk.1.ffn_up.2.weight` is missing"]);
    assert_error(graph(&without("blk.0.ffn_gate.")), &["tensor `blk.0.ffn_gate_exps.weight` is missing"]);
}

/// A file's way to cut words goes along, whatever it is.
#[test]
fn files_of_files_keep_their_pre_tokenizer() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("ingot-tales-1m");
    let [plain, other, again] = ["plain.gguf", "other.gguf", "again.gguf"].map(|name| folder.path().join(name));
    let file = file_of(&source, &plain, "f16");
    let tensors: Vec<Tensor<'_>> = file.tensors().iter().map(|tensor| as_it_is(&file, tensor)).collect();
    for pre in ["default", "gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2", "tekken", "deepseek-llm", "seed-coder"]
    {
        rewrite(&file, &other, &[("tokenizer.ggml.pre", json!(pre))], &tensors);
        assert_eq!(file_of(&other, &again, "q8_0").metadata()["tokenizer.ggml.pre"], json!(pre));
        std::fs::remove_file(&again).expect("removed");
    }
}

/// The parts that `llama-gguf-split` makes: settings in the first, tensors in all.
#[test]
fn parts_are_one_model() {
    let Some(file) = golden("gguf/llama-q4_0.gguf") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let whole = Gguf::open(&file).expect("opens");
    let parts = [1, 2, 3].map(|ix| folder.path().join(format!("llama-q4_0-{ix:05}-of-00003.gguf")));
    let tensors: Vec<Tensor<'_>> = whole
        .tensors()
        .iter()
        .map(|tensor| {
            let kind = if tensor.stored.name() == "F32" { 0 } else { 2 };
            (&*tensor.name, kind, &*tensor.shape, whole.bytes(tensor))
        })
        .collect();
    let per_part = tensors.len().div_ceil(3);
    for ((ix, path), tensors) in parts.iter().enumerate().zip(tensors.chunks(per_part)) {
        let split = [("split.no", ix), ("split.count", 3), ("split.tensors.count", whole.tensors().len())];
        let mut settings: Vec<(&str, Value)> = split.into_iter().map(|(key, n)| (key, n.into())).collect();
        if ix == 0 {
            settings.extend(whole.metadata().iter().map(|(key, value)| (key.as_str(), value.clone())));
        }
        write(path, &settings, tensors);
    }
    let expected = Model::open(&file).expect("opens");
    for part in &parts {
        let found = Model::open(part).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(found.graph().expect("a graph").to_string(), expected.graph().expect("a graph").to_string());
        let path = "model.layers.1.mlp.down_proj";
        let of = |model: &Model| {
            let matrix = model.weights().matrix(path, 128, 128).expect("a matrix");
            let mut row = vec![0.0; 128];
            matrix.read_row(77, &mut row);
            row
        };
        assert_eq!(of(&found), of(&expected));
        assert_eq!(found.checkpoint.paths().collect::<Vec<_>>(), parts.iter().collect::<Vec<_>>());
        assert!(Tokenizer::load(&found.files, &[]).is_ok());
    }
    std::fs::remove_file(&parts[1]).expect("removed");
    assert_error(Model::open(&parts[0]), &["llama-q4_0-00002-of-00003.gguf"]);
    let renamed = folder.path().join("model.gguf");
    std::fs::rename(&parts[0], &renamed).expect("renamed");
    assert_error(Model::open(&renamed), &["one of 3 parts", "-00001-of-00003.gguf"]);
}

/// Pieces of more than a character, with scores in another order than their lengths.
const PIECES: [(&str, f64); 14] = [
    ("he", -1.0),
    ("▁t", -2.0),
    ("at", -3.0),
    ("▁th", -4.5),
    ("th", -5.0),
    ("▁the", -5.5),
    ("▁a", -6.0),
    ("ca", -7.0),
    ("cat", -8.0),
    ("▁cat", -9.0),
    ("▁c", -10.0),
    ("hat", -11.0),
    ("▁▁", -12.0),
    ("ea", -13.0),
];

/// What SentencePiece makes of a text: again and again the neighbours whose piece has the greatest score become one.
fn sentence_piece(text: &str, ids: &dyn Fn(&str) -> Option<u32>) -> Vec<u32> {
    let text = format!("▁{}", text.replace(' ', "▁"));
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    let score = |pair: &[String]| PIECES.iter().find(|(piece, _)| *piece == pair.concat()).map(|(_, score)| *score);
    loop {
        let scored = parts.windows(2).enumerate().filter_map(|(ix, pair)| Some((ix, score(pair)?)));
        // Of equals the first.
        let best = scored.fold(None, |best: Option<(usize, f64)>, found| match best {
            Some(best) if best.1 >= found.1 => Some(best),
            _ => Some(found),
        });
        let Some((ix, _)) = best else { break };
        let right = parts.remove(ix + 1);
        parts[ix] += &right;
    }
    let bytes = |part: &str| part.bytes().map(|byte| ids(&format!("<0x{byte:02X}>")).expect("a byte")).collect();
    parts.iter().flat_map(|part| ids(part).map_or_else(|| bytes(part), |id| vec![id])).collect()
}

#[test]
fn sentence_piece_goes_in_and_out() {
    let (Some(weights), folder) = (golden("llama"), tempfile::tempdir().expect("a folder")) else { return };
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    let mut kinds = vec![2, 3, 3];
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    kinds.extend([6; 256]);
    let mut scores = vec![0.0; tokens.len()];
    tokens.extend(["▁", "t", "h", "e", "a", "c"].map(String::from));
    scores.extend([-100.0; 6]);
    tokens.extend(PIECES.map(|(piece, _)| piece.to_owned()));
    scores.extend(PIECES.map(|(_, score)| score));
    kinds.resize(tokens.len(), 1);
    let ids = |token: &str| tokens.iter().position(|own| own == token).map(|id| id as u32);
    let shape = [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", 32),
        ("feed_forward_length", 32),
        ("attention.head_count", 1),
    ];
    let shape = shape.map(|(key, n)| (format!("llama.{key}"), n));
    let mut settings: Vec<(&str, Value)> = shape.iter().map(|(key, n)| (&**key, json!(n))).collect();
    settings.extend([
        ("general.architecture", json!("llama")),
        ("tokenizer.ggml.model", json!("llama")),
        ("tokenizer.ggml.tokens", json!(tokens)),
        // One is no whole number, so that the list is one of floats.
        ("tokenizer.ggml.scores", json!(scores.iter().map(|score| score + 0.25).collect::<Vec<f64>>())),
        ("tokenizer.ggml.token_type", json!(kinds)),
        ("tokenizer.ggml.bos_token_id", json!(1)),
        ("tokenizer.ggml.eos_token_id", json!(2)),
        ("tokenizer.ggml.unknown_token_id", json!(0)),
    ]);
    let file = folder.path().join("spm.gguf");
    write(&file, &settings, &[]);
    // The usual ids are those of files that tell none, or some beyond the vocabulary.
    for told in [None, Some(70_000)] {
        let roles = ["bos", "eos", "unknown"].map(|role| format!("tokenizer.ggml.{role}_token_id"));
        let mut silent = settings.clone();
        silent.retain(|(key, _)| roles.iter().all(|role| key != role));
        silent.extend(roles.iter().filter_map(|role| Some((&**role, json!(told?)))));
        let path = folder.path().join("silent.gguf");
        write(&path, &silent, &[]);
        let model = Model::open(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((model.spec.bos_id, &model.spec.eos_ids[..]), (Some(1), &[2][..]));
        let tokenizer = Tokenizer::load(&model.files, &[]).expect("a tokenizer");
        assert_eq!(tokenizer.encode("the", true).expect("encodes"), [1, ids("▁the").expect("a piece")]);
        assert_eq!(tokenizer.special_tokens()["unk_token"], "<unk>");
        // Ordinary text has no role.
        let kinds = silent.iter_mut().find(|(key, _)| key.ends_with("token_type")).expect("listed");
        kinds.1[1] = json!(1);
        kinds.1[2] = json!(1);
        write(&path, &silent, &[]);
        let spec = Model::open(&path).unwrap_or_else(|error| panic!("{error}")).spec;
        assert_eq!((spec.bos_id, &spec.eos_ids[..]), (None, &[][..]));
    }
    let model = Model::open(&file).unwrap_or_else(|error| panic!("{error}"));
    let check = |model: &Model| {
        let tokenizer = Tokenizer::load(&model.files, &[]).expect("a tokenizer");
        for text in ["the cat", "that hat", "ca the  at", "théa", "t", "cathe heat", "💧 a"] {
            let found = tokenizer.encode(text, false).expect("encodes");
            assert_eq!(found, sentence_piece(text, &ids), "{text:?}");
            assert_eq!(tokenizer.decode(&found, true).expect("decodes"), text);
        }
        // The begin token comes before a text unless the file says otherwise.
        assert_eq!(tokenizer.encode("t", true).expect("encodes")[0], 1);
        assert_eq!(tokenizer.encode("</s>t", false).expect("encodes")[0], 2);
    };
    check(&model);
    // And through a folder into a file of our own.
    let source = folder.path().join("folder");
    std::fs::create_dir(&source).expect("a folder");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(weights.join(name), source.join(name)).expect("a copy");
    }
    for (name, bytes) in model.files.read_all().expect("readable") {
        if name != "config.json" {
            std::fs::write(source.join(name), bytes).expect("a file");
        }
    }
    let own = folder.path().join("own.gguf");
    let f16 = GgufType::parse("f16").expect("a type");
    convert_gguf(&source, &own, f16, &mut |_, _| true).unwrap_or_else(|error| panic!("{error}"));
    check(&Model::open(&own).expect("opens"));
    let settings = Gguf::open(&own).expect("opens");
    let setting = |key: &str| settings.metadata().get(&format!("tokenizer.ggml.{key}")).cloned();
    assert_eq!(setting("add_bos_token"), Some(json!(true)));
    assert_eq!(setting("add_space_prefix"), Some(json!(true)));
    let kinds = setting("token_type").expect("kinds");
    let first: Vec<Option<u64>> = (0..6).map(|ix| kinds[ix].as_u64()).collect();
    assert_eq!(first, [2, 3, 3, 6, 6, 6].map(Some));
}
