//! What a module of WGSL is, read from naga's IR: the catalogue's claims are checked against it.

use crate::spec::Access;
use naga::{AddressSpace, StorageAccess};

/// A module that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReflectError {
    /// The text is not valid WGSL; naga's report with the place.
    #[error("invalid WGSL:\n{0}")]
    Parse(String),
    /// The module breaks a rule of WGSL; naga's report.
    #[error("invalid module:\n{0}")]
    Validate(String),
}

/// One bound resource.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Bound {
    /// Bind group.
    pub group: u32,
    /// Binding in the group.
    pub binding: u32,
    /// Name in WGSL.
    pub name: String,
    /// How it is declared; `None` if it is not a storage buffer.
    pub access: Option<Access>,
}

/// What reflection finds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reflection {
    /// Names of compute entry points.
    pub entry_points: Vec<String>,
    /// Workgroup size of the first one.
    pub workgroup_size: [u32; 3],
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Whether it uses cooperative matrices.
    pub has_matrices: bool,
    /// Workgroup variables that do not have a multiple of 16 bytes, in order.
    pub unaligned: Vec<String>,
    /// Bound resources by group and number.
    pub bindings: Vec<Bound>,
}

/// Parses and validates. Every extension that some target has is allowed here; [`crate::limits`] tells which are used.
pub fn parse(wgsl: &str) -> Result<(naga::Module, naga::valid::ModuleInfo), ReflectError> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|error| ReflectError::Parse(error.emit_to_string(wgsl)))?;
    let capabilities = naga::valid::Capabilities::SUBGROUP
        | naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32
        | naga::valid::Capabilities::SHADER_FLOAT16
        | naga::valid::Capabilities::COOPERATIVE_MATRIX;
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
    validator
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let info = validator.validate(&module).map_err(|error| ReflectError::Validate(error.emit_to_string(wgsl)))?;
    Ok((module, info))
}

/// Reads a module.
pub fn reflect(module: &naga::Module) -> Reflection {
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).expect("types of a validated module have a layout");
    let mut bindings = Vec::new();
    let (mut workgroup_bytes, mut unaligned) = (0, Vec::new());
    for (_, variable) in module.global_variables.iter() {
        if variable.space == AddressSpace::WorkGroup {
            let size = layouter[variable.ty].size;
            workgroup_bytes += size;
            unaligned.extend(variable.name.clone().filter(|_| !size.is_multiple_of(16)));
        }
        let Some(resource) = &variable.binding else { continue };
        let access = match variable.space {
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Some(Access::ReadWrite),
            AddressSpace::Storage { .. } => Some(Access::Read),
            _ => None,
        };
        let name = variable.name.clone().unwrap_or_default();
        bindings.push(Bound { group: resource.group, binding: resource.binding, name, access });
    }
    bindings.sort();
    let entry_points: Vec<_> = module.entry_points.iter().map(|entry| entry.name.clone()).collect();
    let workgroup_size = module.entry_points.first().map_or([0; 3], |entry| entry.workgroup_size);
    let functions = module.functions.iter().map(|(_, function)| function);
    let functions = functions.chain(module.entry_points.iter().map(|entry| &entry.function));
    let mut expressions = functions.flat_map(|function| function.expressions.iter());
    let has_matrices = expressions.any(|(_, value)| matches!(value, naga::Expression::CooperativeLoad { .. }));
    Reflection { entry_points, workgroup_size, workgroup_bytes, has_matrices, unaligned, bindings }
}
