// KV in single precision, written.

import package::lib::pages::row_word;

@group(3) @binding(0) var<storage, read_write> kv: array<f32>;

// Writes numbers 2 * pair and 2 * pair + 1 of a row if `wanted`. All invocations of a workgroup come here together,
// each with a pair of its own; `thread` is the invocation's number.
fn kv_store(thread: u32, wanted: bool, row: u32, pair: u32, numbers: vec2<f32>) {
    if wanted {
        kv[row_word(row) + 2u * pair] = numbers.x;
        kv[row_word(row) + 2u * pair + 1u] = numbers.y;
    }
}
