//! What `ingot explain --emit` prints besides text: the plan's kernels as source in three languages, each under a comment
//! that names the ops that it covers, and graphs as pictures.

pub mod layout;
mod notes;
pub mod picture;
pub mod svg;

use crate::pipeline::{self, Options, Stage};
use crate::target::TargetProfile;
use crate::{CompileError, pass};
use ingot_ir::graph::Graph;
use ingot_shaders::backend;

/// A language that a kernel is printed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Language {
    /// As linked: what the engine hands to wgpu.
    Wgsl,
    /// Metal Shading Language, as naga writes it.
    Msl,
    /// SPIR-V, as naga writes it.
    Spirv,
}

/// A file's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

/// Something to be printed or written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    /// Its name in a folder, e.g. `p3.wgsl`.
    pub name: String,
    /// What it holds.
    pub content: Content,
}

impl File {
    fn text(name: String, text: String) -> Self {
        Self { name, content: Content::Text(text) }
    }
}

/// Every kernel of the plan in a language, named by its handle. For SPIR-V, which holds no comments, `kernels.txt` tells
/// what each covers. Fails for the CPU, whose kernels are native code.
pub fn kernels(
    graph: &Graph,
    target: &TargetProfile,
    options: Options,
    language: Language,
) -> Result<Vec<File>, CompileError> {
    if target.is_cpu {
        return Err(CompileError::NoSource { target: target.name.clone() });
    }
    let plan = pipeline::compile(graph, target, options)?;
    let variants = bucket_graphs(graph, target, options)?;
    let (mut files, mut index) = (Vec::new(), String::new());
    for (id, kernel) in plan.kernels.iter() {
        let note = notes::of(&plan, &variants, id);
        let failed = |error: backend::BackendError| CompileError::Link {
            kernel: format!("{id} ({})", kernel.spec.template),
            why: error.to_string(),
        };
        match language {
            Language::Wgsl => files.push(File::text(format!("{id}.wgsl"), format!("{note}\n{}", kernel.wgsl))),
            Language::Msl => {
                let msl = backend::to_msl(&kernel.wgsl).map_err(failed)?;
                files.push(File::text(format!("{id}.metal"), format!("{note}\n{msl}")));
            }
            Language::Spirv => {
                let words = backend::to_spirv(&kernel.wgsl).map_err(failed)?;
                let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                files.push(File { name: format!("{id}.spv"), content: Content::Binary(bytes) });
                index.push_str(&format!("{note}\n"));
            }
        }
    }
    if language == Language::Spirv {
        files.push(File::text("kernels.txt".into(), index));
    }
    Ok(files)
}

/// The picture of what a stage leaves; where a stage works on buckets, one picture each, that of the smallest first.
/// `layer` leaves only the nodes of one decoder layer, and what they read from outside.
pub fn pictures(
    graph: &Graph,
    target: &TargetProfile,
    options: Options,
    stage: Stage,
    layer: Option<u32>,
) -> Result<Vec<File>, CompileError> {
    let n_layers = picture::n_layers(graph);
    if let Some(layer) = layer.filter(|layer| *layer >= n_layers) {
        return Err(CompileError::NoLayer { layer, n_layers });
    }
    let one = |name: &str, graph: &Graph| Ok(vec![File::text(format!("{name}.svg"), picture::graph(graph, layer))]);
    match stage {
        Stage::Graph("lower") => return one("lower", graph),
        Stage::Graph(name) if name != "drop_unused_rows" => {
            return one(name, &pipeline::graph_passes(graph, target, name)?);
        }
        _ => {}
    }
    let whole = pipeline::graph_passes(graph, target, "assign_layout")?;
    let mut files = Vec::new();
    for (ix, bucket) in pass::bucket::of(graph, target, options).iter().enumerate() {
        let rows = pipeline::bucket_graph(&whole, target, bucket)?;
        let (name, svg) = match stage {
            Stage::Graph(name) => (name, picture::graph(&rows, layer)),
            _ => {
                let kernels = pipeline::bucket_kernels(&rows, target, bucket, options)?;
                let select = stage == Stage::Kernels("select");
                let kernels = if select { kernels } else { pass::alias::run(&kernels) };
                (if select { "select" } else { "alias" }, picture::kernels(&rows, &kernels, layer))
            }
        };
        files.push(File::text(format!("{name}_x{ix}.svg"), svg));
    }
    Ok(files)
}

/// The graph of each of a plan's variants, which their dispatches' origins are values of.
fn bucket_graphs(graph: &Graph, target: &TargetProfile, options: Options) -> Result<Vec<Graph>, CompileError> {
    let whole = pipeline::graph_passes(graph, target, "assign_layout")?;
    pass::bucket::of(graph, target, options)
        .iter()
        .map(|bucket| pipeline::bucket_graph(&whole, target, bucket))
        .collect()
}
