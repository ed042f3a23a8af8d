// What a device can do at most: `stream` reads a buffer once and does nothing else with it, `multiply` computes without
// memory. `fill` writes numbers that no memory controller can compress.
// Assumes: a workgroup reads 8 consecutive pieces of 256 vectors; `size` counts whole such pieces, `rounds` the loops of
// `multiply`. Results are stored under a condition that never holds but that no compiler can know.

struct Sizes { n_pieces: u32, rounds: u32, first: f32, factor: f32 }

@group(0) @binding(0) var<storage, read_write> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> sink: array<u32>;

fn linear(workgroup: vec3<u32>, n_workgroups: vec3<u32>) -> u32 {
    return workgroup.x + workgroup.y * n_workgroups.x;
}

@compute @workgroup_size(256)
fn fill(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
) {
    let piece = linear(workgroup, n_workgroups);
    if piece >= sizes.n_pieces { return; }
    for (var k = 0u; k < 8u; k++) {
        let at = (piece * 8u + k) * 256u + lane;
        var x = vec4<u32>(at) * 4u + vec4<u32>(1u, 2u, 3u, 4u);
        x = (x ^ (x >> vec4<u32>(16u))) * 0x7feb352du;
        x = (x ^ (x >> vec4<u32>(15u))) * 0x846ca68bu;
        data[at] = x ^ (x >> vec4<u32>(16u));
    }
}

@compute @workgroup_size(256)
fn stream(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
) {
    let piece = linear(workgroup, n_workgroups);
    if piece >= sizes.n_pieces { return; }
    let at = piece * 2048u + lane;
    var x = data[at] ^ data[at + 256u] ^ data[at + 512u] ^ data[at + 768u];
    x ^= data[at + 1024u] ^ data[at + 1280u] ^ data[at + 1536u] ^ data[at + 1792u];
    if (x.x ^ x.y ^ x.z ^ x.w) == 0x9e3779b9u { sink[0] = x.x; }
}

@compute @workgroup_size(256)
fn multiply(@builtin(local_invocation_index) lane: u32) {
    let b = vec4<f32>(sizes.first);
    let f = vec4<f32>(sizes.factor);
    var s0 = vec4<f32>(f32(lane));
    var s1 = s0 + b;
    var s2 = s1 + b;
    var s3 = s2 + b;
    var s4 = s3 + b;
    var s5 = s4 + b;
    var s6 = s5 + b;
    var s7 = s6 + b;
    for (var k = 0u; k < sizes.rounds; k++) {
        s0 = fma(s0, f, b);
        s1 = fma(s1, f, b);
        s2 = fma(s2, f, b);
        s3 = fma(s3, f, b);
        s4 = fma(s4, f, b);
        s5 = fma(s5, f, b);
        s6 = fma(s6, f, b);
        s7 = fma(s7, f, b);
    }
    let sum = s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7;
    if sum.x + sum.y + sum.z + sum.w == 0.123 { sink[1] = 1u; }
}
