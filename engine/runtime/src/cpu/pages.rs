//! How keys and values lie in pages: the words of one head's 16 rows, for each [`KvType`].

use bytemuck::cast_slice;
use half::f16;
use half::slice::HalfFloatSliceExt;
use ingot_ir::kv::KvType;

/// Tokens of a KV page.
pub const PAGE_TOKENS: usize = ingot_ir::kv::PAGE_TOKENS as usize;

/// The page layout of a layer: `[page][K|V][kv head]`, and of each head 16 rows of numbers, then those rows' scales.
#[derive(Clone, Copy, Debug)]
pub struct PageLayout {
    /// Type of the numbers.
    pub kv: KvType,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Numbers of a row.
    pub head_dim: usize,
}

impl PageLayout {
    /// Words of a row's numbers.
    #[inline(always)]
    pub fn row_words(&self) -> usize {
        self.head_dim * self.kv.bits() as usize / 32
    }

    /// Words of a row's scales.
    #[inline(always)]
    pub fn scale_words(&self) -> usize {
        self.kv.group().map_or(0, |group| self.head_dim / group as usize)
    }

    /// Words of one head's rows in a page.
    #[inline(always)]
    pub fn head_words(&self) -> usize {
        PAGE_TOKENS * (self.row_words() + self.scale_words())
    }

    /// Words of a page.
    pub fn page_words(&self) -> usize {
        2 * self.n_kv_heads * self.head_words()
    }

    /// First word of a head's keys or values in a page.
    pub fn head_at(&self, page: usize, is_v: bool, head: usize) -> usize {
        ((2 * page + usize::from(is_v)) * self.n_kv_heads + head) * self.head_words()
    }

    /// Writes row `offset` (0 to 15) of a head's page.
    ///
    /// # Panics
    /// If a slice is shorter than its shape needs.
    pub fn write(&self, head: &mut [u32], offset: usize, numbers: &[f32]) {
        assert_eq!(numbers.len(), self.head_dim, "a row has other numbers");
        let (rows, scales) = head.split_at_mut(PAGE_TOKENS * self.row_words());
        let row = &mut rows[offset * self.row_words()..][..self.row_words()];
        match self.kv {
            KvType::F32 => bytemuck::cast_slice_mut(row).copy_from_slice(numbers),
            KvType::F16 => bytemuck::cast_slice_mut::<_, f16>(row).convert_from_f32_slice(numbers),
            KvType::Affine { bits, group } => {
                let scales = &mut scales[offset * self.scale_words()..][..self.scale_words()];
                let words = row.chunks_exact_mut(usize::from(group) * usize::from(bits) / 32);
                for ((numbers, words), scale) in numbers.chunks_exact(group.into()).zip(words).zip(scales) {
                    *scale = quantize(numbers, bits.into(), words);
                }
            }
        }
    }

    /// The first `n_rows` rows of a head's page as f32. [`KvType::F32`] is read where it lies.
    #[inline(always)]
    pub(crate) fn read(&self, head: &[u32], n_rows: usize, out: &mut [f32]) {
        let n_words = self.row_words();
        let out = &mut out[..n_rows * self.head_dim];
        match self.kv {
            KvType::F32 => out.copy_from_slice(cast_slice(&head[..n_rows * n_words])),
            KvType::F16 => cast_slice::<_, f16>(&head[..n_rows * n_words]).convert_to_f32_slice(out),
            KvType::Affine { bits, group } => {
                let scales = &head[PAGE_TOKENS * n_words..][..n_rows * self.scale_words()];
                let words = head[..n_rows * n_words].chunks_exact(usize::from(group) * usize::from(bits) / 32);
                for ((out, words), scale) in out.chunks_exact_mut(group.into()).zip(words).zip(scales) {
                    let (scale, bias) = halves(*scale);
                    if bits == 8 {
                        unpack::<8, 4>(words, scale, bias, out);
                    } else {
                        unpack::<4, 8>(words, scale, bias, out);
                    }
                }
            }
        }
    }
}

fn halves(word: u32) -> (f32, f32) {
    (f16::from_bits(word as u16).to_f32(), f16::from_bits((word >> 16) as u16).to_f32())
}

#[inline(always)]
fn unpack<const BITS: u32, const PER_WORD: usize>(words: &[u32], scale: f32, bias: f32, out: &mut [f32]) {
    for (out, word) in out.chunks_exact_mut(PER_WORD).zip(words) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = ((word >> (i as u32 * BITS)) & ((1 << BITS) - 1)) as f32 * scale + bias;
        }
    }
}

/// Codes of a group; gives its scale and bias, f16 each. They are MLX's (`quantize` of mode affine): the end of the
/// range that lies further from zero has a code without error, and so has zero.
fn quantize(numbers: &[f32], bits: u32, words: &mut [u32]) -> u32 {
    let most = f16::MAX.to_f32();
    let bounds = |number: &f32| number.clamp(-most, most);
    let (least, greatest) =
        numbers.iter().map(bounds).fold((f32::MAX, f32::MIN), |(least, greatest), n| (least.min(n), greatest.max(n)));
    let last_code = ((1u32 << bits) - 1) as f32;
    let size = ((greatest - least) / last_code).max(1e-7);
    let (end, step) = if least.abs() > greatest.abs() { (least, size) } else { (greatest, -size) };
    let steps = (end / step).round_ties_even();
    let (scale, bias) = if steps == 0.0 { (step, 0.0) } else { (end / steps, end) };
    let per_word = (32 / bits) as usize;
    for (word, numbers) in words.iter_mut().zip(numbers.chunks_exact(per_word)) {
        *word = numbers.iter().map(bounds).rev().fold(0, |word, number| {
            let code = ((number - bias) / scale).round_ties_even().clamp(0.0, last_code);
            (word << bits) | code as u32
        });
    }
    u32::from(f16::from_f32(scale).to_bits()) | u32::from(f16::from_f32(bias).to_bits()) << 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::Random;

    fn types() -> Vec<KvType> {
        let mut all = vec![KvType::F32, KvType::F16];
        for bits in [4, 8] {
            all.extend([32, 64, 128].map(|group| KvType::Affine { bits, group }));
        }
        all
    }

    /// Each number comes back within a step and a half of its group.
    #[test]
    fn rows_come_back() {
        let mut random = Random::new(1);
        for kv in types() {
            let layout = PageLayout { kv, n_kv_heads: 1, head_dim: 128 };
            let mut head = vec![u32::MAX; layout.head_words()];
            for size in [1.0, 1e-3, 3000.0, 0.0] {
                let mut numbers = random.normals(128);
                numbers.iter_mut().for_each(|n| *n *= size);
                numbers[5] = 0.0;
                layout.write(&mut head, 15, &numbers);
                let mut found = vec![f32::NAN; 16 * 128];
                layout.read(&head, 16, &mut found);
                let found = &found[15 * 128..];
                let group = kv.group().unwrap_or(1) as usize;
                for (numbers, found) in numbers.chunks_exact(group).zip(found.chunks_exact(group)) {
                    let most = numbers.iter().fold(0f32, |most, n| most.max(n.abs()));
                    let range = numbers.iter().fold(f32::MIN, |m, n| m.max(*n))
                        - numbers.iter().fold(f32::MAX, |m, n| m.min(*n));
                    let allowed = match kv {
                        KvType::F32 => 0.0,
                        KvType::F16 => most / 2048.0 + 6e-8,
                        // Half a step; where zero's code makes steps shorter, the nearer end is cut by as much as one.
                        // Scale and bias are f16.
                        KvType::Affine { bits, .. } => range / ((1 << bits) - 1) as f32 * 1.5 + most / 500.0 + 1e-7,
                    };
                    for (number, found) in numbers.iter().zip(found) {
                        assert!((number - found).abs() <= allowed, "{kv}: {number} became {found}");
                    }
                }
                // What lies beside a row is another's.
                assert!(head[..15 * layout.row_words()].iter().all(|word| *word == u32::MAX), "{kv}");
            }
        }
    }

    #[test]
    fn what_no_half_can_hold_stays_finite() {
        let layout = PageLayout { kv: KvType::Affine { bits: 4, group: 64 }, n_kv_heads: 1, head_dim: 64 };
        let mut head = vec![0; layout.head_words()];
        let numbers: Vec<f32> = (0..64).map(|i| if i % 2 == 0 { 1e9 } else { -1e9 }).collect();
        layout.write(&mut head, 0, &numbers);
        let mut found = vec![0.0; 64];
        layout.read(&head, 1, &mut found);
        assert!(found.iter().all(|n| n.is_finite() && n.abs() > 5e4), "{found:?}");
    }
}
