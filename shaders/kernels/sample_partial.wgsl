// sample_partial: of each block of a row's logits x[r, b * BLOCK .. (b + 1) * BLOCK]: out[r, b] = (the greatest x, sum of
// exp(x - it), the greatest of what is chosen by, its column). Chosen by: x, or of a row that is drawn x / temperature + noise.
//
// First the logits of a row that says so are adjusted, in place: bias, then repetition, presence and frequency penalties of
// the tokens in its history's windows, then ids that may not come yet, then those that its mask leaves out. Sums are of
// rows that filter or tell, else 0.
// The bins of a row that filters are emptied for the next kernel. One workgroup a (row, block), an invocation every
// WG-th column. Workgroup memory: 8 * BLOCK + 16 * WG bytes. Slots: rows.

import package::lib::grid::linear_id;
import package::lib::bins::BIN_WORDS;
import package::lib::step::step_choice;
import package::lib::choice::{ADJUSTS, FILTERS, FREQUENCY, FREQUENCY_WINDOW, KEEPS_FORM, LEAST_LOGIT, NOISE, N_BANNED, N_BIASES, N_EXEMPT, POSITION, PRESENCE, PRESENCE_WINDOW};
import package::lib::choice::{REPETITION, REPETITION_WINDOW, SEQUENCE, TELLS, choice_flags, choice_inverse_temperature, choice_number};
import package::lib::columns::{history_at, lists_at, mask_at};
import package::lib::noise::gumbel;
import package::lib::part::{Part, part_none, part_words, workgroup_part};
import package::slot::rows::n_rows;

@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read> columns: array<u32>;
@group(2) @binding(0) var<storage, read_write> out: array<vec4<u32>>;
@group(2) @binding(1) var<storage, read_write> bins: array<u32>;

const N_PARTIAL = (N + BLOCK - 1u) / BLOCK;

// Of the block's columns: what is added, and how often each occurs in the window of frequencies, with three marks.
const REPEATED = 1u << 31u;
const PRESENT = 1u << 30u;
const BANNED = 1u << 29u;
var<workgroup> biases: array<f32, BLOCK>;
var<workgroup> seen: array<atomic<u32>, BLOCK>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let id = linear_id(workgroup, n_workgroups);
    let row = id / N_PARTIAL;
    let first = id % N_PARTIAL * BLOCK;
    if row >= n_rows() { return; }
    let flags = choice_flags(row);
    let adjusts = (flags & ADJUSTS) != 0u;
    let keeps_form = (flags & KEEPS_FORM) != 0u;
    let sums = (flags & (FILTERS | TELLS)) != 0u;
    if adjusts { look_up(row, first, thread); }
    if (flags & FILTERS) != 0u && first == 0u {
        for (var word = thread; word < BIN_WORDS; word += WG) { bins[row * BIN_WORDS + word] = 0u; }
    }
    let inverse_temperature = choice_inverse_temperature(row);
    let draws = inverse_temperature > 0.0;
    var noise = vec2<u32>();
    if draws { noise = vec2<u32>(step_choice(row, NOISE), step_choice(row, NOISE + 1u)); }
    var own = part_none();
    for (var column = first + thread; column < min(first + BLOCK, N); column += WG) {
        var value = x[row * N + column];
        if adjusts { value = adjusted(row, value, column - first); }
        if keeps_form && !fits(row, column) { value = LEAST_LOGIT; }
        if adjusts || keeps_form { x[row * N + column] = value; }
        if sums {
            let top = max(own.top, value);
            own.sum = own.sum * exp(own.top - top) + exp(value - top);
        }
        own.top = max(own.top, value);
        var chosen_by = value;
        if draws { chosen_by = value * inverse_temperature + gumbel(noise, column); }
        if chosen_by > own.best { own = Part(own.top, own.sum, chosen_by, column); }
    }
    let part = workgroup_part(own, thread);
    if thread == 0u { out[id] = part_words(part); }
}

// Whether the row's mask has an id.
fn fits(row: u32, id: u32) -> bool {
    return ((columns[mask_at(step_choice(row, SEQUENCE), id)] >> (id % 32u)) & 1u) == 1u;
}

// Fills `biases` and `seen` from the row's lists and history.
fn look_up(row: u32, first: u32, thread: u32) {
    for (var ix = thread; ix < BLOCK; ix += WG) {
        biases[ix] = 0.0;
        atomicStore(&seen[ix], 0u);
    }
    workgroupBarrier();
    let sequence = step_choice(row, SEQUENCE);
    let lists = lists_at(sequence);
    let n_biases = step_choice(row, N_BIASES);
    for (var ix = thread; ix < n_biases; ix += WG) {
        // Ids below the block wrap around.
        let at = columns[lists + 2u * ix] - first;
        if at < BLOCK { biases[at] = bitcast<f32>(columns[lists + 2u * ix + 1u]); }
    }
    for (var ix = thread; ix < step_choice(row, N_BANNED); ix += WG) {
        let at = columns[lists + 2u * n_biases + step_choice(row, N_EXEMPT) + ix] - first;
        if at < BLOCK { atomicOr(&seen[at], BANNED); }
    }
    let position = step_choice(row, POSITION);
    let repetition_window = step_choice(row, REPETITION_WINDOW);
    let presence_window = step_choice(row, PRESENCE_WINDOW);
    let frequency_window = step_choice(row, FREQUENCY_WINDOW);
    let window = min(max(max(repetition_window, presence_window), frequency_window), min(position, RING));
    for (var back = thread; back < window; back += WG) {
        let at = columns[history_at(sequence, position - 1u - back)] - first;
        if at < BLOCK {
            let marks = select(0u, REPEATED, back < repetition_window) | select(0u, PRESENT, back < presence_window);
            atomicOr(&seen[at], marks);
            if back < frequency_window { atomicAdd(&seen[at], 1u); }
        }
    }
    workgroupBarrier();
}

fn adjusted(row: u32, logit: f32, at: u32) -> f32 {
    let marks = atomicLoad(&seen[at]);
    var value = logit + biases[at];
    if (marks & REPEATED) != 0u {
        let strength = choice_number(row, REPETITION);
        value = select(value / strength, value * strength, value < 0.0);
    }
    if (marks & PRESENT) != 0u { value -= choice_number(row, PRESENCE); }
    // One by one, so that sums round as the processor's do and equal ones stay equal.
    for (var n = 0u; n < (marks & (BANNED - 1u)); n++) { value -= choice_number(row, FREQUENCY); }
    if (marks & BANNED) != 0u { value = LEAST_LOGIT; }
    return clamp(value, LEAST_LOGIT, -LEAST_LOGIT);
}
