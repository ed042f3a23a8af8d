// The result in half rows. Interface: slot/out_single.

import package::lib::half_rows::{HALF_SCALE, half_place};

@group(2) @binding(0) var<storage, read_write> out: array<f16>;

fn out_store(row_at: u32, column: u32, value: f32) { out[row_at + half_place(column)] = f16(value * HALF_SCALE); }
