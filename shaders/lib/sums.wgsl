// Where the units of a matrix-vector product (rows of W, a part of K) leave their sums for the workgroup.

const UNITS = ROWS_PER_WG / ROWS_PER_SUBGROUP * K_SPLIT;

// [unit][row of W of the unit][row of x], and [unit][row of x] sums of squares of x where the prologue wants them.
var<workgroup> part_products: array<f32, ROWS_PER_WG * K_SPLIT * M_MAX>;
var<workgroup> part_squares: array<f32, UNITS * M_MAX>;
