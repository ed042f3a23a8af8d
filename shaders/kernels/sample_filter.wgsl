// sample_filter: sampled[r] = (id, its log-probability, pairs of the best ids and theirs) for rows that filter: the id is the best
// by sample_partial's parts of those that stay.
//
// Filters, one after the other: the nearest tokens until their mass reaches TOP_P, ties with the last; those within
// FARTHEST of the greatest, LEAST_KEPT at least; without those above the XTC threshold but the last of them and those
// exempt; TOP_K of what is left. Each but XTC is a place in the order of tokens, nearest first, lower ids first: it is found
// in sample_bins' bins, then in finer bins of the one where it lies, until few enough tokens are in a bin to be ranked; of
// top-p's, or else top-k's, sample_gather has that bin's tokens together.
// A block whose own best stays has been searched by sample_partial; others are searched again if they could do better.
// One workgroup of 256 a row, of the rows up to the last that filters. Workgroup memory: 14 KiB. Slots: rows, logits.

import package::lib::grid::linear_id;
import package::lib::step::{SAMPLED_WORDS, step_choice};
import package::lib::choice::{FARTHEST, FILTERS, LEAST_KEPT, LEAST_LOGIT, NOISE, N_BEST, N_BIASES, N_EXEMPT};
import package::lib::choice::{SEQUENCE, TOP_K, TOP_P, XTC_THRESHOLD};
import package::lib::choice::{choice_flags, choice_inverse_temperature, choice_number};
import package::lib::columns::lists_at;
import package::lib::chosen::{chosen, columns, sampled};
import package::lib::noise::gumbel;
import package::lib::part::{Part, part_from, part_none, part_of, workgroup_part};
import package::lib::bins::{BINS, BIN_WORDS, add_to_bin, bin_counts, bin_end, bin_highs, bin_lows, bin_start, empty_bins, mass_of};
import package::lib::gathered::{GATHERED, GATHERED_BIN, GATHERED_COUNT};
import package::lib::reach::{add_up, reach, sums};
import package::slot::rows::n_rows;
import package::slot::logits::{logit_of, logits_of};

@group(0) @binding(2) var<storage, read> parts: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> bins: array<u32>;
@group(0) @binding(4) var<storage, read> gathered: array<u32>;

const N_PARTIAL = (N + BLOCK - 1u) / BLOCK;
const QUADS = (N + 3u) / 4u;
// Columns that the workgroup looks at in one round, and rounds that a known greatest logit lets it skip.
const ROUND = 16u * WG;
const ROUNDS_EACH = ((N + ROUND - 1u) / ROUND + WG - 1u) / WG;
const BLOCKS_EACH = ROUNDS_EACH * (ROUND / BLOCK);
const NOWHERE = 0xffffffffu;

// A place in the order of tokens: distance below the greatest logit, as bits, which grow with it, then the id.
struct Place { gap: u32, id: u32 }

// What stays: places up to `last`; of those nearer than `spared` only the exempt.
struct Kept { last: Place, spared: u32 }

// What is done with some of a row's tokens.
struct Look {
    task: u32,
    // Which: gaps low .. high; ids low .. high of gap `tied`; places up to (high, tied).
    kind: u32,
    low: u32,
    high: u32,
    tied: u32,
    // TO_BINS: bins of 2^shift.
    shift: u32,
    // SURVEY: the mass above which `own_farthest` looks.
    above: f32,
}
const TO_BINS = 0u;
const TO_LIST = 1u;
const SURVEY = 2u;
const GAPS = 0u;
const TIES = 1u;
const PLACES = 2u;

// Searches for a place, in their order.
const BY_MASS = 0u;
const BY_LEAST = 1u;
const BY_COUNT = 2u;
const BY_BEST = 3u;

var<workgroup> tops: array<f32, WG>;
var<workgroup> list: array<vec2<u32>, WG>;
var<workgroup> ranked: array<vec2<u32>, WG>;
var<workgroup> n_listed: atomic<u32>;
var<workgroup> farthest: atomic<u32>;
var<workgroup> whole_range: vec4<u32>;
var<private> own_mass: f32;
var<private> own_count: f32;
var<private> own_farthest: u32;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = linear_id(workgroup, n_workgroups);
    if row >= n_rows() || (choice_flags(row) & FILTERS) == 0u { return; }
    var own = part_none();
    for (var block = thread; block < N_PARTIAL; block += WG) {
        own = part_of(own, part_from(parts[row * N_PARTIAL + block]));
    }
    let whole = workgroup_part(own, thread);
    know_tops(row, thread);
    let kept = filtered(row, thread, whole);
    var id = whole.id;
    if choice_inverse_temperature(row) > 0.0 { id = drawn(row, thread, whole.top, kept); }
    if thread == 0u { chosen(row, id, logit_of(row, id) - whole.top - log(whole.sum)); }
}

// The greatest logit of each few rounds.
fn know_tops(row: u32, thread: u32) {
    var top = -2e38;
    for (var block = thread * BLOCKS_EACH; block < min((thread + 1u) * BLOCKS_EACH, N_PARTIAL); block++) {
        top = max(top, bitcast<f32>(parts[row * N_PARTIAL + block].x));
    }
    tops[thread] = top;
    workgroupBarrier();
}

// What stays after the filters, and on the way the best ids, told. One search is used for all, so that its code is there once.
fn filtered(row: u32, thread: u32, whole: Part) -> Kept {
    let top = whole.top;
    let draws = choice_inverse_temperature(row) > 0.0;
    let limit = choice_number(row, FARTHEST);
    let least = step_choice(row, LEAST_KEPT);
    let threshold = choice_number(row, XTC_THRESHOLD);
    let top_k = step_choice(row, TOP_K);
    let n_best = min(step_choice(row, N_BEST), N);
    var kept = Kept(Place(NOWHERE, NOWHERE), 0u);
    var near = Place(0u, 0u);
    for (var search = BY_MASS; search <= BY_BEST; search++) {
        var is_on = false;
        var wanted = 0.0;
        if search == BY_MASS {
            wanted = choice_number(row, TOP_P);
            is_on = draws && wanted > 0.0;
        } else if search == BY_LEAST {
            wanted = f32(min(least, N));
            is_on = draws && limit >= 0.0 && least > 1u;
        } else if search == BY_COUNT {
            if limit >= 0.0 { kept.last = earlier(kept.last, later(Place(bitcast<u32>(limit), NOWHERE), near)); }
            var n_looked_at = top_k;
            if draws && threshold >= 0.0 {
                let n_gone = exclude(row, thread, top, threshold, &kept);
                let n_exempt = exempt_before(row, top, Place(kept.spared, 0u));
                n_looked_at = n_gone + top_k - min(top_k, n_exempt);
            }
            wanted = f32(min(n_looked_at, N));
            is_on = draws && top_k > 0u;
        } else {
            wanted = f32(n_best);
            is_on = n_best > 0u;
        }
        if !is_on { continue; }
        let place = place_of(row, thread, top, search == BY_MASS, wanted);
        if search == BY_LEAST {
            near = place;
        } else if search == BY_BEST {
            tell_best(row, thread, whole, place, n_best);
        } else {
            kept.last = earlier(kept.last, place);
        }
    }
    return kept;
}

// XTC: tokens nearer than the farthest of those above the threshold go. How many there are.
fn exclude(row: u32, thread: u32, top: f32, threshold: f32, kept: ptr<function, Kept>) -> u32 {
    var look = Look(SURVEY, PLACES, 0u, (*kept).last.gap, (*kept).last.id, 0u, 0.0);
    var n_gone = 0u;
    // The mass of what stays, then the last above the threshold, then those before it.
    for (var round = 0u; round < 3u; round++) {
        let found = survey(row, thread, top, look);
        if round == 0u {
            look.above = threshold * bitcast<f32>(found.x);
        } else if round == 1u {
            (*kept).spared = found.z;
            look = Look(SURVEY, GAPS, 0u, found.z, 0u, 0u, 0.0);
        } else {
            n_gone = u32(bitcast<f32>(found.y));
        }
    }
    return n_gone;
}

// The best of what stays: of the blocks' own best where that stays, then of blocks that could hold a better one.
fn drawn(row: u32, thread: u32, top: f32, kept: Kept) -> u32 {
    let inverse_temperature = choice_inverse_temperature(row);
    let noise = vec2<u32>(step_choice(row, NOISE), step_choice(row, NOISE + 1u));
    var own = part_none();
    for (var block = thread; block < N_PARTIAL; block += WG) {
        let part = part_from(parts[row * N_PARTIAL + block]);
        if stays(row, top, kept, gap_of(top - logit_of(row, part.id)), part.id) { own = part_of(own, part); }
    }
    let leader = workgroup_part(own, thread);
    own = leader;
    for (var base = 0u; base < N_PARTIAL; base += WG) {
        if thread == 0u { atomicStore(&n_listed, 0u); }
        workgroupBarrier();
        let block = base + thread;
        if block < N_PARTIAL {
            let part = part_from(parts[row * N_PARTIAL + block]);
            if part.best >= leader.best && gap_of(top - part.top) <= kept.last.gap {
                if !stays(row, top, kept, gap_of(top - logit_of(row, part.id)), part.id) {
                    list[atomicAdd(&n_listed, 1u)].x = block;
                }
            }
        }
        workgroupBarrier();
        for (var ix = 0u; ix < atomicLoad(&n_listed); ix++) {
            let first = list[ix].x * BLOCK;
            for (var column = first + thread; column < min(first + BLOCK, N); column += WG) {
                let logit = logit_of(row, column);
                if !stays(row, top, kept, gap_of(top - logit), column) { continue; }
                let chosen_by = logit * inverse_temperature + gumbel(noise, column);
                own = part_of(own, Part(logit, 0.0, chosen_by, column));
            }
        }
        workgroupBarrier();
    }
    return workgroup_part(own, thread).id;
}

// Writes the `n_best` ids up to a place and their log-probabilities; where there are fewer, id 0 as one that may not come.
fn tell_best(row: u32, thread: u32, whole: Part, last: Place, n_best: u32) {
    empty_list(thread);
    look_at_row(row, thread, whole.top, Look(TO_LIST, PLACES, 0u, last.gap, last.id, 0u, 0.0));
    workgroupBarrier();
    let n = min(n_best, atomicLoad(&n_listed));
    rank(thread, n);
    if thread < n_best {
        let at = row * SAMPLED_WORDS + 2u + 2u * thread;
        let is_one = thread < n;
        sampled[at] = select(0u, ranked[thread].y, is_one);
        let logprob = select(LEAST_LOGIT, -bitcast<f32>(ranked[thread].x) - log(whole.sum), is_one);
        sampled[at + 1u] = bitcast<u32>(logprob);
    }
}

// The place up to which tokens have a share `wanted` of all mass, or are `wanted` in number: its bin, then finer bins, as fine
// as 256 can be, then the place in a bin of few. Where there are not so many it is the last of those that may come.
fn place_of(row: u32, thread: u32, top: f32, by_mass: bool, wanted: f32) -> Place {
    let at = row * BIN_WORDS;
    let count = bins[at + thread];
    let amount = select(f32(count), mass_of(bins[at + BINS + thread], bins[at + 2u * BINS + thread]), by_mass);
    add_up(thread, amount);
    let goal = select(wanted, wanted * sums[BINS - 1u], by_mass);
    var bin = reach(thread, amount, count, goal);
    let is_gathered = bins[at + GATHERED_BIN] == bin.x + 1u && bins[at + GATHERED_COUNT] == bin.y;
    let n_gathered = select(0u, bin.y, is_gathered);
    var look = Look(TO_BINS, GAPS, bin_start(bin.x), bin_end(bin.x), 0u, 0u, 0.0);
    // Amount of all that is nearer.
    var nearer = bitcast<f32>(bin.z);
    var place = Place(NOWHERE, NOWHERE);
    loop {
        let is_few = bin.y <= WG;
        if is_few {
            if bin.y == 1u && look.kind == GAPS {
                place.gap = look.high - 1u;
                break;
            }
            look.task = TO_LIST;
        } else if look.high - look.low == 1u {
            if by_mass {
                place.gap = look.low;
                break;
            }
            look = Look(TO_BINS, TIES, 0u, N, look.low, 0u, 0.0);
        }
        look.shift = max(firstLeadingBit(look.high - look.low - 1u), 7u) - 7u;
        empty_bins(thread);
        empty_list(thread);
        if n_gathered > 0u { look_at_gathered(row, thread, top, look, n_gathered); } else { look_at_row(row, thread, top, look); }
        workgroupBarrier();
        var n = 0u;
        var own = 0.0;
        if is_few {
            rank(thread, bin.y);
            n = select(0u, 1u, thread < bin.y);
            if n > 0u { own = select(1.0, exp(-bitcast<f32>(ranked[thread].x)), by_mass); }
        } else {
            n = atomicLoad(&bin_counts[thread]);
            let mass = mass_of(atomicLoad(&bin_lows[thread]), atomicLoad(&bin_highs[thread]));
            own = select(f32(n), mass, by_mass);
        }
        add_up(thread, own);
        bin = reach(thread, own, n, goal - nearer);
        if is_few {
            let last = ranked[bin.x];
            place = Place(last.x, select(last.y, NOWHERE, by_mass));
            break;
        }
        nearer += bitcast<f32>(bin.z);
        look.low += bin.x << look.shift;
        look.high = min(look.high, look.low + (1u << look.shift));
    }
    return place;
}

fn empty_list(thread: u32) {
    workgroupBarrier();
    if thread == 0u { atomicStore(&n_listed, 0u); }
    workgroupBarrier();
}

// Puts the `n` listed tokens, at most WG, in order into `ranked`.
fn rank(thread: u32, n: u32) {
    workgroupBarrier();
    if thread < n {
        let own = list[thread];
        var ahead = 0u;
        for (var ix = 0u; ix < n; ix++) {
            let other = list[ix];
            ahead += select(0u, 1u, other.x < own.x || (other.x == own.x && other.y < own.y));
        }
        ranked[ahead] = own;
    }
    workgroupBarrier();
}

// Bits of the mass and number of a look's tokens, and the greatest gap of those with a mass above its limit (0 if none).
fn survey(row: u32, thread: u32, top: f32, look: Look) -> vec4<u32> {
    own_mass = 0.0;
    own_count = 0.0;
    own_farthest = 0u;
    if thread == 0u { atomicStore(&farthest, 0u); }
    workgroupBarrier();
    look_at_row(row, thread, top, look);
    atomicMax(&farthest, own_farthest);
    add_up(thread, own_mass);
    let mass = sums[WG - 1u];
    add_up(thread, own_count);
    if thread == 0u {
        whole_range = vec4<u32>(bitcast<u32>(mass), bitcast<u32>(sums[WG - 1u]), atomicLoad(&farthest), 0u);
    }
    return workgroupUniformLoad(&whole_range);
}

// Does a look's task with its tokens. Several loads are under way at once, since one workgroup has the row for itself; few of
// the tokens are meant.
fn look_at_row(row: u32, thread: u32, top: f32, look: Look) {
    var first_gap = look.low;
    var end_gap = look.high;
    if look.kind == TIES {
        first_gap = look.tied;
        end_gap = look.tied + 1u;
    } else if look.kind == PLACES {
        first_gap = 0u;
        end_gap = max(look.high, look.high + 1u);
    }
    for (var base = 0u; base < QUADS; base += 4u * WG) {
        if gap_of(top - tops[base / (4u * WG) / ROUNDS_EACH]) >= end_gap { continue; }
        let quad = base + thread;
        let a = gaps_of(row, top, quad);
        let b = gaps_of(row, top, quad + WG);
        let c = gaps_of(row, top, quad + 2u * WG);
        let d = gaps_of(row, top, quad + 3u * WG);
        // What lies before the first wraps around.
        let first = vec4<u32>(first_gap);
        let nearest = min(min(a - first, b - first), min(c - first, d - first));
        if any(nearest < vec4<u32>(end_gap - first_gap)) {
            for (var ix = 0u; ix < 16u; ix++) {
                let gaps = select(select(a, b, ix >= 4u), select(c, d, ix >= 12u), ix >= 8u);
                visit(gaps[ix % 4u], 4u * (quad + ix / 4u * WG) + ix % 4u, look);
            }
        }
    }
}

// The same with the tokens that sample_gather found in the bin that is looked into.
fn look_at_gathered(row: u32, thread: u32, top: f32, look: Look, n: u32) {
    for (var base = 0u; base < n; base += 4u * WG) {
        let at = vec4<u32>(base + thread) + vec4<u32>(0u, WG, 2u * WG, 3u * WG);
        let places = vec4<u32>(row * GATHERED) + min(at, vec4<u32>(n - 1u));
        let ids = vec4<u32>(gathered[places.x], gathered[places.y], gathered[places.z], gathered[places.w]);
        let logits = vec4<f32>(logit_of(row, ids.x), logit_of(row, ids.y), logit_of(row, ids.z), logit_of(row, ids.w));
        for (var ix = 0u; ix < 4u; ix++) {
            if at[ix] < n { visit(gap_of(top - logits[ix]), ids[ix], look); }
        }
    }
}

// Gaps of columns 4 * quad ..; of those past the row's end, nowhere.
fn gaps_of(row: u32, top: f32, quad: u32) -> vec4<u32> {
    let distances = vec4<f32>(top) - logits_of(row, min(quad, QUADS - 1u));
    let gaps = bitcast<vec4<u32>>(max(distances, vec4<f32>()));
    return select(vec4<u32>(NOWHERE), gaps, vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(N));
}

fn visit(gap: u32, id: u32, look: Look) {
    let key = select(gap, id, look.kind == TIES);
    var is_meant = key >= look.low && key < look.high && (look.kind == GAPS || gap == look.tied);
    if look.kind == PLACES { is_meant = is_up_to(Place(gap, id), Place(look.high, look.tied)); }
    if !is_meant || gap == NOWHERE { return; }
    let distance = bitcast<f32>(gap);
    if look.task == TO_BINS {
        add_to_bin((key - look.low) >> look.shift, distance);
    } else if look.task == TO_LIST {
        let at = atomicAdd(&n_listed, 1u);
        if at < WG { list[at] = vec2<u32>(gap, id); }
    } else {
        let mass = exp(-distance);
        own_mass += mass;
        own_count += 1.0;
        if mass > look.above { own_farthest = max(own_farthest, gap); }
    }
}

fn stays(row: u32, top: f32, kept: Kept, gap: u32, id: u32) -> bool {
    if !is_up_to(Place(gap, id), kept.last) { return false; }
    if gap >= kept.spared { return true; }
    // XTC spares the exempt, of which top-k takes the nearest.
    let exempt = exempt_at(row);
    for (var ix = 0u; ix < step_choice(row, N_EXEMPT); ix++) {
        if columns[exempt + ix] != id { continue; }
        let top_k = step_choice(row, TOP_K);
        return top_k == 0u || exempt_before(row, top, Place(gap, id)) < top_k;
    }
    return false;
}

// Exempt tokens nearer than a place.
fn exempt_before(row: u32, top: f32, place: Place) -> u32 {
    let exempt = exempt_at(row);
    var n = 0u;
    for (var ix = 0u; ix < step_choice(row, N_EXEMPT); ix++) {
        let id = columns[exempt + ix];
        let gap = gap_of(top - logit_of(row, id));
        if gap < place.gap || (gap == place.gap && id < place.id) { n++; }
    }
    return n;
}

fn exempt_at(row: u32) -> u32 { return lists_at(step_choice(row, SEQUENCE)) + 2u * step_choice(row, N_BIASES); }

fn gap_of(distance: f32) -> u32 { return bitcast<u32>(max(distance, 0.0)); }

fn is_up_to(a: Place, b: Place) -> bool { return a.gap < b.gap || (a.gap == b.gap && a.id <= b.id); }

fn earlier(a: Place, b: Place) -> Place {
    if is_up_to(a, b) { return a; }
    return b;
}

fn later(a: Place, b: Place) -> Place {
    if is_up_to(a, b) { return b; }
    return a;
}
