// One matrix, with which every row is multiplied.
//
// Every provider has these. A product is a row of the result: products_of tells how many the step's rows make, x_row the
// row of x of one, matrix_of where its matrix begins and whether it is here at all.

struct Matrix { first_row: u32, is_here: bool }

fn products_of(rows: u32) -> u32 { return rows; }
fn x_row(product: u32) -> u32 { return product; }
fn matrix_of(product: u32) -> Matrix { return Matrix(0u, true); }
