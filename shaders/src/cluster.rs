//! The walk of attention_decode's clusters over their tokens, as straight text: the module `package::slot::cluster`.
//!
//! Heads, tokens in flight and pieces of a row are written out one by one, for the reason given in [`crate::unit_half`].

use crate::consts::Consts;
use crate::link::Source;
use std::fmt::Write;

const HEAD: &str = "\
import package::lib::pages::{KV_VALUE_ROWS, PAGE_TOKENS, key_row};
import package::slot::kv::{high_quad, kv_piece, low_quad};
import package::slot::lanes::{Lanes, lane_of, n_lanes_of, team_of, n_teams_of};

// A cluster's share of a part: lane `member` of 8 takes the eights member, member + 8 .. of each row. Generated: Q_h_i and
// values_h_i are of head h and the lane's eight i (low and high quad), token by token t.

@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(3) @binding(1) var<storage, read> page_table: array<u32>;

// The row of the key of a visible token; of the part's last for those past it.
fn key_of(part: Part, visible: u32) -> u32 {
    let own = min(visible, max(part.end, 1u) - 1u);
    let token = own + select(part.skip, 0u, own < part.keep);
    let page = page_table[part.page_row * MAX_PAGES + token / PAGE_TOKENS];
    return key_row(page * PAGE_TOKENS + token % PAGE_TOKENS, part.kv_head);
}

// The sum over a cluster, for each of its lanes.
fn cluster_total(value: f32) -> f32 {
    let two = value + subgroupShuffleXor(value, 1u);
    let four = two + subgroupShuffleXor(two, 2u);
    return four + subgroupShuffleXor(four, 4u);
}

fn score_of(product: f32) -> f32 {
    if SOFTCAP > 0.0 { return SOFTCAP * tanh(clamp(product / SOFTCAP, -15.0, 15.0)); }
    return product;
}

";

/// The module's text.
pub(crate) fn generate(consts: &Consts) -> Source {
    let (heads, tokens, eights) = (consts.u32("HEADS"), consts.u32("TOKENS"), consts.u32("HEAD_DIM") / 64);
    let mut text = HEAD.to_string();
    let mut line = |text_line: String| {
        let _ = writeln!(text, "{text_line}");
    };
    line("fn cluster_attention(part: Part, lanes: Lanes, thread: u32) {".into());
    line("    let lane = lane_of(lanes);\n    let member = lane % 8u;".into());
    line("    let cluster = (team_of(lanes) * n_lanes_of(lanes) + lane) / 8u;".into());
    for h in 0..heads {
        line(format!("    let q_row_{h} = (part.token * N_HEADS + part.head + {h}u) * (HEAD_DIM / 4u) + 2u * member;"));
        for i in 0..eights {
            line(format!("    let q_{h}_{i}_low = q[q_row_{h} + {}u] * SCALE;", 16 * i));
            line(format!("    let q_{h}_{i}_high = q[q_row_{h} + {}u] * SCALE;", 16 * i + 1));
            line(format!("    var values_{h}_{i}_low = vec4<f32>();\n    var values_{h}_{i}_high = vec4<f32>();"));
        }
        line(format!("    var maximum_{h} = MASKED;\n    var sum_{h} = 0.0;"));
    }
    // Keys are found one round ahead: a page table's entry is a load before the load that matters.
    for t in 0..tokens {
        line(format!("    var key_{t} = key_of(part, part.first + cluster * {tokens}u + {t}u);"));
    }
    line(format!("    for (var base = part.first; base < part.end; base += N_CLUSTERS * {tokens}u) {{"));
    line(format!("        let at = base + cluster * {tokens}u;"));
    for t in 0..tokens {
        for i in 0..eights {
            line(format!("        let k_{t}_{i} = kv_piece(key_{t}, member + {}u);", 8 * i));
        }
    }
    for t in 0..tokens {
        for i in 0..eights {
            line(format!("        let v_{t}_{i} = kv_piece(key_{t} + KV_VALUE_ROWS, member + {}u);", 8 * i));
        }
    }
    for t in 0..tokens {
        line(format!("        key_{t} = key_of(part, at + N_CLUSTERS * {tokens}u + {t}u);"));
    }
    for h in 0..heads {
        let mut greatest = format!("maximum_{h}");
        for t in 0..tokens {
            let dots = (0..eights).map(|i| {
                format!("dot(q_{h}_{i}_low, low_quad(k_{t}_{i})) + dot(q_{h}_{i}_high, high_quad(k_{t}_{i}))")
            });
            let dots = dots.collect::<Vec<_>>().join(" + ");
            line(format!("        let score_{h}_{t} = score_of(cluster_total({dots}));"));
            let seen = format!("select(MASKED, score_{h}_{t}, at + {t}u < part.end)");
            greatest = format!("max({greatest}, {seen})");
        }
        line(format!("        let greatest_{h} = {greatest};"));
        line(format!("        let rescale_{h} = exp(max(maximum_{h} - greatest_{h}, -100.0));"));
        line(format!("        maximum_{h} = greatest_{h};\n        sum_{h} *= rescale_{h};"));
        for i in 0..eights {
            line(format!("        values_{h}_{i}_low *= rescale_{h};\n        values_{h}_{i}_high *= rescale_{h};"));
        }
        for t in 0..tokens {
            let weight = format!("select(0.0, exp(score_{h}_{t} - greatest_{h}), at + {t}u < part.end)");
            line(format!("        let weight_{h}_{t} = {weight};\n        sum_{h} += weight_{h}_{t};"));
            for i in 0..eights {
                line(format!("        values_{h}_{i}_low += weight_{h}_{t} * low_quad(v_{t}_{i});"));
                line(format!("        values_{h}_{i}_high += weight_{h}_{t} * high_quad(v_{t}_{i});"));
            }
        }
    }
    line("    }\n    // The clusters of a subgroup meet.".into());
    line("    for (var apart = 8u; apart < n_lanes_of(lanes); apart *= 2u) {".into());
    for h in 0..heads {
        line(format!("        let both_{h} = max(maximum_{h}, subgroupShuffleXor(maximum_{h}, apart));"));
        line(format!("        let factor_{h} = exp(max(maximum_{h} - both_{h}, -100.0));"));
        line(format!("        maximum_{h} = both_{h};\n        sum_{h} *= factor_{h};"));
        line(format!("        sum_{h} += subgroupShuffleXor(sum_{h}, apart);"));
        for i in 0..eights {
            for half in ["low", "high"] {
                let value = format!("values_{h}_{i}_{half}");
                line(format!("        {value} *= factor_{h};\n        {value} += subgroupShuffleXor({value}, apart);"));
            }
        }
    }
    line("    }\n    let team = team_of(lanes);\n    if lane == 0u {".into());
    for h in 0..heads {
        line(format!("        team_maximum[{h}u * MOST_TEAMS + team] = maximum_{h};"));
        line(format!("        team_sum_of[{h}u * MOST_TEAMS + team] = sum_{h};"));
    }
    line("    }\n    let to = team * HEAD_DIM + 8u * member;".into());
    for h in 0..heads {
        line(format!("    workgroupBarrier(); // head {h}"));
        line(format!("    let all_{h} = head_maximum({h}u, n_teams_of(lanes));"));
        line(format!("    let factor_{h} = exp(max(maximum_{h} - all_{h}, -100.0));\n    if lane < 8u {{"));
        for i in 0..eights {
            for (half, at) in [("low", 0), ("high", 4)] {
                for (c, component) in "xyzw".chars().enumerate() {
                    let place = 64 * i as usize + at + c;
                    line(format!(
                        "        team_values[to + {place}u] = values_{h}_{i}_{half}.{component} * factor_{h};"
                    ));
                }
            }
        }
        line("    }\n    workgroupBarrier();".into());
        line("    for (var column = thread; column < HEAD_DIM; column += WG) {".into());
        line(format!("        store_head(part, {h}u, column, all_{h}, n_teams_of(lanes));\n    }}"));
    }
    line("}".into());
    Source::new("cluster(generated)", text)
}
