//! A subgroup's walk over the pages of its head on matrix units, as straight text: the module `package::slot::unit` of
//! `kernels/attention_coop.wgsl`. Matrices and a lane's scores are written out one by one, for the reasons given in
//! [`crate::unit_half`] and [`crate::unit_coop`].
//!
//! Source of the method: FlashAttention-2 (arXiv 2307.08691); that sums are rescaled only when a maximum has grown by much is
//! FlashAttention-4's.

use crate::consts::Consts;
use crate::coop::{self, Pieces};
use crate::link::Source;
use std::fmt::Write;

const HEAD: &str = "\
import package::lib::half_rows::Eight;
import package::lib::pages::{KV_VALUE_ROWS, PAGE_TOKENS, key_row};
import package::lib::visible::sees;
import package::slot::halves::{HALVES, halves_put, tiles};
import package::slot::kv::{KvPiece, high_quad, kv_piece, low_quad};
import package::slot::out::out_store;

// Generated: q_r_d, sum_r_d, score_r_t and weight_r_t are matrices of the r-th SIDE queries, d-th SIDE numbers of a head, t-th
// SIDE tokens of a block; a lane has a share of one row of each SIDE queries, its scores s_r_c.

@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(3) @binding(1) var<storage, read> page_table: array<u32>;

const MASKED = -3e38;
const HEADROOM = 7.0;
const LIFT = 3.0;
// Lanes that share a row.
const SHARERS = LANES / SIDE;
// Rows of a matrix begin on 16 bytes and in different banks.
const STRIDE = KV_BLOCK + 4u;
const HALF_STRIDE = KV_BLOCK + 8u;
// Numbers of a matrix.
const AREA = SIDE * SIDE;
// Eights of a row of keys or values.
const ROW_EIGHTS = HEAD_DIM / 8u;
// Numbers from a key or value to the next in `tiles`, which hold a block's keys, then its values.
const KV_STRIDE = HEAD_DIM + 8u;

// Scores, and sums on their way.
var<workgroup> stage: array<f32, HEADS * Q_TILE * STRIDE>;
// Queries, then weights.
var<workgroup> halves: array<f16, HEADS * Q_TILE * HALF_STRIDE>;
// Lanes of each subgroup whose references grow; all must agree about it. Drivers take it that matrices lie on 16 bytes, and put
// variables one after the other: so each has a multiple of 16 bytes.
var<workgroup> grown: array<u32, (HEADS + 3u) / 4u * 4u>;

// The sequence's page number of the tile's page `ix`; of its last for those past it.
fn page_of(tile: Tile, ix: u32) -> u32 {
    let own = min(ix, tile.n_pages - 1u);
    return select(tile.window_page + own - tile.keep_pages, own, own < tile.keep_pages);
}

// The eight that is the `id`-th of the block's keys.
fn key_eight(tile: Tile, first: u32, kv_head: u32, id: u32) -> KvPiece {
    let token = id / ROW_EIGHTS;
    let page = page_table[tile.page_row * MAX_PAGES + page_of(tile, first + token / PAGE_TOKENS)];
    return kv_piece(key_row(page * PAGE_TOKENS + token % PAGE_TOKENS, kv_head), id % ROW_EIGHTS);
}

// The same of its values; zeros of those that are not written.
fn value_eight(tile: Tile, first: u32, kv_head: u32, id: u32) -> KvPiece {
    let token = id / ROW_EIGHTS;
    let ix = first + token / PAGE_TOKENS;
    let page = page_of(tile, ix);
    if ix >= tile.n_pages || page * PAGE_TOKENS + token % PAGE_TOKENS >= tile.kv_len { return KvPiece(); }
    let slot = page_table[tile.page_row * MAX_PAGES + page] * PAGE_TOKENS + token % PAGE_TOKENS;
    return kv_piece(key_row(slot, kv_head) + KV_VALUE_ROWS, id % ROW_EIGHTS);
}

// Puts the eight that is the `id`-th of a block's to its place, numbers in their own order.
fn put(id: u32, piece: KvPiece) {
    let low = vec4<f16>(low_quad(piece));
    let high = vec4<f16>(high_quad(piece));
    halves_put(id / ROW_EIGHTS * KV_STRIDE + id % ROW_EIGHTS * 8u, Eight(low.xy, low.zw, high.xy, high.zw));
}

// Whether a query sees token `column` of the block that begins with page `first`.
fn shows(tile: Tile, first: u32, column: u32, position: u32) -> bool {
    let ix = first + column / PAGE_TOKENS;
    return ix < tile.n_pages && sees(position, page_of(tile, ix) * PAGE_TOKENS + column % PAGE_TOKENS);
}

fn score_of(product: f32) -> f32 {
    if SOFTCAP > 0.0 { return SOFTCAP * tanh(clamp(product / SOFTCAP, -15.0, 15.0)); }
    return product;
}

fn weight_of(score: f32, reference: f32) -> f16 {
    return f16(select(exp(score - reference + LIFT), 0.0, score <= 0.5 * MASKED));
}

";

/// The module's text.
pub(crate) fn generate(consts: &Consts) -> Source {
    let n = |name: &str| consts.u32(name);
    let side = n("SIDE");
    let unit = Unit {
        side,
        rows: n("Q_TILE") / side,
        dims: n("HEAD_DIM") / side,
        tokens: n("KV_BLOCK") / side,
        sharers: n("LANES") / side,
        heads: n("HEADS"),
        eights: Pieces { all: n("KV_BLOCK") * n("HEAD_DIM") / 8, threads: n("WG") },
    };
    let mut text = HEAD.to_string();
    text.push_str("fn unit_attention(tile: Tile, head: u32, team: u32, lane: u32, thread: u32) {\n");
    text.push_str("    let kv_head = head / (N_HEADS / N_KV_HEADS);\n");
    text.push_str("    let own = team * Q_TILE * STRIDE;\n    let own_half = team * Q_TILE * HALF_STRIDE;\n");
    text.push_str("    let row = lane / SHARERS;\n    let share = lane % SHARERS;\n");
    unit.begin(&mut text);
    unit.load(&mut text, "    ", "var", "key", "0u");
    text.push_str("    for (var first = 0u; first < tile.n_pages; first += KV_BLOCK / PAGE_TOKENS) {\n");
    unit.put(&mut text, "key");
    text.push_str("        workgroupBarrier();\n");
    // What comes next is loaded while matrices are multiplied.
    unit.load(&mut text, "        ", "let", "value", "first");
    unit.scores(&mut text);
    unit.put(&mut text, "value");
    unit.weights(&mut text);
    unit.rescale(&mut text);
    unit.load(&mut text, "        ", "", "key", "first + KV_BLOCK / PAGE_TOKENS");
    unit.values(&mut text);
    text.push_str("        workgroupBarrier();\n    }\n");
    unit.end(&mut text);
    text.push_str("}\n");
    Source::new("flash(generated)", text)
}

/// How much is written out.
#[derive(Clone, Copy)]
struct Unit {
    /// Rows and columns of a matrix.
    side: u32,
    /// Matrices of the queries, one below the other.
    rows: u32,
    /// Matrices of a head's numbers.
    dims: u32,
    /// Matrices of a block's tokens.
    tokens: u32,
    /// Lanes that share a row.
    sharers: u32,
    /// Subgroups of a workgroup.
    heads: u32,
    /// Eights of a block's keys.
    eights: Pieces,
}

impl Unit {
    fn matrix(self, scalar: &str, role: &str) -> String {
        coop::matrix(self.side, scalar, role)
    }

    fn rows(self) -> std::ops::Range<u32> {
        0..self.rows
    }

    /// Matrices of a head's numbers, as many at a time as workgroup memory holds.
    fn strips(self) -> impl Iterator<Item = std::ops::Range<u32>> {
        (0..self.dims).step_by(self.tokens as usize).map(move |from| from..(from + self.tokens).min(self.dims))
    }

    /// Columns of a block that a lane has of a row.
    fn columns(self) -> u32 {
        self.tokens * self.side / self.sharers
    }

    /// Where in `stage` matrix (r, t) of the subgroup lies.
    fn staged(self, r: u32, t: u32) -> String {
        format!("stage[own + {}u * STRIDE + {}u]", r * self.side, t * self.side)
    }

    /// The same in `halves`.
    fn halved(self, r: u32, t: u32) -> String {
        format!("halves[own_half + {}u * HALF_STRIDE + {}u]", r * self.side, t * self.side)
    }

    /// Where in `stage` a lane's column c of its row among the r-th queries lies.
    fn own(self, r: u32, c: u32) -> String {
        format!("stage[own + ({}u + row) * STRIDE + {}u + share]", r * self.side, c * self.sharers)
    }

    /// Queries as matrices, a zero, and sums of it, by the way that every platform's matrices have.
    fn begin(self, text: &mut String) {
        let (a, c) = (self.matrix("f16", "A"), self.matrix("f32", "C"));
        text.push_str("    for (var i = lane; i < AREA; i += LANES) {\n");
        text.push_str("        stage[own + i / SIDE * STRIDE + i % SIDE] = 0.0;\n    }\n");
        for dims in self.strips() {
            let width = dims.len() as u32 * self.side;
            let _ = writeln!(text, "    for (var i = lane; i < Q_TILE * {width}u; i += LANES) {{");
            let _ = writeln!(text, "        let query = tile.token + min(i / {width}u, tile.n_queries - 1u);");
            let column = format!("{}u + i % {width}u", dims.start * self.side);
            let number = format!("q[(query * N_HEADS + head) * HEAD_DIM + {column}]");
            let at = format!("i / {width}u * HALF_STRIDE + i % {width}u");
            let _ = writeln!(text, "        halves[own_half + {at}] = f16({number} * SCALE);\n    }}");
            text.push_str("    workgroupBarrier();\n");
            for (r, d) in self.rows().flat_map(|r| dims.clone().map(move |d| (r, d))) {
                let at = self.halved(r, d - dims.start);
                let _ = writeln!(text, "    let q_{r}_{d} = coopLoadT<{a}>(&{at}, HALF_STRIDE);");
            }
            if dims.start == 0 {
                let _ = writeln!(text, "    let zero = coopLoadT<{c}>(&{}, STRIDE);", self.staged(0, 0));
            }
            text.push_str("    workgroupBarrier();\n");
        }
        for r in self.rows() {
            for d in 0..self.dims {
                let _ = writeln!(text, "    var sum_{r}_{d} = zero;");
            }
            let _ = writeln!(text, "    let position_{r} = tile.position + {}u + row;", r * self.side);
            let _ = writeln!(text, "    var reference_{r} = MASKED;\n    var total_{r} = 0.0;");
        }
    }

    /// Loads of an invocation's eights of a block.
    fn load(self, text: &mut String, pad: &str, word: &str, what: &str, first: &str) {
        for i in 0..self.eights.each() {
            let id = self.eights.id(i);
            let _ = writeln!(text, "{pad}{word} {what}_{i} = {what}_eight(tile, {first}, kv_head, {id});");
        }
    }

    /// The same to their places.
    fn put(self, text: &mut String, what: &str) {
        for i in 0..self.eights.each() {
            let _ = writeln!(text, "        {}{{ put({}, {what}_{i}); }}", self.eights.guard(i), self.eights.id(i));
        }
    }

    /// Where matrix (t, d) of a block's keys or values lies.
    fn placed(self, t: u32, d: u32) -> String {
        format!("tiles[({}u * KV_STRIDE + {}u) / HALVES]", t * self.side, d * self.side)
    }

    /// Scores of a block, to workgroup memory.
    fn scores(self, text: &mut String) {
        let pad = "        ";
        let b = self.matrix("f16", "B");
        for r in self.rows() {
            for t in 0..self.tokens {
                let _ = writeln!(text, "{pad}var score_{r}_{t} = zero;");
            }
        }
        for d in 0..self.dims {
            for t in 0..self.tokens {
                let at = self.placed(t, d);
                let _ = writeln!(text, "{pad}let k_{t}_{d} = coopLoad<{b}>(&{at}, KV_STRIDE / HALVES);");
                for r in self.rows() {
                    let score = format!("score_{r}_{t}");
                    let _ = writeln!(text, "{pad}{score} = coopMultiplyAdd(q_{r}_{d}, k_{t}_{d}, {score});");
                }
            }
        }
        for r in self.rows() {
            for t in 0..self.tokens {
                let _ = writeln!(text, "{pad}coopStoreT(score_{r}_{t}, &{}, STRIDE);", self.staged(r, t));
            }
        }
        text.push_str("        workgroupBarrier();\n");
    }

    /// Scores to weights, lane by lane, and how much a row's sums are worth under its new reference.
    fn weights(self, text: &mut String) {
        let pad = "        ";
        text.push_str("        let last = first + KV_BLOCK / PAGE_TOKENS - 1u;\n");
        text.push_str("        let end = page_of(tile, last) * PAGE_TOKENS + PAGE_TOKENS;\n");
        text.push_str(
            "        let in_window = WINDOW == 0u || page_of(tile, first) * PAGE_TOKENS + WINDOW > tile.position + Q_TILE;\n",
        );
        text.push_str("        let is_all_seen = last < tile.n_pages && end <= tile.position + 1u && in_window;\n");
        text.push_str("        var grows = false;\n");
        for r in self.rows() {
            for c in 0..self.columns() {
                let _ = writeln!(text, "{pad}var s_{r}_{c} = score_of({});", self.own(r, c));
            }
            text.push_str("        if !is_all_seen {\n");
            for c in 0..self.columns() {
                let column = format!("{}u + share", c * self.sharers);
                let _ =
                    writeln!(text, "{pad}    if !shows(tile, first, {column}, position_{r}) {{ s_{r}_{c} = MASKED; }}");
            }
            text.push_str("        }\n");
            let _ = writeln!(text, "{pad}var greatest_{r} = s_{r}_0;");
            for c in 1..self.columns() {
                let _ = writeln!(text, "{pad}greatest_{r} = max(greatest_{r}, s_{r}_{c});");
            }
            let mut apart = 1;
            while apart < self.sharers {
                let _ = writeln!(
                    text,
                    "{pad}greatest_{r} = max(greatest_{r}, subgroupShuffleXor(greatest_{r}, {apart}u));"
                );
                apart *= 2;
            }
            let _ = writeln!(text, "{pad}let grows_{r} = greatest_{r} > reference_{r} + HEADROOM;");
            let _ = writeln!(text, "{pad}let next_{r} = select(reference_{r}, greatest_{r}, grows_{r});");
            let _ = writeln!(text, "{pad}let factor_{r} = exp(max(reference_{r} - next_{r}, -100.0));");
            let _ = writeln!(text, "{pad}reference_{r} = next_{r};\n{pad}total_{r} *= factor_{r};");
            let _ = writeln!(text, "{pad}grows = grows || grows_{r};");
            for c in 0..self.columns() {
                let _ = writeln!(text, "{pad}let w_{r}_{c} = weight_of(s_{r}_{c}, reference_{r});");
                let at = format!("({}u + row) * HALF_STRIDE + {}u + share", r * self.side, c * self.sharers);
                let _ = writeln!(text, "{pad}halves[own_half + {at}] = w_{r}_{c};\n{pad}total_{r} += f32(w_{r}_{c});");
            }
        }
        // Before the first block sums are 0, under any reference.
        text.push_str("        let n_grown = subgroupAdd(select(0u, 1u, grows && first > 0u));\n");
        text.push_str("        if lane == 0u { grown[team] = n_grown; }\n");
    }

    /// Sums under new references: through workgroup memory, where each lane scales its row's.
    fn rescale(self, text: &mut String) {
        text.push_str("        let all_grown = workgroupUniformLoad(&grown);\n");
        let grown = (0..self.heads).map(|head| format!("all_grown[{head}u]")).collect::<Vec<_>>().join(" + ");
        let _ = writeln!(text, "        if {grown} > 0u {{");
        let pad = "            ";
        let c = self.matrix("f32", "C");
        self.through_stage(text, pad, "factor", |unit, text, dims| {
            for r in 0..unit.rows {
                for d in dims.clone() {
                    let at = unit.staged(r, d - dims.start);
                    let _ = writeln!(text, "{pad}sum_{r}_{d} = coopLoadT<{c}>(&{at}, STRIDE);");
                }
            }
        });
        text.push_str("        }\n");
    }

    /// Sums to workgroup memory, as many as it holds at a time; each lane scales its rows; then what `take` makes of them.
    fn through_stage(
        self,
        text: &mut String,
        pad: &str,
        factor: &str,
        take: impl Fn(Self, &mut String, std::ops::Range<u32>),
    ) {
        for dims in self.strips() {
            for (r, d) in self.rows().flat_map(|r| dims.clone().map(move |d| (r, d))) {
                let _ = writeln!(text, "{pad}coopStoreT(sum_{r}_{d}, &{}, STRIDE);", self.staged(r, d - dims.start));
            }
            let _ = writeln!(text, "{pad}workgroupBarrier();");
            for r in self.rows() {
                for c in 0..dims.len() as u32 * self.side / self.sharers {
                    let _ = writeln!(text, "{pad}{} *= {factor}_{r};", self.own(r, c));
                }
            }
            let _ = writeln!(text, "{pad}workgroupBarrier();");
            take(self, text, dims);
            let _ = writeln!(text, "{pad}workgroupBarrier();");
        }
    }

    /// Weighted values of a block.
    fn values(self, text: &mut String) {
        let (a, b) = (self.matrix("f16", "A"), self.matrix("f16", "B"));
        let pad = "        ";
        for t in 0..self.tokens {
            for r in self.rows() {
                let _ =
                    writeln!(text, "{pad}let weight_{r}_{t} = coopLoadT<{a}>(&{}, HALF_STRIDE);", self.halved(r, t));
            }
            for d in 0..self.dims {
                let _ =
                    writeln!(text, "{pad}let v_{t}_{d} = coopLoadT<{b}>(&{}, KV_STRIDE / HALVES);", self.placed(t, d));
                for r in self.rows() {
                    let sum = format!("sum_{r}_{d}");
                    let _ = writeln!(text, "{pad}{sum} = coopMultiplyAdd(weight_{r}_{t}, v_{t}_{d}, {sum});");
                }
            }
        }
    }

    /// Results: sums over the lanes' totals.
    fn end(self, text: &mut String) {
        let pad = "    ";
        for r in self.rows() {
            let mut apart = 1;
            while apart < self.sharers {
                let _ = writeln!(text, "{pad}total_{r} += subgroupShuffleXor(total_{r}, {apart}u);");
                apart *= 2;
            }
            let _ = writeln!(text, "{pad}let inverse_{r} = 1.0 / total_{r};");
        }
        self.through_stage(text, pad, "inverse", |unit, text, dims| {
            let width = dims.len() as u32 * unit.side;
            let _ = writeln!(text, "{pad}for (var i = lane; i < Q_TILE * {width}u; i += LANES) {{");
            let _ = writeln!(text, "{pad}    let query = i / {width}u;\n{pad}    if query < tile.n_queries {{");
            let column = format!("head * HEAD_DIM + {}u + i % {width}u", dims.start * unit.side);
            let value = format!("stage[own + query * STRIDE + i % {width}u]");
            let _ =
                writeln!(text, "{pad}        out_store((tile.token + query) * N_HEADS * HEAD_DIM, {column}, {value});");
            let _ = writeln!(text, "{pad}    }}\n{pad}}}");
        });
    }
}
