// Row r is the step's token r.

import package::lib::step::step_n_tokens;

fn n_rows() -> u32 { return step_n_tokens(); }
