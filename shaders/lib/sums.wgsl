// What a lane of a matrix-vector product sums up: products [row of W][row of x], and squares of x.

struct Sums { products: array<f32, ROWS_PER_SUBGROUP * M_MAX>, squares: array<f32, M_MAX> }
