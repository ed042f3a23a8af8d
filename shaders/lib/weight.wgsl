// The weight: one buffer of words, codes or values row by row, then scales from word W_SCALES_AT.

@group(1) @binding(0) var<storage, read> weight: array<vec4<u32>>;

fn weight_word(ix: u32) -> u32 { return weight[ix / 4u][ix % 4u]; }
