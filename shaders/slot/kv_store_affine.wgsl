// KV as codes of KV_BITS (4 or 8) bits, written. A group's scale and bias are MLX's: the end of the group's range that
// lies further from zero has a code without error, and so has zero.
// Workgroup memory: 8 bytes an invocation.

import package::lib::pages::{row_word, kv_scale_word};

@group(3) @binding(0) var<storage, read_write> kv: array<u32>;

const GROUP_PAIRS = KV_QUANT_GROUP / 2u;
const WORD_PAIRS = 16u / KV_BITS;
const LAST_CODE = f32((1u << KV_BITS) - 1u);

// Each invocation's two numbers. A group's pairs are neighbours.
var<workgroup> kept: array<vec2<f32>, WG>;

fn code_of(number: f32, scale: f32, bias: f32) -> u32 {
    return u32(clamp(round((number - bias) / scale), 0.0, LAST_CODE));
}

// Writes numbers 2 * pair and 2 * pair + 1 of a row if `wanted`. All invocations of a workgroup come here together,
// each with a pair of its own; `thread` is the invocation's number. The pairs of a group come together too.
fn kv_store(thread: u32, wanted: bool, row: u32, pair: u32, numbers: vec2<f32>) {
    // What f16 can hold.
    kept[thread] = clamp(numbers, vec2<f32>(-65504.0), vec2<f32>(65504.0));
    workgroupBarrier();
    if wanted && pair % WORD_PAIRS == 0u {
        let first = thread - pair % GROUP_PAIRS;
        var least = kept[first].x;
        var greatest = least;
        for (var i = 0u; i < GROUP_PAIRS; i++) {
            let both = kept[first + i];
            least = min(least, min(both.x, both.y));
            greatest = max(greatest, max(both.x, both.y));
        }
        let from_least = abs(least) > abs(greatest);
        let end = select(greatest, least, from_least);
        var scale = max((greatest - least) / LAST_CODE, 1e-7);
        scale = select(-scale, scale, from_least);
        // Steps from zero to that end; the scale is changed so that they are whole.
        let steps = round(end / scale);
        let bias = select(end, 0.0, steps == 0.0);
        scale = select(end / steps, scale, steps == 0.0);
        var word = 0u;
        for (var i = 0u; i < WORD_PAIRS; i++) {
            let both = kept[thread + i];
            word |= code_of(both.x, scale, bias) << (2u * i * KV_BITS);
            word |= code_of(both.y, scale, bias) << ((2u * i + 1u) * KV_BITS);
        }
        kv[row_word(row) + pair / WORD_PAIRS] = word;
        if pair % GROUP_PAIRS == 0u { kv[kv_scale_word(row, 2u * pair)] = pack2x16float(vec2<f32>(scale, bias)); }
    }
    workgroupBarrier();
}
