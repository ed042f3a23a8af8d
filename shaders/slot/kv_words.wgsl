// KV pages read word by word: any even HEAD_DIM, zeros follow a row's last number.

@group(3) @binding(0) var<storage, read> kv: array<u32>;

fn kv_word(word: u32) -> u32 { return kv[word]; }

// Numbers 8 * piece .. of the row that begins at `row`, packed.
fn kv_piece(row: u32, piece: u32) -> vec4<u32> {
    var words = vec4<u32>();
    for (var i = 0u; i < 4u; i++) {
        if 4u * piece + i < HEAD_DIM / 2u { words[i] = kv[row + 4u * piece + i]; }
    }
    return words;
}
