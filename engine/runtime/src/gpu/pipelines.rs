//! Compute pipelines from WGSL, made on several threads, identical ones once.
//!
//! Layouts are explicit, from the plan's bindings: an automatic layout would drop a binding that a kernel doesn't use
//! in one variant, and bind groups could not be shared. wgpu's error scopes belong to a thread, so each worker attributes
//! its errors to the kernel that it is making.

use super::{Gpu, GpuError};
use std::collections::HashMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use wgpu::{BindGroupLayout, BindingResource};

/// Groups that WebGPU guarantees.
const MAX_GROUPS: u32 = 4;

/// One storage buffer of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BindingSpec {
    /// `@group`.
    pub group: u32,
    /// `@binding`.
    pub binding: u32,
    /// `var<storage, read>`, else `read_write`.
    pub read_only: bool,
}

/// A kernel to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PipelineSpec<'a> {
    /// Name in messages. Not part of a kernel's identity.
    pub label: &'a str,
    /// The kernel's text.
    pub wgsl: &'a str,
    /// Its entry point.
    pub entry: &'a str,
    /// Drops wgpu's run-time checks (bounds, loop limits, zeroed workgroup memory). Only for text that was linked from
    /// this program's own templates, bound to ranges that the plan's verifier has proved.
    pub trusted: bool,
    /// Its storage buffers, in ascending order of (group, binding).
    pub bindings: &'a [BindingSpec],
}

/// A compiled kernel.
#[derive(Debug)]
pub struct Pipeline {
    raw: wgpu::ComputePipeline,
    label: String,
    /// By group; `None` for a group that the kernel doesn't use.
    layouts: Vec<Option<BindGroupLayout>>,
}

impl Pipeline {
    /// wgpu's pipeline.
    pub fn raw(&self) -> &wgpu::ComputePipeline {
        &self.raw
    }

    /// Groups up to the last that the kernel uses.
    pub fn n_groups(&self) -> u32 {
        self.layouts.len() as u32
    }

    /// The layout of a group; `None` for a group that the kernel doesn't use, which need not be set.
    pub fn layout(&self, group: u32) -> Option<&BindGroupLayout> {
        self.layouts.get(group as usize)?.as_ref()
    }

    /// A bind group of (binding, resource).
    ///
    /// # Errors
    /// [`GpuError::Kernel`] if the kernel has no such group or refuses a resource (missing, misaligned, too large).
    pub fn bind_group(
        &self,
        gpu: &Gpu,
        group: u32,
        resources: &[(u32, BindingResource)],
    ) -> Result<wgpu::BindGroup, GpuError> {
        let refused = |reason: String| GpuError::Kernel { kernel: self.label.clone(), reason };
        let layout = self.layout(group).ok_or_else(|| refused(format!("it has no group {group}")))?;
        let entry = |(binding, resource): &(u32, _)| wgpu::BindGroupEntry {
            binding: *binding,
            resource: Clone::clone(resource),
        };
        let entries: Vec<wgpu::BindGroupEntry> = resources.iter().map(entry).collect();
        let descriptor = wgpu::BindGroupDescriptor { label: Some(&self.label), layout, entries: &entries };
        scoped(gpu, || gpu.device().create_bind_group(&descriptor)).map_err(refused)
    }
}

/// The pipelines of a plan: as many as were asked for, the identical ones shared.
#[derive(Debug)]
pub struct PipelineSet {
    unique: Vec<Pipeline>,
    of_spec: Vec<usize>,
}

impl PipelineSet {
    /// The pipeline of the `ix`th specification.
    pub fn get(&self, ix: usize) -> &Pipeline {
        &self.unique[self.of_spec[ix]]
    }

    /// Which distinct pipeline the `ix`th specification got: equal numbers need no `set_pipeline` in between.
    pub fn unique_ix(&self, ix: usize) -> usize {
        self.of_spec[ix]
    }

    /// A distinct pipeline by its number.
    pub fn unique(&self, unique_ix: usize) -> &Pipeline {
        &self.unique[unique_ix]
    }

    /// Distinct pipelines.
    pub fn n_unique(&self) -> usize {
        self.unique.len()
    }
}

/// The driver's compiled kernels, kept from one run of the program to the next.
#[derive(Debug)]
pub struct PipelineCache(wgpu::PipelineCache);

impl PipelineCache {
    /// A cache that begins with what [`PipelineCache::data`] gave before; data of another driver is ignored. `None` if
    /// the backend has none (only Vulkan has).
    #[allow(unsafe_code)]
    pub fn new(gpu: &Gpu, data: &[u8]) -> Option<Self> {
        if !gpu.info().pipeline_cache {
            return None;
        }
        let data = (!data.is_empty()).then_some(data);
        let descriptor = wgpu::PipelineCacheDescriptor { label: None, data, fallback: true };
        // SAFETY: the caller passes what `data` gave; wgpu and the driver check the header with the driver's identity.
        Some(Self(unsafe { gpu.device().create_pipeline_cache(&descriptor) }))
    }
    /// What is to be kept.
    pub fn data(&self) -> Vec<u8> {
        self.0.get_data().unwrap_or_default()
    }
}

/// Compiles all kernels on up to `n_threads` threads, starting with the first ones.
///
/// # Errors
/// The first specification's [`GpuError::Kernel`] with the compiler's message; as [`Gpu::check`].
pub fn create(
    gpu: &Gpu,
    specs: &[PipelineSpec],
    n_threads: usize,
    cache: Option<&PipelineCache>,
) -> Result<PipelineSet, GpuError> {
    let mut seen = HashMap::new();
    let mut unique: Vec<&PipelineSpec> = Vec::new();
    let of_spec = specs.iter().map(|spec| {
        *seen.entry(PipelineSpec { label: "", ..*spec }).or_insert_with(|| {
            unique.push(spec);
            unique.len() - 1
        })
    });
    let of_spec: Vec<usize> = of_spec.collect();
    let layouts = Layouts::default();
    let made: Vec<OnceLock<Result<Pipeline, GpuError>>> = unique.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(spec) = unique.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
            let ix = *seen.get(&PipelineSpec { label: "", ..*spec }).expect("every unique kernel was entered");
            // Each index is handed out once, so the cell is empty.
            let _ = made[ix].set(compile(gpu, &layouts, spec, cache));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..n_threads.min(unique.len()) {
            // Where the system gives no more threads, those that there are do the work.
            drop(std::thread::Builder::new().spawn_scoped(scope, work));
        }
        work();
    });
    gpu.check()?;
    let made = made.into_iter().map(|cell| cell.into_inner().expect("the threads took every index"));
    Ok(PipelineSet { unique: made.collect::<Result<_, _>>()?, of_spec })
}

/// Bind group layouts by their entries: equal groups of different kernels share one, and so can their bind groups.
#[derive(Default)]
struct Layouts(Mutex<HashMap<Vec<(u32, bool)>, BindGroupLayout>>);

impl Layouts {
    fn get(&self, gpu: &Gpu, bindings: Vec<(u32, bool)>) -> BindGroupLayout {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let make = |bindings: &[(u32, bool)]| {
            let entry = |&(binding, read_only): &(u32, bool)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None::<NonZero<u32>>,
            };
            let entries: Vec<_> = bindings.iter().map(entry).collect();
            let descriptor = wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries };
            gpu.device().create_bind_group_layout(&descriptor)
        };
        if let Some(layout) = known.get(&bindings) {
            return layout.clone();
        }
        let layout = make(&bindings);
        known.insert(bindings, layout.clone());
        layout
    }
}

fn compile(
    gpu: &Gpu,
    layouts: &Layouts,
    spec: &PipelineSpec,
    cache: Option<&PipelineCache>,
) -> Result<Pipeline, GpuError> {
    if let Some(binding) = spec.bindings.iter().find(|b| b.group >= MAX_GROUPS) {
        let reason = format!("group {} of {MAX_GROUPS}", binding.group);
        return Err(GpuError::Kernel { kernel: spec.label.to_owned(), reason });
    }
    // wgpu checks no matrix's place in its array.
    if !spec.trusted && spec.wgsl.contains("wgpu_cooperative_matrix") {
        let reason =
            "it uses cooperative matrices and is no kernel of this program's; compile the model again".to_owned();
        return Err(GpuError::Kernel { kernel: spec.label.to_owned(), reason });
    }
    let made = scoped(gpu, || {
        let n_groups = spec.bindings.iter().map(|b| b.group + 1).max().unwrap_or(0);
        let group = |group| {
            let bindings = spec.bindings.iter().filter(|b| b.group == group);
            let bindings: Vec<_> = bindings.map(|b| (b.binding, b.read_only)).collect();
            (!bindings.is_empty()).then(|| layouts.get(gpu, bindings))
        };
        let groups: Vec<Option<BindGroupLayout>> = (0..n_groups).map(group).collect();
        let refs: Vec<Option<&BindGroupLayout>> = groups.iter().map(Option::as_ref).collect();
        let layout = gpu.device().create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(spec.label),
            bind_group_layouts: &refs,
            immediate_size: 0,
        });
        let raw = gpu.device().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(spec.label),
            layout: Some(&layout),
            module: &module(gpu, spec),
            entry_point: Some(spec.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: !spec.trusted,
            },
            cache: cache.map(|cache| &cache.0),
        });
        Pipeline { raw, label: spec.label.to_owned(), layouts: groups }
    });
    made.map_err(|reason| GpuError::Kernel { kernel: spec.label.to_owned(), reason })
}

#[allow(unsafe_code)]
fn module(gpu: &Gpu, spec: &PipelineSpec) -> wgpu::ShaderModule {
    let source = wgpu::ShaderSource::Wgsl(spec.wgsl.into());
    let descriptor = wgpu::ShaderModuleDescriptor { label: Some(spec.label), source };
    if !spec.trusted {
        return gpu.device().create_shader_module(descriptor);
    }
    // SAFETY: `trusted` is the caller's word that the text is one of this program's own kernels, whose loops end and
    // whose accesses lie in the ranges that the plan's verifier has proved the bindings to cover.
    unsafe { gpu.device().create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}

/// Runs `make` and returns its result, or the first error that wgpu reported meanwhile on this thread.
fn scoped<T>(gpu: &Gpu, make: impl FnOnce() -> T) -> Result<T, String> {
    let scopes = [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation];
    let scopes = scopes.map(|filter| gpu.device().push_error_scope(filter));
    let made = make();
    // Scopes form a stack: the last one pushed is popped first.
    let errors = scopes.into_iter().rev().map(|scope| pollster::block_on(scope.pop()));
    match errors.fold(None, |first, error| first.or(error)) {
        None => Ok(made),
        Some(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Memory, MemoryOptions, ReadBack, memory, testing};
    use std::time::Duration;

    /// Uses groups 0 and 2 and leaves 1 out, as kernels without weights do.
    fn adder(addend: u32) -> String {
        format!(
            "@group(0) @binding(0) var<storage, read> x: array<u32>;
             @group(2) @binding(0) var<storage, read_write> y: array<u32>;
             @compute @workgroup_size(4) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
                 y[id.x] = x[id.x] + {addend}u;
             }}"
        )
    }

    const BINDINGS: [BindingSpec; 2] =
        [BindingSpec { group: 0, binding: 0, read_only: true }, BindingSpec { group: 2, binding: 0, read_only: false }];

    fn spec<'a>(label: &'a str, wgsl: &'a str) -> PipelineSpec<'a> {
        PipelineSpec { label, wgsl, entry: "main", trusted: false, bindings: &BINDINGS }
    }

    #[test]
    fn matrices_in_kernels_of_others_are_refused() {
        let Some(gpu) = testing::gpu() else { return };
        let text = format!("enable wgpu_cooperative_matrix;\n{}", adder(1));
        let why = create(&gpu, &[spec("theirs", &text)], 1, None).expect_err("it is no kernel of ours").to_string();
        assert!(why.contains("theirs") && why.contains("cooperative matrices"), "{why}");
    }

    #[test]
    fn identical_kernels_are_made_once_and_run() {
        let Some(gpu) = testing::gpu() else { return };
        let texts: Vec<String> = (0..20).map(|i| adder(i % 5)).collect();
        let names: Vec<String> = (0..20).map(|i| format!("k{i}")).collect();
        let specs: Vec<_> = (0..20).map(|i| PipelineSpec { trusted: i >= 10, ..spec(&names[i], &texts[i]) }).collect();
        let set = create(&gpu, &specs, 4, None).unwrap();
        assert_eq!(set.n_unique(), 10);
        assert_eq!(set.unique_ix(3), set.unique_ix(8));
        assert_ne!(set.unique_ix(3), set.unique_ix(13), "checked and unchecked are different kernels");

        let memory = Memory::new(&gpu, &MemoryOptions::default());
        let (x, y) =
            (memory.allocate("x", 16, memory::STORAGE).unwrap(), memory.allocate("y", 16, memory::STORAGE).unwrap());
        gpu.queue().write_buffer(x.raw(), 0, bytemuck::bytes_of(&[1u32, 2, 3, 4]));
        let mut ring = ReadBack::new(&memory, 16, 1).unwrap();
        for ix in [4, 14] {
            let pipeline = set.get(ix);
            assert!(pipeline.layout(1).is_none() && pipeline.n_groups() == 3);
            let ins = pipeline.bind_group(&gpu, 0, &[(0, x.binding(0, 16))]).unwrap();
            let outs = pipeline.bind_group(&gpu, 2, &[(0, y.binding(0, 16))]).unwrap();
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(pipeline.raw());
            pass.set_bind_group(0, &ins, &[]);
            pass.set_bind_group(2, &outs, &[]);
            pass.dispatch_workgroups(1, 1, 1);
            drop(pass);
            ring.submit(&gpu, encoder, 0, &[(y.raw(), 0, 16)]).unwrap();
            let mut bytes = Vec::new();
            ring.wait(&gpu, &mut bytes, Duration::from_secs(20)).unwrap();
            assert_eq!(bytemuck::pod_read_unaligned::<[u32; 4]>(&bytes), [5, 6, 7, 8]);
        }
        gpu.check().unwrap();
    }

    #[test]
    fn a_refused_kernel_is_named() {
        let Some(gpu) = testing::gpu() else { return };
        let good = adder(1);
        let wrong_layout = good.replace("@group(2)", "@group(1)");
        let far = [BindingSpec { group: u32::MAX, binding: 0, read_only: true }];
        let error =
            create(&gpu, &[PipelineSpec { bindings: &far, ..spec("far", &good) }], 1, None).map(drop).unwrap_err();
        assert!(matches!(&error, GpuError::Kernel { kernel, .. } if kernel == "far"), "{error}");
        for bad in ["not wgsl at all", &wrong_layout] {
            let error = create(&gpu, &[spec("fine", &good), spec("bad", bad)], 2, None).map(drop).unwrap_err();
            assert!(matches!(&error, GpuError::Kernel { kernel, .. } if kernel == "bad"), "{error}");
        }
        gpu.check().unwrap();
    }

    #[test]
    fn a_refused_bind_group_is_an_error() {
        let Some(gpu) = testing::gpu() else { return };
        let memory = Memory::new(&gpu, &MemoryOptions::default());
        let x = memory.allocate("x", 512, memory::STORAGE).unwrap();
        let text = adder(1);
        let set = create(&gpu, &[spec("adder", &text)], 1, None).unwrap();
        assert!(set.get(0).bind_group(&gpu, 1, &[]).is_err(), "no such group");
        assert!(set.get(0).bind_group(&gpu, 0, &[]).is_err(), "missing resource");
        assert!(set.get(0).bind_group(&gpu, 0, &[(0, x.binding(4, 8))]).is_err(), "misaligned");
        gpu.check().unwrap();
    }
}
