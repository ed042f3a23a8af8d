// Heads of queries and keys, RMS normalized before they are rotated: a weight for each of a head's numbers, a factor for
// the head, which the rotation leaves alone. Workgroup memory: 4 bytes an invocation.

// Weights of a query's head, then of a key's.
@group(1) @binding(1) var<storage, read> norm_weight: array<f32>;

// Whole heads at a time.
const HEAD_ITEMS = HEAD_DIM / 2u;
const ITEMS_AT_ONCE = WG / HEAD_ITEMS * HEAD_ITEMS;
const SUM_PARTS = min(HEAD_ITEMS, 8u);

var<workgroup> head_squares: array<f32, WG>;

// The factor of the head of an invocation's two numbers. All invocations of a workgroup come here together, those of a
// head side by side from a multiple of HEAD_ITEMS on.
fn head_factor(thread: u32, numbers: vec2<f32>) -> f32 {
    let in_head = thread % HEAD_ITEMS;
    let first = thread - in_head;
    head_squares[thread] = dot(numbers, numbers);
    workgroupBarrier();
    if in_head < SUM_PARTS && thread < ITEMS_AT_ONCE {
        var part = 0.0;
        for (var i = in_head; i < HEAD_ITEMS; i += SUM_PARTS) { part += head_squares[first + i]; }
        head_squares[thread] = part;
    }
    workgroupBarrier();
    var sum = 0.0;
    if thread < ITEMS_AT_ONCE {
        for (var i = 0u; i < SUM_PARTS; i++) { sum += head_squares[first + i]; }
    }
    workgroupBarrier();
    return inverseSqrt(sum / f32(HEAD_DIM) + EPS);
}

fn head_weight(is_key: bool, d: u32) -> f32 { return norm_weight[select(d, HEAD_DIM + d, is_key)]; }
