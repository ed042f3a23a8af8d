//! Numbers of kernels on matrix units.

use super::{
    ConstDefault, ConstRule, Consts, KEEP, KV_QUANT_GROUP, OUT_AT, OUT_HALF, OUT_STRIDE, SOFTCAP, WINDOW, float, power,
    rule, size,
};
use crate::link::LinkError;
use crate::spec::{KernelSpec, Tier, WeightFormat};

const fn tile(name: &'static str, how: &'static str, min: u32, max: u32) -> ConstRule {
    ConstRule { power_of_two: true, ..rule(name, ConstDefault::Derived(how), min, max) }
}

/// Those of products.
pub(super) const MATMUL: &[ConstRule] = &[
    size("K"),
    size("N"),
    OUT_STRIDE,
    OUT_AT,
    power("SIDE", 16, 8, 16),
    power("LANES", 32, 4, 64),
    tile("TILE_M", "8 * SIDE, and half for LANES below 16", 16, 256),
    tile("TILE_N", "as TILE_M, and 4 * SIDE for a smaller TILE_M or a narrow W, 2 * SIDE with slices", 16, 256),
    tile("TILE_K", "32, and for a smaller TILE_M 64, with slices 8 * SIDE, where it divides K", 32, 256),
    tile("UNIT_M", "half of TILE_M; for a smaller one 2 * SIDE, at most TILE_M; with slices TILE_M", 8, 128),
    tile("UNIT_N", "as UNIT_M, half for a narrow W; for a smaller TILE_M SIDE or 2 * SIDE; with slices TILE_N", 8, 128),
    tile(
        "SLICES",
        "1; without experts, for TILE_M of SIDE, or a smaller TILE_M and a narrow W, TILE_K / (2 * SIDE)",
        1,
        8,
    ),
    rule("X_HALF", ConstDefault::U32(0), 0, 1),
    OUT_HALF,
    rule("WG", ConstDefault::Derived("LANES * SLICES * TILE_M / UNIT_M * TILE_N / UNIT_N"), 4, 256),
];

/// Those of attention.
pub(super) const ATTENTION: &[ConstRule] = &[
    rule("N_HEADS", ConstDefault::Required, 1, 1024),
    rule("N_KV_HEADS", ConstDefault::Required, 1, 1024),
    rule("HEAD_DIM", ConstDefault::Required, 16, 128),
    power("SIDE", 16, 8, 16),
    power("LANES", 32, 8, 64),
    rule("HEADS", ConstDefault::Derived("the most of 4 that divide N_HEADS / N_KV_HEADS"), 1, 4),
    float("SCALE"),
    rule("Q_TILE", ConstDefault::U32(16), 8, 16),
    WINDOW,
    KEEP,
    SOFTCAP,
    OUT_HALF,
    size("MAX_PAGES"),
    power("KV_BITS", 16, 4, 16),
    KV_QUANT_GROUP,
    power("KV_BLOCK", 32, 16, 64),
    rule("WG", ConstDefault::Derived("LANES * HEADS"), 8, 256),
];

/// Workgroups that occupy a large device.
const MANY_WORKGROUPS: u32 = 128;

/// Tiles of a product on matrix units, measured on an H100 (benches/README.md). A large one has four units of half its sides.
/// Where W is narrow, few workgroups make all of a chunk's products: there units are narrower, so that subgroups wait for
/// memory in turn, and then tiles. A smaller tile, for fewer rows, waits longer than it multiplies: it takes more columns at
/// a time, and few rows of W. The smallest, and those of which few make all of W, take half as many rows of W, and their
/// subgroups share out columns. (Products with experts have tiles for each expert, so they are many.)
pub(super) fn tile_number(name: &str, c: &Consts, has_experts: bool) -> u32 {
    let (side, n) = (c.u32("SIDE"), c.u32("N"));
    // Few lanes hold many numbers of a matrix each.
    let largest = if c.u32("LANES") < 16 { 4 * side } else { 8 * side };
    let is_large = c.u32("TILE_M") >= largest;
    let few_tiles = n < MANY_WORKGROUPS * 4 * side || c.u32("TILE_M") <= side;
    let has_slices = c.u32("SLICES") != 1 && c.u32("K").is_multiple_of(4 * side);
    let is_sliced = !is_large && !has_experts && has_slices && few_tiles;
    match name {
        "TILE_M" => largest,
        "TILE_N" if is_large && n > 16 * largest => largest,
        "TILE_N" if is_sliced => 2 * side,
        "TILE_N" => 4 * side,
        "TILE_K" if is_sliced && c.u32("K").is_multiple_of(8 * side) => 8 * side,
        "TILE_K" if is_large || !c.u32("K").is_multiple_of(64) => 32,
        "TILE_K" => 64,
        "UNIT_M" if is_large => c.u32("TILE_M") / 2,
        "UNIT_M" if is_sliced => c.u32("TILE_M"),
        "UNIT_M" => c.u32("TILE_M").min(2 * side),
        // Of more lanes there would be more than 256 invocations.
        "UNIT_N" if is_large && (n > 32 * largest || c.u32("LANES") > 32) => largest / 2,
        "UNIT_N" if is_large => (largest / 4).max(side),
        "UNIT_N" if is_sliced => c.u32("TILE_N"),
        "UNIT_N" if c.u32("TILE_M") < 4 * side => side,
        "UNIT_N" => 2 * side,
        "SLICES" if is_sliced => (c.u32("TILE_K") / (2 * side)).clamp(1, 4),
        "SLICES" => 1,
        _ => {
            let units = (c.u32("TILE_M") / c.u32("UNIT_M")) * (c.u32("TILE_N") / c.u32("UNIT_N"));
            c.u32("LANES") * c.u32("SLICES") * units
        }
    }
}

/// Checks what products assume of several numbers; `need` makes the error.
pub(super) fn check_matmul(
    spec: &KernelSpec,
    c: &Consts,
    need: impl Fn(bool, &str, &str) -> Result<(), LinkError>,
) -> Result<(), LinkError> {
    need(spec.tier == Tier::Subgroups, "LANES", "of subgroups, which the plain tier does not have")?;
    need(spec.weight != Some(WeightFormat::F32), "SIDE", "of weights that are no f32, which f16 would round")?;
    need(c.u32("K").is_multiple_of(c.u32("TILE_K")), "K", "a multiple of TILE_K")?;
    let side = c.u32("SIDE");
    let subgroups = |of: &str, unit: &str| {
        let whole = c.u32(of).is_multiple_of(c.u32(unit)) && c.u32(unit).is_multiple_of(side);
        need(whole, unit, "a divisor of the tile and a multiple of SIDE").map(|()| c.u32(of) / c.u32(unit))
    };
    let n_subgroups = subgroups("TILE_M", "UNIT_M")? * subgroups("TILE_N", "UNIT_N")?;
    let slice = c.u32("TILE_K") / c.u32("SLICES");
    need(slice.is_multiple_of(side), "SLICES", "of a multiple of SIDE columns")?;
    let wg = c.u32("LANES") * n_subgroups * c.u32("SLICES");
    need(c.u32("WG") == wg && wg <= 256, "WG", "LANES for each slice of each unit of a tile, at most 256")?;
    let n_matrices = c.u32("UNIT_M") * c.u32("UNIT_N") / (side * side);
    need(n_matrices <= 32, "UNIT_N", "of a unit of at most 32 matrices")
}

/// The same of attention.
pub(super) fn check_attention(
    spec: &KernelSpec,
    c: &Consts,
    need: impl Fn(bool, &str, &str) -> Result<(), LinkError>,
) -> Result<(), LinkError> {
    let side = c.u32("SIDE");
    need(spec.tier == Tier::Subgroups, "LANES", "of subgroups, which the plain tier does not have")?;
    need(c.u32("HEAD_DIM").is_multiple_of(side), "HEAD_DIM", "a multiple of SIDE")?;
    need(c.u32("Q_TILE").is_multiple_of(side), "Q_TILE", "a multiple of SIDE")?;
    need(c.u32("LANES").is_multiple_of(side), "LANES", "a multiple of SIDE")?;
    need(c.u32("N_HEADS").is_multiple_of(c.u32("N_KV_HEADS")), "N_HEADS", "a multiple of N_KV_HEADS")?;
    let shared = c.u32("N_HEADS") / c.u32("N_KV_HEADS");
    need(shared.is_multiple_of(c.u32("HEADS")), "HEADS", "a divisor of N_HEADS / N_KV_HEADS")?;
    need(c.u32("WG") == c.u32("LANES") * c.u32("HEADS"), "WG", "LANES for each of HEADS")?;
    let row = c.u32("N_HEADS") * c.u32("HEAD_DIM");
    need(c.u32("OUT_HALF") == 0 || row.is_multiple_of(8), "HEAD_DIM", "of half rows of a multiple of 8 columns")
}
