// What a part of a row's logits comes to: the greatest, the sum of exp(logit - greatest), and the best of what is chosen
// by, with its id; the lower id wins ties. Over a workgroup of WG invocations (a power of two from 32): 16 * WG bytes.

struct Part { top: f32, sum: f32, best: f32, id: u32 }

var<workgroup> part_scratch: array<Part, WG>;

// Where nothing is greater, e.g. among values that are no numbers, id 0 is taken.
fn part_none() -> Part { return Part(-2e38, 0.0, -3.4e38, 0u); }

fn part_of(a: Part, b: Part) -> Part {
    let top = max(a.top, b.top);
    let sum = a.sum * exp(a.top - top) + b.sum * exp(b.top - top);
    if b.best > a.best || (b.best == a.best && b.id < a.id) { return Part(top, sum, b.best, b.id); }
    return Part(top, sum, a.best, a.id);
}

// Invocations that each put together an equal share of the others' parts. Two rounds: a tree would take a barrier for
// each halving.
const PART_SHARES = 16u;

// That of the workgroup, for every invocation. Must be called in uniform control flow.
fn workgroup_part(own: Part, thread: u32) -> Part {
    workgroupBarrier();
    part_scratch[thread] = own;
    workgroupBarrier();
    if thread < PART_SHARES {
        var share = own;
        for (var ix = thread + PART_SHARES; ix < WG; ix += PART_SHARES) { share = part_of(share, part_scratch[ix]); }
        part_scratch[thread] = share;
    }
    workgroupBarrier();
    var whole = part_scratch[0];
    for (var ix = 1u; ix < PART_SHARES; ix++) { whole = part_of(whole, part_scratch[ix]); }
    return whole;
}

fn part_words(part: Part) -> vec4<u32> {
    return vec4<u32>(bitcast<u32>(part.top), bitcast<u32>(part.sum), bitcast<u32>(part.best), part.id);
}

// The id is one of the row's, whatever the words are.
fn part_from(words: vec4<u32>) -> Part {
    return Part(bitcast<f32>(words.x), bitcast<f32>(words.y), bitcast<f32>(words.z), min(words.w, N - 1u));
}
