//! What a dispatch must move and compute, from the plan alone: the figures behind every share of a limit.
//!
//! Bytes are the least traffic that the computation needs: a matrix once (of a stack of experts as many as the step's rows
//! can take), keys and values once a sequence, an operand's
//! rows once. What a kernel reads again from a cache is not counted, nor are the step's tables and page tables (a few
//! KB). FLOPs are those of matrix products and attention, two a multiplication with addition; what else kernels
//! compute is bound by memory everywhere.

use crate::kernel::{Access, EpilogueOp, Role, Rows, Template};
use crate::kv::Window;
use crate::plan::{Binding, Dispatch, Plan, VariantId};
use crate::step::{Sequence, StepTables};
use std::iter::Sum;
use std::ops::Add;

/// Traffic and arithmetic.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Bytes of weights read.
    pub weight_bytes: u64,
    /// Bytes of keys and values read and written.
    pub kv_bytes: u64,
    /// Bytes of activations and logits read and written.
    pub activation_bytes: u64,
    /// Floating-point operations of products and attention.
    pub flops: u64,
}

impl Cost {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.weight_bytes.saturating_add(self.kv_bytes).saturating_add(self.activation_bytes)
    }
}

impl Add for Cost {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            weight_bytes: self.weight_bytes.saturating_add(other.weight_bytes),
            kv_bytes: self.kv_bytes.saturating_add(other.kv_bytes),
            activation_bytes: self.activation_bytes.saturating_add(other.activation_bytes),
            flops: self.flops.saturating_add(other.flops),
        }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::default(), Add::add)
    }
}

/// The cost of a step that a variant runs. The plan must be verified.
pub fn of_step(plan: &Plan, variant: VariantId, step: &StepTables) -> Cost {
    plan.dispatches_of(variant).iter().map(|dispatch| of_dispatch(plan, variant, dispatch, step)).sum()
}

/// The cost of one of a variant's dispatches in a step. The plan must be verified.
pub fn of_dispatch(plan: &Plan, variant: VariantId, dispatch: &Dispatch, step: &StepTables) -> Cost {
    let spec = &plan.kernels[dispatch.kernel].spec;
    let (dims, bounds) = (step.dims(), plan.variants[variant].bounds);
    let (n_rows, most_rows) = match spec.rows {
        Rows::Tokens => (u64::from(dims.tokens), u64::from(bounds.tokens)),
        Rows::Wanted => (u64::from(dims.rows), u64::from(bounds.rows)),
    };
    let number = |name: &str| u64::from(spec.u32(name).unwrap_or(0));
    let mut cost = Cost::default();
    for operand in plan.operands_of(dispatch) {
        // The result's place is written; an epilogue may read it first.
        let times = if operand.role == Role::Out && spec.epilogue.contains(&EpilogueOp::AddOut) { 2 } else { 1 };
        match operand.binding {
            Binding::Weight(blob) if spec.template == Template::Embed => {
                let weight = &plan.weights[blob];
                cost.weight_bytes += weight.format.row_bytes(weight.n_cols).saturating_mul(n_rows);
            }
            Binding::Weight(blob) => cost.weight_bytes += spec.bytes_read(plan.weights[blob].n_bytes(), n_rows),
            // An arena's range is that of the variant's largest step.
            Binding::Arena { n_bytes, .. } => {
                cost.activation_bytes += times * n_bytes.saturating_mul(n_rows).div_ceil(most_rows.max(1));
            }
            Binding::Logits => {
                cost.activation_bytes += times * u64::from(dims.rows) * u64::from(plan.n_vocab) * 4;
            }
            Binding::Kv(layer) => {
                let shape = plan.kv.shape(layer);
                let entry = shape.entry_bytes(plan.kv_type);
                let n_entries = match operand.access {
                    Access::ReadWrite => u64::from(dims.tokens),
                    Access::Read => {
                        let window = plan.kv.groups[plan.kv.layers[layer].group].window;
                        step.sequences.iter().map(|sequence| seen_by_any(window, sequence)).sum()
                    }
                };
                cost.kv_bytes += entry.saturating_mul(n_entries);
            }
            Binding::Step | Binding::Sampled | Binding::Columns | Binding::PageTable(_) => {}
        }
    }
    cost.flops = match spec.template {
        template if template.multiplies() => 2 * number("N") * number("K") * n_rows * number("TOP_K").max(1),
        template if template.reads_pages() => {
            let window = Window { window: spec.u32("WINDOW").unwrap_or(0), keep: spec.u32("KEEP").unwrap_or(0) };
            let pairs: u64 = step.tokens.iter().map(|token| seen(window, token.position)).sum();
            4 * number("N_HEADS") * number("HEAD_DIM") * pairs
        }
        _ => 0,
    };
    cost
}

/// Positions that the query at a position sees.
fn seen(window: Window, position: u32) -> u64 {
    let before = u64::from(position) + 1;
    match u64::from(window.window) {
        0 => before,
        n if before <= n => before,
        n => n + u64::from(window.keep).min(before - n),
    }
}

/// Positions that some query of a sequence's step sees.
fn seen_by_any(window: Window, sequence: &Sequence) -> u64 {
    let (n, first) = (u64::from(sequence.kv_len), u64::from(sequence.kv_len.saturating_sub(sequence.q_len)));
    let hidden = match u64::from(window.window) {
        0 => 0,
        window => (first + 1).saturating_sub(window),
    };
    n - hidden + hidden.min(u64::from(window.keep))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_counted_as_they_are_seen() {
        for window in [Window::FULL, Window { window: 3, keep: 0 }, Window { window: 4, keep: 2 }] {
            for first in 0..12 {
                let by_hand = |p: u32| (0..20).filter(|j| window.sees(p, *j)).count() as u64;
                assert_eq!(seen(window, first), by_hand(first), "{window:?} at {first}");
                let sequence = Sequence { q_start: 0, q_len: 3, kv_len: first + 3, page_row: 0 };
                let union = (0..20).filter(|j| (first..first + 3).any(|p| window.sees(p, *j))).count() as u64;
                assert_eq!(seen_by_any(window, &sequence), union, "{window:?} from {first}");
            }
        }
    }

    #[test]
    fn costs_add_up() {
        let one = Cost { weight_bytes: 1, kv_bytes: 2, activation_bytes: 3, flops: 4 };
        let sum: Cost = [one, one].into_iter().sum();
        assert_eq!((sum.bytes(), sum.flops), (12, 8));
    }
}
