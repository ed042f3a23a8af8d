//! The linker: a template and the modules that it imports become one module of plain WGSL.
//!
//! A module's first lines may be `import package::lib::NAME::item;` or `import package::lib::NAME::{a, b};` (the form
//! of WESL). `package::slot::KIND` names an open place, which the catalogue bound to a provider file or to generated
//! text. A module is included once and whole, after those that it imports; there is no renaming, so top-level names
//! are unique among modules that meet.

use crate::spec::{EpilogueOp, Template, WeightFormat};
use std::collections::BTreeMap;

/// Why a kernel cannot be linked.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum LinkError {
    /// An import of no module.
    #[error("{file}:{line}: no module `{module}`; modules are package::lib::NAME and package::slot::KIND")]
    UnknownModule {
        /// Importing file.
        file: String,
        /// Line from 1.
        line: usize,
        /// What was imported.
        module: String,
    },
    /// An import line that cannot be read.
    #[error("{file}:{line}: cannot read `{text}`; write `import package::lib::NAME::item;`")]
    BadImport {
        /// Importing file.
        file: String,
        /// Line from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// An import of what a module does not declare.
    #[error("{file}:{line}: `{provider}` declares no `{item}`")]
    MissingItem {
        /// Importing file.
        file: String,
        /// Line from 1.
        line: usize,
        /// The module's file.
        provider: String,
        /// The missing name.
        item: String,
    },
    /// An open place that nothing was bound to.
    #[error("{file}:{line}: slot `{slot}` is not bound; the kernel's catalogue entry must fill it")]
    UnboundSlot {
        /// Importing file.
        file: String,
        /// Line from 1.
        line: usize,
        /// The slot.
        slot: String,
    },
    /// A number that the template needs.
    #[error("{template}: constant `{name}` is missing")]
    MissingConst {
        /// The template.
        template: Template,
        /// The constant.
        name: String,
    },
    /// A number that the template does not know.
    #[error("{template}: no constant `{name}`; it has {known}")]
    UnknownConst {
        /// The template.
        template: Template,
        /// The constant.
        name: String,
        /// Its constants.
        known: String,
    },
    /// A number out of the template's range or of the wrong type.
    #[error("{template}: constant `{name}` is {value}, but must be {expected}")]
    BadConst {
        /// The template.
        template: Template,
        /// The constant.
        name: String,
        /// Its value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// A format that the template or its numbers do not allow, or none where one is needed.
    #[error("{template}: weight {}: {why}", .weight.map_or("none".into(), |w| w.to_string()))]
    BadWeight {
        /// The template.
        template: Template,
        /// The format.
        weight: Option<WeightFormat>,
        /// What is wrong.
        why: String,
    },
    /// A prologue that the template does not have.
    #[error("{template}: has no prologue; only matvec and rope_kv take one")]
    NoPrologue {
        /// The template.
        template: Template,
    },
    /// An op that cannot stand where it stands.
    #[error("{template}: epilogue op {op}: {why}")]
    BadEpilogue {
        /// The template.
        template: Template,
        /// The op.
        op: EpilogueOp,
        /// What is wrong.
        why: &'static str,
    },
    /// Tile sizes that no target has room for.
    #[error(
        "{template}: its tiles take {n_bytes} bytes of workgroup memory, the limit is {limit_bytes}; choose smaller tiles"
    )]
    TooMuchWorkgroupMemory {
        /// The template.
        template: Template,
        /// Bytes.
        n_bytes: u32,
        /// Bytes that there are.
        limit_bytes: u32,
    },
}

/// Who reads the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consumer {
    /// naga, which takes subgroup calls as they are and refuses `enable subgroups;`.
    Naga,
    /// Tint (Dawn, Chrome), which demands it, and cannot prove that a loop over subgroups is uniform.
    Tint,
}

/// The text with the `enable` lines that its reader asks for.
pub fn wgsl_for(wgsl: &str, consumer: Consumer) -> String {
    let uses_subgroups =
        ["subgroupAdd(", "subgroupShuffleXor(", "builtin(subgroup_"].iter().any(|call| wgsl.contains(call));
    match consumer {
        Consumer::Tint if wgsl.contains("coopMultiplyAdd(") => {
            format!("enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n{}", without_matrices(wgsl))
        }
        Consumer::Tint if uses_subgroups => format!("enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n{wgsl}"),
        _ => wgsl.to_string(),
    }
}

/// The text with cooperative matrices, which Tint spells otherwise, as single numbers: everything around them is checked.
fn without_matrices(wgsl: &str) -> String {
    let line = |line: &str| match (line.trim_start(), line.find(" = ")) {
        ("enable wgpu_cooperative_matrix;", _) => String::new(),
        (text, Some(at)) if text.contains("coopMultiplyAdd(") => {
            format!("{} = {};", &line[..at], line[at + 3..].replace("coopMultiplyAdd(", "fma(").trim_end_matches(';'))
        }
        (text, Some(at)) if text.contains("coopLoad") => format!("{} = 0.0;", &line[..at]),
        (text, _) => match text.strip_prefix("coopStoreT(").and_then(|rest| rest.split_once(", &")) {
            Some((sum, rest)) => format!("{} = {sum};", rest.rsplit_once(", ").map_or(rest, |(place, _)| place)),
            None => line.to_string(),
        },
    };
    wgsl.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A module's text and the name that errors and separators show.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}

/// What imports are resolved with.
pub(crate) struct Modules<'a> {
    /// The text of `package::lib::NAME`.
    pub(crate) lib: &'a dyn Fn(&str) -> Option<Source>,
    /// What is bound to `package::slot::KIND`.
    pub(crate) slots: BTreeMap<&'static str, Source>,
}

/// One import of one item.
struct Import {
    line: usize,
    kind: String,
    module: String,
    item: String,
}

/// Joins `header`, the modules that `root` imports, and `root`.
pub(crate) fn join(header: &str, root: &Source, modules: &Modules<'_>) -> Result<String, LinkError> {
    let mut done = Vec::new();
    let mut text = header.to_string();
    include(root, modules, &mut done, &mut text)?;
    Ok(text)
}

fn include(source: &Source, modules: &Modules<'_>, done: &mut Vec<String>, out: &mut String) -> Result<(), LinkError> {
    done.push(source.name.clone());
    let (imports, body) = split_imports(source)?;
    for import in &imports {
        let path = format!("package::{}::{}", import.kind, import.module);
        let file = source.name.clone();
        let provider = match import.kind.as_str() {
            "lib" => (modules.lib)(&import.module).ok_or(LinkError::UnknownModule {
                file,
                line: import.line,
                module: path,
            })?,
            "slot" => match modules.slots.get(import.module.as_str()) {
                Some(provider) => provider.clone(),
                None => return Err(LinkError::UnboundSlot { file, line: import.line, slot: import.module.clone() }),
            },
            _ => return Err(LinkError::UnknownModule { file, line: import.line, module: path }),
        };
        if !declares(&provider.text, &import.item) {
            let (file, item) = (source.name.clone(), import.item.clone());
            return Err(LinkError::MissingItem { file, line: import.line, provider: provider.name, item });
        }
        if !done.contains(&provider.name) {
            include(&provider, modules, done, out)?;
        }
    }
    out.push_str(&format!("\n// ---- {}\n", source.name));
    out.push_str(body.trim());
    out.push('\n');
    Ok(())
}

/// The imports of a module and the rest of its text.
fn split_imports(source: &Source) -> Result<(Vec<Import>, String), LinkError> {
    let mut imports = Vec::new();
    let mut body = String::new();
    let mut after_import = false;
    for (ix, line) in source.text.lines().enumerate() {
        let Some(rest) = line.strip_prefix("import ") else {
            // The blank line that ends a list of imports goes with it.
            if !(after_import && line.is_empty()) {
                body.push_str(line);
                body.push('\n');
            }
            after_import = false;
            continue;
        };
        after_import = true;
        let bad = || LinkError::BadImport { file: source.name.clone(), line: ix + 1, text: line.into() };
        let path = rest.trim().strip_suffix(';').and_then(|path| path.strip_prefix("package::")).ok_or_else(bad)?;
        let [kind, module, items] = path.splitn(3, "::").collect::<Vec<_>>()[..] else { return Err(bad()) };
        let items = items.strip_prefix('{').map_or(Some(items), |list| list.strip_suffix('}')).ok_or_else(bad)?;
        for item in items.split(',').map(str::trim) {
            if item.is_empty() || !item.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(bad());
            }
            imports.push(Import { line: ix + 1, kind: kind.into(), module: module.into(), item: item.into() });
        }
    }
    Ok((imports, body))
}

/// Whether a module's text declares a name at top level. Declarations begin in the first column.
fn declares(text: &str, item: &str) -> bool {
    text.lines().any(|line| {
        let rest =
            ["fn ", "const ", "struct ", "alias "].iter().find_map(|word| line.strip_prefix(word)).or_else(|| {
                let var = line.find("var<").filter(|at| line.starts_with('@') || *at == 0)?;
                line[var..].split_once("> ").map(|(_, rest)| rest)
            });
        let Some(rest) = rest.and_then(|rest| rest.strip_prefix(item)) else { return false };
        !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(root: &str) -> Result<String, LinkError> {
        let lib = |name: &str| match name {
            "a" => {
                Some(Source::new("lib/a.wgsl", "import package::lib::b::g;\n\n// A.\nfn f() { g(); }\nfn ff() {}\n"))
            }
            "b" => {
                Some(Source::new("lib/b.wgsl", "@group(0) @binding(0) var<storage, read> v: array<u32>;\nfn g() {}\n"))
            }
            _ => None,
        };
        join("const X = 1u;\n", &Source::new("kernels/t.wgsl", root), &Modules { lib: &lib, slots: BTreeMap::new() })
    }

    #[test]
    fn modules_come_once_after_what_they_import_and_keep_comments() {
        let text =
            joined("// T.\n\nimport package::lib::a::f;\nimport package::lib::b::{g, v};\n\nfn main() { f(); }\n")
                .expect("links");
        let expected = "const X = 1u;\n\n// ---- lib/b.wgsl\n@group(0) @binding(0) var<storage, read> v: array<u32>;\nfn g() {}\n\n\
                        // ---- lib/a.wgsl\n// A.\nfn f() { g(); }\nfn ff() {}\n\n// ---- kernels/t.wgsl\n// T.\n\nfn main() { f(); }\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn errors_name_file_line_and_what_is_missing() {
        let message = |root: &str| joined(root).expect_err("must not link").to_string();
        assert_eq!(
            message("// T.\nimport package::lib::c::f;\n"),
            "kernels/t.wgsl:2: no module `package::lib::c`; modules are package::lib::NAME and package::slot::KIND"
        );
        assert_eq!(message("import package::lib::a::h;\n"), "kernels/t.wgsl:1: `lib/a.wgsl` declares no `h`");
        assert_eq!(
            message("import package::slot::weight::load;\n"),
            "kernels/t.wgsl:1: slot `weight` is not bound; the kernel's catalogue entry must fill it"
        );
        assert_eq!(
            message("import package::lib::a\n"),
            "kernels/t.wgsl:1: cannot read `import package::lib::a`; write `import package::lib::NAME::item;`"
        );
    }
}
