//! Ops of a mixture of experts: what they need of their operands, and what they leave.
//!
//! A router's logits become a *route*: for each row the `k` experts that it takes and their shares. A product with a stack
//! of experts gives each of a row's experts a run of columns, and so one more row in memory: `[rows, k * n]` lies there as
//! `[rows * k, n]`. What follows number by number (activation, product) needs to know nothing of experts. A sum by shares ends it.

use crate::graph::{Graph, Op, Shape, ValueId};
use crate::weight::WeightId;

/// The numbers of a [`Op::MoeLinear`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Experts {
    /// Experts of the stack.
    pub n_experts: u32,
    /// Experts that a row takes.
    pub k: u32,
    /// Rows of an expert's matrix.
    pub n_rows: u32,
    /// Whether each of a row's experts has an input of its own.
    pub each: bool,
}

impl Graph {
    /// The numbers of a product with experts; `None` for other ops, or if they do not fit each other.
    pub fn experts(&self, v: ValueId) -> Option<Experts> {
        match &self.values.get(v)?.op {
            Op::MoeLinear { x, route, parts, n_experts } => self.experts_of(*x, *route, parts, *n_experts).ok(),
            _ => None,
        }
    }

    /// The experts of a route, and how many of them a row takes.
    fn route(&self, route: ValueId) -> Result<(u32, u32), String> {
        match self.values[route].op {
            Op::MoeRoute { logits, k, .. } => Ok((self.values[logits].shape.n_cols, k)),
            Op::GatherRows { x } => self.route(x),
            _ => Err(format!("{route} is no route")),
        }
    }

    fn experts_of(&self, x: ValueId, route: ValueId, parts: &[WeightId], n_experts: u32) -> Result<Experts, String> {
        let (n_routed, k) = self.route(route)?;
        let Some(first) = parts.first() else { return Err("has no experts".into()) };
        let n_cols = self.weights[*first].n_cols;
        let total: u64 = parts.iter().map(|part| u64::from(self.weights[*part].n_rows)).sum();
        let n_rows = u32::try_from(total / u64::from(n_experts.max(1))).unwrap_or(0);
        let whole = |part: &WeightId| {
            let part = &self.weights[*part];
            n_rows > 0 && part.n_rows.is_multiple_of(n_rows) && part.n_cols == n_cols
        };
        if n_routed != n_experts || total != u64::from(n_rows) * u64::from(n_experts) || !parts.iter().all(whole) {
            return Err(format!("{total} rows are not {n_experts} equal experts, of which {route} chooses"));
        }
        let x_cols = self.values[x].shape.n_cols;
        let each = x_cols != n_cols;
        if each && Some(x_cols) != n_cols.checked_mul(k) {
            return Err(format!("experts take {n_cols} columns, {x} has {x_cols}"));
        }
        Ok(Experts { n_experts, k, n_rows, each })
    }

    /// The shape that such an op leaves, or why it is wrong.
    pub(crate) fn infer_moe(&self, op: &Op) -> Result<Shape, String> {
        let shape = |v: ValueId| self.values[v].shape;
        let same_rows = |x: ValueId, route: ValueId| match shape(x).rows == shape(route).rows {
            true => Ok(()),
            false => Err(format!("{x} and {route} differ in rows")),
        };
        match op {
            Op::MoeRoute { logits, k, .. } => {
                let n_experts = shape(*logits).n_cols;
                // Ids are numbers of 32 bits with fractions of 24.
                if *k == 0 || *k > n_experts || n_experts > 1 << 20 {
                    return Err(format!("{k} of {n_experts} experts"));
                }
                Ok(Shape { n_cols: 2 * k, ..shape(*logits) })
            }
            Op::MoeLinear { x, route, parts, n_experts } => {
                let experts = self.experts_of(*x, *route, parts, *n_experts)?;
                same_rows(*x, *route)?;
                let n_cols = experts.n_rows.checked_mul(experts.k);
                n_cols.map(|n_cols| Shape { n_cols, ..shape(*x) }).ok_or_else(|| "has more than 2^32 columns".into())
            }
            Op::MoeSum { x, route } => {
                let (_, k) = self.route(*route)?;
                same_rows(*x, *route)?;
                match shape(*x).n_cols {
                    n if n.is_multiple_of(k) && n > 0 => Ok(Shape { n_cols: n / k, ..shape(*x) }),
                    n => Err(format!("{n} columns are not those of {k} experts")),
                }
            }
            _ => Err("is no op of experts".into()),
        }
    }
}
