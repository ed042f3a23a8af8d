//! Other languages out of WGSL, for checks and for reading: what naga makes of a kernel. The engine itself hands WGSL to wgpu.

use crate::reflect::{ReflectError, parse};

/// A module that cannot be translated.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BackendError {
    /// The WGSL is invalid.
    #[error(transparent)]
    Reflect(#[from] ReflectError),
    /// naga's writer refused.
    #[error("cannot write {language}: {why}")]
    Write {
        /// MSL or SPIR-V.
        language: &'static str,
        /// naga's message.
        why: String,
    },
}

/// Metal Shading Language 2.4, bindings numbered in the order of groups.
pub fn to_msl(wgsl: &str) -> Result<String, BackendError> {
    let (module, info) = parse(wgsl)?;
    let options = naga::back::msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    let (text, _) = naga::back::msl::write_string(&module, &info, &options, &Default::default())
        .map_err(|error| BackendError::Write { language: "MSL", why: error.to_string() })?;
    Ok(text)
}

/// SPIR-V 1.3 words.
pub fn to_spirv(wgsl: &str) -> Result<Vec<u32>, BackendError> {
    let (module, info) = parse(wgsl)?;
    let options = naga::back::spv::Options { lang_version: (1, 3), ..Default::default() };
    naga::back::spv::write_vec(&module, &info, &options, None)
        .map_err(|error| BackendError::Write { language: "SPIR-V", why: error.to_string() })
}
