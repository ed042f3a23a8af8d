//! House rules of kernels, checked over naga's IR: what Apple, NVIDIA, AMD and Intel GPUs and WebGPU all take.

use crate::catalog::MAX_WORKGROUP_BYTES;
use crate::reflect::Reflection;
use crate::spec::LinkedKernel;

const MAX_INVOCATIONS: u32 = 256;
const MAX_STORAGE_BUFFERS: usize = 8;

/// A broken rule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Lint {
    /// Not exactly one entry point `main`.
    #[error("entry points are {found:?}; a kernel has one, `main`")]
    EntryPoint {
        /// Names found.
        found: Vec<String>,
    },
    /// Too much workgroup memory.
    #[error("{n_bytes} bytes of workgroup memory; the limit is {MAX_WORKGROUP_BYTES}")]
    WorkgroupMemory {
        /// Bytes found.
        n_bytes: u32,
    },
    /// Workgroup memory in which matrices may not lie on 16 bytes, as drivers take it that they do: they put variables one after
    /// the other.
    #[error("workgroup variable `{name}` beside cooperative matrices is no multiple of 16 bytes")]
    Unaligned {
        /// Name in WGSL.
        name: String,
    },
    /// Too many invocations.
    #[error("{n} invocations a workgroup; the limit is {MAX_INVOCATIONS}")]
    Invocations {
        /// Number found.
        n: u32,
    },
    /// Too many storage buffers.
    #[error("{n} storage buffers; the limit is {MAX_STORAGE_BUFFERS}")]
    StorageBuffers {
        /// Number found.
        n: usize,
    },
    /// A bound resource that is no storage buffer.
    #[error("`{name}` is not a storage buffer")]
    NotStorage {
        /// Name in WGSL.
        name: String,
    },
    /// Bindings other than the catalogue's.
    #[error("catalogue and module differ at group {group}, binding {binding} (module: {module})")]
    Binding {
        /// Bind group.
        group: u32,
        /// Binding in the group.
        binding: u32,
        /// What the module has there.
        module: String,
    },
    /// A workgroup size other than the catalogue's.
    #[error("workgroup size is {module:?}, the catalogue says {catalogue:?}")]
    WorkgroupSize {
        /// In the module.
        module: [u32; 3],
        /// In the catalogue.
        catalogue: [u32; 3],
    },
}

/// Checks a module by itself.
pub fn lint(module: &Reflection) -> Vec<Lint> {
    let mut found = Vec::new();
    if module.entry_points != ["main"] {
        found.push(Lint::EntryPoint { found: module.entry_points.clone() });
    }
    if module.workgroup_bytes > MAX_WORKGROUP_BYTES {
        found.push(Lint::WorkgroupMemory { n_bytes: module.workgroup_bytes });
    }
    let unaligned = module.unaligned.iter().filter(|_| module.has_matrices);
    found.extend(unaligned.map(|name| Lint::Unaligned { name: name.clone() }));
    let n = module.workgroup_size.iter().product();
    if n > MAX_INVOCATIONS {
        found.push(Lint::Invocations { n });
    }
    let n = module.bindings.iter().filter(|bound| bound.access.is_some()).count();
    if n > MAX_STORAGE_BUFFERS {
        found.push(Lint::StorageBuffers { n });
    }
    found.extend(
        module
            .bindings
            .iter()
            .filter(|bound| bound.access.is_none())
            .map(|bound| Lint::NotStorage { name: bound.name.clone() }),
    );
    found
}

/// Checks a module against what the catalogue says of it.
pub fn lint_linked(module: &Reflection, kernel: &LinkedKernel) -> Vec<Lint> {
    let mut found = lint(module);
    if module.workgroup_size != kernel.workgroup_size {
        found.push(Lint::WorkgroupSize { module: module.workgroup_size, catalogue: kernel.workgroup_size });
    }
    for info in &kernel.bindings {
        let bound = module.bindings.iter().find(|bound| (bound.group, bound.binding) == (info.group, info.binding));
        if bound.is_none_or(|bound| bound.access != Some(info.access)) {
            let module = bound.map_or("nothing".into(), |bound| format!("`{}`, {:?}", bound.name, bound.access));
            found.push(Lint::Binding { group: info.group, binding: info.binding, module });
        }
    }
    for bound in &module.bindings {
        if !kernel.bindings.iter().any(|info| (bound.group, bound.binding) == (info.group, info.binding)) {
            found.push(Lint::Binding {
                group: bound.group,
                binding: bound.binding,
                module: format!("`{}`", bound.name),
            });
        }
    }
    found
}
