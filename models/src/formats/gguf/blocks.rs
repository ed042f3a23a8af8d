//! How GGUF stores numbers, and the same numbers taken apart: codes in one bit stream a row, scales beside them.
//!
//! Nothing is lost. Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 become MLX's affine form with groups of 32 (scales in f16, in f32 if a
//! bias would not fit), MXFP4 becomes MLX's mxfp4, the others an [`ingot_ir::weight::KFormat`].
//! Blocks as in ggml's `ggml-common.h`.

use crate::formats::safetensors::StoredType;
use half::f16;
use ingot_ir::weight::{Format, KFormat, Part, ScaleType};

/// How a tensor's numbers are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Stored {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Mxfp4,
}

impl Stored {
    /// (type, number in files, name, numbers a block, bytes a block).
    const TABLE: [(Self, u32, &'static str, usize, usize); 16] = [
        (Self::F32, 0, "F32", 1, 4),
        (Self::F16, 1, "F16", 1, 2),
        (Self::Bf16, 30, "BF16", 1, 2),
        (Self::Q4_0, 2, "Q4_0", 32, 18),
        (Self::Q4_1, 3, "Q4_1", 32, 20),
        (Self::Q5_0, 6, "Q5_0", 32, 22),
        (Self::Q5_1, 7, "Q5_1", 32, 24),
        (Self::Q8_0, 8, "Q8_0", 32, 34),
        (Self::Q2K, 10, "Q2_K", 256, 84),
        (Self::Q3K, 11, "Q3_K", 256, 110),
        (Self::Q4K, 12, "Q4_K", 256, 144),
        (Self::Q5K, 13, "Q5_K", 256, 176),
        (Self::Q6K, 14, "Q6_K", 256, 210),
        (Self::Iq4Nl, 20, "IQ4_NL", 32, 18),
        (Self::Iq4Xs, 23, "IQ4_XS", 256, 136),
        (Self::Mxfp4, 39, "MXFP4", 32, 17),
    ];

    fn row(self) -> &'static (Self, u32, &'static str, usize, usize) {
        &Self::TABLE[self as usize]
    }
    /// The type of a number in files.
    pub fn of(kind: u32) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1 == kind).map(|row| row.0)
    }
    /// The type of llama.cpp's name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.2 == name).map(|row| row.0)
    }
    /// llama.cpp's names of all types.
    pub(super) fn names() -> Vec<&'static str> {
        Self::TABLE.iter().map(|row| row.2).collect()
    }
    /// The name of a type that is not supported.
    pub(super) fn foreign_name(kind: u32) -> Option<&'static str> {
        Some(match kind {
            9 => "Q8_1",
            15 => "Q8_K",
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            21 => "IQ3_S",
            22 => "IQ2_S",
            29 => "IQ1_M",
            31 => "Q4_0_4_4",
            32 => "Q4_0_4_8",
            33 => "Q4_0_8_8",
            34 => "TQ1_0",
            35 => "TQ2_0",
            40 => "NVFP4",
            41 => "Q1_0",
            42 => "Q2_0",
            _ => return None,
        })
    }
    /// The number in files.
    pub(super) fn number(self) -> u32 {
        self.row().1
    }
    /// llama.cpp's name.
    pub fn name(self) -> &'static str {
        self.row().2
    }
    /// Numbers of a block.
    pub fn block_len(self) -> usize {
        self.row().3
    }
    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }
    /// The plain type, if it is one.
    pub fn float(self) -> Option<StoredType> {
        match self {
            Self::F32 => Some(StoredType::F32),
            Self::F16 => Some(StoredType::F16),
            Self::Bf16 => Some(StoredType::Bf16),
            _ => None,
        }
    }
    /// Bits of a code, if numbers are codes.
    fn bits(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 0,
            Self::Q2K => 2,
            Self::Q3K => 3,
            Self::Q4_0 | Self::Q4_1 | Self::Q4K | Self::Iq4Nl | Self::Iq4Xs | Self::Mxfp4 => 4,
            Self::Q5_0 | Self::Q5_1 | Self::Q5K => 5,
            Self::Q6K => 6,
            Self::Q8_0 => 8,
        }
    }
    /// Where codes of 4 bits begin, if a block has no others, and bytes of a run: its low halves come before its high ones.
    fn nibbles(self) -> Option<(usize, usize)> {
        match self {
            Self::Q4_0 | Self::Iq4Nl => Some((2, 16)),
            Self::Q4_1 => Some((4, 16)),
            Self::Mxfp4 => Some((1, 16)),
            Self::Q4K => Some((16, 32)),
            Self::Iq4Xs => Some((8, 16)),
            _ => None,
        }
    }
    fn k(self) -> Option<KFormat> {
        match self {
            Self::Q2K => Some(KFormat::Q2K),
            Self::Q3K => Some(KFormat::Q3K),
            Self::Q4K => Some(KFormat::Q4K),
            Self::Q5K => Some(KFormat::Q5K),
            Self::Q6K => Some(KFormat::Q6K),
            Self::Iq4Nl => Some(KFormat::Iq4Nl),
            Self::Iq4Xs => Some(KFormat::Iq4Xs),
            _ => None,
        }
    }
    /// What an affine type's bias is, in its scale; none if the block has a bias.
    pub(super) fn offset(self) -> Option<f32> {
        match self {
            Self::Q4_0 => Some(-8.0),
            Self::Q5_0 => Some(-16.0),
            Self::Q8_0 => Some(-128.0),
            _ => None,
        }
    }
}

/// The format that a tensor of blocks becomes. Of its bytes only the scales are looked at, where the type alone does not
/// tell. Plain types are none of these.
pub fn format_of(stored: Stored, bytes: &[u8]) -> Option<Format> {
    if let Some(k) = stored.k() {
        return Some(Format::K(k));
    }
    if stored == Stored::Mxfp4 {
        return Some(Format::Mxfp4);
    }
    let bits = match stored.bits() {
        0 => return None,
        bits => bits as u8,
    };
    let fits = |offset: f32| {
        let scales = bytes.chunks_exact(stored.block_bytes()).map(|block| half_at(block, 0));
        scales.into_iter().all(|scale| f16::from_f32(scale * offset).to_f32() == scale * offset)
    };
    let scales = if stored.offset().is_none_or(fits) { ScaleType::F16 } else { ScaleType::F32 };
    Some(Format::Affine { bits, group: 32, scales })
}

/// Takes one part of blocks apart. `format` is that of [`format_of`] for the whole tensor.
///
/// # Panics
/// If the bytes are no whole blocks, or `out` has not as many bytes as the part has of them.
pub fn take_apart(stored: Stored, format: Format, part: Part, blocks: &[u8], out: &mut [u8]) {
    let (block_bytes, part_bytes) = (stored.block_bytes(), part_bytes(stored, format, part));
    assert!(blocks.len().is_multiple_of(block_bytes), "bytes are whole blocks");
    assert_eq!(out.len(), blocks.len() / block_bytes * part_bytes, "as many parts as blocks");
    if part_bytes == 0 {
        return;
    }
    let pairs = blocks.chunks_exact(block_bytes).zip(out.chunks_exact_mut(part_bytes));
    match part {
        Part::Values => match stored.nibbles() {
            Some((at, run)) => pairs.for_each(|(block, out)| pair_nibbles(&block[at..], run, out)),
            None if stored == Stored::Q8_0 => pairs.for_each(|(block, out)| {
                out.iter_mut().zip(&block[2..]).for_each(|(code, byte)| *code = byte ^ 0x80);
            }),
            None => {
                let mut codes = [0; 256];
                let codes = &mut codes[..stored.block_len()];
                for (block, out) in pairs {
                    read_codes(stored, block, codes);
                    pack_codes(codes, stored.bits(), out);
                }
            }
        },
        Part::Scales if matches!(format, Format::K(_) | Format::Mxfp4) => {
            pairs.for_each(|(block, out)| out.copy_from_slice(&header(stored, block)[..part_bytes]));
        }
        Part::Scales => pairs.for_each(|(block, out)| write_scale(half_at(block, 0), out)),
        Part::Biases => pairs.for_each(|(block, out)| {
            let bias = stored.offset().map_or_else(|| half_at(block, 2), |offset| half_at(block, 0) * offset);
            write_scale(bias, out);
        }),
    }
}

/// Bytes of a block in one part of its own form.
pub fn part_bytes(stored: Stored, format: Format, part: Part) -> usize {
    format.row_parts(stored.block_len() as u32).of(part) as usize
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// In f16 or f32, whichever has as many bytes as there is room for.
fn write_scale(number: f32, out: &mut [u8]) {
    match out.len() {
        2 => out.copy_from_slice(&f16::from_f32(number).to_le_bytes()),
        _ => out.copy_from_slice(&number.to_le_bytes()),
    }
}

/// Packs codes, a multiple of eight, into a little-endian bit stream.
fn pack_codes(codes: &[u8], bits: usize, out: &mut [u8]) {
    for (eight, out) in codes.as_chunks::<8>().0.iter().zip(out.chunks_exact_mut(bits)) {
        let word = eight.iter().rev().fold(0u64, |word, code| word << bits | u64::from(*code));
        out.copy_from_slice(&word.to_le_bytes()[..bits]);
    }
}

/// Packs codes of 4 bits: of each `run` bytes first the low halves, then the high ones.
fn pair_nibbles(bytes: &[u8], run: usize, out: &mut [u8]) {
    for (bytes, out) in bytes.chunks_exact(run).zip(out.chunks_exact_mut(run)) {
        let (low, high) = out.split_at_mut(run / 2);
        for ((two, low), high) in bytes.as_chunks::<2>().0.iter().zip(low).zip(high) {
            *low = two[0] & 15 | two[1] << 4;
            *high = two[0] >> 4 | two[1] & 0xf0;
        }
    }
}

/// The codes of a block whose codes are not bytes and not 4 bits alone, in the order of its numbers.
fn read_codes(stored: Stored, block: &[u8], codes: &mut [u8]) {
    // Number j is a byte's low half, number j + half the block's length its high half.
    let halves = |bytes: &[u8], codes: &mut [u8]| {
        let (low, high) = codes.split_at_mut(bytes.len());
        for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
    };
    match stored {
        Stored::Q5_0 | Stored::Q5_1 => {
            let at = if stored == Stored::Q5_0 { 2 } else { 4 };
            halves(&block[at + 4..], codes);
            for (j, code) in codes.iter_mut().enumerate() {
                *code |= (block[at + j / 8] >> (j % 8) & 1) << 4;
            }
        }
        Stored::Q2K => {
            for (j, code) in codes.iter_mut().enumerate() {
                *code = block[16 + j / 128 * 32 + j % 32] >> (2 * (j % 128 / 32)) & 3;
            }
        }
        Stored::Q3K => {
            for (j, code) in codes.iter_mut().enumerate() {
                let low = block[32 + j / 128 * 32 + j % 32] >> (2 * (j % 128 / 32)) & 3;
                *code = low | (block[j % 32] >> (j / 32) & 1) << 2;
            }
        }
        Stored::Q5K => {
            for (pair, codes) in codes.chunks_exact_mut(64).enumerate() {
                halves(&block[48 + 32 * pair..][..32], codes);
            }
            for (j, code) in codes.iter_mut().enumerate() {
                *code |= (block[16 + j % 32] >> (j / 32) & 1) << 4;
            }
        }
        Stored::Q6K => {
            for (j, code) in codes.iter_mut().enumerate() {
                let (half, quarter, at) = (j / 128, j % 128 / 32, j % 32);
                let low = block[half * 64 + quarter % 2 * 32 + at] >> (4 * (quarter / 2)) & 15;
                *code = low | (block[128 + half * 32 + at] >> (2 * quarter) & 3) << 4;
            }
        }
        _ => unreachable!("the others have no codes, bytes, or 4 bits alone"),
    }
}

/// The header of a block as [`KFormat`] says, or its one byte of scale.
fn header(stored: Stored, block: &[u8]) -> [u8; 20] {
    let mut out = [0; 20];
    match stored {
        Stored::Mxfp4 => out[0] = block[0],
        Stored::Iq4Nl => out[..2].copy_from_slice(&block[..2]),
        Stored::Q2K => {
            out[..16].copy_from_slice(&block[..16]);
            out[16..].copy_from_slice(&block[80..84]);
        }
        Stored::Q3K => {
            let packed = &block[96..108];
            for (i, out) in out[..16].iter_mut().enumerate() {
                let low = packed[i % 8] >> (4 * (i / 8)) & 15;
                let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
                *out = (low | high << 4).wrapping_sub(32);
            }
            out[16..18].copy_from_slice(&block[108..110]);
        }
        Stored::Q4K | Stored::Q5K => {
            let packed = &block[4..16];
            let scale = |i: usize| if i < 4 { packed[i] & 63 } else { packed[i + 4] & 15 | packed[i - 4] >> 6 << 4 };
            let minimum = |i: usize| if i < 4 { packed[i + 4] & 63 } else { packed[i + 4] >> 4 | packed[i] >> 6 << 4 };
            for i in 0..8 {
                (out[i], out[8 + i]) = (scale(i), minimum(i));
            }
            out[16..].copy_from_slice(&block[..4]);
        }
        Stored::Q6K => out[..18].copy_from_slice(&block[192..210]),
        Stored::Iq4Xs => {
            let high = u16::from_le_bytes([block[2], block[3]]);
            for (i, out) in out[..8].iter_mut().enumerate() {
                let low = block[4 + i / 2] >> (4 * (i % 2)) & 15;
                *out = (low | ((high >> (2 * i) & 3) as u8) << 4).wrapping_sub(32);
            }
            out[8..10].copy_from_slice(&block[..2]);
        }
        _ => unreachable!("the others are affine"),
    }
    out
}
