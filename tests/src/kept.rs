//! What a number is once it has been kept in a KV cache of codes: the oracle's own quantizer, in f64.

use half::f16;
use ingot_ir::kv::KvType;

/// A row of heads as it comes back from pages. Floats come back as they are: their rounding is a tolerance.
pub fn kept(kv: KvType, row: &[f32]) -> Vec<f32> {
    let KvType::Affine { bits, group } = kv else { return row.to_vec() };
    row.chunks_exact(group.into()).flat_map(|numbers| group_of_codes(numbers, bits)).collect()
}

/// MLX's affine quantization of one group: zero and the end of the range that lies further from it get codes of their own.
fn group_of_codes(numbers: &[f32], bits: u8) -> Vec<f32> {
    let last_code = f64::from((1u32 << bits) - 1);
    let wide = numbers.iter().map(|number| f64::from(number.clamp(-65504.0, 65504.0)));
    let least = wide.clone().fold(f64::INFINITY, f64::min);
    let greatest = wide.clone().fold(f64::NEG_INFINITY, f64::max);
    let step = ((greatest - least) / last_code).max(1e-7);
    let (end, step) = if least.abs() > greatest.abs() { (least, step) } else { (greatest, -step) };
    let n_steps = (end / step).round_ties_even();
    let (scale, bias) = if n_steps == 0.0 { (step, 0.0) } else { (end / n_steps, end) };
    let stored = |number: f64| f16::from_f64(number).to_f64();
    wide.map(|number| {
        let code = ((number - bias) / scale).round_ties_even().clamp(0.0, last_code);
        (code * stored(scale) + stored(bias)) as f32
    })
    .collect()
}
