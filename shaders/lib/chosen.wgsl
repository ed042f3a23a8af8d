// Where a row's choice goes: its id and log-probability to the table of sampled ids, and the id to its sequence's history.

import package::lib::step::{SAMPLED_WORDS, step_choice};
import package::lib::choice::{POSITION, REMEMBERS, SEQUENCE, choice_flags};
import package::lib::columns::history_at;

@group(2) @binding(0) var<storage, read_write> sampled: array<u32>;
@group(2) @binding(1) var<storage, read_write> columns: array<u32>;

fn chosen(row: u32, id: u32, logprob: f32) {
    sampled[row * SAMPLED_WORDS] = id;
    sampled[row * SAMPLED_WORDS + 1u] = bitcast<u32>(logprob);
    if (choice_flags(row) & REMEMBERS) != 0u {
        columns[history_at(step_choice(row, SEQUENCE), step_choice(row, POSITION))] = id;
    }
}
