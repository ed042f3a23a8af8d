// Activations. Arguments of exp and tanh are held in a range without overflow: infinities may be assumed absent.

fn silu(v: f32) -> f32 { return v / (1.0 + exp(min(-v, 80.0))); }

// The tanh form: 0.5 v (1 + tanh(sqrt(2 / pi) (v + 0.044715 v^3))).
fn gelu(v: f32) -> f32 {
    let inner = 0.7978845608 * v * (1.0 + 0.044715 * v * v);
    return 0.5 * v * (1.0 + tanh(clamp(inner, -15.0, 15.0)));
}

// cap tanh(v / cap).
fn softcap(v: f32, cap: f32) -> f32 { return cap * tanh(clamp(v / cap, -15.0, 15.0)); }
