// A stack of experts: each row is multiplied with TOP_K of EXPERTS matrices of N rows, those that its route names. Here are
// EXPERT_COUNT of them, from EXPERT_FIRST on. Interface: slot/experts_none.

// For each row TOP_K ids as numbers, then TOP_K shares.
@group(0) @binding(3) var<storage, read> route: array<f32>;

struct Matrix { first_row: u32, is_here: bool }

fn products_of(rows: u32) -> u32 { return rows * TOP_K; }
fn x_row(product: u32) -> u32 { return select(product / TOP_K, product, X_EACH == 1u); }
fn matrix_of(product: u32) -> Matrix {
    let id = u32(clamp(route[product / TOP_K * 2u * TOP_K + product % TOP_K], 0.0, f32(EXPERTS - 1u)));
    let is_here = id >= EXPERT_FIRST && id < EXPERT_FIRST + EXPERT_COUNT;
    return Matrix(select(0u, min(id - EXPERT_FIRST, EXPERT_COUNT - 1u) * N, is_here), is_here);
}
