use super::*;
use crate::cpu::testing::{Random, assert_close};
use ingot_ir::kv::KvType;

struct Case {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    q_tile: usize,
    window: usize,
    keep: usize,
    softcap: f32,
    /// (q_len, kv_len) of each sequence.
    lens: Vec<(usize, usize)>,
}

impl Case {
    fn sees(&self, p: usize, j: usize) -> bool {
        j <= p && (self.window == 0 || j as isize > p as isize - self.window as isize || j < self.keep)
    }

    /// Random keys and values on pages in random order among unused ones; everything that may not be read is NaN, and
    /// table entries of pages that no query sees point nowhere.
    fn check(&self, seed: u64, n_threads: usize, shuffled: bool) {
        let mut random = Random::new(seed);
        let &Case { n_heads, n_kv_heads, head_dim, q_tile, .. } = self;
        let width = n_heads * head_dim;
        let n_tokens: usize = self.lens.iter().map(|l| l.0).sum();
        let max_pages = self.lens.iter().map(|l| l.1.div_ceil(16)).max().unwrap_or(0) + 2;
        let n_pages = 2 * max_pages * self.lens.len();
        let mut free: Vec<u32> = (0..n_pages as u32).collect();
        let layout = PageLayout { kv: KvType::F32, n_kv_heads, head_dim };
        let mut kv = vec![f32::NAN.to_bits(); n_pages * layout.page_words()];
        let mut table = vec![u32::MAX; max_pages * (self.lens.len() + 1)];
        let q = random.normals(n_tokens * width);
        let mut words = vec![0u32; 16];
        let (mut sequences, mut tiles) = (Vec::new(), Vec::new());
        let mut want = vec![0f64; n_tokens * width];
        let mut q_start = 0;
        for (s, &(q_len, kv_len)) in self.lens.iter().enumerate() {
            let page_row = self.lens.len() - s;
            sequences.extend([q_start as u32, q_len as u32, kv_len as u32, page_row as u32]);
            for tile in 0..q_len.div_ceil(q_tile) + 1 {
                tiles.push([s as u32, tile as u32, 0, 2]);
                tiles.push([s as u32, tile as u32, 1, 2]);
            }
            let rows = random.normals(2 * kv_len * n_kv_heads * head_dim);
            let row = |is_v: bool, j: usize, h: usize| {
                &rows[((usize::from(is_v) * kv_len + j) * n_kv_heads + h) * head_dim..][..head_dim]
            };
            let positions = kv_len - q_len..kv_len;
            for ix in 0..kv_len.div_ceil(16) {
                let seen = |j: usize| positions.clone().any(|p| self.sees(p, j));
                if !(16 * ix..kv_len.min(16 * ix + 16)).any(seen) {
                    continue;
                }
                let page = free.swap_remove(random.below(free.len()));
                table[page_row * max_pages + ix] = page;
                for j in 16 * ix..kv_len.min(16 * ix + 16) {
                    for h in 0..n_kv_heads {
                        for is_v in [false, true] {
                            let head = &mut kv[layout.head_at(page as usize, is_v, h)..][..layout.head_words()];
                            layout.write(head, j % 16, row(is_v, j, h));
                        }
                    }
                }
            }
            for i in 0..q_len {
                for h in 0..n_heads {
                    let at = (q_start + i) * width + h * head_dim;
                    let kv_head = h / (n_heads / n_kv_heads);
                    let keys: Vec<usize> = (0..kv_len).filter(|&j| self.sees(kv_len - q_len + i, j)).collect();
                    let score = |j: usize| {
                        let key = row(false, j, kv_head).iter();
                        let dot: f64 = q[at..].iter().zip(key).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                        let (v, cap) = (dot * 0.3, f64::from(self.softcap));
                        if cap > 0.0 { cap * (v / cap).tanh() } else { v }
                    };
                    let max = keys.iter().map(|&j| score(j)).fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = keys.iter().map(|&j| (score(j) - max).exp()).sum();
                    for &j in &keys {
                        let p = (score(j) - max).exp() / total;
                        for (want, &v) in want[at..].iter_mut().zip(row(true, j, kv_head)) {
                            *want += p * f64::from(v);
                        }
                    }
                }
            }
            q_start += q_len;
        }
        if shuffled {
            tiles.reverse();
        }
        let (n_seqs, n_tiles) = (self.lens.len() as u32, tiles.len() as u32);
        let tiles_at = 16 + 4 * n_seqs;
        words[..9].copy_from_slice(&[0, n_seqs, 0, n_tiles, 16, 16, 16, tiles_at, 16]);
        words.extend(sequences);
        words.extend(tiles.into_iter().flatten());
        let mut scratch = Scratch::new();
        scratch.threads = vec![f32::NAN; 100_000];
        let mut out = vec![f32::NAN; n_tokens * width];
        let args = Attention {
            step: StepView::new(&words).expect("well formed"),
            n_heads,
            layout,
            scale: 0.3,
            q_tile,
            window: self.window,
            keep: self.keep,
            softcap: self.softcap,
            q: &q,
            kv: &kv,
            page_table: &table,
            max_pages,
            out: &mut out,
        };
        attention(&Pool::new(n_threads), &mut scratch, args);
        let what = format!("{n_heads}/{n_kv_heads}x{head_dim} tile {q_tile} window {} {:?}", self.window, self.lens);
        assert_close(&out, &want, 2e-6, &what);
    }
}

#[test]
fn ragged_batches_of_every_shape() {
    let heads = [(9, 3, 64), (4, 4, 8), (6, 1, 20), (2, 1, 66), (8, 2, 128), (1, 1, 3)];
    let lens: [&[(usize, usize)]; 5] =
        [&[(1, 1)], &[(1, 37), (1, 300)], &[(5, 5), (1, 129), (40, 90)], &[(17, 64)], &[(33, 33), (2, 700)]];
    let mut seed = 0;
    for (n_heads, n_kv_heads, head_dim) in heads {
        for lens in lens {
            for q_tile in [1, 16] {
                seed += 1;
                let lens = lens.to_vec();
                let case = Case { n_heads, n_kv_heads, head_dim, q_tile, window: 0, keep: 0, softcap: 0.0, lens };
                case.check(seed, 1 + seed as usize % 3, seed % 7 == 0);
            }
        }
    }
}

#[test]
fn windows_kept_tokens_and_soft_caps() {
    let mut seed = 100;
    for (window, keep) in [(1, 0), (7, 0), (32, 4), (48, 20), (1000, 3)] {
        for softcap in [0.0, 5.0] {
            for q_tile in [1, 8, 32] {
                seed += 1;
                let lens = vec![(1, 400), (50, 130), (3, 3)];
                let case = Case { n_heads: 4, n_kv_heads: 2, head_dim: 16, q_tile, window, keep, softcap, lens };
                case.check(seed, 2, false);
            }
        }
    }
}
