//! Numbers and codes as GGUF's blocks: the other direction of [`super::blocks`].

use super::blocks::Stored;
use crate::formats::affine::{AffineView, eight_codes, scale_at};
use crate::formats::small_float::{SmallFloat, SmallFloatView};
use crate::weights::Matrix;
use half::f16;

/// Numbers of the blocks that are made here.
const BLOCK: usize = 32;

/// Whether [`push_numbers`] makes a type.
pub fn is_made_of_numbers(stored: Stored) -> bool {
    stored.float().is_some() || matches!(stored, Stored::Q4_0 | Stored::Q8_0)
}

/// Appends numbers, whole blocks of them, rounded as ggml's reference quantizers do it (`quantize_row_q4_0_ref`,
/// `quantize_row_q8_0_ref` in `ggml-quants.c`).
///
/// # Panics
/// If the type is not one of [`is_made_of_numbers`], or the numbers are no whole blocks.
pub fn push_numbers(stored: Stored, numbers: &[f32], out: &mut Vec<u8>) {
    assert!(numbers.len().is_multiple_of(stored.block_len()), "numbers are whole blocks");
    if let Some(float) = stored.float() {
        return float.write_f32s(numbers, out);
    }
    match stored {
        Stored::Q8_0 => numbers.as_chunks::<BLOCK>().0.iter().for_each(|block| {
            let scale = largest(block) / 127.0;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            out.extend(f16::from_f32(scale).to_le_bytes());
            out.extend(block.map(|number| rounded(number * inverse) as u8));
        }),
        Stored::Q4_0 => numbers.as_chunks::<BLOCK>().0.iter().for_each(|block| {
            // The first of the largest becomes the code 0, that is -8 scales.
            let far = |most: f32, number: &f32| if number.abs() > most.abs() { *number } else { most };
            let scale = block.iter().fold(0.0, far) / -8.0;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            out.extend(f16::from_f32(scale).to_le_bytes());
            push_nibbles(&block.map(|number| ((number * inverse + 8.5) as u8).min(15)), out);
        }),
        other => panic!("{} is not made of numbers", other.name()),
    }
}

/// The largest magnitude, eight numbers at a time.
fn largest(block: &[f32; BLOCK]) -> f32 {
    let mut most = [0.0f32; 8];
    for eight in block.as_chunks::<8>().0 {
        most.iter_mut().zip(eight).for_each(|(most, number)| *most = most.max(number.abs()));
    }
    most.into_iter().fold(0.0, f32::max)
}

/// The nearest whole number from -128 to 127, of two the one farther from zero: what `f32::round` says, without a call of it.
fn rounded(number: f32) -> i32 {
    // Of numbers too small for the inverse of their scale come infinities.
    let number = number.clamp(-128.0, 127.0);
    let whole = number as i32;
    let rest = number - whole as f32;
    whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)
}

/// The type whose blocks hold a quantized matrix without loss, whatever the length of its groups. Of its bytes scales and
/// biases alone are looked at.
///
/// # Errors
/// Why there is none.
pub fn lossless_type(matrix: &Matrix<'_>) -> Result<Stored, String> {
    let format = matrix.format();
    let candidates: &[Stored] = match matrix {
        Matrix::Affine(view) => match view.shape.bits {
            4 => &[Stored::Q4_0, Stored::Q4_1],
            5 => &[Stored::Q5_0, Stored::Q5_1],
            8 => &[Stored::Q8_0],
            _ => &[],
        },
        Matrix::SmallFloat(SmallFloatView { mode: SmallFloat::Mxfp4, .. }) => &[Stored::Mxfp4],
        _ => &[],
    };
    let Some(last) = candidates.last() else {
        return Err(format!(
            "is {format}, which is not written without loss; affine with 4, 5 or 8 bits and mxfp4 are"
        ));
    };
    let Matrix::Affine(view) = matrix else { return Ok(*last) };
    let misfit = |stored: &Stored| {
        let n_groups = view.n_rows * (view.n_cols / view.shape.group as usize);
        (0..n_groups).map(|ix| group(view, ix)).find(|(scale, bias)| !holds(*stored, *scale, *bias))
    };
    let mut found = None;
    for stored in candidates {
        found = misfit(stored);
        if found.is_none() {
            return Ok(*stored);
        }
    }
    let (scale, bias) = found.unwrap_or_default();
    Err(format!("has a group with scale {scale} and bias {bias}, which {} cannot hold without loss", last.name()))
}

/// Appends a row of a matrix, in a type that [`lossless_type`] has found for it.
///
/// # Panics
/// If `row` is not a row, or the type is another.
pub fn push_row(stored: Stored, matrix: &Matrix<'_>, row: usize, out: &mut Vec<u8>) {
    match matrix {
        Matrix::Affine(view) => {
            let (bits, row_bytes) = (view.shape.bits, view.shape.code_row_bytes(view.n_cols));
            let (codes, group_len) = (&view.codes[row * row_bytes..][..row_bytes], view.shape.group as usize);
            let blocks = codes.chunks_exact(view.shape.code_row_bytes(BLOCK));
            for (ix, codes) in blocks.enumerate() {
                let (scale, bias) = group(view, (row * view.n_cols + ix * BLOCK) / group_len);
                out.extend(f16::from_f32(scale).to_le_bytes());
                if matches!(stored, Stored::Q4_1 | Stored::Q5_1) {
                    out.extend(f16::from_f32(bias).to_le_bytes());
                }
                push_codes(bits, &block_codes(codes), out);
            }
        }
        Matrix::SmallFloat(view) => {
            let (n_groups, row_bytes) = (view.n_cols / BLOCK, view.n_cols / 2);
            let (codes, scales) = (&view.codes[row * row_bytes..], &view.scales[row * n_groups..][..n_groups]);
            for (scale, codes) in scales.iter().zip(codes.chunks_exact(BLOCK / 2)) {
                out.push(*scale);
                push_nibbles(&block_codes(codes), out);
            }
        }
        _ => panic!("{} has no blocks", matrix.format()),
    }
}

/// The codes of a block's bytes.
fn block_codes(bytes: &[u8]) -> [u8; BLOCK] {
    let mut codes = [0; BLOCK];
    let eights = codes.as_chunks_mut::<8>().0.iter_mut().zip(bytes.chunks_exact(bytes.len() / (BLOCK / 8)));
    eights.for_each(|(codes, bytes)| *codes = eight_codes(bytes));
    codes
}

/// Scale and bias of a matrix's group.
fn group(view: &AffineView<'_>, ix: usize) -> (f32, f32) {
    (scale_at(view.scale_type, view.scales, ix), scale_at(view.scale_type, view.biases, ix))
}

/// Whether a block of the type can have this scale and bias.
fn holds(stored: Stored, scale: f32, bias: f32) -> bool {
    let is_half = |number: f32| number.is_finite() && f16::from_f32(number).to_f32() == number;
    let bias_fits = stored.offset().map_or_else(|| is_half(bias), |offset| bias == scale * offset);
    is_half(scale) && bias_fits
}

/// Appends a block's codes after its scale.
fn push_codes(bits: u32, codes: &[u8; BLOCK], out: &mut Vec<u8>) {
    if bits == 8 {
        return out.extend(codes.map(|code| code ^ 0x80));
    }
    if bits == 5 {
        let high = codes.iter().rev().fold(0u32, |word, code| word << 1 | u32::from(code >> 4));
        out.extend(high.to_le_bytes());
    }
    push_nibbles(&codes.map(|code| code & 15), out);
}

/// Number j is a byte's low half, number j + 16 its high half.
fn push_nibbles(codes: &[u8; BLOCK], out: &mut Vec<u8>) {
    let (low, high) = codes.split_at(BLOCK / 2);
    out.extend(low.iter().zip(high).map(|(low, high)| low | high << 4));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(stored: Stored, numbers: &[f32; 32]) -> Vec<u8> {
        let mut out = Vec::new();
        push_numbers(stored, numbers, &mut out);
        out
    }

    #[test]
    fn the_first_of_the_largest_becomes_minus_eight_scales() {
        let mut numbers = [0.0; 32];
        (numbers[3], numbers[17], numbers[30]) = (2.0, -2.0, 1.0);
        let block = made(Stored::Q4_0, &numbers);
        assert_eq!(f16::from_le_bytes([block[0], block[1]]).to_f32(), -0.25);
        // 2 / -0.25 + 8.5 = 0.5, -2 / -0.25 + 8.5 = 16.5 which is cut, 1 / -0.25 + 8.5 = 4.5.
        assert_eq!((block[2 + 3] & 15, block[2 + 1] >> 4, block[2 + 14] >> 4, block[2] & 15), (0, 15, 4, 8));
        assert_eq!(made(Stored::Q4_0, &[0.0; 32])[2..], [0x88; 16]);
    }

    #[test]
    fn halves_are_rounded_away_from_zero() {
        let mut numbers = [0.0; 32];
        (numbers[0], numbers[1], numbers[2], numbers[3]) = (127.0, 0.5, -0.5, -127.0);
        let block = made(Stored::Q8_0, &numbers);
        assert_eq!(block[..6], [0x00, 0x3c, 127, 1, 255, 129]);
        let near = [0.5, 1.5, 63.5, 126.5].map(|half: f32| [half.next_down(), half, half.next_up()]);
        for number in near.into_iter().flatten().flat_map(|number| [number, -number]) {
            assert_eq!(rounded(number), number.round() as i32, "{number}");
        }
        assert_eq!([f32::INFINITY, f32::NEG_INFINITY, f32::NAN].map(rounded), [127, -128, 0]);
    }
}
