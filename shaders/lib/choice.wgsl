// How a row's token is chosen: the step's table of choices. Rows past its end take their greatest logit.

import package::lib::step::{step_choice, step_n_choices};

// Flags: there are filters or best ids to tell; bias, penalties or banned ids; the token joins the history; its
// log-probability is told; only ids of the mask may come.
const FILTERS = 1u;
const ADJUSTS = 2u;
const REMEMBERS = 4u;
const TELLS = 8u;
const KEEPS_FORM = 16u;

// Words of a choice.
const SEQUENCE = 0u;
const POSITION = 1u;
const FLAGS = 2u;
const INVERSE_TEMPERATURE = 3u;
const NOISE = 4u;
const TOP_P = 6u;
const FARTHEST = 7u;
const LEAST_KEPT = 8u;
const XTC_THRESHOLD = 9u;
const TOP_K = 10u;
const N_BEST = 11u;
const REPETITION = 12u;
const REPETITION_WINDOW = 13u;
const PRESENCE = 14u;
const PRESENCE_WINDOW = 15u;
const FREQUENCY = 16u;
const FREQUENCY_WINDOW = 17u;
const N_BIASES = 18u;
const N_BANNED = 19u;
const N_EXEMPT = 20u;

// What stands for a logit that must not win, and the largest that kernels calculate with.
const LEAST_LOGIT = -1e38;

fn choice_flags(row: u32) -> u32 {
    if row >= step_n_choices() { return 0u; }
    return step_choice(row, FLAGS);
}

fn choice_number(row: u32, word: u32) -> f32 { return bitcast<f32>(step_choice(row, word)); }

// 0 for the greatest.
fn choice_inverse_temperature(row: u32) -> f32 {
    if row >= step_n_choices() { return 0.0; }
    return choice_number(row, INVERSE_TEMPERATURE);
}
