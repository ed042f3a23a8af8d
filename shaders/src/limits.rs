//! What a platform takes of one kernel, and whether a linked kernel keeps to it, read from naga's IR of the kernel.

use crate::consts::const_value;
use crate::reflect::{ReflectError, parse};
use crate::spec::{KernelSpec, Template};
use naga::{AddressSpace, CooperativeRole, Expression, MathFunction, ScalarKind, TypeInner};

/// Type of a cooperative matrix's numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CoopScalar {
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

/// A shape of cooperative matrix (Metal's simdgroup matrix): A is `m x k`, B `k x n`, C `m x n`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoopShape {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Columns of A, rows of B.
    pub k: u32,
    /// Type of A and B.
    pub ab: CoopScalar,
    /// Type of C.
    pub c: CoopScalar,
}

impl CoopShape {
    /// A shape of equal sides.
    pub const fn square(side: u32, ab: CoopScalar, c: CoopScalar) -> Self {
        Self { m: side, n: side, k: side, ab, c }
    }
}

/// What a kernel may use.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Limits {
    /// Storage buffers that a kernel binds.
    pub max_storage_buffers: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Invocations of a workgroup.
    pub max_invocations: u32,
    /// Workgroups in each dimension of a grid; larger grids are folded.
    pub max_workgroups: u32,
    /// Smallest and largest subgroup; `None` without subgroup operations.
    pub subgroup: Option<(u32, u32)>,
    /// Arithmetic on half-precision numbers (`enable f16`).
    pub f16: bool,
    /// Products of four packed 8-bit integers (`dot4I8Packed`) in hardware.
    pub integer_dot: bool,
    /// Shapes of cooperative matrices; empty where there are none.
    pub cooperative: Vec<CoopShape>,
}

impl Limits {
    /// What every GPU in reach takes, and what the catalogue's kernels without extensions keep to.
    pub const COMMON: Self = Self {
        max_storage_buffers: 8,
        workgroup_bytes: 32 << 10,
        max_invocations: 256,
        max_workgroups: 65_535,
        subgroup: None,
        f16: false,
        integer_dot: false,
        cooperative: Vec::new(),
    };

    /// Apple silicon. Metal Feature Set Tables, family Apple7 (M1) and later: 32 KiB of threadgroup memory, 1024 threads
    /// a threadgroup, SIMD groups of 32, simdgroup matrices of 8 x 8 in half and float; the Metal Shading Language has no
    /// integer dot product. Of its 31 buffers the engine binds 8 as storage, WebGPU's number.
    pub fn apple() -> Self {
        use CoopScalar::{F16, F32};
        Self {
            max_invocations: 1024,
            subgroup: Some((32, 32)),
            f16: true,
            cooperative: [(F32, F32), (F16, F16), (F16, F32)].map(|(ab, c)| CoopShape::square(8, ab, c)).to_vec(),
            ..Self::COMMON
        }
    }
}

/// A kernel that asks for more than there is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LimitError {
    /// More of something than the limit.
    #[error("kernel {kernel}: {found} {what}, the limit is {limit}")]
    TooMuch {
        /// The kernel.
        kernel: String,
        /// What the limit is on.
        what: &'static str,
        /// How much the kernel uses.
        found: u32,
        /// How much there is.
        limit: u32,
    },
    /// Something that the platform does not have.
    #[error("kernel {kernel}: uses {what}, which the target does not have{has}")]
    Missing {
        /// The kernel.
        kernel: String,
        /// What it uses.
        what: String,
        /// What there is instead, or nothing.
        has: String,
    },
    /// WGSL that cannot be read.
    #[error("kernel {kernel}: {source}")]
    Unreadable {
        /// The kernel.
        kernel: String,
        /// What naga says.
        source: ReflectError,
    },
}

/// One operand of a cooperative product as a kernel declares it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoopType {
    /// Rows.
    pub rows: u32,
    /// Columns.
    pub columns: u32,
    /// A, B or C.
    pub role: CoopRole,
    /// Type of its numbers; `None` if it is neither f16 nor f32.
    pub scalar: Option<CoopScalar>,
}

/// A cooperative matrix's part in `A * B + C`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CoopRole {
    /// Left factor.
    A,
    /// Right factor.
    B,
    /// Sum.
    C,
}

/// What a kernel uses, as its module shows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Uses {
    /// Storage buffers bound.
    pub storage_buffers: u32,
    /// Bytes of workgroup memory, each variable at a multiple of 16 as Metal allots it.
    pub workgroup_bytes: u32,
    /// Invocations of a workgroup.
    pub invocations: u32,
    /// Subgroup operations or built-ins.
    pub subgroups: bool,
    /// Half-precision arithmetic.
    pub f16: bool,
    /// Packed integer dot products.
    pub integer_dot: bool,
    /// Cooperative matrices.
    pub cooperative: Vec<CoopType>,
}

/// Reads what a module uses; `info` is the validator's.
pub fn uses(module: &naga::Module, info: &naga::valid::ModuleInfo) -> Uses {
    let mut uses = Uses::default();
    let mut layouter = naga::proc::Layouter::default();
    // Types of a validated module have a layout; one without would count as more than any limit.
    let laid_out = layouter.update(module.to_ctx()).is_ok();
    for (_, variable) in module.global_variables.iter() {
        match variable.space {
            AddressSpace::Storage { .. } => uses.storage_buffers += 1,
            AddressSpace::WorkGroup => {
                let bytes = if laid_out { layouter[variable.ty].size } else { u32::MAX };
                uses.workgroup_bytes = uses.workgroup_bytes.saturating_add(bytes.saturating_add(15) / 16 * 16);
            }
            _ => {}
        }
    }
    for (_, ty) in module.types.iter() {
        type_uses(&ty.inner, &mut uses);
    }
    let bodies = module.functions.iter().map(|(handle, function)| (function, &info[handle]));
    let entries = module.entry_points.iter().enumerate();
    let entries = entries.map(|(ix, entry)| (&entry.function, info.get_entry_point(ix)));
    for (function, types) in bodies.chain(entries) {
        uses.subgroups |= function.arguments.iter().any(|argument| is_subgroup(argument.binding.as_ref()));
        for (handle, expression) in function.expressions.iter() {
            expression_uses(expression, &mut uses);
            // Cooperative matrices need not be among the module's types.
            type_uses(types[handle].ty.inner_with(&module.types), &mut uses);
        }
    }
    if let Some(entry) = module.entry_points.first() {
        uses.invocations = entry.workgroup_size.iter().fold(1, |n: u32, side| n.saturating_mul(*side));
    }
    uses
}

fn type_uses(inner: &TypeInner, uses: &mut Uses) {
    match *inner {
        TypeInner::Scalar(scalar) | TypeInner::Vector { scalar, .. } | TypeInner::Matrix { scalar, .. } => {
            uses.f16 |= scalar.kind == ScalarKind::Float && scalar.width == 2;
        }
        TypeInner::CooperativeMatrix { columns, rows, scalar, role } => {
            let scalar = match (scalar.kind, scalar.width) {
                (ScalarKind::Float, 2) => Some(CoopScalar::F16),
                (ScalarKind::Float, 4) => Some(CoopScalar::F32),
                _ => None,
            };
            let role = match role {
                CooperativeRole::A => CoopRole::A,
                CooperativeRole::B => CoopRole::B,
                CooperativeRole::C => CoopRole::C,
            };
            let found = CoopType { rows: rows as u32, columns: columns as u32, role, scalar };
            if !uses.cooperative.contains(&found) {
                uses.cooperative.push(found);
            }
        }
        TypeInner::Struct { ref members, .. } => {
            uses.subgroups |= members.iter().any(|member| is_subgroup(member.binding.as_ref()));
        }
        _ => {}
    }
}

fn expression_uses(expression: &Expression, uses: &mut Uses) {
    match *expression {
        Expression::Math { fun: MathFunction::Dot4I8Packed | MathFunction::Dot4U8Packed, .. } => {
            uses.integer_dot = true;
        }
        Expression::SubgroupBallotResult | Expression::SubgroupOperationResult { .. } => uses.subgroups = true,
        Expression::Literal(naga::Literal::F16(_))
        | Expression::As { kind: ScalarKind::Float, convert: Some(2), .. } => uses.f16 = true,
        _ => {}
    }
}

fn is_subgroup(binding: Option<&naga::Binding>) -> bool {
    use naga::BuiltIn::{NumSubgroups, SubgroupId, SubgroupInvocationId, SubgroupSize};
    matches!(binding, Some(naga::Binding::BuiltIn(NumSubgroups | SubgroupId | SubgroupInvocationId | SubgroupSize)))
}

/// Checks a linked kernel's text; `kernel` is its name in errors.
pub fn check(kernel: &str, wgsl: &str, limits: &Limits) -> Result<Uses, LimitError> {
    let (module, info) = parse(wgsl).map_err(|source| LimitError::Unreadable { kernel: kernel.to_owned(), source })?;
    let uses = uses(&module, &info);
    check_uses(kernel, &uses, limits)?;
    Ok(uses)
}

/// Checks what a kernel uses.
pub fn check_uses(kernel: &str, uses: &Uses, limits: &Limits) -> Result<(), LimitError> {
    let name = || kernel.to_owned();
    for (what, found, limit) in [
        ("storage buffers", uses.storage_buffers, limits.max_storage_buffers),
        ("bytes of workgroup memory", uses.workgroup_bytes, limits.workgroup_bytes),
        ("invocations a workgroup", uses.invocations, limits.max_invocations),
    ] {
        if found > limit {
            return Err(LimitError::TooMuch { kernel: name(), what, found, limit });
        }
    }
    for (what, used, there) in [
        ("subgroup operations", uses.subgroups, limits.subgroup.is_some()),
        ("half-precision arithmetic", uses.f16, limits.f16),
        ("integer dot products", uses.integer_dot, limits.integer_dot),
    ] {
        if used && !there {
            return Err(LimitError::Missing { kernel: name(), what: what.into(), has: String::new() });
        }
    }
    match uses.cooperative.iter().find(|ty| !limits.cooperative.iter().any(|shape| ty.is_of(shape))) {
        None => Ok(()),
        Some(CoopType { rows, columns, role, scalar }) => {
            let scalar = scalar.map_or("another type".into(), |scalar| format!("{scalar:?}"));
            let shape = |s: &CoopShape| format!("{}x{}x{} {:?} to {:?}", s.m, s.n, s.k, s.ab, s.c);
            let has: Vec<String> = limits.cooperative.iter().map(shape).collect();
            let has = if has.is_empty() { String::new() } else { format!(" (it has {})", has.join(", ")) };
            let what = format!("a {rows}x{columns} cooperative matrix {role:?} of {scalar}");
            Err(LimitError::Missing { kernel: name(), what, has })
        }
    }
}

impl CoopType {
    /// Whether it is an operand of a shape's product.
    pub fn is_of(&self, shape: &CoopShape) -> bool {
        let (rows, columns, scalar) = match self.role {
            CoopRole::A => (shape.m, shape.k, shape.ab),
            CoopRole::B => (shape.k, shape.n, shape.ab),
            CoopRole::C => (shape.m, shape.n, shape.c),
        };
        (self.rows, self.columns, self.scalar) == (rows, columns, Some(scalar))
    }
}

/// The cooperative shape that a spec's kernel needs, `None` if it needs none. A test compares it with what linked kernels
/// use, so that a target can decline a kernel before it is linked.
pub fn needs_cooperative(spec: &KernelSpec) -> Option<CoopShape> {
    let takes = matches!(spec.template, Template::MatmulCoop | Template::AttentionCoop);
    let side = takes.then(|| const_value(spec, "SIDE")).flatten()?;
    Some(CoopShape::square(side, CoopScalar::F16, CoopScalar::F32))
}
