//! Tiles: the numbers of a matrix product that change how fast it is and not what it computes. A table measured on a
//! device names the best by shape; what it does not know takes the catalogue's defaults.
//!
//! A table is data of a stranger: a row is taken only if the kernel links with it, within the target's limits.

use crate::link;
use crate::target::TargetProfile;
use ingot_ir::kernel::{Const, EpilogueOp, KernelSpec, Template};
use ingot_ir::plan::PlanKernel;
use ingot_ir::size::Dims;
use ingot_ir::weight::Format;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Version of the tables' meaning; others are refused.
pub const TILES_VERSION: u32 = 2;

/// Rows of the largest table.
const MAX_ROWS: usize = 1 << 16;

/// Which products a row of a table is for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TileShape {
    /// Template, e.g. `matvec`.
    pub template: String,
    /// Format of the matrix, e.g. `bf16`.
    pub weight: String,
    /// Rows of x that the kernel takes at once (`M_MAX`); on matrix units those of a tile, of short steps, and twice those of
    /// one of several that were halved; 0 for any number.
    pub rows: u32,
    /// Rows of the matrix.
    pub n: u32,
    /// Columns of the matrix.
    pub k: u32,
}

impl TileShape {
    /// The shape of a kernel; `None` if its template has no tiles.
    pub fn of(spec: &KernelSpec) -> Option<Self> {
        // Products with experts keep the defaults.
        if tunable(spec.template).is_empty() || spec.u32("EXPERTS").is_some() {
            return None;
        }
        // Short steps slice the columns of their tiles, or leave it to the catalogue.
        let is_one_of_several = spec.u32("SLICES") == Some(1);
        let tile = spec.u32("TILE_M").filter(|_| spec.template == Template::MatmulCoop);
        let rows = tile.map(|rows| rows * (1 + u32::from(is_one_of_several)));
        Some(Self {
            template: spec.template.name().into(),
            weight: spec.weight?.to_string(),
            rows: spec.u32("M_MAX").or(rows).unwrap_or(0),
            n: spec.u32("N")?,
            k: spec.u32("K")?,
        })
    }

    /// How unlike another shape of the same kind is; `None` if it is of another kind.
    fn distance(&self, other: &Self) -> Option<f64> {
        let alike = self.template == other.template && self.weight == other.weight && self.rows == other.rows;
        let ratio = |a: u32, b: u32| (f64::from(a) / f64::from(b)).ln().powi(2);
        alike.then(|| ratio(self.n, other.n) + ratio(self.k, other.k))
    }
}

/// The best tiles that were found for a shape.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TileRow {
    /// What for.
    #[serde(flatten)]
    pub shape: TileShape,
    /// The template's numbers by name.
    pub tiles: BTreeMap<String, u32>,
    /// Microseconds of one dispatch.
    pub us: f64,
    /// Microseconds of one dispatch with the catalogue's defaults.
    pub default_us: f64,
}

/// Tiles by shape, measured on a device.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TileTable {
    /// [`TILES_VERSION`].
    pub version: u32,
    /// Name of the device that was measured; empty for a table that is built in.
    pub device: String,
    /// Name of the target that the kernels were linked for.
    pub target: String,
    /// Rows, one a shape, sorted by shape.
    pub rows: Vec<TileRow>,
}

/// Why a table cannot be used.
#[derive(Debug, Error)]
pub enum TileError {
    /// The system refused to read or write it.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It is no table, or one that this version does not know.
    #[error("{}: not a table of tiles ({why}); run `ingot tune` again, or remove the file", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It was measured for another target.
    #[error(
        "{}: measured for target `{found}`, not `{wanted}`; run `ingot tune` on the device, or leave the table out",
        path.display()
    )]
    OtherTarget {
        /// The file.
        path: PathBuf,
        /// The table's target.
        found: String,
        /// The target that is compiled for.
        wanted: String,
    },
}

/// Tables that come with the compiler, as `ingot tune --output` writes them, one a target. The catalogue's defaults, tuned
/// on an H100, serve a target without one.
const BUILT_IN: &[&str] = &[];

impl TileTable {
    /// An empty table of a device.
    pub fn new(device: impl Into<String>, target: impl Into<String>) -> Self {
        Self { version: TILES_VERSION, device: device.into(), target: target.into(), rows: Vec::new() }
    }

    /// The table that comes with the compiler for a target.
    pub fn built_in(target: &str) -> Self {
        let tables = BUILT_IN.iter().filter_map(|text| serde_json::from_str::<Self>(text).ok());
        let found = tables.into_iter().find(|table| table.target == target);
        // Without a device, a table has no name to be recorded.
        found.map_or_else(|| Self::new("", target), |table| Self { device: String::new(), ..table })
    }

    /// Adds a row in its place, or replaces that of its shape.
    pub fn insert(&mut self, row: TileRow) {
        match self.rows.binary_search_by(|other| other.shape.cmp(&row.shape)) {
            Ok(ix) => self.rows[ix] = row,
            Err(ix) => self.rows.insert(ix, row),
        }
    }

    /// What a plan records of it: the device's name and the first 12 digits of the table's BLAKE3 hash, or nothing for
    /// a built-in table.
    pub fn id(&self) -> String {
        if self.device.is_empty() {
            return String::new();
        }
        let hash = blake3::hash(self.to_json().as_bytes()).to_hex();
        format!("{}-{}", slug(&self.device), &hash[..12])
    }

    /// The text of the file.
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.unwrap_or_else(|error| unreachable!("a table has no map with keys that are no text: {error}")) + "\n"
    }

    /// Reads the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// [`TileError::Bad`] with the first thing that is wrong.
    pub fn from_json(text: &str, path: &Path) -> Result<Self, TileError> {
        let bad = |why: String| TileError::Bad { path: path.to_path_buf(), why };
        let table: Self = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
        table.check().map_err(bad)?;
        Ok(table)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`TileError::Io`] and those of [`Self::from_json`].
    pub fn read(path: &Path) -> Result<Self, TileError> {
        let bytes = std::fs::read(path).map_err(|source| TileError::Io { path: path.to_path_buf(), source })?;
        let text = String::from_utf8(bytes);
        let text = text.map_err(|error| TileError::Bad { path: path.to_path_buf(), why: error.to_string() })?;
        Self::from_json(&text, path)
    }

    /// Writes a file, whole or not at all; its folder is made.
    ///
    /// # Errors
    /// [`TileError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), TileError> {
        let write = || -> std::io::Result<()> {
            use std::io::Write;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::Builder::new().prefix(".ingot-").tempfile_in(folder)?;
            file.write_all(self.to_json().as_bytes())?;
            file.persist(path)?;
            Ok(())
        };
        write().map_err(|source| TileError::Io { path: path.to_path_buf(), source })
    }

    fn check(&self) -> Result<(), String> {
        if self.version != TILES_VERSION {
            return Err(format!("version {} is not {TILES_VERSION}", self.version));
        }
        if slug(&self.device).is_empty() {
            return Err("it names no device".into());
        }
        if self.rows.len() > MAX_ROWS {
            return Err(format!("{} rows, at most {MAX_ROWS} are taken", self.rows.len()));
        }
        for (ix, row) in self.rows.iter().enumerate() {
            let TileShape { template, weight, n, k, .. } = &row.shape;
            let names = Template::parse(template).map_or(&[][..], tunable);
            if names.is_empty() {
                return Err(format!("row {ix}: no tiles belong to template `{template}`"));
            }
            if Format::parse(weight).is_none() {
                return Err(format!("row {ix}: `{weight}` is no weight format"));
            }
            if *n == 0 || *k == 0 {
                return Err(format!("row {ix}: n and k must be positive"));
            }
            if let Some(name) = row.tiles.keys().find(|name| !names.contains(&name.as_str())) {
                return Err(format!("row {ix}: `{name}` is no tile of {template}, known are: {}", names.join(", ")));
            }
            if [row.us, row.default_us].iter().any(|us| !us.is_finite() || *us < 0.0) {
                return Err(format!("row {ix}: times must be numbers of microseconds"));
            }
        }
        if self.rows.windows(2).any(|pair| pair[0].shape >= pair[1].shape) {
            return Err("rows are not sorted by template, weight, rows, n and k, one a shape".into());
        }
        Ok(())
    }

    /// A kernel with the table's tiles: those of its shape, else of the nearest shape of its kind that link, else
    /// unchanged.
    pub fn apply(&self, spec: &KernelSpec, target: &TargetProfile) -> KernelSpec {
        let Some(shape) = TileShape::of(spec).filter(|_| !target.is_cpu) else { return spec.clone() };
        let near = self.rows.iter().filter_map(|row| Some((row.shape.distance(&shape)?, row)));
        let mut near: Vec<(f64, &TileRow)> = near.collect();
        // The sort is stable and rows are in order, so that equal distances are decided alike everywhere.
        near.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let tiled = near.into_iter().map(|(_, row)| with_tiles(spec, &row.tiles));
        tiled.into_iter().find(|tiled| link::link(tiled, target).is_ok()).unwrap_or_else(|| spec.clone())
    }
}

/// The numbers of a template that are tiles.
pub fn tunable(template: Template) -> &'static [&'static str] {
    match template {
        Template::Matvec => &["WG", "ROWS_PER_SUBGROUP", "K_SPLIT", "UNROLL", "ROWS_PER_WG"],
        Template::Matmul => &["TILE_M", "TILE_N", "TILE_K"],
        Template::MatmulCoop => &["TILE_M", "TILE_N", "TILE_K", "UNIT_M", "UNIT_N", "SLICES"],
        _ => &[],
    }
}

/// The tiles of a kernel as it links, defaults filled in.
pub fn tiles_of(spec: &KernelSpec, target: &TargetProfile) -> BTreeMap<String, u32> {
    let value = |name: &&str| Some((String::from(*name), link::const_value(spec, target, name)?));
    tunable(spec.template).iter().filter_map(value).collect()
}

/// Every kernel that computes the same with other tiles, within the target's limits: the spec itself first, then those
/// that differ from it in fewer numbers before those that differ in more.
pub fn candidates(spec: &KernelSpec, target: &TargetProfile) -> Vec<KernelSpec> {
    let mut found = vec![spec.clone()];
    if target.is_cpu {
        return found;
    }
    let current = tiles_of(spec, target);
    let n_changed =
        |tiles: &BTreeMap<String, u32>| tiles.iter().filter(|(name, n)| current.get(*name) != Some(n)).count();
    let mut all = match spec.template {
        Template::Matvec => matvec_tiles(spec.u32("M_MAX").unwrap_or(1)),
        Template::Matmul => matmul_tiles(),
        Template::MatmulCoop => {
            let number = |name: &str| link::const_value(spec, target, name).unwrap_or(0);
            coop_tiles(number("TILE_M"), number("SIDE"))
        }
        _ => Vec::new(),
    };
    all.retain(|tiles| n_changed(tiles) > 0);
    all.sort_by_key(n_changed);
    let specs = all.iter().map(|tiles| with_tiles(spec, tiles));
    found.extend(specs.filter(|spec| link::link(spec, target).is_ok()));
    found
}

/// Tiles of a matrix-vector product for `rows` rows of x.
fn matvec_tiles(rows: u32) -> Vec<BTreeMap<String, u32>> {
    let mut all = Vec::new();
    for wg in [64, 128, 256] {
        for k_split in [1, 2, 4, 8] {
            for of_subgroup in [1, 2, 4] {
                for unroll in [1, 2, 4] {
                    // More parts than subgroups of 32 leave each other waiting; more loads or sums than these spill.
                    if k_split * 32 > wg || of_subgroup * unroll > 8 || of_subgroup * rows.min(8) > 16 {
                        continue;
                    }
                    // One unit a subgroup, two or four.
                    let of_wg = (wg / 32 / k_split * of_subgroup).max(2);
                    for times in [1, 2, 4] {
                        all.push(named(Template::Matvec, &[wg, of_subgroup, k_split, unroll, times * of_wg]));
                    }
                }
            }
        }
    }
    all
}

fn matmul_tiles() -> Vec<BTreeMap<String, u32>> {
    let mut all = Vec::new();
    for tile_m in [64, 128] {
        for tile_n in [64, 128] {
            all.extend([8, 16, 32].map(|tile_k| named(Template::Matmul, &[tile_m, tile_n, tile_k])));
        }
    }
    all
}

/// Tiles on matrix units of `side` rows, beside tiles of `tile_m` rows of x.
fn coop_tiles(tile_m: u32, side: u32) -> Vec<BTreeMap<String, u32>> {
    let mut all = Vec::new();
    for tile_m in [tile_m / 2, tile_m] {
        for tile_n in [2 * side, 4 * side, 8 * side] {
            for (unit_m, unit_n) in [(1, 1), (2, 1), (2, 2), (2, 4), (4, 2), (4, 4)] {
                for (tile_k, slices) in [(32, 1), (64, 1), (64, 2), (128, 2), (128, 4)] {
                    let tiles = [tile_m, tile_n, tile_k, unit_m * side, unit_n * side, slices];
                    all.push(named(Template::MatmulCoop, &tiles));
                }
            }
        }
    }
    all
}

/// Values in the order of [`tunable`] by name.
fn named(template: Template, values: &[u32]) -> BTreeMap<String, u32> {
    tunable(template).iter().zip(values).map(|(name, value)| (String::from(*name), *value)).collect()
}

/// A kernel with other tiles.
pub fn with_tiles(spec: &KernelSpec, tiles: &BTreeMap<String, u32>) -> KernelSpec {
    let mut spec = spec.clone();
    if spec.epilogue.contains(&EpilogueOp::Normed) {
        // As many as workgroups.
        spec.consts.retain(|(name, _)| name != "SQUARE_PARTS");
    }
    if tiles.contains_key("UNIT_M") {
        // What a table of before there were slices means.
        spec.set("SLICES", Const::U32(1));
    }
    tiles.iter().for_each(|(name, value)| spec.set(name, Const::U32(*value)));
    spec
}

/// Links a kernel by itself and gives its workgroups in a step of the given sizes.
///
/// # Errors
/// As compilation: a number that the catalogue or the target does not take.
pub fn kernel(
    spec: &KernelSpec,
    target: &TargetProfile,
    dims: &Dims,
) -> Result<(PlanKernel, u32), crate::CompileError> {
    let linked = link::link(spec, target)?;
    let rule = link::grid(spec, target)?;
    let count = rule.dim.map_or(1, |dim| dims.get(dim));
    Ok((linked, count.div_ceil(rule.divisor).saturating_mul(rule.times)))
}

/// A name for files and plans: lower-case letters and digits, runs of others as one `-`.
pub fn slug(name: &str) -> String {
    let parts = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-").to_ascii_lowercase()
}
