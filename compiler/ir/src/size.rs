//! Sizes that are known only when a step runs. A plan is compiled once; grids are evaluated at encode time.

use crate::IrError;
use crate::handle::{Handle, handle};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A size of the step that is being run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Dim {
    /// Packed tokens of all sequences.
    Tokens,
    /// Sequences in the batch.
    Sequences,
    /// Rows whose logits are wanted.
    Rows,
    /// Attention work items.
    Tiles,
    /// Wanted rows up to the last whose choice looks at all of its logits. At most the rows.
    Filtered,
}

impl Dim {
    /// Every dimension, in the order of [`Dims`].
    pub const ALL: [Self; 5] = [Self::Tokens, Self::Sequences, Self::Rows, Self::Tiles, Self::Filtered];
    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Sequences => "sequences",
            Self::Rows => "rows",
            Self::Tiles => "tiles",
            Self::Filtered => "filtered",
        }
    }
    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dim| dim.name() == text)
    }
}

/// The values of all dimensions in one step, or their upper bounds in a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Dims {
    /// See [`Dim::Tokens`].
    pub tokens: u32,
    /// See [`Dim::Sequences`].
    pub sequences: u32,
    /// See [`Dim::Rows`].
    pub rows: u32,
    /// See [`Dim::Tiles`].
    pub tiles: u32,
    /// See [`Dim::Filtered`].
    pub filtered: u32,
}

impl Dims {
    /// The value of one dimension.
    pub fn get(&self, dim: Dim) -> u32 {
        match dim {
            Dim::Tokens => self.tokens,
            Dim::Sequences => self.sequences,
            Dim::Rows => self.rows,
            Dim::Tiles => self.tiles,
            Dim::Filtered => self.filtered,
        }
    }
    /// Whether a step of these sizes fits the bounds.
    pub fn fits(&self, bounds: &Self) -> bool {
        Dim::ALL.iter().all(|&dim| self.get(dim) <= bounds.get(dim))
    }
}

handle! {
    /// An [`Expr`] of an [`ExprPool`].
    ExprId "e"
}

/// An expression over [`Dim`]s. Operands refer to earlier expressions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Expr {
    /// A constant.
    Const(u32),
    /// A dimension.
    Dim(Dim),
    /// Sum, saturating.
    Add(ExprId, ExprId),
    /// Product, saturating.
    Mul(ExprId, ExprId),
    /// Quotient rounded up; the divisor is a positive constant.
    CeilDiv(ExprId, u32),
}

/// Steps that evaluating an expression may take.
const MAX_TERMS: u32 = 256;

/// Expressions, each stored once.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ExprPool {
    items: Vec<Expr>,
}

impl ExprPool {
    /// The expression's handle; equal expressions share one.
    pub fn add(&mut self, expr: Expr) -> ExprId {
        let found = self.items.iter().position(|other| *other == expr);
        ExprId::from_ix(found.unwrap_or_else(|| {
            self.items.push(expr);
            self.items.len() - 1
        }))
    }
    /// `dim`.
    pub fn dim(&mut self, dim: Dim) -> ExprId {
        self.add(Expr::Dim(dim))
    }
    /// `n`.
    pub fn constant(&mut self, n: u32) -> ExprId {
        self.add(Expr::Const(n))
    }
    /// `a * n`, folded where it can be.
    pub fn times(&mut self, a: ExprId, n: u32) -> ExprId {
        match (self.items[a.ix()], n) {
            (_, 1) => a,
            (Expr::Const(m), _) => self.constant(m.saturating_mul(n)),
            _ => {
                let n = self.constant(n);
                self.add(Expr::Mul(a, n))
            }
        }
    }
    /// `a + n`, folded where it can be.
    pub fn plus(&mut self, a: ExprId, n: u32) -> ExprId {
        match (self.items[a.ix()], n) {
            (_, 0) => a,
            (Expr::Const(m), _) => self.constant(m.saturating_add(n)),
            _ => {
                let n = self.constant(n);
                self.add(Expr::Add(a, n))
            }
        }
    }
    /// `ceil(a / n)`, folded where it can be.
    pub fn ceil_div(&mut self, a: ExprId, n: u32) -> ExprId {
        assert!(n > 0, "a divisor is positive");
        match (self.items[a.ix()], n) {
            (_, 1) => a,
            (Expr::Const(m), _) => self.constant(m.div_ceil(n)),
            _ => self.add(Expr::CeilDiv(a, n)),
        }
    }
    /// The number of expressions.
    pub fn len(&self) -> usize {
        self.items.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
    /// Evaluates an expression. Operands refer backwards and expressions are small (the verifier checks both), so the
    /// recursion ends soon.
    pub fn eval(&self, id: ExprId, dims: &Dims) -> u32 {
        match self.items[id.ix()] {
            Expr::Const(n) => n,
            Expr::Dim(dim) => dims.get(dim),
            Expr::Add(a, b) => self.eval(a, dims).saturating_add(self.eval(b, dims)),
            Expr::Mul(a, b) => self.eval(a, dims).saturating_mul(self.eval(b, dims)),
            Expr::CeilDiv(a, n) => self.eval(a, dims).div_ceil(n),
        }
    }
    /// The same without saturation; `None` if it exceeds 64 bits. The pool must be verified.
    pub fn checked(&self, id: ExprId, dims: &Dims) -> Option<u64> {
        match *self.items.get(id.ix())? {
            Expr::Const(n) => Some(n.into()),
            Expr::Dim(dim) => Some(dims.get(dim).into()),
            Expr::Add(a, b) => self.checked(a, dims)?.checked_add(self.checked(b, dims)?),
            Expr::Mul(a, b) => self.checked(a, dims)?.checked_mul(self.checked(b, dims)?),
            Expr::CeilDiv(a, n) => (n > 0).then_some(self.checked(a, dims)?.div_ceil(n.into())),
        }
    }
    /// The expression in infix form, e.g. `ceil(tokens / 64) * 9`.
    pub fn show(&self, id: ExprId) -> ShowExpr<'_> {
        ShowExpr { pool: self, id }
    }
    /// Checks that operands refer backwards, that no divisor is zero, and that no expression takes long to evaluate: a
    /// few that each use the one before twice would take for ever.
    pub fn verify(&self) -> Result<(), IrError> {
        let mut costs: Vec<u32> = Vec::with_capacity(self.items.len());
        for (ix, expr) in self.items.iter().enumerate() {
            let cost = |id: ExprId| costs.get(id.ix()).copied();
            let cost = match *expr {
                Expr::Const(_) | Expr::Dim(_) => Some(1),
                Expr::Add(a, b) | Expr::Mul(a, b) => cost(a).zip(cost(b)).map(|(a, b)| a.saturating_add(b + 1)),
                Expr::CeilDiv(a, n) => cost(a).filter(|_| n > 0).map(|a| a + 1),
            };
            match cost {
                None => {
                    let why = "an operand does not refer backwards, or the divisor is zero";
                    return Err(IrError::invalid(ExprId::from_ix(ix), why));
                }
                Some(n) if n > MAX_TERMS => {
                    let why = format!("takes more than {MAX_TERMS} steps to evaluate");
                    return Err(IrError::invalid(ExprId::from_ix(ix), why));
                }
                Some(n) => costs.push(n),
            }
        }
        Ok(())
    }
    /// Reads what [`ExprPool::show`] prints, adding it to the pool.
    pub fn parse(&mut self, text: &str) -> Result<ExprId, String> {
        let mut rest = text;
        let id = self.parse_sum(&mut rest, 0)?;
        if rest.trim().is_empty() { Ok(id) } else { Err(format!("unexpected {rest:?} after an expression")) }
    }

    fn parse_sum(&mut self, rest: &mut &str, depth: u32) -> Result<ExprId, String> {
        let mut left = self.parse_product(rest, depth)?;
        while eat(rest, "+") {
            let right = self.parse_product(rest, depth)?;
            left = self.add(Expr::Add(left, right));
        }
        Ok(left)
    }

    fn parse_product(&mut self, rest: &mut &str, depth: u32) -> Result<ExprId, String> {
        let mut left = self.parse_atom(rest, depth)?;
        while eat(rest, "*") {
            let right = self.parse_atom(rest, depth)?;
            left = self.add(Expr::Mul(left, right));
        }
        Ok(left)
    }

    fn parse_atom(&mut self, rest: &mut &str, depth: u32) -> Result<ExprId, String> {
        if depth > 32 {
            return Err("an expression nested more than 32 deep".into());
        }
        if eat(rest, "ceil(") {
            let inner = self.parse_sum(rest, depth + 1)?;
            if !eat(rest, "/") {
                return Err(format!("expected `/` before {rest:?}"));
            }
            let n = word(rest).parse::<u32>().ok().filter(|n| *n > 0).ok_or("expected a positive divisor")?;
            return if eat(rest, ")") { Ok(self.add(Expr::CeilDiv(inner, n))) } else { Err("expected `)`".into()) };
        }
        if eat(rest, "(") {
            let inner = self.parse_sum(rest, depth + 1)?;
            return if eat(rest, ")") { Ok(inner) } else { Err("expected `)`".into()) };
        }
        let word = word(rest);
        match (Dim::parse(word), word.parse::<u32>()) {
            (Some(dim), _) => Ok(self.dim(dim)),
            (None, Ok(n)) => Ok(self.constant(n)),
            _ => Err(format!("expected a number or a dimension, found {word:?}")),
        }
    }
}

fn eat(rest: &mut &str, token: &str) -> bool {
    match rest.trim_start().strip_prefix(token) {
        Some(after) => {
            *rest = after;
            true
        }
        None => false,
    }
}

fn word<'a>(rest: &mut &'a str) -> &'a str {
    let text = rest.trim_start();
    let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    *rest = after;
    word
}

/// An expression to be printed.
pub struct ShowExpr<'a> {
    pool: &'a ExprPool,
    id: ExprId,
}

impl fmt::Display for ShowExpr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |id| self.pool.show(id);
        match self.pool.items[self.id.ix()] {
            Expr::Const(n) => write!(f, "{n}"),
            Expr::Dim(dim) => f.write_str(dim.name()),
            Expr::Add(a, b) => write!(f, "({} + {})", show(a), show(b)),
            Expr::Mul(a, b) => write!(f, "({} * {})", show(a), show(b)),
            Expr::CeilDiv(a, n) => write!(f, "ceil({} / {n})", show(a)),
        }
    }
}
