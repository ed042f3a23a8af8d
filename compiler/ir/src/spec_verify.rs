//! The verifier of [`KernelSpec`]: what every template assumes of its rows, numbers and epilogue, whatever runs it.

use crate::kernel::{EPILOGUE_ROLES, EpilogueOp, KernelSpec, Prologue, Rows, Template};

/// Ops of the longest epilogue.
const MAX_OPS: usize = 8;

impl KernelSpec {
    /// Checks a spec by itself. That its numbers fit what it is bound to is the plan's affair.
    ///
    /// # Errors
    /// What is wrong.
    pub fn verify(&self) -> Result<(), String> {
        // Templates without a choice of rows run over these, whatever a spec says.
        let fixed = match self.template {
            Template::Embed
            | Template::RopeKv
            | Template::Attention
            | Template::AttentionCoop
            | Template::AttentionDecode
            | Template::AttentionCombine => Some(Rows::Tokens),
            Template::GatherRows => Some(Rows::Wanted),
            _ => None,
        };
        if let Some(rows) = fixed.filter(|rows| *rows != self.rows) {
            return Err(format!("{} runs over {rows}, not {}", self.template, self.rows));
        }
        let takes = match self.prologue {
            Prologue::None => true,
            Prologue::RmsNorm => matches!(self.template, Template::Matvec | Template::Matmul | Template::RopeKv),
            Prologue::RmsNormParts => self.template == Template::Matvec,
        };
        if !takes {
            return Err(format!("{} does not begin with {}", self.template, self.prologue));
        }
        self.verify_epilogue()?;
        self.verify_experts()?;
        self.verify_numbers()
    }

    fn verify_epilogue(&self) -> Result<(), String> {
        let ops = &self.epilogue;
        let most = match self.template {
            Template::Map | Template::MoeSum => MAX_OPS,
            template if template.multiplies() => MAX_OPS,
            // A residual.
            Template::RmsNorm => 1,
            _ => 0,
        };
        if ops.len() > most {
            return Err(format!("an epilogue of {} ops cannot follow {}", ops.len(), self.template));
        }
        let pairs_at = ops.iter().position(|op| op.pairs());
        for (ix, op) in ops.iter().enumerate() {
            if let EpilogueOp::Bias(n) | EpilogueOp::Add(n) | EpilogueOp::Mul(n) = op
                && usize::from(*n) >= EPILOGUE_ROLES.len()
            {
                return Err(format!("epilogue op {op} has no operand"));
            }
            let is_sum = matches!(op, EpilogueOp::Add(_) | EpilogueOp::AddOut);
            if self.template == Template::RmsNorm && !is_sum {
                return Err(format!("epilogue op {op} cannot follow rms_norm"));
            }
            if ops[..ix].contains(op) && matches!(op, EpilogueOp::Scale | EpilogueOp::Softcap) {
                return Err(format!("epilogue op {op} has one number a kernel, so it stands once"));
            }
            let in_place = match op {
                EpilogueOp::Add(_) | EpilogueOp::AddOut | EpilogueOp::Mul(_) => pairs_at.is_none_or(|at| at < ix),
                EpilogueOp::SiluMulPairs | EpilogueOp::GeluMulPairs => pairs_at == Some(ix),
                EpilogueOp::RopeKv => {
                    self.template == Template::Matvec
                        && self.rows == Rows::Tokens
                        && ix + 1 == ops.len()
                        && ops[..ix].iter().all(|op| matches!(op, EpilogueOp::Bias(_)))
                }
                EpilogueOp::Normed => self.template == Template::Matvec && ix + 1 == ops.len(),
                EpilogueOp::Bias(_) | EpilogueOp::Silu | EpilogueOp::Gelu | EpilogueOp::Scale | EpilogueOp::Softcap => {
                    true
                }
            };
            if !in_place {
                return Err(format!("epilogue op {op} cannot stand there"));
            }
        }
        Ok(())
    }

    /// Of products with a stack of experts, and of what chooses and joins them.
    fn verify_experts(&self) -> Result<(), String> {
        let n = |name: &str| self.u32(name).unwrap_or(0);
        let (k, n_experts) = (n("TOP_K"), n("EXPERTS"));
        let routes = matches!(self.template, Template::MoeRoute | Template::MoeOrder | Template::MoeSum);
        if !routes && n_experts == 0 {
            return if k == 0 { Ok(()) } else { Err(format!("{} takes no experts", self.template)) };
        }
        if !(routes || self.template.multiplies()) {
            return Err(format!("{} takes no experts", self.template));
        }
        if k == 0 || (self.template != Template::MoeSum && k > n_experts) {
            return Err(format!("{k} of {n_experts} experts"));
        }
        if self.template == Template::MoeSum {
            let pairs = self.epilogue.iter().any(|op| op.pairs());
            return if pairs { Err("a sum of experts pairs no columns".into()) } else { Ok(()) };
        }
        if self.template == Template::MoeRoute {
            return Ok(());
        }
        // The table of tiles is as long as they say.
        let tiled = self.template == Template::MoeOrder || self.template.is_tiled();
        if tiled && n("TILE_M") == 0 {
            return Err(format!("{} does not say how many products a tile has", self.template));
        }
        if self.template == Template::MoeOrder {
            return Ok(());
        }
        let end = n("EXPERT_FIRST").checked_add(n("EXPERT_COUNT"));
        if n("EXPERT_COUNT") == 0 || end.is_none_or(|end| end > n_experts) {
            return Err(format!("{} experts from {} are not among {n_experts}", n("EXPERT_COUNT"), n("EXPERT_FIRST")));
        }
        // Each row of products has a matrix of its own.
        let one = self.u32("M_MAX").is_none_or(|m| m == 1);
        let plain = matches!(self.prologue, Prologue::None | Prologue::RmsNorm)
            && !self
                .epilogue
                .iter()
                .any(|op| matches!(op, EpilogueOp::RopeKv | EpilogueOp::Normed | EpilogueOp::Bias(_)));
        if one && plain { Ok(()) } else { Err("products with experts take one row each and no biases".into()) }
    }

    fn verify_numbers(&self) -> Result<(), String> {
        let need = |name: &str, what: &str, holds: fn(u32) -> bool| match self.u32(name) {
            Some(n) if !holds(n) => Err(format!("{name} is {n}, not {what}")),
            _ => Ok(()),
        };
        let positive = |name: &str| need(name, "positive", |n| n > 0);
        let even = |name: &str| need(name, "even", |n| n.is_multiple_of(2));
        for name in ["N", "K", "N_COLS", "N_HEADS", "N_KV_HEADS", "HEAD_DIM", "Q_TILE", "BLOCK", "RING", "RUNS"] {
            positive(name)?;
        }
        for (op, name) in [(EpilogueOp::Scale, "FACTOR"), (EpilogueOp::Softcap, "CAP")] {
            if self.epilogue.contains(&op) && self.f32(name).is_none() {
                return Err(format!("epilogue op {op} needs {name}"));
            }
        }
        if self.columns_per_out() == 2 {
            even("N")?;
            even("N_COLS")?;
        }
        let n = |name: &str| self.u32(name).unwrap_or(0);
        let rotates = self.template == Template::RopeKv || self.epilogue.contains(&EpilogueOp::RopeKv);
        if rotates {
            even("HEAD_DIM")?;
            even("ROT_DIM")?;
            if n("ROT_DIM") > n("HEAD_DIM") {
                return Err(format!("rotates {} numbers of heads of {}", n("ROT_DIM"), n("HEAD_DIM")));
            }
        }
        let (n_heads, n_kv_heads) = (n("N_HEADS"), n("N_KV_HEADS"));
        let shares = self.template.reads_pages();
        if shares && !(n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads)) {
            return Err(format!("{n_heads} query heads cannot share {n_kv_heads}"));
        }
        Ok(())
    }
}
