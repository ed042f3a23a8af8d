// Row r is the step's wanted row r; inputs have one row each.

import package::lib::step::step_n_rows;

fn n_rows() -> u32 { return step_n_rows(); }
