//! Packed bytes against a naive construction, and any range against the same range of the whole.

use ingot_compiler::repack::{MakeRows, Tensor as Given, TensorBytes, check, fill, vector};
use ingot_ir::plan::{PlanWeight, Segment};
use ingot_ir::weight::{Format, KFormat, Layout, Part, ScaleType};
use ingot_tests::rng::Rng;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A tensor's bytes, as a checkpoint holds them.
#[derive(Debug)]
struct Tensor {
    values: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
    global: Vec<u8>,
}

#[derive(Debug)]
struct Case {
    weight: PlanWeight,
    tensors: BTreeMap<String, Tensor>,
}

/// The same tensor, made row by row.
struct Maker<'a> {
    tensor: &'a Tensor,
    format: Format,
    n_cols: u32,
}

impl MakeRows for Maker<'_> {
    fn format(&self) -> Format {
        self.format
    }
    fn n_rows(&self) -> u32 {
        (self.tensor.values.len() as u64 / self.format.row_parts(self.n_cols).values) as u32
    }
    fn n_cols(&self) -> u32 {
        self.n_cols
    }
    fn make(&self, part: Part, first_row: u32, out: &mut [u8]) {
        let Tensor { values, scales, biases, .. } = self.tensor;
        let bytes = match part {
            Part::Values => values,
            Part::Scales => scales,
            Part::Biases => biases,
        };
        let row_bytes = self.format.row_parts(self.n_cols).of(part) as usize;
        out.copy_from_slice(&bytes[first_row as usize * row_bytes..][..out.len()]);
    }
}

impl Case {
    /// Bytes of the weight where its tensors are made while they are read.
    fn made(&self, offset: usize, len: usize) -> Vec<u8> {
        let PlanWeight { format, n_cols, .. } = self.weight;
        let tensor = |name: &str| Given::Made(Box::new(Maker { tensor: &self.tensors[name], format, n_cols }));
        assert_eq!(check(&self.weight, &|name| Some(tensor(name))), Ok(()));
        let mut out = vec![0xaa; len];
        fill(&self.weight, &tensor, offset as u64, &mut out);
        out
    }
    fn tensor(&self, name: &str) -> TensorBytes<'_> {
        let Tensor { values, scales, biases, global } = &self.tensors[name];
        TensorBytes { values, scales, biases, global }
    }
    fn whole(&self) -> Vec<u8> {
        self.range(0, self.weight.n_bytes() as usize)
    }
    fn range(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut out = vec![0xaa; len];
        fill(&self.weight, &|name| self.tensor(name).into(), offset as u64, &mut out);
        out
    }
    /// (tensor, row) of every row in order.
    fn rows(&self) -> Vec<(&str, usize)> {
        let run = |s: &'_ Segment| (s.first_row..s.first_row + s.n_rows).map(|row| row as usize).collect::<Vec<_>>();
        let runs: Vec<Vec<(&str, usize)>> = self
            .weight
            .segments
            .iter()
            .map(|s| run(s).into_iter().map(|row| (s.tensor.as_str(), row)).collect())
            .collect();
        if self.weight.interleaved {
            runs[0].iter().zip(&runs[1]).flat_map(|(a, b)| [*a, *b]).collect()
        } else {
            runs.concat()
        }
    }
    /// The codes of all rows, bit by bit: the low bits of all, then the high bits of those that have some.
    fn codes(&self, bits: usize) -> Vec<u8> {
        let n_cols = self.weight.n_cols as usize;
        let is_fp4 = matches!(self.weight.format, Format::Mxfp4 | Format::Nvfp4 { .. });
        let are_places = matches!(self.weight.format, Format::K(k) if k.has_table());
        let low = 1 << bits.ilog2();
        let (mut low_bits, mut high_bits) = (Vec::new(), Vec::new());
        for (name, ix) in self.rows() {
            let row = &self.tensor(name).values[ix * n_cols * bits / 8..][..n_cols * bits / 8];
            let (low_at, high_at) = (low_bits.len(), high_bits.len());
            low_bits.resize(low_at + n_cols * low, false);
            high_bits.resize(high_at + n_cols * (bits - low), false);
            for column in 0..n_cols {
                let eights = if low == 8 { 2 } else { 4 };
                let block = column / 8 / eights;
                let turn = if low == 8 { block / 4 % 2 } else { block / 2 % 4 };
                let place = (column / 8 % eights) ^ if n_cols.is_multiple_of(32) { turn } else { 0 };
                let (half, ix) = (column % 8 / 4, column % 4);
                // The place of a column's first bit in a block, of so many bits a column.
                let at = |bits: usize| {
                    8 * eights * bits * block
                        + 16 * half
                        + match bits {
                            8 => 32 * (2 * place + ix / 2) + 8 * (ix % 2),
                            4 => 32 * place + 4 * ix,
                            2 => 32 * (place / 2) + 8 * (place % 2) + 2 * ix,
                            _ => 4 * place + ix,
                        }
                };
                for bit in 0..bits {
                    let from = column * bits + bit;
                    let value = row[from / 8] >> (from % 8) & 1 == 1;
                    if is_fp4 {
                        // Three bits of size and a sign.
                        let to = [[9, 10, 11, 15], [12, 13, 14, 8], [1, 2, 3, 7], [4, 5, 6, 0]][ix][bit];
                        low_bits[low_at + 32 * (4 * block + place) + 16 * half + to] = value;
                    } else if are_places {
                        // Columns j and j + 4 in a byte.
                        low_bits[low_at + 32 * (4 * block + place) + 8 * ix + 4 * half + bit] = value;
                    } else if bit < low {
                        low_bits[low_at + at(low) + bit] = value;
                    } else {
                        high_bits[high_at + at(bits - low) + bit - low] = value;
                    }
                }
            }
        }
        low_bits.extend(high_bits);
        low_bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |all, bit| all << 1 | u8::from(*bit))).collect()
    }
    /// What the layout says, row by row and number by number.
    fn naive(&self) -> Vec<u8> {
        let PlanWeight { format, n_cols, .. } = self.weight;
        let row = |bytes: &'_ [u8], row: usize, size: usize| bytes[row * size..(row + 1) * size].to_vec();
        let mut out = Vec::new();
        match format {
            Format::Affine { bits, group, scales } => {
                let (n_groups, size) = (n_cols as usize / usize::from(group), scales.n_bytes() as usize);
                out.extend(self.codes(bits.into()));
                out.resize(out.len().next_multiple_of(16), 0);
                for (name, ix) in self.rows() {
                    let (scales, biases) = (
                        row(self.tensor(name).scales, ix, n_groups * size),
                        row(self.tensor(name).biases, ix, n_groups * size),
                    );
                    for g in 0..n_groups {
                        out.extend(&scales[g * size..(g + 1) * size]);
                        out.extend(&biases[g * size..(g + 1) * size]);
                    }
                }
            }
            Format::K(k) => {
                let n_cols = n_cols as usize;
                out.extend(self.codes(k.bits() as usize));
                out.resize(out.len().next_multiple_of(16), 0);
                for (name, ix) in self.rows() {
                    let n_bytes = n_cols / k.block() as usize * k.header_bytes() as usize;
                    out.extend(row(self.tensor(name).scales, ix, n_bytes));
                }
            }
            Format::Mxfp4 | Format::Mxfp8 | Format::Nvfp4 { .. } => {
                let (code_bits, group) = match format {
                    Format::Mxfp4 => (4, 32),
                    Format::Mxfp8 => (8, 32),
                    _ => (4, 16),
                };
                let n_cols = n_cols as usize;
                out.extend(self.codes(code_bits));
                out.resize(out.len().next_multiple_of(16), 0);
                for (name, ix) in self.rows() {
                    out.extend(row(self.tensor(name).scales, ix, n_cols / group));
                }
                if format == (Format::Nvfp4 { global: true }) {
                    out.resize(out.len().next_multiple_of(16), 0);
                    for (name, ix) in self.rows() {
                        // Two parts, one global scale each.
                        let tensor = self.tensor(name);
                        let n_rows = tensor.values.len() / (n_cols / 2);
                        let at = 4 * usize::from(ix >= n_rows / 2);
                        let global: [u8; 4] = tensor.global[at..at + 4].try_into().expect("four bytes");
                        out.extend((f32::from_le_bytes(global) / 2688.0).to_le_bytes());
                    }
                }
            }
            _ => {
                for (name, ix) in self.rows() {
                    out.extend(row(self.tensor(name).values, ix, format.row_bytes(n_cols) as usize));
                }
            }
        }
        out.resize(out.len().next_multiple_of(16), 0);
        out
    }
}

fn format() -> impl Strategy<Value = Format> {
    let scales = prop::sample::select(vec![ScaleType::F16, ScaleType::Bf16, ScaleType::F32]);
    let affine =
        (prop::sample::select(vec![1u8, 2, 3, 4, 5, 6, 8]), prop::sample::select(vec![32u16, 64, 128]), scales);
    let affine = affine.prop_map(|(bits, group, scales)| Format::Affine { bits, group, scales });
    let small = prop::sample::select(vec![
        Format::Mxfp4,
        Format::Mxfp8,
        Format::Nvfp4 { global: false },
        Format::Nvfp4 { global: true },
        Format::K(KFormat::Q5K),
        Format::K(KFormat::Iq4Nl),
    ]);
    prop_oneof![Just(Format::F32), Just(Format::F16), Just(Format::Bf16), affine.clone(), affine, small]
}

fn case() -> impl Strategy<Value = Case> {
    let segments = proptest::collection::vec((0u32..4, 1u32..7, 0u32..3), 1..4);
    (format(), 1u32..4, segments, any::<bool>(), any::<u64>()).prop_map(
        |(format, n_cols, mut runs, interleaved, seed)| {
            let n_cols = match format {
                Format::Affine { group, .. } => n_cols * u32::from(group),
                Format::Mxfp4 | Format::Mxfp8 => n_cols * 32,
                Format::Nvfp4 { .. } => n_cols * 16,
                Format::K(k) => n_cols * k.block(),
                _ => n_cols * 2,
            };
            if interleaved {
                let (_, n_rows, _) = runs[0];
                runs = vec![runs[0], (seed as u32 % 3, n_rows, 1)];
            }
            let mut rng = Rng::new(seed);
            let mut bytes = |n: u64| (0..n).map(|_| rng.next_u64() as u8).collect::<Vec<u8>>();
            let mut tensors = BTreeMap::new();
            let mut segments = Vec::new();
            for (ix, (first_row, n_rows, after)) in runs.into_iter().enumerate() {
                // An even number, so that there may be two global scales.
                let all = u64::from(first_row + n_rows + after).next_multiple_of(2);
                let parts = format.row_parts(n_cols);
                let tensor = Tensor {
                    values: bytes(all * parts.values),
                    scales: bytes(all * parts.scales),
                    biases: bytes(all * parts.biases),
                    global: [2688f32, 7.5].iter().flat_map(|global| global.to_le_bytes()).collect(),
                };
                tensors.insert(format!("t{ix}"), tensor);
                segments.push(Segment { tensor: format!("t{ix}"), first_row, n_rows, order: None, plus_one: false });
            }
            let n_rows = segments.iter().map(|s| s.n_rows).sum();
            let weight = PlanWeight {
                n_rows,
                n_cols,
                format,
                layout: Layout::Packed,
                segments,
                interleaved,
                inline: Vec::new(),
            };
            Case { weight, tensors }
        },
    )
}

proptest! {
    #![proptest_config(crate::support::cases(256))]

    #[test]
    fn packed_is_as_the_layout_says(case in case()) {
        let whole = case.whole();
        prop_assert_eq!(whole.len() as u64, case.weight.n_bytes());
        prop_assert!(whole == case.naive());
    }

    #[test]
    fn a_range_is_the_same_slice_of_the_whole(case in case(), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
        let whole = case.whole();
        let (a, b) = (a.index(whole.len() + 1), b.index(whole.len() + 1));
        let (from, to) = (a.min(b), a.max(b));
        prop_assert!(case.range(from, to - from) == whole[from..to]);
        // Global scales are stored ones' alone.
        if !case.weight.format.has_global() {
            prop_assert!(case.made(from, to - from) == whole[from..to]);
        }
    }

    #[test]
    fn halves_are_widened_exactly(bits in any::<u16>(), bf16 in any::<bool>()) {
        let format = if bf16 { Format::Bf16 } else { Format::F16 };
        let weight = PlanWeight {
            n_rows: 1,
            n_cols: 1,
            format,
            layout: Layout::Vector,
            segments: vec![Segment { tensor: "t".into(), first_row: 1, n_rows: 1, order: None, plus_one: false }],
            interleaved: false,
            inline: Vec::new(),
        };
        let values: Vec<u8> = [0x3c00u16, bits].iter().flat_map(|n| n.to_le_bytes()).collect();
        let found = vector(&weight, &|_| TensorBytes { values: &values, ..TensorBytes::default() }.into())[0];
        let expected = if bf16 { half::bf16::from_bits(bits).to_f32() } else { half::f16::from_bits(bits).to_f32() };
        prop_assert!(found == expected || (found.is_nan() && expected.is_nan()), "{bits:#x}: {found} for {expected}");
    }
}

#[test]
fn vectors_come_from_runs_pairs_and_numbers() {
    let bytes = |numbers: &[f32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let (a, b) = (bytes(&[1.0, 2.0, 3.0]), bytes(&[4.0, 5.0]));
    let tensor = |name: &str| {
        let values: &[u8] = if name == "a" { &a } else { &b };
        TensorBytes { values, ..TensorBytes::default() }.into()
    };
    let segment =
        |tensor: &str, first_row| Segment { tensor: tensor.into(), first_row, n_rows: 2, order: None, plus_one: false };
    let mut weight = PlanWeight {
        n_rows: 4,
        n_cols: 1,
        format: Format::F32,
        layout: Layout::Vector,
        segments: vec![segment("a", 1), segment("b", 0)],
        interleaved: false,
        inline: Vec::new(),
    };
    assert_eq!(vector(&weight, &tensor), [2.0, 3.0, 4.0, 5.0]);
    weight.interleaved = true;
    assert_eq!(vector(&weight, &tensor), [2.0, 4.0, 3.0, 5.0]);
    let mut out = [0; 8];
    fill(&weight, &tensor, 4, &mut out);
    assert_eq!(out[..], bytes(&[4.0, 3.0]));
    weight.segments[1].plus_one = true;
    assert_eq!(vector(&weight, &tensor), [2.0, 5.0, 3.0, 6.0]);
    weight.inline = vec![9.0];
    assert_eq!(vector(&weight, &tensor), [9.0]);
}
