//! The combinations: every value of every slot, every pair of neighbouring ones, at default and extreme numbers.

use ingot_shaders::{EpilogueOp, KFormat, KernelSpec, Prologue, Rows, ScaleType, Template, Tier, WeightFormat};

const TIERS: [Tier; 2] = [Tier::Plain, Tier::Subgroups];

fn formats() -> Vec<WeightFormat> {
    let mut list = vec![WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16];
    list.extend([WeightFormat::Mxfp4, WeightFormat::Mxfp8]);
    list.extend([false, true].map(|global| WeightFormat::Nvfp4 { global }));
    list.extend(KFormat::ALL.iter().map(|k| WeightFormat::K(*k)));
    for bits in [1, 2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            list.extend(ScaleType::ALL.iter().map(|scales| WeightFormat::Affine { bits, group, scales: *scales }));
        }
    }
    list
}

/// Whether a format takes so many columns.
fn takes(format: WeightFormat, cols: u32) -> bool {
    match format {
        WeightFormat::F32 => true,
        WeightFormat::F16 | WeightFormat::Bf16 => cols.is_multiple_of(2),
        WeightFormat::Affine { group, .. } => cols.is_multiple_of(u32::from(group)),
        WeightFormat::Mxfp4 | WeightFormat::Mxfp8 => cols.is_multiple_of(32),
        WeightFormat::Nvfp4 { .. } => cols.is_multiple_of(16),
        WeightFormat::K(KFormat::Iq4Nl) => cols.is_multiple_of(32),
        WeightFormat::K(_) => cols.is_multiple_of(256),
    }
}

fn epilogues() -> Vec<Vec<EpilogueOp>> {
    use EpilogueOp::*;
    vec![
        vec![],
        vec![Bias(0), Gelu],
        vec![Bias(0), Silu, Mul(1), Add(2)],
        vec![AddOut],
        vec![SiluMulPairs],
        vec![Bias(0), SiluMulPairs, Add(1), AddOut],
    ]
}

/// Specs with every value of every slot and every pair of neighbouring ones; numbers vary along.
pub(crate) fn specs() -> Vec<KernelSpec> {
    let mut list = Vec::new();
    let epilogues = epilogues();
    for (ix, format) in formats().into_iter().enumerate() {
        for (tier_ix, tier) in TIERS.into_iter().enumerate() {
            for (k_ix, k) in [64, 66, 68, 576, 4096, 14336].into_iter().filter(|k| takes(format, *k)).enumerate() {
                let mut spec = KernelSpec::new(Template::Matvec, tier).with("K", k).with("N", 96);
                spec.weight = Some(format);
                spec.rows = Rows::ALL[(ix + k_ix) % 2];
                spec.prologue = Prologue::ALL[(ix + k_ix + tier_ix) % 2];
                spec.epilogue = epilogues[(ix + k_ix) % epilogues.len()].clone();
                list.push(spec.clone());
                let mut spec = spec
                    .with("M_MAX", 8)
                    .with("ROWS_PER_SUBGROUP", 4)
                    .with("K_SPLIT", 3)
                    .with("UNROLL", 4)
                    .with("WG", 64)
                    .with("OUT_STRIDE", 200)
                    .with("OUT_AT", 7);
                spec.prologue = Prologue::ALL[(ix + k_ix + tier_ix + 1) % 2];
                spec.epilogue = epilogues[(ix + k_ix + 1) % epilogues.len()].clone();
                list.push(spec);
                if tier == Tier::Plain {
                    let mut spec = KernelSpec::new(Template::Matmul, tier).with("K", k).with("N", 98);
                    spec.weight = Some(format);
                    spec.rows = Rows::ALL[(ix + k_ix) % 2];
                    spec.epilogue = epilogues[(ix + k_ix) % epilogues.len()].clone();
                    if k_ix % 2 == 1 {
                        spec = spec.with("TILE_M", 128).with("TILE_N", 128).with("TILE_K", 16);
                    }
                    list.push(spec);
                    let mut spec = KernelSpec::new(Template::Embed, tier)
                        .with("N_COLS", k)
                        .with("ROW_COUNT", 100)
                        .with("ROW_FIRST", 50 * (k_ix as u32 % 2));
                    spec.weight = Some(format);
                    list.push(spec);
                }
            }
        }
    }
    for epilogue in &epilogues {
        for prologue in [Prologue::None, Prologue::RmsNorm] {
            for tier in TIERS {
                for m_max in [1, 2, 8] {
                    let mut spec =
                        KernelSpec::new(Template::Matvec, tier).with("K", 4096).with("N", 6144).with("M_MAX", m_max);
                    spec.weight = Some(WeightFormat::Affine { bits: 4, group: 64, scales: ScaleType::Bf16 });
                    spec.prologue = prologue;
                    spec.epilogue = epilogue.clone();
                    list.push(spec.clone());
                    list.push(spec.with("ROWS_PER_SUBGROUP", 1).with("UNROLL", 2));
                }
            }
        }
        for rows in Rows::ALL {
            for (n_cols, wg) in [(2, 256), (1000, 32), (1 << 20, 256)] {
                let mut spec = KernelSpec::new(Template::Map, Tier::Plain).with("N_COLS", n_cols).with("WG", wg);
                spec.rows = *rows;
                spec.epilogue = epilogue.clone();
                list.push(spec);
            }
        }
    }
    list.extend(half_products());
    list.extend(half_formats());
    list.extend(coop_products());
    list.extend(mixtures());
    list.extend(decoding_attentions());
    list.extend(coop_attentions());
    list.extend(kv_types());
    for rows in Rows::ALL {
        for wg in [32, 256] {
            for n in [1, 576, 1 << 20] {
                let mut spec = KernelSpec::new(Template::RmsNorm, Tier::Plain)
                    .with("N_COLS", n)
                    .with_f32("EPS", 1e-6)
                    .with("WG", wg);
                spec.rows = *rows;
                list.push(spec);
                let sample = |template| {
                    let spec =
                        KernelSpec::new(template, Tier::Plain).with("N", n + n % 3).with("BLOCK", 4 * wg.max(64));
                    KernelSpec { rows: *rows, ..spec }
                };
                list.push(sample(Template::SamplePartial).with("WG", wg).with("RING", n));
                list.push(sample(Template::SampleBins).with("WG", wg));
                list.push(sample(Template::SampleGather));
                list.push(sample(Template::SampleFilter).with("RING", n));
                list.push(sample(Template::SampleFinal).with("WG", wg).with("RING", n));
                list.push(KernelSpec::new(Template::GatherRows, Tier::Plain).with("N_COLS", n).with("WG", wg));
            }
        }
    }
    for (heads, kv_heads, dim) in
        [(1, 1, 2), (9, 3, 64), (32, 8, 128), (4, 1, 256), (6, 2, 66), (8, 8, 96), (10, 5, 80)]
    {
        let head = |template| {
            KernelSpec::new(template, Tier::Plain)
                .with("N_HEADS", heads)
                .with("N_KV_HEADS", kv_heads)
                .with("HEAD_DIM", dim)
        };
        list.push(head(Template::RopeKv));
        list.push(head(Template::RopeKv).with("NEIGHBOURS", 1).with("ROT_DIM", 2));
        let normed = KernelSpec { prologue: Prologue::RmsNorm, ..head(Template::RopeKv) }.with_f32("EPS", 1e-6);
        list.push(normed.clone());
        if dim % 32 == 0 {
            list.push(normed.with("KV_BITS", 4).with("KV_QUANT_GROUP", 32));
        }
        let runs = KernelSpec::new(Template::RmsNorm, Tier::Plain).with("N_COLS", dim).with("RUNS", heads);
        list.push(runs.with("X_STRIDE", 2 * heads * dim + 1).with("X_AT", dim).with_f32("EPS", 1e-6));
        for (tier, m_max) in [(Tier::Plain, 1), (Tier::Subgroups, 1), (Tier::Subgroups, 8)] {
            for (prologue, bias) in [(Prologue::None, false), (Prologue::RmsNorm, true)] {
                let mut spec =
                    KernelSpec { tier, prologue, weight: Some(WeightFormat::Bf16), ..head(Template::Matvec) }
                        .with("K", 64)
                        .with("N", (heads + 2 * kv_heads) * dim)
                        .with("M_MAX", m_max)
                        .with("ROT_DIM", dim.min(2 * m_max))
                        .with("KV_GROUP", 1)
                        .with_f32("ROPE_SCALE", 1.25);
                spec.epilogue.extend(bias.then_some(EpilogueOp::Bias(0)));
                spec.epilogue.push(EpilogueOp::RopeKv);
                list.push(spec);
            }
        }
        let stride = (heads + 2 * kv_heads) * dim;
        let merged = head(Template::RopeKv)
            .with("Q_STRIDE", stride)
            .with("K_STRIDE", stride)
            .with("V_STRIDE", stride)
            .with("K_AT", heads * dim);
        list.push(
            merged
                .with("V_AT", (heads + kv_heads) * dim)
                .with("KV_GROUP", 1)
                .with("ROT_DIM", 2)
                .with_f32("ROPE_SCALE", 1.25)
                .with("WG", 32),
        );
        for (q_tile, window, keep, softcap) in
            [(1, 0, 0, 0.0), (16, 0, 0, 0.0), (1, 512, 0, 50.0), (16, 4096, 4, 0.0), (3, 1, 1, 30.0), (8, 128, 0, 0.0)]
        {
            let spec = head(Template::Attention).with_f32("SCALE", 0.125).with("MAX_PAGES", 256).with("Q_TILE", q_tile);
            let spec = spec.with("WINDOW", window).with("KEEP", keep).with_f32("SOFTCAP", softcap);
            list.push(spec.clone());
            if q_tile <= 8 {
                list.push(spec.with("WG", 128).with("KV_BLOCK", 16));
            }
        }
    }
    list
}

/// What writes and reads pages, for every type of keys and values.
fn kv_types() -> Vec<KernelSpec> {
    let mut list = Vec::new();
    let floats = [(32, 64, 2), (32, 64, 64), (32, 64, 66)];
    let codes = [32, 64, 128].into_iter().flat_map(|group| [(8, group, 128), (4, group, 256), (4, group, group)]);
    for (bits, group, dim) in floats.into_iter().chain(codes) {
        let head = |template, tier| {
            KernelSpec::new(template, tier)
                .with("N_HEADS", 8)
                .with("N_KV_HEADS", 2)
                .with("HEAD_DIM", dim)
                .with("KV_BITS", bits)
                .with("KV_QUANT_GROUP", group)
        };
        list.push(head(Template::RopeKv, Tier::Plain));
        list.push(head(Template::RopeKv, Tier::Plain).with("WG", 64).with("NEIGHBOURS", 1).with("KV_GROUP", 3));
        let attention = head(Template::Attention, Tier::Plain).with_f32("SCALE", 0.125).with("MAX_PAGES", 256);
        list.push(attention.clone());
        list.push(attention.with("Q_TILE", 16).with("WINDOW", 300).with("KEEP", 4));
        if dim.is_multiple_of(64) {
            let decode = head(Template::AttentionDecode, Tier::Subgroups).with_f32("SCALE", 0.1).with("MAX_PAGES", 64);
            list.push(decode.clone());
            list.push(decode.with("PARTS", 32).with("HEADS", 4));
        }
        if bits >= 16 {
            for tier in TIERS {
                let mut spec = head(Template::Matvec, tier).with("K", 64).with("N", 12 * dim);
                spec.weight = Some(WeightFormat::F16);
                spec.epilogue = vec![EpilogueOp::RopeKv];
                list.push(spec);
            }
        }
    }
    list
}

/// Products in half precision: inputs and results of both kinds, normed copies and what reads them.
fn half_products() -> Vec<KernelSpec> {
    use EpilogueOp::*;
    let mut list = Vec::new();
    for group in [32, 64, 128] {
        for scales in ScaleType::ALL {
            for (ix, m_max) in [1, 3, 8].into_iter().enumerate() {
                let mut spec = KernelSpec::new(Template::Matvec, Tier::Subgroups)
                    .with("K", [128, 4096, 14336][ix])
                    .with("N", 96)
                    .with("M_MAX", m_max)
                    .with("HALF", 1);
                spec.weight = Some(WeightFormat::Affine { bits: 4, group, scales: *scales });
                spec.rows = Rows::ALL[ix % 2];
                let with = |prologue, epilogue: &[EpilogueOp], x_half: bool, out_half: bool| {
                    let mut spec = spec.clone();
                    spec.prologue = prologue;
                    spec.epilogue = epilogue.to_vec();
                    let spec = if x_half { spec.with("X_HALF", 1) } else { spec };
                    if out_half { spec.with("OUT_HALF", 1) } else { spec }
                };
                list.push(with(Prologue::None, &[AddOut, Normed], true, false));
                list.push(with(Prologue::None, &[Add(0), Normed], false, false));
                list.push(with(Prologue::RmsNorm, &[SiluMulPairs], false, true));
                let parts = with(Prologue::RmsNormParts, &[Bias(0), SiluMulPairs], true, true);
                list.push(parts.clone().with("SQUARE_PARTS", 1));
                list.push(parts.with("SQUARE_PARTS", 4096).with("UNROLL", 2).with("ROWS_PER_SUBGROUP", 4));
                list.push(with(Prologue::None, &[Gelu], true, true).with("K_SPLIT", 8).with("ROWS_PER_WG", 32));
            }
        }
    }
    list
}

/// Products in half precision of every other format, and those in whole numbers.
fn half_formats() -> Vec<KernelSpec> {
    let affine = |bits| WeightFormat::Affine { bits, group: 64, scales: ScaleType::F16 };
    let blocks = KFormat::ALL.iter().map(|k| WeightFormat::K(*k));
    let mut formats: Vec<WeightFormat> = [1, 2, 3, 5, 6, 8].map(affine).into_iter().chain(blocks).collect();
    formats.extend([WeightFormat::Mxfp4, WeightFormat::Mxfp8]);
    formats.extend([false, true].map(|global| WeightFormat::Nvfp4 { global }));
    let mut list = Vec::new();
    for (ix, format) in formats.into_iter().enumerate() {
        let mut spec = KernelSpec::new(Template::Matvec, Tier::Subgroups)
            .with("K", 4096)
            .with("N", 96)
            .with("M_MAX", [1, 4][ix % 2])
            .with("HALF", 1)
            .with("X_HALF", [1, 0][ix / 2 % 2]);
        spec.weight = Some(format);
        list.push(spec);
    }
    for (ix, format) in [affine(4), affine(8), WeightFormat::K(KFormat::Q4K)].into_iter().enumerate() {
        for m_max in [1, 8] {
            let mut spec = KernelSpec::new(Template::Matvec, Tier::Subgroups)
                .with("K", [4096, 14_336, 512][ix])
                .with("N", 96)
                .with("M_MAX", m_max)
                .with("HALF", 1)
                .with("INT8", 1)
                .with("X_HALF", 1);
            spec.weight = Some(format);
            list.push(spec.clone());
            spec.prologue = Prologue::RmsNormParts;
            list.push(spec.with("SQUARE_PARTS", 16).with("K_SPLIT", 2));
        }
    }
    list
}

/// Products on matrix units: every format, both sides of a matrix, tiles of many shapes, experts.
fn coop_products() -> Vec<KernelSpec> {
    let mut list = Vec::new();
    // TILE_M, TILE_N, TILE_K, UNIT_M, UNIT_N, SLICES
    let tiles = [
        [128, 128, 32, 64, 32, 1],
        [128, 64, 64, 64, 64, 1],
        [64, 64, 32, 32, 32, 1],
        [32, 128, 32, 32, 32, 1],
        [256, 64, 32, 64, 64, 1],
        [16, 32, 256, 16, 32, 4],
        [64, 32, 64, 32, 32, 2],
    ];
    let epilogues = epilogues();
    for (ix, format) in formats().into_iter().filter(|format| *format != WeightFormat::F32).enumerate() {
        for (side, lanes) in [[(16, 32), (8, 32), (8, 8)], [(16, 32), (8, 8), (16, 64)]][ix % 2] {
            let mut spec = KernelSpec::new(Template::MatmulCoop, Tier::Subgroups)
                .with("K", [4096, 14_336][ix % 2])
                .with("N", [98, 2000, 3000, 5000][ix / 2 % 4])
                .with("SIDE", side)
                .with("LANES", lanes)
                .with("X_HALF", ix as u32 / 2 % 2);
            spec.weight = Some(format);
            spec.rows = Rows::ALL[ix % 2];
            spec.epilogue = epilogues[ix % epilogues.len()].clone();
            list.push(spec.clone());
            let [tile_m, tile_n, tile_k, unit_m, unit_n, slices] = tiles[ix % tiles.len()];
            // At most 32 matrices a subgroup.
            let (unit_m, unit_n) = if side == 8 { (unit_m.min(32), unit_n.min(32)) } else { (unit_m, unit_n) };
            let spec = spec.with("TILE_M", tile_m).with("TILE_N", tile_n).with("TILE_K", tile_k);
            let spec = spec.with("UNIT_M", unit_m).with("UNIT_N", unit_n).with("SLICES", slices);
            let in_place = spec.epilogue.contains(&EpilogueOp::AddOut);
            let spec = if in_place { spec } else { spec.with("OUT_STRIDE", 5000).with("OUT_HALF", 1) };
            if lanes * slices * (tile_m / unit_m) * (tile_n / unit_n) <= 256 {
                list.push(spec.clone());
            }
            if tile_m <= 128 && ix % 4 == 0 {
                let spec = KernelSpec { epilogue: vec![EpilogueOp::SiluMulPairs], ..list[list.len() - 1].clone() };
                let spec = spec.with("EXPERTS", 8).with("TOP_K", 2).with("TILE_M", [32, 64, 128][ix % 3]);
                let spec = spec.with("UNIT_M", 32).with("UNIT_N", 32).with("TILE_N", 64).with("TILE_K", 32);
                let spec = spec.with("SLICES", 1);
                list.push(spec.with("X_EACH", 1).with("EXPERT_FIRST", 4).with("EXPERT_COUNT", 1));
            }
        }
    }
    list
}

/// Products with stacks of experts, whole and in parts, in single and half precision; what chooses and joins them.
fn mixtures() -> Vec<KernelSpec> {
    use EpilogueOp::*;
    let mut list = Vec::new();
    for (n_experts, k, wg) in [(1, 1, 32), (8, 2, 128), (128, 8, 128), (4096, 64, 256)] {
        for rows in Rows::ALL {
            let with = |spec: KernelSpec| KernelSpec { rows: *rows, ..spec };
            let route = KernelSpec::new(Template::MoeRoute, Tier::Plain).with("EXPERTS", n_experts).with("TOP_K", k);
            list.push(with(route.clone()));
            list.push(with(route.with("RENORMALIZE", 1).with("WG", wg)));
            let order = KernelSpec::new(Template::MoeOrder, Tier::Plain).with("EXPERTS", n_experts).with("TOP_K", k);
            list.push(with(order.clone().with("TILE_M", wg.min(128))));
            list.push(with(order.with("TILE_M", 32).with("WG", wg)));
            for epilogue in [vec![], vec![AddOut], vec![Add(0), Gelu, Mul(1)]] {
                let sum = KernelSpec::new(Template::MoeSum, Tier::Plain).with("N_COLS", 64 * k - 1).with("TOP_K", k);
                list.push(KernelSpec { epilogue, ..with(sum) }.with("WG", wg));
            }
        }
        let formats = [
            WeightFormat::F32,
            WeightFormat::Bf16,
            WeightFormat::Mxfp4,
            WeightFormat::Nvfp4 { global: true },
            WeightFormat::K(KFormat::Q4K),
            WeightFormat::Affine { bits: 4, group: 64, scales: ScaleType::Bf16 },
        ];
        for (ix, format) in formats.into_iter().enumerate() {
            for tier in TIERS {
                let mut spec = KernelSpec::new(Template::Matvec, tier)
                    .with("K", 256)
                    .with("N", 96)
                    .with("EXPERTS", n_experts)
                    .with("TOP_K", k);
                spec.weight = Some(format);
                spec.rows = Rows::ALL[ix % 2];
                spec.epilogue = vec![SiluMulPairs];
                list.push(KernelSpec { prologue: Prologue::RmsNorm, ..spec.clone() });
                let part = spec.with("X_EACH", 1).with("EXPERT_FIRST", n_experts / 2).with("EXPERT_COUNT", 1);
                list.push(KernelSpec { epilogue: vec![Silu, Mul(0)], ..part.clone() });
                if tier == Tier::Plain {
                    let tiled = KernelSpec::new(Template::Matmul, tier)
                        .with("K", 256)
                        .with("N", 98)
                        .with("EXPERTS", n_experts)
                        .with("TOP_K", k)
                        .with("TILE_M", [32, 64, 128][ix % 3]);
                    let tiled = KernelSpec { weight: Some(format), rows: Rows::ALL[ix % 2], ..tiled };
                    list.push(KernelSpec { epilogue: vec![SiluMulPairs, Add(0), Mul(1)], ..tiled.clone() });
                    list.push(tiled.with("X_EACH", 1).with("EXPERT_FIRST", n_experts / 2).with("EXPERT_COUNT", 1));
                }
                let is_half = tier == Tier::Subgroups && matches!(format, WeightFormat::Affine { .. });
                if is_half {
                    list.push(part.with("HALF", 1).with("X_HALF", 1).with("OUT_HALF", 1));
                }
            }
        }
    }
    list
}

/// Attention of one query a tile, whole and in parts, and what joins the parts.
fn decoding_attentions() -> Vec<KernelSpec> {
    let mut list = Vec::new();
    for (heads, kv_heads, dim) in [(1, 1, 64), (9, 3, 64), (32, 8, 128), (8, 1, 192), (4, 4, 256)] {
        for (parts, window, keep, softcap) in [(0, 0, 0, 0.0), (0, 100, 4, 30.0), (1, 0, 0, 0.0), (64, 512, 0, 50.0)] {
            let mut spec = KernelSpec::new(Template::AttentionDecode, Tier::Subgroups)
                .with("N_HEADS", heads)
                .with("N_KV_HEADS", kv_heads)
                .with("HEAD_DIM", dim)
                .with("MAX_PAGES", 256)
                .with("PARTS", parts)
                .with("WINDOW", window)
                .with("KEEP", keep)
                .with_f32("SCALE", 0.125)
                .with_f32("SOFTCAP", softcap);
            list.push(spec.clone().with("WG", 64).with("TOKENS", 4).with("HEADS", 1));
            if parts == 0 {
                spec = spec.with("OUT_HALF", 1);
            } else {
                let join = KernelSpec::new(Template::AttentionCombine, Tier::Plain)
                    .with("N_HEADS", heads)
                    .with("HEAD_DIM", dim)
                    .with("PARTS", parts);
                list.extend([join.clone(), KernelSpec { tier: Tier::Subgroups, ..join.with("OUT_HALF", 1) }]);
            }
            list.push(spec);
        }
    }
    list
}

/// Attention on matrix units of either size.
fn coop_attentions() -> Vec<KernelSpec> {
    let mut list = Vec::new();
    for (heads, kv_heads, dim, block) in [(1, 1, 16, 16), (9, 3, 64, 64), (32, 8, 128, 32), (6, 2, 80, 32)] {
        for (side, lanes) in [(16, 32), (8, 32), (8, 8)] {
            let spec = KernelSpec::new(Template::AttentionCoop, Tier::Subgroups)
                .with("N_HEADS", heads)
                .with("N_KV_HEADS", kv_heads)
                .with("HEAD_DIM", dim)
                .with("SIDE", side)
                .with("LANES", lanes)
                .with("KV_BLOCK", block)
                .with("MAX_PAGES", 256)
                .with_f32("SCALE", 0.125);
            list.push(spec.clone());
            if dim % 32 == 0 {
                list.push(spec.clone().with("KV_BITS", 8).with("KV_QUANT_GROUP", 32));
            }
            list.push(
                spec.clone().with("KV_BITS", 4).with("KV_QUANT_GROUP", 32).with("HEAD_DIM", 128).with("KV_BLOCK", 32),
            );
            list.push(
                spec.with("WINDOW", 300)
                    .with("KEEP", 4)
                    .with_f32("SOFTCAP", 30.0)
                    .with("OUT_HALF", u32::from(heads > 1)),
            );
        }
    }
    list
}
