//! One weight file, written while later rows are encoded.

use super::Told;
use super::in_order::in_order;
use crate::config::Quant;
use crate::error::{Error, Result};
use crate::formats::affine::{AffineMatrix, AffineView, QuantShape, push_scale, scale_at};
use crate::formats::safetensors::{self, StoredType, TensorDecl, TensorView};
use crate::formats::small_float::SmallFloatMatrix;
use crate::weights::Matrix;
use ingot_ir::weight::ScaleType;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Numbers that are encoded at a time; as f32, 4 MiB.
const CHUNK_NUMBERS: usize = 1 << 20;

/// What becomes of a module or a vector.
pub(super) struct Item<'a> {
    /// Path of a module, or a vector's full name.
    pub path: String,
    pub kind: Kind<'a>,
}

/// A source and its new form.
pub(super) enum Kind<'a> {
    /// A vector, cast.
    Vector { tensor: TensorView<'a>, stored: StoredType },
    /// A matrix as floats.
    Widen { matrix: Rows<'a>, float: StoredType },
    /// A quantized matrix as it is, but for the type of its scales and biases.
    Keep { matrix: Rows<'a>, float: StoredType },
    /// A matrix of floats, cast, then quantized.
    Quantize { matrix: Rows<'a>, float: StoredType, quant: Quant },
}

/// A matrix, or the experts of a layer one below the other, all of one form: a stack, or one matrix each.
pub(super) struct Rows<'a> {
    pub parts: Vec<Matrix<'a>>,
    /// Experts that are written as a stack.
    pub n_experts: Option<usize>,
}

impl<'a> Rows<'a> {
    pub(super) fn shape(&self) -> [usize; 2] {
        let [n_rows, n_cols] = self.parts[0].shape();
        [n_rows * self.parts.len(), n_cols]
    }

    /// Rows `first .. end` as rows of parts.
    pub(super) fn runs(&self, first: usize, end: usize) -> impl Iterator<Item = (&Matrix<'a>, usize, usize)> {
        let [height, _] = self.parts[0].shape();
        let run = move |(ix, part): (usize, _)| {
            let at = ix * height;
            let (first, end) = (first.max(at) - at, end.min(at + height).saturating_sub(at));
            (first < end).then_some((part, first, end))
        };
        self.parts.iter().enumerate().filter_map(run)
    }

    /// Whether the rows are floats of a type.
    fn is_stored(&self, float: StoredType) -> bool {
        matches!(self.parts[0], Matrix::Dense { stored, .. } if stored == float)
    }
}

/// The items of one file.
pub(super) struct Shard<'a> {
    pub items: Vec<Item<'a>>,
}

/// Rows in their new form: what goes to `.weight`, `.scales`, `.biases`.
#[derive(Default)]
struct Parts {
    values: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
}

impl Shard<'_> {
    pub(super) fn n_bytes(&self) -> u64 {
        self.items.iter().map(Item::n_bytes).sum()
    }
}

impl Item<'_> {
    pub(super) fn n_numbers(&self) -> u64 {
        let [n_rows, n_cols] = self.shape();
        n_rows as u64 * n_cols as u64
    }
    pub(super) fn n_bytes(&self) -> u64 {
        self.tensors().iter().map(|tensor| tensor.n_bytes() as u64).sum()
    }
    fn shape(&self) -> [usize; 2] {
        match &self.kind {
            Kind::Vector { tensor, .. } => [tensor.shape[0], 1],
            kind => kind.rows().map_or([0, 0], Rows::shape),
        }
    }

    /// The tensors that are written, in their order.
    pub(super) fn tensors(&self) -> Vec<TensorDecl> {
        let [n_rows, n_cols] = self.shape();
        let decl = |name: String, stored, shape: &[usize]| TensorDecl { name, stored, shape: shape.to_vec() };
        let n_experts = self.kind.rows().and_then(|rows| rows.n_experts);
        let part = |ending: &str, stored, cols: usize| {
            let name = format!("{}.{ending}", self.path);
            match n_experts {
                Some(n) => decl(name, stored, &[n, n_rows / n, cols]),
                None => decl(name, stored, &[n_rows, cols]),
            }
        };
        // A global scale stays what it is.
        let mut global = None;
        let (quant, float) = match &self.kind {
            Kind::Vector { stored, .. } => return vec![decl(self.path.clone(), *stored, &[n_rows])],
            Kind::Widen { float, .. } => return vec![part("weight", *float, n_cols)],
            Kind::Quantize { quant, float, .. } => (*quant, *float),
            Kind::Keep { matrix, float } => {
                let first = &matrix.parts[0];
                if let Matrix::SmallFloat(view) = first {
                    global = view.global;
                }
                let quant = Quant::of_format(first.format());
                (quant.unwrap_or_else(|| unreachable!("others are widened or quantized")), *float)
            }
        };
        let n_groups = n_cols / quant.group() as usize;
        let mut tensors = vec![part("weight", StoredType::U32, n_cols * quant.bits() as usize / 32)];
        match quant {
            Quant::Affine(_) => tensors.extend([part("scales", float, n_groups), part("biases", float, n_groups)]),
            Quant::SmallFloat(_) => tensors.push(part("scales", StoredType::U8, n_groups)),
        }
        if global.is_some() {
            let shape: Vec<usize> = n_experts.into_iter().collect();
            tensors.push(decl(format!("{}.global_scale", self.path), StoredType::F32, &shape));
        }
        tensors
    }

    /// Rows `first .. end` in their new form.
    fn encode(&self, first: usize, end: usize) -> Parts {
        let parts = self.kind.rows().map_or(&[][..], |rows| &rows.parts);
        let [Matrix::Foreign(foreign)] = parts else { return self.kind.encode(first, end) };
        let rows = foreign.rows(first..end);
        self.kind.with(rows.view()).encode(0, end - first)
    }

    /// All of an affine [`Kind::Quantize`].
    pub(super) fn quantized(&self) -> AffineMatrix {
        let (shape, scale_type) = self.affine();
        let [n_rows, n_cols] = self.shape();
        let (mut codes, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
        let parts: Vec<Parts> = self.chunks().into_par_iter().map(|[first, end]| self.encode(first, end)).collect();
        for part in parts {
            codes.extend(part.values);
            scales.extend(part.scales);
            biases.extend(part.biases);
        }
        AffineMatrix { shape, scale_type, n_rows, n_cols, codes, scales, biases }
    }

    /// How far the numbers of an affine [`Kind::Quantize`] are from the source's: the sum of squared differences.
    pub(super) fn squared_error(&self) -> f64 {
        let Kind::Quantize { matrix, .. } = &self.kind else { return 0.0 };
        let (shape, scale_type) = self.affine();
        let [_, n_cols] = self.shape();
        let of_rows = |[first, end]: [usize; 2]| {
            let Parts { values, scales, biases } = self.encode(first, end);
            let (codes, n_rows) = (&values[..], end - first);
            let made = AffineView { shape, scale_type, n_rows, n_cols, codes, scales: &scales, biases: &biases };
            let distance = |(a, b): (f32, &f32)| f64::from(a - b).powi(2);
            made.dequantize().into_iter().zip(&all_numbers(matrix, first, end)).map(distance).sum::<f64>()
        };
        // Summed in the order of rows, so that the sum does not depend on threads.
        let sums: Vec<f64> = self.chunks().into_par_iter().map(of_rows).collect();
        sums.iter().sum()
    }

    fn affine(&self) -> (QuantShape, ScaleType) {
        match &self.kind {
            Kind::Quantize { quant: Quant::Affine(shape), float, .. } => (*shape, scale_type(*float)),
            _ => unreachable!("a search is among affine forms"),
        }
    }

    /// Its rows, as many at a time as are encoded.
    fn chunks(&self) -> Vec<[usize; 2]> {
        let [n_rows, n_cols] = self.shape();
        let n = chunk_rows(n_cols);
        (0..n_rows).step_by(n).map(|first| [first, (first + n).min(n_rows)]).collect()
    }
}

impl<'a> Kind<'a> {
    pub(super) fn rows(&self) -> Option<&Rows<'a>> {
        match self {
            Self::Vector { .. } => None,
            Self::Widen { matrix, .. } | Self::Keep { matrix, .. } | Self::Quantize { matrix, .. } => Some(matrix),
        }
    }

    /// The same of another matrix.
    fn with<'b>(&self, matrix: Matrix<'b>) -> Kind<'b> {
        let matrix = Rows { parts: vec![matrix], n_experts: None };
        match *self {
            Self::Vector { .. } => unreachable!("a vector is no matrix"),
            Self::Widen { float, .. } => Kind::Widen { matrix, float },
            Self::Keep { float, .. } => Kind::Keep { matrix, float },
            Self::Quantize { float, quant, .. } => Kind::Quantize { matrix, float, quant },
        }
    }

    /// Rows `first .. end` in their new form.
    fn encode(&self, first: usize, end: usize) -> Parts {
        let n_cols = self.rows().map_or(1, |matrix| matrix.shape()[1]);
        match self {
            Kind::Vector { tensor, stored } => {
                let values = &tensor.bytes[first * tensor.stored.n_bytes()..end * tensor.stored.n_bytes()];
                let numbers = tensor.stored.to_f32s(values).expect("a vector holds floats, which was checked");
                Parts { values: to_bytes(&numbers, *stored), ..Parts::default() }
            }
            Kind::Widen { matrix, float } if matrix.is_stored(*float) => {
                let row_bytes = n_cols * float.n_bytes();
                let mut values = Vec::with_capacity((end - first) * row_bytes);
                for (part, first, end) in matrix.runs(first, end) {
                    let Matrix::Dense { bytes, .. } = part else { unreachable!("all parts are of one form") };
                    values.extend_from_slice(&bytes[first * row_bytes..end * row_bytes]);
                }
                Parts { values, ..Parts::default() }
            }
            Kind::Widen { matrix, float } => {
                Parts { values: to_bytes(&all_numbers(matrix, first, end), *float), ..Parts::default() }
            }
            Kind::Keep { matrix, float } => {
                let mut kept = Parts::default();
                for (part, first, end) in matrix.runs(first, end) {
                    let Parts { values, scales, biases } = keep(part, *float, first, end);
                    kept.values.extend(values);
                    kept.scales.extend(scales);
                    kept.biases.extend(biases);
                }
                kept
            }
            Kind::Quantize { matrix, float, quant } => {
                let mut numbers = all_numbers(matrix, first, end);
                if !matrix.is_stored(*float) {
                    round(&mut numbers, *float);
                }
                let n_rows = end - first;
                match *quant {
                    Quant::Affine(shape) => {
                        let made = AffineMatrix::quantize(&numbers, n_rows, n_cols, shape, scale_type(*float));
                        Parts { values: made.codes, scales: made.scales, biases: made.biases }
                    }
                    Quant::SmallFloat(mode) => {
                        let made = SmallFloatMatrix::quantize(&numbers, n_rows, n_cols, mode);
                        Parts { values: made.codes, scales: made.scales, biases: Vec::new() }
                    }
                }
            }
        }
    }

    /// What is left of a global scale: one a matrix.
    fn global(&self) -> Vec<u8> {
        let of = |part: &Matrix<'_>| match part {
            Matrix::SmallFloat(view) => view.global.unwrap_or(&[]).to_vec(),
            _ => Vec::new(),
        };
        match self {
            Kind::Keep { matrix, .. } => matrix.parts.iter().flat_map(of).collect(),
            _ => Vec::new(),
        }
    }
}

/// Writes a file. `told` gets the number of bytes that were written since.
pub(super) fn write(path: &Path, shard: &Shard<'_>, told: &mut Told<'_>) -> Result<()> {
    let io = |error| Error::io(path, error);
    let tensors: Vec<TensorDecl> = shard.items.iter().flat_map(Item::tensors).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "mlx".to_owned())]);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
    file.write_all(&safetensors::header(&metadata, &tensors)).map_err(io)?;
    for item in &shard.items {
        write_item(&mut file, item, path, told)?;
    }
    file.into_inner().map_err(|error| io(error.into_error()))?.sync_all().map_err(io)
}

/// Codes are written while the next rows are encoded; scales and biases, which come after all codes, wait in memory.
fn write_item(file: &mut BufWriter<File>, item: &Item<'_>, path: &Path, told: &mut Told<'_>) -> Result<()> {
    let io = |error| Error::io(path, error);
    let [n_rows, n_cols] = item.shape();
    let (mut scales, mut biases) = (Vec::new(), Vec::new());
    in_order(
        n_rows,
        chunk_rows(n_cols),
        |rows| item.encode(rows.start, rows.end),
        |parts| {
            file.write_all(&parts.values).map_err(io)?;
            scales.extend(parts.scales);
            biases.extend(parts.biases);
            Ok(parts.values.len() as u64)
        },
        told,
    )?;
    for rest in [&scales[..], &biases, &item.kind.global()] {
        file.write_all(rest).map_err(io)?;
        told(rest.len() as u64)?;
    }
    Ok(())
}

/// Rows that are encoded at a time.
pub(super) fn chunk_rows(n_cols: usize) -> usize {
    (CHUNK_NUMBERS / n_cols.max(1)).max(1)
}

/// Rows `first .. end` of a matrix, or of experts one below the other.
pub(super) fn all_numbers(matrix: &Rows<'_>, first: usize, end: usize) -> Vec<f32> {
    let [_, n_cols] = matrix.shape();
    let mut numbers = vec![0.0; (end - first) * n_cols];
    let mut rest = &mut numbers[..];
    for (part, first, end) in matrix.runs(first, end) {
        let (own, others) = rest.split_at_mut((end - first) * n_cols);
        read_rows(part, first, own);
        rest = others;
    }
    numbers
}

/// Rows from `first` on, as many as there is room for.
fn read_rows(matrix: &Matrix<'_>, first: usize, out: &mut [f32]) {
    let [_, n_cols] = matrix.shape();
    if let Matrix::Foreign(foreign) = matrix {
        let n = out.len() / n_cols.max(1);
        return read_rows(&foreign.rows(first..first + n).view(), 0, out);
    }
    out.chunks_exact_mut(n_cols.max(1)).enumerate().for_each(|(ix, row)| matrix.read_row(first + ix, row));
}

fn keep(matrix: &Matrix<'_>, float: StoredType, first: usize, end: usize) -> Parts {
    match matrix {
        Matrix::Affine(view) => {
            let AffineView { shape, scale_type: from, n_cols, codes, scales, biases, .. } = *view;
            let row_bytes = shape.code_row_bytes(n_cols);
            let n_groups = n_cols / shape.group as usize;
            let cast = |bytes: &[u8]| {
                let all = first * n_groups..end * n_groups;
                if from == scale_type(float) {
                    let size = from.n_bytes() as usize;
                    return bytes[all.start * size..all.end * size].to_vec();
                }
                let mut out = Vec::new();
                all.for_each(|ix| push_scale(scale_type(float), &mut out, scale_at(from, bytes, ix)));
                out
            };
            let values = codes[first * row_bytes..end * row_bytes].to_vec();
            Parts { values, scales: cast(scales), biases: cast(biases) }
        }
        Matrix::SmallFloat(view) => {
            let row_bytes = view.n_cols * view.mode.bits() as usize / 8;
            let n_groups = view.n_cols / view.mode.group() as usize;
            let values = view.codes[first * row_bytes..end * row_bytes].to_vec();
            Parts { values, scales: view.scales[first * n_groups..end * n_groups].to_vec(), biases: Vec::new() }
        }
        Matrix::Foreign(foreign) => keep(&foreign.rows(first..end).view(), float, 0, end - first),
        _ => unreachable!("floats and blocks of GGUF are widened or quantized"),
    }
}

fn scale_type(stored: StoredType) -> ScaleType {
    match stored {
        StoredType::F16 => ScaleType::F16,
        StoredType::Bf16 => ScaleType::Bf16,
        _ => ScaleType::F32,
    }
}

fn to_bytes(numbers: &[f32], stored: StoredType) -> Vec<u8> {
    let mut bytes = Vec::new();
    stored.write_f32s(numbers, &mut bytes);
    bytes
}

/// Rounds numbers to a type.
fn round(numbers: &mut [f32], stored: StoredType) {
    match stored {
        StoredType::F16 => numbers.iter_mut().for_each(|n| *n = half::f16::from_f32(*n).to_f32()),
        StoredType::Bf16 => numbers.iter_mut().for_each(|n| *n = half::bf16::from_f32(*n).to_f32()),
        _ => {}
    }
}
