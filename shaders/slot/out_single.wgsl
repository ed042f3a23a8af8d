// The result in single precision.

@group(2) @binding(0) var<storage, read_write> out: array<f32>;

// Stores column `column` of the row that begins at number `row_at`.
fn out_store(row_at: u32, column: u32, value: f32) { out[row_at + column] = value; }
