//! The logical weights of a checkpoint: for a module's path the matrix, dense or quantized, its shape checked.

use crate::config::{LayerQuant, QuantMap};
use crate::error::{Error, Result};
use crate::formats::affine::{AffineView, QuantShape};
use crate::formats::checkpoint::Checkpoint;
use crate::formats::foreign::{Foreign, Rows};
use crate::formats::k_blocks::KView;
use crate::formats::safetensors::{StoredType, TensorView};
use crate::formats::small_float::{SmallFloat, SmallFloatView};
use ingot_ir::weight::{Format, Layout, ScaleType, Source, Weight};

/// A matrix `[n_rows, n_cols]` as it lies in the files. The slices need not be aligned.
#[derive(Clone, Copy, Debug)]
pub enum Matrix<'a> {
    /// Floating-point numbers, row-major.
    Dense {
        /// F32, F16 or BF16.
        stored: StoredType,
        /// Rows.
        n_rows: usize,
        /// Columns.
        n_cols: usize,
        /// The elements.
        bytes: &'a [u8],
    },
    /// MLX's affine format.
    Affine(AffineView<'a>),
    /// MLX's modes mxfp4, mxfp8 and nvfp4.
    SmallFloat(SmallFloatView<'a>),
    /// GGUF's block formats, taken apart.
    K(KView<'a>),
    /// In the form of another engine, of which rows are made when they are asked for.
    Foreign(Foreign<'a>),
}

impl Matrix<'_> {
    /// The format in the words of the IR.
    pub fn format(&self) -> Format {
        match self {
            Self::Dense { stored, .. } => stored.float_format(),
            Self::Affine(view) => {
                Format::Affine { bits: view.shape.bits as u8, group: view.shape.group as u16, scales: view.scale_type }
            }
            Self::SmallFloat(view) => view.format(),
            Self::K(view) => Format::K(view.format),
            Self::Foreign(foreign) => foreign.format,
        }
    }
    /// `[n_rows, n_cols]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense { n_rows, n_cols, .. } => [*n_rows, *n_cols],
            Self::Affine(view) => [view.n_rows, view.n_cols],
            Self::SmallFloat(view) => [view.n_rows, view.n_cols],
            Self::K(view) => [view.n_rows, view.n_cols],
            Self::Foreign(foreign) => [foreign.n_rows, foreign.n_cols],
        }
    }
    /// Widens one row to f32.
    ///
    /// # Panics
    /// If `row` is not a row or `out` does not have `n_cols` elements.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Affine(view) => view.dequantize_row(row, out),
            Self::SmallFloat(view) => view.dequantize_row(row, out),
            Self::K(view) => view.dequantize_row(row, out),
            Self::Foreign(foreign) => foreign.rows(row..row + 1).view().read_row(0, out),
            Self::Dense { stored, n_cols, bytes, .. } => {
                let row_bytes = n_cols * stored.n_bytes();
                stored.read_f32s(&bytes[row * row_bytes..][..row_bytes], out);
            }
        }
    }
}

impl Rows {
    /// The rows as a matrix.
    pub fn view(&self) -> Matrix<'_> {
        let Self { n_rows, n_cols, .. } = *self;
        let (codes, scales, biases) = (&self.values[..], &self.scales[..], &self.biases[..]);
        let float = |stored| Matrix::Dense { stored, n_rows, n_cols, bytes: codes };
        let small = |mode| Matrix::SmallFloat(SmallFloatView { mode, n_rows, n_cols, codes, scales, global: None });
        match self.format {
            Format::F32 => float(StoredType::F32),
            Format::F16 => float(StoredType::F16),
            Format::Bf16 => float(StoredType::Bf16),
            Format::Affine { bits, group, scales: scale_type } => {
                let shape = QuantShape { bits: bits.into(), group: group.into() };
                Matrix::Affine(AffineView { shape, scale_type, n_rows, n_cols, codes, scales, biases })
            }
            Format::Mxfp4 => small(SmallFloat::Mxfp4),
            Format::Mxfp8 => small(SmallFloat::Mxfp8),
            Format::Nvfp4 { .. } => small(SmallFloat::Nvfp4),
            Format::K(format) => Matrix::K(KView { format, n_rows, n_cols, codes, headers: scales }),
        }
    }
}

/// A weight of a graph, found in the checkpoint.
#[derive(Clone, Debug)]
pub enum Loaded<'a> {
    /// As stored.
    Matrix(Matrix<'a>),
    /// Widened to f32.
    Vector(Vec<f32>),
}

/// A checkpoint's tensors as the modules of a model see them. Every error names tensor and file.
#[derive(Clone, Copy, Debug)]
pub struct WeightTable<'a> {
    checkpoint: &'a Checkpoint,
    quantization: Option<&'a QuantMap>,
}

impl<'a> WeightTable<'a> {
    /// A table over a checkpoint with the quantization settings of its configuration.
    pub fn new(checkpoint: &'a Checkpoint, quantization: Option<&'a QuantMap>) -> Self {
        Self { checkpoint, quantization }
    }
    /// The checkpoint.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }
    /// Whether there is a matrix at a module's path.
    pub fn has(&self, path: &str) -> bool {
        self.checkpoint.contains(&format!("{path}.weight"))
    }

    /// The matrix of the linear layer (`[out, in]`) or embedding (`[vocabulary, width]`) at a module's path. As in
    /// mlx-lm a module is quantized if `path.scales` exists and the configuration does not say `false`; its mode, width
    /// and group are inferred from the types and shapes.
    pub fn matrix(&self, path: &str, n_rows: usize, n_cols: usize) -> Result<Matrix<'a>> {
        if let Some(foreign) = self.checkpoint.foreign(path) {
            let found = [foreign.n_rows, foreign.n_cols];
            let name = format!("{path}.weight");
            self.check_shape(&name, &found, &[n_rows, n_cols])?;
            return Ok(Matrix::Foreign(foreign));
        }
        let setting = self.quantization.and_then(|map| map.overrides.get(path));
        let scales_name = format!("{path}.scales");
        match (setting, self.checkpoint.get(&scales_name)) {
            (Some(LayerQuant::Float), _) | (None, None) => self.dense(path, n_rows, n_cols),
            (_, Some(scales)) if scales.stored == StoredType::U8 => {
                self.small_float(path, n_rows, n_cols, scales).map(Matrix::SmallFloat)
            }
            (_, Some(scales)) => self.affine(path, n_rows, n_cols, scales).map(Matrix::Affine),
            (Some(LayerQuant::Quantized(_)), None) => Err(Error::MissingTensor {
                path: self.checkpoint.folder().to_path_buf(),
                tensor: scales_name,
                hint: format!(", but config.json says that `{path}` is quantized; fetch the checkpoint again"),
            }),
        }
    }

    /// What a graph's weight with a [`Source::Tensor`] refers to: a vector (widened) where its layout is
    /// [`Layout::Vector`], else a matrix.
    ///
    /// # Panics
    /// If the weight has another source.
    pub fn load(&self, weight: &Weight) -> Result<Loaded<'a>> {
        let Source::Tensor(name) = &weight.source else {
            panic!("{:?} is not a tensor of the checkpoint", weight.source)
        };
        if weight.layout != Layout::Vector {
            return self.matrix(name, weight.n_rows as usize, weight.n_cols as usize).map(Loaded::Matrix);
        }
        let tensor = self.vector(name, weight.n_rows as usize)?;
        Ok(Loaded::Vector(tensor.to_f32s().expect("a vector holds floats, which `vector` checked")))
    }

    /// A vector by the full name of its tensor, e.g. a norm's weight: F32, F16 or BF16, `[len]`.
    pub fn vector(&self, name: &str, len: usize) -> Result<TensorView<'a>> {
        let tensor = self.checkpoint.require(name)?;
        self.check_float(&tensor)?;
        self.check_shape(name, tensor.shape, &[len])?;
        Ok(tensor)
    }

    /// The additive bias of the module at `path` (`path.bias`; `path.biases` belongs to the quantization).
    pub fn bias(&self, path: &str, len: usize) -> Result<TensorView<'a>> {
        self.vector(&format!("{path}.bias"), len)
    }

    fn dense(&self, path: &str, n_rows: usize, n_cols: usize) -> Result<Matrix<'a>> {
        let tensor = self.checkpoint.require(&format!("{path}.weight"))?;
        self.check_float(&tensor)?;
        match *tensor.shape {
            // A stack of matrices.
            [parts, rows, cols] if parts.checked_mul(rows) == Some(n_rows) && cols == n_cols => {}
            _ => self.check_shape(tensor.name, tensor.shape, &[n_rows, n_cols])?,
        }
        Ok(Matrix::Dense { stored: tensor.stored, n_rows, n_cols, bytes: tensor.bytes })
    }

    fn affine(&self, path: &str, n_rows: usize, n_cols: usize, scales: TensorView<'a>) -> Result<AffineView<'a>> {
        let codes = self.codes(path)?;
        let wrong = |tensor: &TensorView<'_>, what: String| {
            Error::tensor(self.checkpoint.place_of(tensor.name), tensor.name, what)
        };
        let scale_type = match scales.stored {
            StoredType::F16 => ScaleType::F16,
            StoredType::Bf16 => ScaleType::Bf16,
            StoredType::F32 => ScaleType::F32,
            other => {
                return Err(wrong(
                    &scales,
                    format!("scales are {other}; they must be F16, BF16 or F32, or U8 (mxfp4, mxfp8, nvfp4)"),
                ));
            }
        };
        let ([_, n_words], [_, n_groups]) = (self.rows_of(&codes, n_rows)?, self.rows_of(&scales, n_rows)?);
        let shape = QuantShape::infer(n_cols, n_words, n_groups)
            .map_err(|what| wrong(&codes, format!("{what} (weight {:?}, scales {:?})", codes.shape, scales.shape)))?;
        let biases = self.checkpoint.require(&format!("{path}.biases"))?;
        if biases.stored != scales.stored {
            return Err(wrong(&biases, format!("is {}, but {} is {}", biases.stored, scales.name, scales.stored)));
        }
        self.check_shape(biases.name, biases.shape, scales.shape)?;
        Ok(AffineView {
            shape,
            scale_type,
            n_rows,
            n_cols,
            codes: codes.bytes,
            scales: scales.bytes,
            biases: biases.bytes,
        })
    }

    fn small_float(
        &self,
        path: &str,
        n_rows: usize,
        n_cols: usize,
        scales: TensorView<'a>,
    ) -> Result<SmallFloatView<'a>> {
        let codes = self.codes(path)?;
        let wrong = |tensor: &TensorView<'_>, what: String| {
            Error::tensor(self.checkpoint.place_of(tensor.name), tensor.name, what)
        };
        let ([_, n_words], [_, n_groups]) = (self.rows_of(&codes, n_rows)?, self.rows_of(&scales, n_rows)?);
        let mode = SmallFloat::infer(n_cols, n_words, n_groups)
            .map_err(|what| wrong(&codes, format!("{what} (weight {:?}, scales {:?})", codes.shape, scales.shape)))?;
        let global = self.checkpoint.get(&format!("{path}.global_scale"));
        if let Some(global) = &global {
            if mode != SmallFloat::Nvfp4 {
                return Err(wrong(global, format!("goes with nvfp4, but `{path}` is {}", mode.name())));
            }
            // A stack of matrices has one for each.
            let n_parts = if codes.shape.len() == 3 { codes.shape[0] } else { 1 };
            if global.stored != StoredType::F32 || global.bytes.len() != 4 * n_parts {
                let what = format!("is {} {:?}; expected {n_parts} F32", global.stored, global.shape);
                return Err(wrong(global, what));
            }
        }
        let global = global.map(|tensor| tensor.bytes);
        Ok(SmallFloatView { mode, n_rows, n_cols, codes: codes.bytes, scales: scales.bytes, global })
    }

    /// The codes of the quantized matrix at a module's path.
    fn codes(&self, path: &str) -> Result<TensorView<'a>> {
        let codes = self.checkpoint.require(&format!("{path}.weight"))?;
        if codes.stored == StoredType::U32 {
            return Ok(codes);
        }
        let what = format!("has scales, so it must hold codes as U32, but is {}", codes.stored);
        Err(Error::tensor(self.checkpoint.place_of(codes.name), codes.name, what))
    }

    /// The shape of a tensor that must be a matrix with `n_rows` rows, or a stack of matrices with as many.
    fn rows_of(&self, tensor: &TensorView<'_>, n_rows: usize) -> Result<[usize; 2]> {
        match *tensor.shape {
            [rows, cols] if rows == n_rows => Ok([rows, cols]),
            [parts, rows, cols] if parts.checked_mul(rows) == Some(n_rows) => Ok([n_rows, cols]),
            _ => {
                let what = format!(
                    "shape {:?}; expected [{n_rows}, ...]; does config.json belong to these weights?",
                    tensor.shape
                );
                Err(Error::tensor(self.checkpoint.place_of(tensor.name), tensor.name, what))
            }
        }
    }

    fn check_shape(&self, name: &str, shape: &[usize], expected: &[usize]) -> Result<()> {
        if shape == expected {
            return Ok(());
        }
        let what = format!("shape {shape:?}; expected {expected:?}; does config.json belong to these weights?");
        Err(Error::tensor(self.checkpoint.place_of(name), name, what))
    }

    fn check_float(&self, tensor: &TensorView<'_>) -> Result<()> {
        if matches!(tensor.stored, StoredType::F32 | StoredType::F16 | StoredType::Bf16) {
            return Ok(());
        }
        let what = format!("is {}; expected F32, F16 or BF16", tensor.stored);
        Err(Error::tensor(self.checkpoint.place_of(tensor.name), tensor.name, what))
    }
}
