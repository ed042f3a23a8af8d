// Cosine and sine of large angles, to about 2e-7 up to 131,072 rad (built-in ones promise 2^-11, in [-pi, pi] only).
// The angle is reduced modulo 2 pi by Cody and Waite: 2 pi = C1 + C2 + C3 with C1 of 8 and C2 of 9 significant bits,
// so that n * C1 and n * C2 are exact for n < 2^15. Then modulo pi/2, then the polynomials of Cephes' sinf and cosf.

import package::lib::step::step_zero;

// The value itself, rounded to f32 here: compilers that may reassociate or fuse cannot look through it.
fn rounded(value: f32) -> f32 { return bitcast<f32>(bitcast<u32>(value) ^ step_zero()); }

// (cos, sin) of position * frequency, the product rounded to f32 as the reference implementations do.
fn cos_sin(position: u32, frequency: f32) -> vec2<f32> {
    let angle = rounded(f32(position) * frequency);
    let n = round(angle * 0.15915494309);
    var r = rounded(angle - n * 6.28125);
    r = rounded(r - n * 0.001934051513671875);
    r = rounded(r - n * 1.2556659146e-6);
    let quarter = round(r * 0.63661977237);
    r = rounded(r - quarter * 1.5703125);
    r = r - quarter * 4.838267949e-4;
    let z = r * r;
    let s = r + r * z * ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1);
    let c = 1.0 - 0.5 * z + z * z * ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2);
    switch i32(quarter) & 3 {
        case 0: { return vec2<f32>(c, s); }
        case 1: { return vec2<f32>(-s, c); }
        case 2: { return vec2<f32>(-c, -s); }
        default: { return vec2<f32>(s, -c); }
    }
}
