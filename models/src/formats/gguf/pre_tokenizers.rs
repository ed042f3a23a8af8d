//! How texts are cut into words before pairs are merged, by the names that files use. What each means is what llama.cpp
//! does (`llama-vocab.cpp`), in the words of `tokenizer.json`: step after step cuts the pieces that are left.

use serde_json::{Value, json};

/// Llama 3's words.
pub(super) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Those of Qwen 2: each digit by itself.
pub(super) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Those of Mistral's tekken.
pub(super) const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Those of GPT-2, for steps that others follow.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
/// Those of Seed-Coder: line ends are no part of a word of signs.
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
/// What files without a name are cut by, in this order.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];
/// DeepSeek LLM's words: line ends, letters of scripts with cases, signs, blanks at the end, Chinese and Korean, digits.
const DEEPSEEK_LLM: [&str; 6] = [
    r"[\r\n]",
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    r"[一-龥ࠀ-一가-퟿]+",
    r"\p{N}+",
];
/// Those of DeepSeek Coder.
const DEEPSEEK_CODER: [&str; 5] = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"];

/// The kinds.
#[derive(Clone, Copy)]
enum Kind {
    Default,
    Gpt2,
    Digits,
    Llama3,
    Smaug,
    Qwen2,
    Tekken,
    DeepseekLlm,
    DeepseekCoder,
    SeedCoder,
}

/// Files' names and their kinds; of equal kinds the best known first.
const NAMES: [(&str, Kind); 38] = [
    ("default", Kind::Default),
    ("gpt-2", Kind::Gpt2),
    ("gpt2", Kind::Gpt2),
    ("phi-2", Kind::Gpt2),
    ("a.x-4.0", Kind::Gpt2),
    ("exaone4", Kind::Gpt2),
    ("gigachat", Kind::Gpt2),
    ("granite-docling", Kind::Gpt2),
    ("jais", Kind::Gpt2),
    ("mellum", Kind::Gpt2),
    ("mpt", Kind::Gpt2),
    ("olmo", Kind::Gpt2),
    ("trillion", Kind::Gpt2),
    ("smollm", Kind::Digits),
    ("starcoder", Kind::Digits),
    ("refact", Kind::Digits),
    ("command-r", Kind::Digits),
    ("codeshell", Kind::Digits),
    ("exaone", Kind::Digits),
    ("minerva-7b", Kind::Digits),
    ("llama-bpe", Kind::Llama3),
    ("llama3", Kind::Llama3),
    ("llama-v3", Kind::Llama3),
    ("falcon3", Kind::Llama3),
    ("midm-2.0", Kind::Llama3),
    ("pixtral", Kind::Llama3),
    ("smaug-bpe", Kind::Smaug),
    ("dbrx", Kind::Smaug),
    ("qwen2", Kind::Qwen2),
    ("deepseek-r1-qwen", Kind::Qwen2),
    ("hunyuan", Kind::Qwen2),
    ("kormo", Kind::Qwen2),
    ("megrez", Kind::Qwen2),
    ("stablelm2", Kind::Qwen2),
    ("tekken", Kind::Tekken),
    ("deepseek-llm", Kind::DeepseekLlm),
    ("deepseek-coder", Kind::DeepseekCoder),
    ("seed-coder", Kind::SeedCoder),
];

/// A way to cut texts.
pub(super) struct PreTokenizer {
    /// Pre-tokenizers of `tokenizer.json`, one after the other.
    pub steps: Vec<Value>,
    /// Whether texts are normalized to NFC before.
    pub nfc: bool,
    /// Whether a text gets the begin token where a file says nothing, and words that are tokens are not taken apart.
    pub begins: bool,
}

impl PreTokenizer {
    /// All names that are known.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// That of a name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let (_, kind) = NAMES.iter().find(|(own, _)| *own == name)?;
        let split = |regex: &&str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
        let mut steps: Vec<Value> = match kind {
            Kind::Gpt2 => Vec::new(),
            Kind::Digits => vec![json!({ "type": "Digits", "individual_digits": true })],
            Kind::Default => DEFAULT.iter().map(split).collect(),
            Kind::Llama3 | Kind::Smaug => vec![split(&LLAMA3)],
            Kind::Qwen2 => vec![split(&QWEN2)],
            Kind::Tekken => vec![split(&TEKKEN)],
            Kind::DeepseekLlm => DEEPSEEK_LLM.iter().map(split).collect(),
            Kind::DeepseekCoder => DEEPSEEK_CODER.iter().map(split).collect(),
            Kind::SeedCoder => vec![split(&SEED_CODER)],
        };
        // The last one cuts as GPT-2 does, or turns bytes into letters alone.
        let cuts = matches!(kind, Kind::Gpt2 | Kind::Digits);
        steps.push(json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": cuts }));
        let begins = matches!(kind, Kind::Llama3 | Kind::Tekken);
        Some(Self { steps, nfc: matches!(kind, Kind::Qwen2), begins })
    }
}
