// Half rows: rows of numbers as f16 times HALF_SCALE, for products in half precision. Numbers up to 2^22 stay finite, and
// their products with a code up to 2^19. Of 8
// columns the order is 0, 4, 1, 5, 2, 6, 3, 7: the pairs in which providers of pairs give codes, so that the two meet
// without being shuffled.

const HALF_SCALE = 0.015625;

// Where a column lies in its row.
fn half_place(column: u32) -> u32 { return (column & ~7u) | ((column & 3u) << 1u) | ((column >> 2u) & 1u); }

// 8 columns in that order.
struct Eight { p0: vec2<f16>, p1: vec2<f16>, p2: vec2<f16>, p3: vec2<f16> }

// Compilers drop the way through single precision.
fn as_half(bits: u32) -> vec2<f16> { return vec2<f16>(unpack2x16float(bits)); }
