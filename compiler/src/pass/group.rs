//! Assumes a graph on its bucket's rows, layouts assigned. Guarantees: every value that is not a view is in exactly one
//! group, but for norms, which each matrix product that absorbs them computes again; a group is what one kernel computes.
//!
//! Growing a group is driven by [`RULES`]: each row is one fusion, which a target may decline.

use super::half_rows::{is_coop, routes};
use super::stack_norms::{HeadNorm, head_norms};
use crate::CompileError;
use crate::target::{Fusion, TargetProfile};
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::handle::Column;
use ingot_ir::kernel::Template;
use ingot_ir::moe::Experts;
use ingot_ir::size::{Dim, Dims};
use ingot_ir::weight::{Source, WeightId};

/// What an epilogue step reads besides the accumulator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extra {
    /// Nothing.
    Nothing,
    /// A vector.
    Vector(WeightId),
    /// A value of the result's shape.
    Value(ValueId),
}

/// An epilogue step, before operands have numbers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Step {
    /// Adds a vector.
    Bias(WeightId),
    /// Adds a value.
    Add(ValueId),
    /// Multiplies by a value.
    Mul(ValueId),
    /// SiLU.
    Silu,
    /// GELU.
    Gelu,
    /// Activated pairs.
    SiluMulPairs,
    /// The same with GELU.
    GeluMulPairs,
    /// A factor.
    Scale(f32),
    /// A bound.
    Softcap(f32),
    /// Rotation and cache write, as of [`Kind::RopeKv`].
    RopeKv {
        /// The queries' `rope`.
        q: ValueId,
        /// The keys' `rope`.
        k: ValueId,
        /// The `kv_write`.
        write: ValueId,
    },
}

/// What a group computes.
#[derive(Clone, PartialEq, Debug)]
pub enum Kind {
    /// An `embed`, times a factor.
    Embed {
        /// The `embed`.
        embed: ValueId,
        /// The factor.
        scale: f32,
    },
    /// An `rms_norm` in memory.
    Norm {
        /// The `rms_norm`.
        norm: ValueId,
        /// What is added to it.
        added: Option<ValueId>,
    },
    /// A linear layer, or products with experts, with what it absorbed.
    Matrix {
        /// The `linear` or `moe_linear`.
        linear: ValueId,
        /// [`Template::Matvec`], [`Template::Matmul`] or [`Template::MatmulCoop`].
        template: Template,
        /// The absorbed norm.
        norm: Option<ValueId>,
        /// What happens to the result.
        epilogue: Vec<Step>,
    },
    /// Rotary embedding of queries and keys with the cache write.
    RopeKv {
        /// The queries' `rope`.
        q: ValueId,
        /// The keys' `rope`.
        k: ValueId,
        /// The `kv_write`.
        write: ValueId,
        /// The absorbed norms of their heads: the vector of both weights.
        norms: Option<WeightId>,
    },
    /// An `attention`.
    Attention,
    /// A `gather_rows`.
    Gather,
    /// Element-wise steps on a value.
    Map {
        /// The value.
        x: ValueId,
        /// The steps.
        steps: Vec<Step>,
    },
    /// A `moe_route`.
    Route,
    /// A `moe_sum` with what it absorbed.
    ExpertSum {
        /// The sum.
        sum: ValueId,
        /// What happens to the result.
        epilogue: Vec<Step>,
    },
    /// An `argmax`.
    Argmax,
}

/// What one kernel (or one short fixed chain of kernels) computes.
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    /// What it computes.
    pub kind: Kind,
    /// The graph values that it covers, in order; the last is its result.
    pub members: Vec<ValueId>,
    /// Whether its result lies in half rows; see the `half_rows` pass.
    pub half: bool,
    /// The norm of its result of which it stores a weighted copy in half rows.
    pub normed: Option<ValueId>,
}

impl Group {
    fn new(kind: Kind, members: Vec<ValueId>) -> Self {
        Self { kind, members, half: false, normed: None }
    }

    /// The value that it leaves in memory.
    pub fn result(&self) -> ValueId {
        match &self.kind {
            Kind::RopeKv { q, .. } => *q,
            Kind::Matrix { epilogue, .. } => match epilogue.last() {
                Some(Step::RopeKv { q, .. }) => *q,
                _ => self.members[self.members.len() - 1],
            },
            _ => self.members[self.members.len() - 1],
        }
    }
}

/// An epilogue fusion: how the only user of a matrix product's result joins its group.
struct Rule {
    fusion: Fusion,
    /// The step, if `user` reading `v` is of this rule.
    step: fn(user: &Op, v: ValueId) -> Option<Step>,
}

/// Every epilogue fusion. (Norms alone join what comes after them: products, and the rotation of heads.)
const RULES: &[Rule] = &[
    Rule {
        fusion: Fusion::GatePairs,
        step: |user, _| match user {
            Op::SiluMulPairs { .. } => Some(Step::SiluMulPairs),
            Op::GeluMulPairs { .. } => Some(Step::GeluMulPairs),
            _ => None,
        },
    },
    Rule {
        fusion: Fusion::Activation,
        step: |user, _| match user {
            Op::Silu { .. } => Some(Step::Silu),
            Op::Gelu { .. } => Some(Step::Gelu),
            Op::Softcap { cap, .. } => Some(Step::Softcap(*cap)),
            _ => None,
        },
    },
    Rule {
        fusion: Fusion::Multiply,
        step: |user, v| match *user {
            Op::Scale { by, .. } => Some(Step::Scale(by)),
            Op::Mul { a, b } if a != b => Some(Step::Mul(if a == v { b } else { a })),
            _ => None,
        },
    },
    Rule {
        fusion: Fusion::Residual,
        step: |user, v| match *user {
            Op::Add { a, b } if a != b => Some(Step::Add(if a == v { b } else { a })),
            _ => None,
        },
    },
];

/// Epilogue operands that a kernel may bind.
const MAX_OPERANDS: usize = 3;

/// Runs the pass.
pub fn run(graph: &Graph, target: &TargetProfile, bucket: &Dims) -> Result<Vec<Group>, CompileError> {
    let users = graph.users();
    let absorbed = absorbed_norms(graph, target, bucket);
    let rotated = rotated_norms(graph, target);
    let mut grouped = Column::new(graph.values.len(), false);
    let mut groups = Vec::new();
    for (id, value) in graph.values.iter() {
        if grouped[id] {
            continue;
        }
        let kind = match value.op {
            Op::Slice { .. } | Op::Concat { .. } => continue,
            Op::RmsNorm { .. } if absorbed[id] || rotated.iter().any(|norms| norms.values.contains(&id)) => continue,
            // The keys' and queries' rotation waits for the cache write.
            Op::Rope { .. } => continue,
            Op::Embed { .. } => {
                let scaled = sole_user(graph, &users, id).filter(|_| target.takes(Fusion::EmbedScale));
                let (scale, members) = match scaled.map(|user| (user, &graph.values[user].op)) {
                    Some((user, Op::Scale { by, .. })) => (*by, vec![id, user]),
                    _ => (1.0, vec![id]),
                };
                members.iter().for_each(|v| grouped[*v] = true);
                groups.push(Group::new(Kind::Embed { embed: id, scale }, members));
                continue;
            }
            Op::RmsNorm { .. } => {
                let sum = sole_user(graph, &users, id).filter(|user| {
                    let is_sum = matches!(graph.values[*user].op, Op::Add { a, b } if a != b);
                    is_sum && !grouped[*user] && target.takes(Fusion::NormResidual)
                });
                let added = sum.and_then(|sum| graph.values[sum].op.operands().into_iter().find(|v| *v != id));
                let members: Vec<_> = [id].into_iter().chain(sum).collect();
                members.iter().for_each(|v| grouped[*v] = true);
                groups.push(Group::new(Kind::Norm { norm: id, added }, members));
                continue;
            }
            Op::Attention { .. } => Kind::Attention,
            Op::GatherRows { .. } => Kind::Gather,
            Op::Argmax { .. } => Kind::Argmax,
            Op::MoeRoute { .. } => Kind::Route,
            Op::MoeSum { .. } => {
                let (epilogue, tail) = grow(graph, target, &users, &grouped, id, None);
                tail.iter().for_each(|v| grouped[*v] = true);
                groups.push(Group::new(Kind::ExpertSum { sum: id, epilogue }, [vec![id], tail].concat()));
                continue;
            }
            Op::MoeLinear { x, .. } => {
                let norm = absorbed[x].then_some(x);
                let template = matrix_template(graph, target, bucket, &users, id);
                let (epilogue, tail) = grow(graph, target, &users, &grouped, id, None);
                tail.iter().for_each(|v| grouped[*v] = true);
                let members = norm.into_iter().chain([id]).chain(tail).collect();
                groups.push(Group::new(Kind::Matrix { linear: id, template, norm, epilogue }, members));
                continue;
            }
            Op::KvWrite { .. } => {
                let (q, k) = ropes(graph, id)?;
                grouped[q] = true;
                grouped[k] = true;
                let norms = rotated.iter().find(|norms| norms.write == id);
                let members = norms.map_or(Vec::new(), |norms| norms.values.to_vec());
                let kind = Kind::RopeKv { q, k, write: id, norms: norms.map(|norms| norms.weights) };
                groups.push(Group::new(kind, members.into_iter().chain([q, k, id]).collect()));
                continue;
            }
            Op::Linear { x, bias, .. } => {
                let norm = absorbed[x].then_some(x);
                let template = matrix_template(graph, target, bucket, &users, id);
                let (mut epilogue, mut tail) = grow(graph, target, &users, &grouped, id, bias);
                if template == Template::Matvec
                    && target.takes(Fusion::RopeKv)
                    && let Some((step, covered)) = rope_kv(graph, &users, id)
                {
                    epilogue.push(step);
                    tail.extend(covered);
                }
                tail.iter().for_each(|v| grouped[*v] = true);
                let mut members: Vec<_> = norm.into_iter().chain([id]).collect();
                members.append(&mut tail);
                groups.push(Group::new(Kind::Matrix { linear: id, template, norm, epilogue }, members));
                continue;
            }
            Op::Silu { x } => Kind::Map { x, steps: vec![Step::Silu] },
            Op::Gelu { x } => Kind::Map { x, steps: vec![Step::Gelu] },
            Op::SiluMulPairs { x } => Kind::Map { x, steps: vec![Step::SiluMulPairs] },
            Op::GeluMulPairs { x } => Kind::Map { x, steps: vec![Step::GeluMulPairs] },
            Op::Scale { x, by } => Kind::Map { x, steps: vec![Step::Scale(by)] },
            Op::Softcap { x, cap } => Kind::Map { x, steps: vec![Step::Softcap(cap)] },
            Op::Add { a, b } => Kind::Map { x: a, steps: vec![Step::Add(b)] },
            Op::Mul { a, b } => Kind::Map { x: a, steps: vec![Step::Mul(b)] },
        };
        groups.push(Group::new(kind, vec![id]));
    }
    for (id, value) in graph.values.iter() {
        if matches!(value.op, Op::Rope { .. }) && !grouped[id] {
            return Err(CompileError::NoKernel {
                value: id,
                op: "rope",
                why: "it is neither a cache write's key nor its attention's query".into(),
            });
        }
    }
    Ok(groups)
}

/// The one value that uses another, if nothing else does.
fn sole_user(graph: &Graph, users: &Column<ValueId, Vec<ValueId>>, v: ValueId) -> Option<ValueId> {
    match users[v][..] {
        [user] if !graph.outputs.contains(&v) => Some(user),
        _ => None,
    }
}

/// Products that each expert must have, were all taken alike, for tiles of them: fewer leave most of a tile empty, and cost
/// less one by one.
const FEW_PRODUCTS: u32 = 8;

/// Rows from which on these experts have products enough for tiles.
fn tiled_from(experts: Experts) -> u32 {
    experts.n_experts.saturating_mul(FEW_PRODUCTS).div_ceil(experts.k.max(1))
}

/// Tokens of the shortest step whose experts all have products enough for tiles; `None` without experts, and on the processor, which
/// sorts products itself.
pub(super) fn least_tiled(graph: &Graph, target: &TargetProfile) -> Option<u32> {
    let least = graph.values.ids().filter_map(|id| graph.experts(id)).map(tiled_from).max();
    least.filter(|_| !target.is_cpu)
}

/// Which kernel a matrix product takes: few rows read weights at memory speed, many are tiled. So do products with experts
/// on a GPU, if experts have enough of them; the processor sorts them itself.
fn matrix_template(
    graph: &Graph,
    target: &TargetProfile,
    bucket: &Dims,
    users: &Column<ValueId, Vec<ValueId>>,
    linear: ValueId,
) -> Template {
    let rows = graph.values[linear].shape.rows;
    let few_of_each =
        graph.experts(linear).is_some_and(|experts| target.is_cpu || bucket.get(rows) < tiled_from(experts));
    // A router has few rows: in tiles most of a device would have nothing to do.
    if rows == Dim::Rows || few_of_each || (!target.is_cpu && routes(graph, users, linear)) {
        return Template::Matvec;
    }
    let (most, tiled) = match is_coop(graph, users, target, linear) {
        true => (target.rows_before_units(), Template::MatmulCoop),
        false => (target.few_rows(), Template::Matmul),
    };
    if bucket.get(rows) <= most { Template::Matvec } else { tiled }
}

/// Norms that every user computes itself: all are matrix products whose kernel has the prologue.
fn absorbed_norms(graph: &Graph, target: &TargetProfile, bucket: &Dims) -> Column<ValueId, bool> {
    let users = graph.users();
    let mut absorbed = Column::new(graph.values.len(), false);
    for (id, value) in graph.values.iter() {
        let is_norm = match value.op {
            Op::RmsNorm { weight, .. } => graph.weights[weight].n_rows == value.shape.n_cols,
            _ => false,
        };
        let takes = |user: &ValueId| {
            let has_prologue =
                target.is_cpu || matrix_template(graph, target, bucket, &users, *user) == Template::Matvec;
            let op = &graph.values[*user].op;
            // Where each expert has an input of its own, a row of x holds several that would be normed.
            let one_input = !graph.experts(*user).is_some_and(|experts| experts.each);
            matches!(op, Op::Linear { .. } | Op::MoeLinear { .. }) && has_prologue && one_input
        };
        absorbed[id] = is_norm
            && target.takes(Fusion::NormPrologue)
            && !graph.outputs.contains(&id)
            && !users[id].is_empty()
            && users[id].iter().all(takes);
    }
    absorbed
}

/// Norms of the heads of queries and keys that the kernel of their `kv_write` computes.
struct RotatedNorms {
    write: ValueId,
    values: [ValueId; 2],
    /// Both weights, as `stack_norms` made one vector of them.
    weights: WeightId,
}

fn rotated_norms(graph: &Graph, target: &TargetProfile) -> Vec<RotatedNorms> {
    let stacked = |(write, _)| {
        let norms = head_norms(graph, write)?;
        let half = |norm: &HeadNorm| match graph.weights[norm.weight].source {
            Source::Rows { of, first, .. } => Some((of, first)),
            _ => None,
        };
        let ((of, first), (k_of, second)) = (half(&norms[0])?, half(&norms[1])?);
        let n_rows = graph.weights[of].n_rows;
        let is_whole = of == k_of && first == 0 && second == n_rows / 2;
        is_whole.then(|| RotatedNorms { write, values: norms.map(|norm| norm.value), weights: of })
    };
    if target.takes(Fusion::HeadNorm) { graph.values.iter().filter_map(stacked).collect() } else { Vec::new() }
}

/// Follows the only users of a linear layer's result as far as rules allow.
fn grow(
    graph: &Graph,
    target: &TargetProfile,
    users: &Column<ValueId, Vec<ValueId>>,
    grouped: &Column<ValueId, bool>,
    linear: ValueId,
    bias: Option<WeightId>,
) -> (Vec<Step>, Vec<ValueId>) {
    let mut steps: Vec<Step> = bias.map(Step::Bias).into_iter().collect();
    let mut tail = Vec::new();
    let mut at = linear;
    while let [user] = users[at][..] {
        let n_operands = steps.iter().filter(|s| matches!(s, Step::Bias(_) | Step::Add(_) | Step::Mul(_))).count();
        let op = &graph.values[user].op;
        let rule = RULES.iter().filter(|rule| target.takes(rule.fusion)).find_map(|rule| (rule.step)(op, at));
        let Some(step) = rule else { break };
        // What joins experts has no columns in turn.
        if matches!(step, Step::SiluMulPairs | Step::GeluMulPairs)
            && matches!(graph.values[linear].op, Op::MoeSum { .. })
        {
            break;
        }
        // An absorbed value must not be wanted by anyone else. After the pairs only sums follow, and before them no
        // values are read: an operand has the shape of the result.
        let pairs_done = steps.iter().any(|s| matches!(s, Step::SiluMulPairs | Step::GeluMulPairs));
        let reads_values = steps.iter().any(|s| matches!(s, Step::Add(_) | Step::Mul(_)));
        let in_order = match step {
            Step::SiluMulPairs | Step::GeluMulPairs => !reads_values && !pairs_done,
            Step::Add(_) => true,
            // A kernel has one such number.
            Step::Scale(_) => !pairs_done && !steps.iter().any(|s| matches!(s, Step::Scale(_))),
            Step::Softcap(_) => !pairs_done && !steps.iter().any(|s| matches!(s, Step::Softcap(_))),
            _ => !pairs_done,
        };
        // The route is a buffer more, and eight is all that every target has.
        let most = if graph.experts(linear).is_some() { MAX_OPERANDS - 1 } else { MAX_OPERANDS };
        let fits = n_operands < most && in_order;
        // Of two products that meet in a sum, the first took it.
        if graph.outputs.contains(&at) || grouped[user] || !fits {
            break;
        }
        steps.push(step);
        tail.push(user);
        at = user;
    }
    (steps, tail)
}

/// The rotation and cache write that are all that reads a product of queries, keys and values side by side, and the
/// values that they cover.
fn rope_kv(graph: &Graph, users: &Column<ValueId, Vec<ValueId>>, linear: ValueId) -> Option<(Step, [ValueId; 3])> {
    let [q_part, k_part, v_part] = users[linear][..] else { return None };
    let only_user = |v: ValueId| match users[v][..] {
        [user] if !graph.outputs.contains(&v) => Some(user),
        _ => None,
    };
    let columns = |v: ValueId| match graph.values[v].op {
        Op::Slice { at, n_cols, .. } => Some((at, n_cols)),
        _ => None,
    };
    let ((q_at, q_cols), (k_at, k_cols), (v_at, v_cols)) = (columns(q_part)?, columns(k_part)?, columns(v_part)?);
    let (q, k, write) = (only_user(q_part)?, only_user(k_part)?, only_user(v_part)?);
    let Op::KvWrite { v, layer, .. } = graph.values[write].op else { return None };
    let shape = graph.kv.shape(layer);
    let neighbours = |rope: ValueId| match graph.values[rope].op {
        Op::Rope { neighbours, head_dim, .. } => neighbours && head_dim == shape.k_dim && head_dim == shape.v_dim,
        _ => false,
    };
    let in_order = q_at == 0 && k_at == q_cols && v_at == q_cols + k_cols;
    let whole = v_at + v_cols == graph.values[linear].shape.n_cols && graph.values[linear].shape.rows == Dim::Tokens;
    let joined = v == Some(v_part) && ropes(graph, write).ok() == Some((q, k)) && only_user(k) == Some(write);
    let fits = in_order && whole && joined && neighbours(q) && neighbours(k) && !graph.outputs.contains(&linear);
    fits.then_some((Step::RopeKv { q, k, write }, [q, k, write]))
}

/// The rotations of a cache write's keys and of its attention's queries.
pub(super) fn ropes(graph: &Graph, write: ValueId) -> Result<(ValueId, ValueId), CompileError> {
    let missing = |why: &str| CompileError::NoKernel { value: write, op: "kv_write", why: why.into() };
    let Op::KvWrite { k, v: Some(_), .. } = graph.values[write].op else {
        return Err(missing("a latent cache"));
    };
    let attentions: Vec<ValueId> = graph
        .values
        .iter()
        .filter_map(|(_, value)| match value.op {
            Op::Attention { q, kv, .. } if kv == write => Some(q),
            _ => None,
        })
        .collect();
    let [q] = attentions[..] else { return Err(missing("not exactly one attention reads it")) };
    let rope = |v: ValueId| match &graph.values[v].op {
        Op::Rope { freqs, head_dim, rot_dim, scale, neighbours, .. } => {
            Some((*freqs, *head_dim, *rot_dim, *scale, *neighbours))
        }
        _ => None,
    };
    match (rope(q), rope(k)) {
        (Some(a), Some(b)) if a == b => Ok((q, k)),
        _ => Err(missing("queries and keys are not rotated alike")),
    }
}

/// The values that a group reads from memory, views resolved to what they view.
pub fn inputs(graph: &Graph, group: &Group) -> Vec<ValueId> {
    let mut inputs = Vec::new();
    for &member in &group.members {
        for operand in graph.values[member].op.operands() {
            let base = base(graph, operand);
            if !group.members.contains(&operand) && !group.members.contains(&base) && !inputs.contains(&base) {
                inputs.push(base);
            }
        }
    }
    inputs
}

/// The value whose memory a view shows.
pub fn base(graph: &Graph, v: ValueId) -> ValueId {
    match graph.values[v].op {
        Op::Slice { x, .. } => base(graph, x),
        _ => v,
    }
}
