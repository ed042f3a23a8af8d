//! One weight file, written while later rows are encoded.

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
    Widen { matrix: Matrix<'a>, float: StoredType },
    /// A quantized matrix as it is, but for the type of its scales and biases.
    Keep { matrix: Matrix<'a>, float: StoredType },
    /// A matrix of floats, cast, then quantized.
    Quantize { matrix: Matrix<'a>, float: StoredType, quant: Quant },
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
            Kind::Widen { matrix, .. } | Kind::Keep { matrix, .. } | Kind::Quantize { matrix, .. } => matrix.shape(),
        }
    }

    /// The tensors that are written, in their order.
    pub(super) fn tensors(&self) -> Vec<TensorDecl> {
        let [n_rows, n_cols] = self.shape();
        let decl = |name: String, stored, shape: &[usize]| TensorDecl { name, stored, shape: shape.to_vec() };
        let part = |ending: &str, stored, cols: usize| decl(format!("{}.{ending}", self.path), stored, &[n_rows, cols]);
        // A global scale stays what it is.
        let mut global = None;
        let (quant, float) = match &self.kind {
            Kind::Vector { stored, .. } => return vec![decl(self.path.clone(), *stored, &[n_rows])],
            Kind::Widen { float, .. } => return vec![part("weight", *float, n_cols)],
            Kind::Quantize { quant, float, .. } => (*quant, *float),
            Kind::Keep { matrix, float } => match matrix {
                Matrix::Affine(view) => (Quant::Affine(view.shape), *float),
                Matrix::SmallFloat(view) => {
                    global = view.global;
                    (Quant::SmallFloat(view.mode), *float)
                }
                Matrix::Dense { .. } | Matrix::K(_) => unreachable!("these are widened or quantized"),
            },
        };
        let n_groups = n_cols / quant.group() as usize;
        let mut tensors = vec![part("weight", StoredType::U32, n_cols * quant.bits() as usize / 32)];
        match quant {
            Quant::Affine(_) => tensors.extend([part("scales", float, n_groups), part("biases", float, n_groups)]),
            Quant::SmallFloat(_) => tensors.push(part("scales", StoredType::U8, n_groups)),
        }
        if global.is_some() {
            tensors.push(decl(format!("{}.global_scale", self.path), StoredType::F32, &[]));
        }
        tensors
    }

    /// Rows `first .. end` in their new form.
    fn encode(&self, first: usize, end: usize) -> Parts {
        let [_, n_cols] = self.shape();
        match &self.kind {
            Kind::Vector { tensor, stored } => {
                let values = &tensor.bytes[first * tensor.stored.n_bytes()..end * tensor.stored.n_bytes()];
                let numbers = tensor.stored.to_f32s(values).expect("a vector holds floats, which was checked");
                Parts { values: to_bytes(&numbers, *stored), ..Parts::default() }
            }
            Kind::Widen { matrix: Matrix::Dense { stored, bytes, .. }, float } if stored == float => {
                let row_bytes = n_cols * stored.n_bytes();
                Parts { values: bytes[first * row_bytes..end * row_bytes].to_vec(), ..Parts::default() }
            }
            Kind::Widen { matrix, float } => {
                Parts { values: to_bytes(&numbers(matrix, first, end), *float), ..Parts::default() }
            }
            Kind::Keep { matrix, float } => keep(matrix, *float, first, end),
            Kind::Quantize { matrix, float, quant } => {
                let mut numbers = numbers(matrix, first, end);
                if !matches!(matrix, Matrix::Dense { stored, .. } if stored == float) {
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
            made.dequantize().into_iter().zip(&numbers(matrix, first, end)).map(distance).sum::<f64>()
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

    fn global(&self) -> &[u8] {
        match &self.kind {
            Kind::Keep { matrix: Matrix::SmallFloat(view), .. } => view.global.unwrap_or(&[]),
            _ => &[],
        }
    }
}

/// Writes a file. `told` gets the number of bytes that were written since.
pub(super) fn write(path: &Path, shard: &Shard<'_>, told: &mut dyn FnMut(u64)) -> Result<()> {
    let io = |error| Error::io(path, error);
    let tensors: Vec<TensorDecl> = shard.items.iter().flat_map(Item::tensors).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "mlx".to_owned())]);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
    file.write_all(&safetensors::header(&metadata, &tensors)).map_err(io)?;
    for item in &shard.items {
        write_item(&mut file, item, told).map_err(io)?;
    }
    file.into_inner().map_err(|error| io(error.into_error()))?.sync_all().map_err(io)
}

/// Codes are written while the next rows are encoded; scales and biases, which come after all codes, wait in memory.
fn write_item(file: &mut BufWriter<File>, item: &Item<'_>, told: &mut dyn FnMut(u64)) -> std::io::Result<()> {
    let [n_rows, n_cols] = item.shape();
    let chunk_rows = chunk_rows(n_cols);
    let batch_rows = chunk_rows * 2 * rayon::current_num_threads();
    let encode = |first: usize| -> Vec<Parts> {
        let end = (first + batch_rows).min(n_rows);
        let firsts: Vec<usize> = (first..end).step_by(chunk_rows).collect();
        firsts.into_par_iter().map(|at| item.encode(at, (at + chunk_rows).min(end))).collect()
    };
    let (mut scales, mut biases) = (Vec::new(), Vec::new());
    let mut ready = encode(0);
    let mut first = batch_rows;
    while !ready.is_empty() {
        let mut next = Vec::new();
        let (_, written) = rayon::join(
            || {
                if first < n_rows {
                    next = encode(first);
                }
            },
            || ready.iter().try_for_each(|parts| file.write_all(&parts.values)),
        );
        written?;
        for parts in std::mem::replace(&mut ready, next) {
            told(parts.values.len() as u64);
            scales.extend(parts.scales);
            biases.extend(parts.biases);
        }
        first += batch_rows;
    }
    for rest in [&scales[..], &biases, item.global()] {
        file.write_all(rest)?;
        told(rest.len() as u64);
    }
    Ok(())
}

fn chunk_rows(n_cols: usize) -> usize {
    (CHUNK_NUMBERS / n_cols.max(1)).max(1)
}

fn numbers(matrix: &Matrix<'_>, first: usize, end: usize) -> Vec<f32> {
    let [_, n_cols] = matrix.shape();
    let mut numbers = vec![0.0; (end - first) * n_cols];
    if n_cols > 0 {
        numbers.chunks_exact_mut(n_cols).enumerate().for_each(|(ix, row)| matrix.read_row(first + ix, row));
    }
    numbers
}

fn keep(matrix: &Matrix<'_>, float: StoredType, first: usize, end: usize) -> Parts {
    match matrix {
        Matrix::Affine(view) => {
            let AffineView { shape, scale_type: from, n_cols, codes, scales, biases, .. } = *view;
            let row_bytes = shape.code_row_bytes(n_cols);
            let n_groups = n_cols / shape.group as usize;
            let cast = |bytes: &[u8]| {
                let mut out = Vec::new();
                let all = first * n_groups..end * n_groups;
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
        Matrix::Dense { .. } | Matrix::K(_) => unreachable!("these are widened or quantized"),
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
    let mut bytes = Vec::with_capacity(numbers.len() * stored.n_bytes());
    numbers.iter().for_each(|number| push_scale(scale_type(stored), &mut bytes, *number));
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
