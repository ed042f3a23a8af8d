//! Each template's numbers: names, ranges, defaults, and how they must fit together.

mod coop;

use crate::link::LinkError;
use crate::spec::{Const, EpilogueOp, KFormat, KernelSpec, Prologue, Template, Tier, WeightFormat};
use std::fmt::Write;

/// What a constant is when a spec does not set it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ConstDefault {
    /// It must be set; unsigned.
    Required,
    /// It must be set; a float.
    RequiredF32,
    /// An unsigned number.
    U32(u32),
    /// A float.
    F32(f32),
    /// An unsigned number made of others; the text says how.
    Derived(&'static str),
}

/// One constant of a template.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ConstRule {
    /// Name in WGSL.
    pub name: &'static str,
    /// Value if not set.
    pub default: ConstDefault,
    /// Least value of an unsigned constant.
    pub min: u32,
    /// Greatest value of an unsigned constant.
    pub max: u32,
    /// Whether it must be a power of two.
    pub power_of_two: bool,
}

/// Sizes stay below this, so that products of a few of them can be told from nonsense.
const MAX_SIZE: u32 = 1 << 24;

const fn rule(name: &'static str, default: ConstDefault, min: u32, max: u32) -> ConstRule {
    ConstRule { name, default, min, max, power_of_two: false }
}
const fn size(name: &'static str) -> ConstRule {
    rule(name, ConstDefault::Required, 1, MAX_SIZE)
}
const fn float(name: &'static str) -> ConstRule {
    rule(name, ConstDefault::RequiredF32, 0, 0)
}
const fn power(name: &'static str, default: u32, min: u32, max: u32) -> ConstRule {
    ConstRule { name, default: ConstDefault::U32(default), min, max, power_of_two: true }
}
const fn at(name: &'static str) -> ConstRule {
    rule(name, ConstDefault::U32(0), 0, MAX_SIZE)
}

/// Most experts that a row chooses from, and that it takes.
const MAX_ROUTED: u32 = 4096;
const MAX_TOP_K: u32 = 64;

/// Most parts of a sequence's KV.
const MAX_PARTS: u32 = 256;

const WG: ConstRule = power("WG", 256, 32, 256);
const OUT_STRIDE: ConstRule = rule("OUT_STRIDE", ConstDefault::Derived("the output's columns"), 1, MAX_SIZE);
const OUT_AT: ConstRule = at("OUT_AT");
const OUT_HALF: ConstRule = rule("OUT_HALF", ConstDefault::U32(0), 0, 1);
/// Of attention: newest tokens that a query sees, or all; first ones that it sees besides; bound of scores, or none.
const WINDOW: ConstRule = rule("WINDOW", ConstDefault::U32(0), 0, u32::MAX / 2);
const KEEP: ConstRule = rule("KEEP", ConstDefault::U32(0), 0, u32::MAX / 2);
const SOFTCAP: ConstRule = rule("SOFTCAP", ConstDefault::F32(0.0), 0, 0);
/// Logits that one workgroup looks at.
const BLOCK: ConstRule = power("BLOCK", 1024, 256, 1024);
/// Tokens of a sequence's history.
const RING: ConstRule = rule("RING", ConstDefault::Required, 1, 1 << 28);
/// Bits of a number in pages: 32 and 16 are floats, 8 and 4 codes with scales.
const KV_BITS: ConstRule = power("KV_BITS", 16, 4, 32);
/// Codes in pages that share a scale.
const KV_QUANT_GROUP: ConstRule = power("KV_QUANT_GROUP", 64, 32, 128);

/// The constants of a template.
pub fn const_rules(template: Template) -> &'static [ConstRule] {
    match template {
        Template::Embed => {
            const {
                &[
                    size("N_COLS"),
                    rule("ROW_FIRST", ConstDefault::U32(0), 0, u32::MAX / 2),
                    size("ROW_COUNT"),
                    rule("SCALE", ConstDefault::F32(1.0), 0, 0),
                    WG,
                ]
            }
        }
        Template::RmsNorm => {
            const {
                &[
                    size("N_COLS"),
                    rule("RUNS", ConstDefault::U32(1), 1, 1 << 16),
                    rule("X_STRIDE", ConstDefault::Derived("RUNS * N_COLS"), 1, MAX_SIZE),
                    at("X_AT"),
                    OUT_STRIDE,
                    OUT_AT,
                    float("EPS"),
                    OUT_HALF,
                    WG,
                ]
            }
        }
        Template::Matvec => {
            const {
                &[
                    size("K"),
                    size("N"),
                    OUT_STRIDE,
                    OUT_AT,
                    rule("M_MAX", ConstDefault::U32(1), 1, 8),
                    rule("EPS", ConstDefault::F32(1e-5), 0, 0),
                    ConstRule {
                        power_of_two: true,
                        ..rule("WG", ConstDefault::Derived("64, and 256 with HALF"), 32, 256)
                    },
                    rule("ROWS_PER_SUBGROUP", ConstDefault::Derived("2, and 4 with INT8"), 1, 8),
                    rule(
                        "ROWS_PER_WG",
                        ConstDefault::Derived(
                            "ROWS_PER_SUBGROUP * WG / 32 / K_SPLIT, at least ROWS_PER_SUBGROUP and 2 if columns are paired; twice that with HALF and M_MAX above 4",
                        ),
                        1,
                        256,
                    ),
                    rule("K_SPLIT", ConstDefault::U32(2), 1, 8),
                    rule("UNROLL", ConstDefault::Derived("2, and 1 with HALF"), 1, 8),
                    rule("HALF", ConstDefault::U32(0), 0, 1),
                    rule("INT8", ConstDefault::U32(0), 0, 1),
                    rule("X_HALF", ConstDefault::U32(0), 0, 1),
                    OUT_HALF,
                    rule("SQUARE_PARTS", ConstDefault::Derived("ceil(N / ROWS_PER_WG)"), 1, MAX_SIZE),
                ]
            }
        }
        Template::Matmul => {
            const {
                &[
                    size("K"),
                    size("N"),
                    OUT_STRIDE,
                    OUT_AT,
                    power("TILE_M", 128, 32, 128),
                    ConstRule {
                        power_of_two: true,
                        ..rule("TILE_N", ConstDefault::Derived("64, and 128 for TILE_M of 32"), 64, 128)
                    },
                    power("TILE_K", 16, 4, 64),
                ]
            }
        }
        Template::MatmulCoop => coop::MATMUL,
        Template::RopeKv => {
            const {
                &[
                    rule("N_HEADS", ConstDefault::Required, 1, 1024),
                    rule("N_KV_HEADS", ConstDefault::Required, 1, 1024),
                    rule("HEAD_DIM", ConstDefault::Required, 2, 1024),
                    rule("ROT_DIM", ConstDefault::Derived("HEAD_DIM"), 2, 1024),
                    rule("Q_STRIDE", ConstDefault::Derived("N_HEADS * HEAD_DIM"), 1, MAX_SIZE),
                    at("Q_AT"),
                    rule("K_STRIDE", ConstDefault::Derived("N_KV_HEADS * HEAD_DIM"), 1, MAX_SIZE),
                    at("K_AT"),
                    rule("V_STRIDE", ConstDefault::Derived("N_KV_HEADS * HEAD_DIM"), 1, MAX_SIZE),
                    at("V_AT"),
                    rule("KV_GROUP", ConstDefault::U32(0), 0, 64),
                    KV_BITS,
                    KV_QUANT_GROUP,
                    rule("ROPE_SCALE", ConstDefault::F32(1.0), 0, 0),
                    rule("EPS", ConstDefault::F32(1e-5), 0, 0),
                    rule("NEIGHBOURS", ConstDefault::U32(0), 0, 1),
                    rule(
                        "ROPE_WGS",
                        ConstDefault::Derived("ceil((N_HEADS + 2 N_KV_HEADS) * HEAD_DIM / 2 / (2 * WG))"),
                        1,
                        4096,
                    ),
                    WG,
                ]
            }
        }
        Template::Attention => {
            const {
                &[
                    rule("N_HEADS", ConstDefault::Required, 1, 1024),
                    rule("N_KV_HEADS", ConstDefault::Required, 1, 1024),
                    rule("HEAD_DIM", ConstDefault::Required, 2, 256),
                    float("SCALE"),
                    rule("Q_TILE", ConstDefault::U32(1), 1, 16),
                    WINDOW,
                    KEEP,
                    SOFTCAP,
                    OUT_HALF,
                    size("MAX_PAGES"),
                    KV_BITS,
                    KV_QUANT_GROUP,
                    power("WG", 256, 128, 256),
                    ConstRule {
                        power_of_two: true,
                        ..rule("KV_BLOCK", ConstDefault::Derived("WG for Q_TILE up to 2, else 64"), 16, 256)
                    },
                ]
            }
        }
        Template::AttentionCoop => coop::ATTENTION,
        Template::AttentionDecode => {
            const {
                &[
                    rule("N_HEADS", ConstDefault::Required, 1, 1024),
                    rule("N_KV_HEADS", ConstDefault::Required, 1, 1024),
                    rule("HEAD_DIM", ConstDefault::Required, 64, 256),
                    rule(
                        "HEADS",
                        ConstDefault::Derived("1; with PARTS the most of 2 that divide N_HEADS / N_KV_HEADS"),
                        1,
                        4,
                    ),
                    rule("TOKENS", ConstDefault::Derived("256 / HEAD_DIM, from 1 to 4"), 1, 4),
                    float("SCALE"),
                    WINDOW,
                    KEEP,
                    SOFTCAP,
                    rule("PARTS", ConstDefault::U32(0), 0, MAX_PARTS),
                    OUT_HALF,
                    size("MAX_PAGES"),
                    KV_BITS,
                    KV_QUANT_GROUP,
                    ConstRule {
                        power_of_two: true,
                        ..rule("WG", ConstDefault::Derived("256, and 128 for HEAD_DIM above 128"), 64, 256)
                    },
                ]
            }
        }
        Template::AttentionCombine => {
            const {
                &[
                    rule("N_HEADS", ConstDefault::Required, 1, 1024),
                    rule("HEAD_DIM", ConstDefault::Required, 64, 256),
                    rule("PARTS", ConstDefault::Required, 1, MAX_PARTS),
                    OUT_HALF,
                    power("WG", 128, 32, 256),
                ]
            }
        }
        Template::GatherRows => const { &[size("N_COLS"), WG] },
        Template::Map => const { &[size("N_COLS"), OUT_STRIDE, OUT_AT, WG] },
        Template::MoeRoute => {
            const {
                &[
                    rule("EXPERTS", ConstDefault::Required, 1, MAX_ROUTED),
                    rule("TOP_K", ConstDefault::Required, 1, MAX_TOP_K),
                    rule("RENORMALIZE", ConstDefault::U32(0), 0, 1),
                    power("WG", 128, 32, 256),
                ]
            }
        }
        Template::MoeOrder => {
            const {
                &[
                    rule("EXPERTS", ConstDefault::Required, 1, MAX_ROUTED),
                    rule("TOP_K", ConstDefault::Required, 1, MAX_TOP_K),
                    ConstRule { power_of_two: true, ..rule("TILE_M", ConstDefault::Required, 32, 128) },
                    WG,
                ]
            }
        }
        Template::MoeSum => {
            const { &[size("N_COLS"), rule("TOP_K", ConstDefault::Required, 1, MAX_TOP_K), OUT_STRIDE, OUT_AT, WG] }
        }
        Template::SamplePartial => const { &[size("N"), BLOCK, RING, WG] },
        Template::SampleBins => const { &[size("N"), BLOCK, WG] },
        // An invocation a bin.
        Template::SampleGather => const { &[size("N"), BLOCK, power("WG", 256, 256, 256)] },
        Template::SampleFilter => const { &[size("N"), BLOCK, RING, power("WG", 256, 256, 256)] },
        Template::SampleFinal => const { &[size("N"), BLOCK, RING, WG] },
    }
}

/// The constants that [`EpilogueOp::RopeKv`] adds to its template's.
pub const ROPE_KV_RULES: &[ConstRule] = &[
    rule("N_HEADS", ConstDefault::Required, 1, 1024),
    rule("N_KV_HEADS", ConstDefault::Required, 1, 1024),
    rule("HEAD_DIM", ConstDefault::Required, 2, 1024),
    rule("ROT_DIM", ConstDefault::Derived("HEAD_DIM"), 2, 1024),
    rule("KV_GROUP", ConstDefault::U32(0), 0, 64),
    KV_BITS,
    KV_QUANT_GROUP,
    rule("ROPE_SCALE", ConstDefault::F32(1.0), 0, 0),
];

/// The constant that [`EpilogueOp::Scale`] adds.
pub(crate) const SCALE_RULES: &[ConstRule] = &[float("FACTOR")];

/// The constant that [`EpilogueOp::Softcap`] adds.
pub(crate) const SOFTCAP_RULES: &[ConstRule] = &[float("CAP")];

/// The constants of products with a stack of experts, which a matvec or matmul has that sets EXPERTS.
pub const EXPERT_RULES: &[ConstRule] = &[
    rule("EXPERTS", ConstDefault::Required, 1, MAX_ROUTED),
    // The experts of the matrix, which may be a part of the stack.
    at("EXPERT_FIRST"),
    rule("EXPERT_COUNT", ConstDefault::Derived("EXPERTS"), 1, MAX_ROUTED),
    rule("TOP_K", ConstDefault::Required, 1, MAX_TOP_K),
    rule("X_EACH", ConstDefault::U32(0), 0, 1),
];

/// Whether a spec is of products with experts.
pub(crate) fn has_experts(spec: &KernelSpec) -> bool {
    matches!(spec.template, Template::Matvec | Template::Matmul | Template::MatmulCoop)
        && spec.consts.iter().any(|(name, _)| name == "EXPERTS")
}

/// Every constant of a spec.
fn rules_of(spec: &KernelSpec) -> Vec<&'static ConstRule> {
    let added =
        [(EpilogueOp::RopeKv, ROPE_KV_RULES), (EpilogueOp::Scale, SCALE_RULES), (EpilogueOp::Softcap, SOFTCAP_RULES)];
    let added = added.into_iter().filter(|(op, _)| spec.epilogue.contains(op)).flat_map(|(_, rules)| rules);
    let experts = if has_experts(spec) { EXPERT_RULES } else { &[] };
    const_rules(spec.template).iter().chain(added).chain(experts).collect()
}

/// A template's numbers, defaults filled in, in the order of its rules.
pub(crate) struct Consts(Vec<(&'static str, Const)>);

impl Consts {
    /// An unsigned number that the template has.
    pub(crate) fn u32(&self, name: &str) -> u32 {
        match self.0.iter().find(|(other, _)| *other == name) {
            Some((_, Const::U32(n))) => *n,
            _ => unreachable!("constant {name} is in the template's rules and was resolved before it is asked for"),
        }
    }
    pub(crate) fn add(&mut self, name: &'static str, value: u32) {
        self.0.push((name, Const::U32(value)));
    }
    /// WGSL declarations, one a line.
    pub(crate) fn header(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            let _ = match value {
                Const::U32(n) => writeln!(text, "const {name}: u32 = {n}u;"),
                Const::F32(n) => writeln!(text, "const {name}: f32 = {n:?};"),
            };
        }
        text
    }
}

/// A spec's unsigned number with defaults applied, as the linked kernel has it, or `None` if the spec is not valid or
/// the template has no such number.
pub fn const_value(spec: &KernelSpec, name: &str) -> Option<u32> {
    let consts = resolve(spec).ok()?;
    consts.0.iter().find(|(other, _)| *other == name).and_then(|(_, value)| match value {
        Const::U32(n) => Some(*n),
        Const::F32(_) => None,
    })
}

/// Checks a spec's numbers and fills in defaults.
pub(crate) fn resolve(spec: &KernelSpec) -> Result<Consts, LinkError> {
    let rules = rules_of(spec);
    for (name, value) in &spec.consts {
        let Some(rule) = rules.iter().find(|rule| rule.name == name) else {
            let known = rules.iter().map(|rule| rule.name).collect::<Vec<_>>().join(", ");
            return Err(LinkError::UnknownConst { template: spec.template, name: name.clone(), known });
        };
        check_range(spec.template, rule, *value)?;
    }
    let mut consts = Consts(Vec::with_capacity(rules.len() + 8));
    for rule in &rules {
        let set = spec.consts.iter().find(|(name, _)| name == rule.name).map(|(_, value)| *value);
        let value = match (set, rule.default) {
            (Some(value), _) => value,
            (None, ConstDefault::U32(n)) => Const::U32(n),
            (None, ConstDefault::F32(n)) => Const::F32(n),
            // Until the others are known.
            (None, ConstDefault::Derived(_)) => Const::U32(0),
            (None, _) => return Err(LinkError::MissingConst { template: spec.template, name: rule.name.into() }),
        };
        consts.0.push((rule.name, value));
    }
    for (ix, rule) in rules.iter().enumerate() {
        if matches!(rule.default, ConstDefault::Derived(_)) && consts.0[ix].1 == Const::U32(0) {
            consts.0[ix].1 = Const::U32(derive(spec, rule.name, &consts));
        }
    }
    check_together(spec, &consts)?;
    Ok(consts)
}

fn derive(spec: &KernelSpec, name: &str, c: &Consts) -> u32 {
    let pairs = crate::epilogue::columns_per_out(&spec.epilogue);
    match (spec.template, name) {
        (_, "OUT_STRIDE") if spec.epilogue.contains(&EpilogueOp::RopeKv) => {
            (c.u32("N_HEADS") * c.u32("HEAD_DIM")).max(1)
        }
        (Template::RmsNorm, "OUT_STRIDE") => c.u32("RUNS").saturating_mul(c.u32("N_COLS")).max(1),
        (_, "EXPERT_COUNT") => c.u32("EXPERTS"),
        (Template::MoeSum, "OUT_STRIDE") => c.u32("N_COLS"),
        (Template::Map, "OUT_STRIDE") => (c.u32("N_COLS") / pairs).max(1),
        (_, "OUT_STRIDE") => (c.u32("N") / pairs).max(1),
        (Template::MatmulCoop, _) => coop::tile_number(name, c, has_experts(spec)),
        (Template::AttentionCoop, "WG") => c.u32("LANES") * c.u32("HEADS"),
        (Template::AttentionCoop, "HEADS") => {
            let shared = c.u32("N_HEADS") / c.u32("N_KV_HEADS");
            (1..=4).rev().find(|n| shared.is_multiple_of(*n)).unwrap_or(1)
        }
        (Template::AttentionDecode, "WG") => 256 >> u32::from(c.u32("HEAD_DIM") > 128),
        (_, "WG") => 64 << (2 * c.u32("HALF")),
        (_, "ROWS_PER_SUBGROUP") => 2 << c.u32("INT8"),
        (_, "UNROLL") => 2 - c.u32("HALF"),
        (_, "ROWS_PER_WG") => {
            let rows = c.u32("ROWS_PER_SUBGROUP");
            // Many rows of x: each workgroup adds up the squares of all, so fewer workgroups do.
            let times = 1 + u32::from(c.u32("HALF") == 1 && c.u32("INT8") == 0 && c.u32("M_MAX") > 4);
            (c.u32("WG") / 32 / c.u32("K_SPLIT")).max(1).max(pairs / rows) * rows * times
        }
        (_, "HEADS") => {
            let shared = c.u32("N_HEADS") / c.u32("N_KV_HEADS");
            let most = if c.u32("PARTS") > 0 { 2 } else { 1 };
            (1..=most).rev().find(|n| shared.is_multiple_of(*n)).unwrap_or(1)
        }
        (_, "TILE_N") => 64.max(4096 / c.u32("TILE_M")),
        (_, "TOKENS") => (256 / c.u32("HEAD_DIM")).clamp(1, 4),
        (_, "SQUARE_PARTS") => c.u32("N").div_ceil(c.u32("ROWS_PER_WG")),
        (_, "ROT_DIM") => c.u32("HEAD_DIM"),
        (_, "X_STRIDE") => c.u32("RUNS").saturating_mul(c.u32("N_COLS")),
        (_, "Q_STRIDE") => c.u32("N_HEADS") * c.u32("HEAD_DIM"),
        (_, "K_STRIDE" | "V_STRIDE") => c.u32("N_KV_HEADS") * c.u32("HEAD_DIM"),
        (_, "ROPE_WGS") => {
            ((c.u32("N_HEADS") + 2 * c.u32("N_KV_HEADS")) * c.u32("HEAD_DIM") / 2).div_ceil(2 * c.u32("WG")).max(1)
        }
        (_, "KV_BLOCK") => {
            if c.u32("Q_TILE") <= 2 {
                c.u32("WG")
            } else {
                64
            }
        }
        _ => unreachable!("constant {name} has no derivation"),
    }
}

fn check_range(template: Template, rule: &ConstRule, value: Const) -> Result<(), LinkError> {
    let is_float = matches!(rule.default, ConstDefault::F32(_) | ConstDefault::RequiredF32);
    let bad = |value: String, expected: String| {
        Err(LinkError::BadConst { template, name: rule.name.into(), value, expected })
    };
    match value {
        Const::F32(n) if is_float && n.is_finite() => Ok(()),
        Const::F32(n) if is_float => bad(format!("{n}"), "a finite float".into()),
        Const::F32(n) => bad(format!("{n:?}"), "an unsigned number".into()),
        Const::U32(n) if is_float => bad(format!("{n}u"), "a float".into()),
        Const::U32(n) if n < rule.min || n > rule.max => bad(format!("{n}"), format!("{} to {}", rule.min, rule.max)),
        Const::U32(n) if rule.power_of_two && !n.is_power_of_two() => bad(format!("{n}"), "a power of two".into()),
        Const::U32(_) => Ok(()),
    }
}

/// Checks what the templates assume of several numbers.
fn check_together(spec: &KernelSpec, c: &Consts) -> Result<(), LinkError> {
    let need = |holds: bool, name: &str, expected: &str| {
        let (template, name) = (spec.template, name.to_string());
        if holds {
            Ok(())
        } else {
            Err(LinkError::BadConst { template, value: c.u32(&name).to_string(), name, expected: expected.into() })
        }
    };
    let leaves_half_rows = |c: &Consts| {
        let half_row = c.u32("OUT_STRIDE").is_multiple_of(8) && c.u32("OUT_AT").is_multiple_of(8);
        need(c.u32("OUT_HALF") == 0 || half_row, "OUT_STRIDE", "a multiple of 8, as half rows are stored")
    };
    let pairs = crate::epilogue::columns_per_out(&spec.epilogue) == 2;
    if spec.epilogue.contains(&EpilogueOp::RopeKv) {
        let heads = c.u32("N_HEADS") + 2 * c.u32("N_KV_HEADS");
        need(c.u32("HEAD_DIM").is_multiple_of(2), "HEAD_DIM", "even")?;
        need(
            c.u32("ROT_DIM").is_multiple_of(2) && c.u32("ROT_DIM") <= c.u32("HEAD_DIM"),
            "ROT_DIM",
            "even and at most HEAD_DIM",
        )?;
        need(c.u32("N") == heads * c.u32("HEAD_DIM"), "N", "(N_HEADS + 2 N_KV_HEADS) * HEAD_DIM")?;
        need(c.u32("KV_BITS") >= 16, "KV_BITS", "16 or 32, since a product does not see whole groups of codes")?;
    }
    use Template::{Attention, AttentionCoop, AttentionDecode, RopeKv};
    let keeps_kv = matches!(spec.template, RopeKv | Attention | AttentionCoop | AttentionDecode);
    if keeps_kv && c.u32("KV_BITS") < 16 {
        let group = c.u32("KV_QUANT_GROUP");
        need(c.u32("HEAD_DIM").is_multiple_of(group), "HEAD_DIM", "a multiple of KV_QUANT_GROUP")?;
        // Whoever writes codes has whole groups of them.
        let whole = spec.template != RopeKv || (2 * c.u32("WG")).is_multiple_of(group);
        need(whole, "WG", "a multiple of half of KV_QUANT_GROUP")?;
    }
    if has_experts(spec) {
        need(c.u32("TOP_K") <= c.u32("EXPERTS"), "TOP_K", "at most EXPERTS")?;
        need(c.u32("EXPERT_FIRST") + c.u32("EXPERT_COUNT") <= c.u32("EXPERTS"), "EXPERT_COUNT", "of those in EXPERTS")?;
        let one = spec.template != Template::Matvec || c.u32("M_MAX") == 1;
        need(one, "M_MAX", "1, since each row of products has a matrix of its own")?;
        let norms = matches!(spec.prologue, Prologue::None | Prologue::RmsNorm);
        let ops =
            !spec.epilogue.iter().any(|op| matches!(op, EpilogueOp::RopeKv | EpilogueOp::Normed | EpilogueOp::Bias(_)));
        need(norms && ops, "EXPERTS", "of products without biases, rotation or normed copies")?;
    }
    match spec.template {
        Template::MoeRoute | Template::MoeOrder => need(c.u32("TOP_K") <= c.u32("EXPERTS"), "TOP_K", "at most EXPERTS"),
        Template::Matvec => {
            need(
                c.u32("ROWS_PER_WG").is_multiple_of(c.u32("ROWS_PER_SUBGROUP")),
                "ROWS_PER_WG",
                "a multiple of ROWS_PER_SUBGROUP",
            )?;
            need(
                !pairs || c.u32("ROWS_PER_WG").is_multiple_of(2),
                "ROWS_PER_WG",
                "even, since the epilogue pairs columns",
            )?;
            need(!pairs || c.u32("N").is_multiple_of(2), "N", "even, since the epilogue pairs columns")?;
            need(c.u32("HALF") == 0 || spec.tier == Tier::Subgroups, "HALF", "0 in the plain tier")?;
            need(c.u32("X_HALF") <= c.u32("HALF"), "X_HALF", "0 without HALF")?;
            need(c.u32("INT8") <= c.u32("HALF"), "INT8", "0 without HALF")?;
            let squares = c.u32("INT8") == 1 && spec.prologue == Prologue::RmsNorm;
            need(!squares, "INT8", "0 with a norm whose squares are not known")?;
            let parts = spec.prologue == Prologue::RmsNormParts;
            need(!parts || c.u32("X_HALF") == 1, "X_HALF", "1 after a normed copy")?;
            let normed = spec.epilogue.contains(&EpilogueOp::Normed);
            let own_parts = c.u32("N").div_ceil(c.u32("ROWS_PER_WG"));
            need(!normed || c.u32("SQUARE_PARTS") == own_parts, "SQUARE_PARTS", "ceil(N / ROWS_PER_WG)")?;
            need(!(normed && parts), "SQUARE_PARTS", "of one normalization: a normed input leaves no normed copy")?;
            let n_out = c.u32("N") / crate::epilogue::columns_per_out(&spec.epilogue);
            need(!normed || n_out.is_multiple_of(8), "N", "a multiple of 8, since half rows are stored")?;
            leaves_half_rows(c)
        }
        Template::Matmul => {
            need(c.u32("TILE_M") * c.u32("TILE_N") >= 4096, "TILE_N", "128 for TILE_M of 32")?;
            need(!pairs || c.u32("N").is_multiple_of(2), "N", "even, since the epilogue pairs columns")
        }
        Template::MatmulCoop => {
            leaves_half_rows(c)?;
            need(!pairs || c.u32("N").is_multiple_of(2), "N", "even, since the epilogue pairs columns")?;
            coop::check_matmul(spec, c, need)
        }
        Template::Map => {
            need(!pairs || c.u32("N_COLS").is_multiple_of(2), "N_COLS", "even, since the epilogue pairs columns")
        }
        Template::RmsNorm => leaves_half_rows(c),
        Template::RopeKv => {
            need(c.u32("HEAD_DIM").is_multiple_of(2), "HEAD_DIM", "even")?;
            let whole = spec.prologue == Prologue::None || c.u32("HEAD_DIM") <= 2 * c.u32("WG");
            need(whole, "HEAD_DIM", "at most 2 * WG, since heads are normed")?;
            need(
                c.u32("ROT_DIM").is_multiple_of(2) && c.u32("ROT_DIM") <= c.u32("HEAD_DIM"),
                "ROT_DIM",
                "even and at most HEAD_DIM",
            )
        }
        Template::Attention => {
            need(c.u32("HEAD_DIM").is_multiple_of(2), "HEAD_DIM", "even")?;
            need(c.u32("N_HEADS").is_multiple_of(c.u32("N_KV_HEADS")), "N_HEADS", "a multiple of N_KV_HEADS")?;
            need(c.u32("KV_BLOCK") <= c.u32("WG"), "KV_BLOCK", "at most WG")?;
            need(c.u32("HEAD_DIM") <= 2 * c.u32("WG"), "HEAD_DIM", "at most 2 * WG")?;
            need(c.u32("Q_TILE") * 16 <= c.u32("WG"), "Q_TILE", "at most WG / 16")?;
            let row = c.u32("N_HEADS") * c.u32("HEAD_DIM");
            need(c.u32("OUT_HALF") == 0 || row.is_multiple_of(8), "HEAD_DIM", "of half rows of a multiple of 8 columns")
        }
        Template::AttentionCoop => coop::check_attention(spec, c, need),
        Template::AttentionDecode => {
            need(c.u32("HEAD_DIM").is_multiple_of(64), "HEAD_DIM", "a multiple of 64")?;
            need(c.u32("N_HEADS").is_multiple_of(c.u32("N_KV_HEADS")), "N_HEADS", "a multiple of N_KV_HEADS")?;
            let shared = c.u32("N_HEADS") / c.u32("N_KV_HEADS");
            need(shared.is_multiple_of(c.u32("HEADS")), "HEADS", "a divisor of N_HEADS / N_KV_HEADS")?;
            need(spec.tier == Tier::Subgroups, "WG", "of subgroups, which the plain tier does not have")?;
            need(c.u32("PARTS") == 0 || c.u32("OUT_HALF") == 0, "OUT_HALF", "0, since parts are in single precision")
        }
        _ => Ok(()),
    }
}

/// Adds the numbers that weight providers read: columns, and of quantized weights bits, group and the scales' first word.
pub(crate) fn add_weight(spec: &KernelSpec, consts: &mut Consts) -> Result<WeightFormat, LinkError> {
    let bad = |why: String| LinkError::BadWeight { template: spec.template, weight: spec.weight, why };
    let format = spec.weight.ok_or_else(|| bad("the template needs a format".into()))?;
    let (rows, cols) = match spec.template {
        Template::Embed => (consts.u32("ROW_COUNT"), consts.u32("N_COLS")),
        _ if has_experts(spec) => {
            let rows = consts.u32("N").checked_mul(consts.u32("EXPERT_COUNT"));
            (rows.ok_or_else(|| bad("the experts have more than 2^32 rows".into()))?, consts.u32("K"))
        }
        _ => (consts.u32("N"), consts.u32("K")),
    };
    // Word offsets are u32.
    if u64::from(rows) * u64::from(cols) >= 1 << 33 {
        return Err(bad(format!("{rows} x {cols} is too large for one buffer; split the matrix by rows")));
    }
    consts.add("W_COLS", cols);
    match format {
        WeightFormat::F32 => {}
        WeightFormat::F16 | WeightFormat::Bf16 => {
            if cols % 2 != 0 {
                return Err(bad(format!("{cols} columns; 16-bit formats need an even number")));
            }
        }
        WeightFormat::Affine { bits, group, .. } => {
            if !matches!(bits, 1..=6 | 8) {
                return Err(bad("bits must be 1, 2, 3, 4, 5, 6 or 8".into()));
            }
            if !matches!(group, 32 | 64 | 128) || cols % u32::from(group) != 0 {
                return Err(bad(format!("{cols} columns; groups must be 32, 64 or 128 and divide the columns")));
            }
            add_codes(consts, rows, cols, bits.into(), group.into()).map_err(bad)?;
        }
        WeightFormat::Mxfp4 | WeightFormat::Mxfp8 | WeightFormat::Nvfp4 { .. } => {
            let (bits, group) = match format {
                WeightFormat::Mxfp4 => (4, 32),
                WeightFormat::Mxfp8 => (8, 32),
                _ => (4, 16),
            };
            if cols % group != 0 {
                return Err(bad(format!("{cols} columns; groups of {group} must divide the columns")));
            }
            let scales_at = add_codes(consts, rows, cols, bits, group).map_err(bad)?;
            if format == (WeightFormat::Nvfp4 { global: true }) {
                let scale_words = (u64::from(rows) * u64::from(cols / group)).div_ceil(4).next_multiple_of(4);
                let at = u32::try_from(u64::from(scales_at) + scale_words);
                consts.add("W_FACTORS_AT", at.map_err(|_| bad("scales exceed 2^32 words".into()))?);
            }
        }
        WeightFormat::K(k) => {
            let (bits, group, block) = match k {
                KFormat::Q2K => (2, 16, 256),
                KFormat::Q3K => (3, 16, 256),
                KFormat::Q4K => (4, 32, 256),
                KFormat::Q5K => (5, 32, 256),
                KFormat::Q6K => (6, 16, 256),
                KFormat::Iq4Nl => (4, 32, 32),
                KFormat::Iq4Xs => (4, 32, 256),
            };
            if cols % block != 0 {
                return Err(bad(format!("{cols} columns; blocks of {block} must divide the columns")));
            }
            add_codes(consts, rows, cols, bits, group).map_err(bad)?;
        }
    }
    Ok(format)
}

/// Of a code's bits, the low ones that lie in a plane of their own; see `lib/planes.wgsl`.
fn low_bits(bits: u32) -> u32 {
    1 << bits.ilog2()
}

/// Adds the numbers of codes with scales. Gives the scales' first word.
fn add_codes(consts: &mut Consts, rows: u32, cols: u32, bits: u32, group: u32) -> Result<u32, String> {
    let codes = u64::from(rows) * (u64::from(cols) * u64::from(bits) / 32);
    let scales_at = u32::try_from(codes.next_multiple_of(4)).map_err(|_| "codes exceed 2^32 words".to_string())?;
    consts.add("W_BITS", bits);
    consts.add("W_GROUP", group);
    let low = low_bits(bits);
    consts.add("W_LOW", low);
    consts.add("W_HIGH_AT", (u64::from(rows) * (u64::from(cols) * u64::from(low) / 32)) as u32);
    consts.add("W_SCALES_AT", scales_at);
    Ok(scales_at)
}
