use crate::support::graph;
use ingot_compiler::pass::limit_kv::{KEEP, run};
use ingot_ir::kv::Window;
use std::collections::BTreeSet;

#[test]
fn layers_that_see_more_see_the_first_and_the_newest() {
    let text = "graph g
         g0 = kv_group heads=1 k=32 v=32
         g1 = kv_group heads=1 k=32 v=32 window=8
         g2 = kv_group heads=1 k=32 v=32 window=40
         l0 = kv_layer g0
         l1 = kv_layer g1
         l2 = kv_layer g2
         w0 = tensor embed : 8 x 32 bf16
         v0 = embed w0 : tokens x 32
         v1 = kv_write v0 v0 layer=l0 : tokens x 0
         v2 = attention v0 v1 layer=l0 heads=1 scale=0.5 : tokens x 32
         v3 = kv_write v2 v2 layer=l1 : tokens x 0
         v4 = attention v2 v3 layer=l1 heads=1 scale=0.5 window=8 : tokens x 32
         v5 = kv_write v4 v4 layer=l2 : tokens x 0
         v6 = attention v4 v5 layer=l2 heads=1 scale=0.5 window=40 : tokens x 32
         output v6";
    let limited = run(&graph(text), 16);
    limited.verify().expect("a graph");
    insta::assert_snapshot!(limited, @r"
    graph g
    g0 = kv_group heads=1 k=32 v=32 window=12 keep=4
    g1 = kv_group heads=1 k=32 v=32 window=8
    l0 = kv_layer g0
    l1 = kv_layer g1
    l2 = kv_layer g0
    w0 = tensor embed : 8 x 32 bf16
    v0 = embed w0 : tokens x 32
    v1 = kv_write v0 v0 layer=l0 : tokens x 0
    v2 = attention v0 v1 layer=l0 heads=1 scale=0.5 window=12 keep=4 : tokens x 32
    v3 = kv_write v2 v2 layer=l1 : tokens x 0
    v4 = attention v2 v3 layer=l1 heads=1 scale=0.5 window=8 : tokens x 32
    v5 = kv_write v4 v4 layer=l2 : tokens x 0
    v6 = attention v4 v5 layer=l2 heads=1 scale=0.5 window=12 keep=4 : tokens x 32
    output v6
    ");
}

/// mlx-lm's rotating cache as a list of the positions that it holds, in order of time.
struct Rotating {
    max: usize,
    held: Vec<u32>,
    next: u32,
}

impl Rotating {
    fn new(max: u32) -> Self {
        Self { max: max as usize, held: Vec::new(), next: 0 }
    }

    /// Takes the next `n` positions in one step; gives what each of them sees.
    fn step(&mut self, n: u32) -> Vec<BTreeSet<u32>> {
        // The oldest after those that are kept make room for one token, whatever the step's size.
        while self.held.len() >= self.max {
            self.held.remove(KEEP as usize);
        }
        let first = self.held.len();
        self.held.extend(self.next..self.next + n);
        self.next += n;
        // The mask of a chunk counts places in the list, not positions.
        let sees = |at: usize| self.held[(at + 1).saturating_sub(self.max)..=at].iter().copied().collect();
        (first..self.held.len()).map(sees).collect()
    }
}

fn seen(window: Window, p: u32) -> BTreeSet<u32> {
    (0..=p).filter(|j| window.sees(p, *j)).collect()
}

#[test]
fn in_decoding_it_is_mlx_lms_rotating_cache_and_in_chunks_it_does_not_depend_on_them() {
    for max in [5, 8, 16, 33] {
        let ring = Window { window: max - KEEP, keep: KEEP };
        let mut decoding = Rotating::new(max);
        for p in 0..100 {
            assert_eq!(decoding.step(1), [seen(ring, p)], "position {p} of a cache of {max}");
        }
        for chunk in [2, 7, 40] {
            let mut chunked = Rotating::new(max);
            let mut n_others = 0;
            while chunked.next < 120 {
                let first = chunked.next;
                let sees = chunked.step(chunk);
                assert_eq!(sees[0], seen(ring, first), "the first position of a chunk of {chunk} under {max}");
                // There the later ones lose what is kept of the beginning, and see more of the middle.
                n_others += (first..).zip(&sees).filter(|(p, sees)| **sees != seen(ring, *p)).count();
            }
            assert!(n_others > 0, "chunks of {chunk} matter under {max}");
            for _ in 0..3 {
                let p = chunked.next;
                assert_eq!(chunked.step(1), [seen(ring, p)], "after chunks of {chunk} under {max}");
            }
        }
    }
}
