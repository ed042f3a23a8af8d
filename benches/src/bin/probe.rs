//! Measures the platform facts that Ingot's plan rests on and prints them as one markdown table:
//! `probe [part of an adapter's name]`; by default the first adapter that is not a processor, else the processor.
//!
//! All kernels are compiled with wgpu's run-time checks on, so absolute kernel times are upper bounds.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use wgpu::{BufferUsages as Usage, Features};

const CHAIN: usize = 160;
const REPEATS: usize = 21;

/// A chain link, 16 workgroups of 64; `ACCESS` is the input's access mode. It reads little, so that the time of a chain
/// is that of its dispatches and barriers and not the latency of 64 loads in a row.
const LINK: &str = "
@group(0) @binding(0) var<storage, ACCESS> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var sum = 0.0;
    for (var k = 0u; k < 4u; k++) { sum += x[(id.x + k * 256u) & 1023u] * 0.25; }
    y[id.x & 1023u] = sum + f32(SALTu);
}";
/// The same link, which also reads the step block.
const STEP_LINK: &str = "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<storage, read> step: array<u32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var sum = f32(step[id.x & 1023u]);
    for (var k = 0u; k < 4u; k++) { sum += x[(id.x + k * 256u) & 1023u] * 0.25; }
    y[id.x & 1023u] = sum;
}";
const STREAM: &str = "
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>) {
    let stride = n.x * 256u;
    var s = vec4<u32>();
    for (var i = id.x; i + 7u * stride < COUNTu; i += 8u * stride) {
        s ^= x[i] ^ x[i + stride] ^ x[i + 2u * stride] ^ x[i + 3u * stride];
        s ^= x[i + 4u * stride] ^ x[i + 5u * stride] ^ x[i + 6u * stride] ^ x[i + 7u * stride];
    }
    if (s.x ^ s.y ^ s.z ^ s.w) == 0x9e3779b9u { y[0] = s.x; }
}";
const NORM: &str = "
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> g: array<vec4<f32>>;
var<workgroup> part: array<f32, 256>;
@compute @workgroup_size(256) fn main(@builtin(local_invocation_index) i: u32) {
    var ss = 0.0;
    for (var k = i; k < Ku / 4u; k += 256u) { ss += dot(x[k], x[k]); }
    part[i] = ss;
    for (var w = 128u; w > 0u; w /= 2u) { workgroupBarrier(); if i < w { part[i] += part[i + w]; } }
    workgroupBarrier();
    let f = inverseSqrt(part[0] / f32(Ku) + 1e-5);
    for (var k = i; k < Ku / 4u; k += 256u) { y[k] = x[k] * f * g[k]; }
}";
/// Two rows to 32 lanes; PROLOGUE, LOAD, SQUARES and FACTOR make it plain or fused with the norm.
const MATVEC: &str = "
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> g: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> w: array<u32>;
var<workgroup> part: array<vec3<f32>, 128>;
var<workgroup> xs: array<vec4<f32>, SHARED>;
fn lo(q: u32) -> vec4<f32> { return vec4<f32>((vec4<u32>(q) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u)) - 7.5; }
@compute @workgroup_size(128) fn main(@builtin(local_invocation_index) i: u32, @builtin(workgroup_id) wg: vec3<u32>) {
    let lane = i % 32u;
    let row = (wg.x * 4u + i / 32u) * 2u;
    var sum = vec3<f32>();
    PROLOGUE
    for (var k = lane; k < Ku / 8u; k += 32u) {
        let a = LOAD(2u * k); let b = LOAD(2u * k + 1u);
        let p = w[row * (Ku / 8u) + k]; let q = w[(row + 1u) * (Ku / 8u) + k];
        sum += vec3<f32>(dot(a, lo(p)) + dot(b, lo(p >> 16u)), dot(a, lo(q)) + dot(b, lo(q >> 16u)), SQUARES);
    }
    part[i] = sum;
    for (var s = 16u; s > 0u; s /= 2u) { workgroupBarrier(); if lane < s { part[i] += part[i + s]; } }
    if lane == 0u {
        let f = 0.01 * FACTOR;
        y[row] = part[i].x * f; y[row + 1u] = part[i].y * f;
    }
}";
const SHARED_PROLOGUE: &str = "
    var ss = 0.0;
    for (var k = i; k < Ku / 4u; k += 128u) { let v = x[k]; ss += dot(v, v); xs[k] = v * g[k]; }
    part[i] = vec3<f32>(ss);
    for (var s = 64u; s > 0u; s /= 2u) { workgroupBarrier(); if i < s { part[i] += part[i + s]; } }
    workgroupBarrier();
    let norm = inverseSqrt(part[0].x / f32(Ku) + 1e-5);
    workgroupBarrier();";

struct Probe {
    device: wgpu::Device,
    queue: wgpu::Queue,
    cpu: bool,
    stamps: Option<(wgpu::QuerySet, wgpu::Buffer, wgpu::Buffer)>,
}

/// Median microseconds of one run: on the GPU, encoding, submitting, until done.
#[derive(Default)]
struct Times {
    gpu: f64,
    encode: f64,
    submit: f64,
    wall: f64,
}

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default().to_lowercase();
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    adapters.retain(|a| a.get_info().name.to_lowercase().contains(&name));
    adapters.sort_by_key(|a| a.get_info().device_type == wgpu::DeviceType::Cpu);
    let adapter = adapters.first().expect("no adapter of that name: `vulkaninfo --summary` lists Vulkan's");
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let mut wanted = Features::empty();
    for (_, f) in adapter.features().iter_names().filter(|(n, _)| INTERESTING.contains(n)) {
        wanted |= f;
    }
    let features = wanted - Features::all_experimental_mask();
    let request =
        wgpu::DeviceDescriptor { required_features: features, required_limits: limits.clone(), ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&request)).expect("the adapter's own limits");
    let mut p = Probe { device, queue, cpu: info.device_type == wgpu::DeviceType::Cpu, stamps: None };
    if features.contains(Features::TIMESTAMP_QUERY) {
        let set = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count: 2 };
        let (resolve, read) =
            (p.buffer(16, Usage::QUERY_RESOLVE | Usage::COPY_SRC), p.buffer(16, Usage::MAP_READ | Usage::COPY_DST));
        p.stamps = Some((p.device.create_query_set(&set), resolve, read));
    }
    println!("| fact | {} ({:?}, {} {}) |\n|---|---|", info.name, info.backend, info.driver, info.driver_info);
    row("device type", format!("{:?}", info.device_type));
    row(
        "max buffer / storage binding (bytes)",
        format!("{} / {}", limits.max_buffer_size, limits.max_storage_buffer_binding_size),
    );
    row(
        "workgroup memory / invocations / storage buffers a stage",
        format!(
            "{} / {} / {}",
            limits.max_compute_workgroup_storage_size,
            limits.max_compute_invocations_per_workgroup,
            limits.max_storage_buffers_per_shader_stage
        ),
    );
    row(
        "storage offset alignment / immediates (bytes)",
        format!("{} / {}", limits.min_storage_buffer_offset_alignment, limits.max_immediate_size),
    );
    row("subgroup size", format!("{} to {}", info.subgroup_min_size, info.subgroup_max_size));
    row("features", wanted.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join(", "));
    for m in adapter.cooperative_matrix_properties() {
        row("cooperative matrix", format!("{}x{}x{} {:?} -> {:?}", m.m_size, m.n_size, m.k_size, m.ab_type, m.cr_type));
    }
    chains(&p);
    steps(&p);
    norms(&p);
    stream(&p, limits.max_storage_buffer_binding_size);
    uploads(&p);
    readback(&p);
    pipelines(&p);
}

const INTERESTING: &[&str] = &[
    "SHADER_F16",
    "SHADER_I16",
    "SHADER_INT64",
    "SUBGROUP",
    "SUBGROUP_BARRIER",
    "TIMESTAMP_QUERY",
    "TIMESTAMP_QUERY_INSIDE_PASSES",
    "TIMESTAMP_QUERY_INSIDE_ENCODERS",
    "PIPELINE_CACHE",
    "IMMEDIATES",
    "MAPPABLE_PRIMARY_BUFFERS",
    "EXPERIMENTAL_COOPERATIVE_MATRIX",
];

fn row(what: &str, value: String) {
    println!("| {what} | {value} |");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn us(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

impl Probe {
    fn buffer(&self, size: u64, usage: Usage) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    }

    fn storage(&self, size: u64) -> wgpu::Buffer {
        self.buffer(size, Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC)
    }

    fn pipeline(&self, wgsl: &str) -> wgpu::ComputePipeline {
        let source = wgpu::ShaderSource::Wgsl(wgsl.into());
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
        let (layout, entry_point, compilation_options) = (None, Some("main"), Default::default());
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout,
            module: &module,
            entry_point,
            compilation_options,
            cache: None,
        })
    }

    /// A bind group of (buffer, offset, size) in binding order.
    fn group(
        &self,
        pipeline: &wgpu::ComputePipeline,
        index: u32,
        parts: &[(&wgpu::Buffer, u64, u64)],
    ) -> wgpu::BindGroup {
        let entries: Vec<_> = (0u32..)
            .zip(parts)
            .map(|(binding, &(buffer, offset, size))| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset,
                    size: wgpu::BufferSize::new(size),
                }),
            })
            .collect();
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(index),
            entries: &entries,
        })
    }

    fn wait(&self, index: Option<wgpu::SubmissionIndex>) {
        self.device.poll(wgpu::PollType::Wait { submission_index: index, timeout: None }).expect("the device works");
    }

    fn mapped(&self, buffer: &wgpu::Buffer, mode: wgpu::MapMode) {
        buffer.map_async(mode, .., |r| r.expect("the buffer is free"));
        self.wait(None);
    }

    /// Encodes one pass, submits it and waits, `repeats` times after one warm-up.
    fn time(&self, repeats: usize, fill: impl Fn(&mut wgpu::ComputePass)) -> Times {
        let mut all = [const { Vec::new() }; 4];
        for repeat in 0..=repeats {
            let start = Instant::now();
            let mut encoder = self.device.create_command_encoder(&Default::default());
            let timestamp_writes = self.stamps.as_ref().map(|(query_set, ..)| wgpu::ComputePassTimestampWrites {
                query_set,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            });
            fill(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes }));
            if let Some((set, resolve, read)) = &self.stamps {
                encoder.resolve_query_set(set, 0..2, resolve, 0);
                encoder.copy_buffer_to_buffer(resolve, 0, read, 0, 16);
            }
            let commands = encoder.finish();
            let encode = us(start);
            let index = self.queue.submit([commands]);
            let submit = us(start) - encode;
            self.wait(Some(index));
            let mut sample = [f64::NAN, encode, submit, us(start)];
            if let Some((.., read)) = &self.stamps {
                self.mapped(read, wgpu::MapMode::Read);
                let view = read.get_mapped_range(..).expect("it is mapped");
                let stamp: [u64; 2] = bytemuck::pod_read_unaligned(&view);
                sample[0] = stamp[1].wrapping_sub(stamp[0]) as f64 * f64::from(self.queue.get_timestamp_period()) / 1e3;
                drop(view);
                read.unmap();
            }
            if repeat > 0 {
                all.iter_mut().zip(sample).for_each(|(a, s)| a.push(s));
            }
        }
        let [gpu, encode, submit, wall] = all.map(median);
        Times { gpu, encode, submit, wall }
    }
}

/// Where dispatch `i` of a chain reads and writes: in the arena or in a buffer of its own, and at which place.
type Ends<'a> = &'a dyn Fn(usize) -> [(bool, usize); 2];

/// 160 dispatches in one pass, each reading what the one before wrote, for several ways to spread them over buffers.
fn chains(p: &Probe) {
    let link = |access: &str| p.pipeline(&LINK.replace("ACCESS", access).replace("SALT", "0"));
    let (read, read_write) = (link("read"), link("read_write"));
    let many: Vec<_> = (0..=CHAIN).map(|_| p.storage(4096)).collect();
    let arena = p.storage(4096 * (CHAIN as u64 + 1));
    let (at, own) = (|i: usize| (true, i), |i: usize| (false, i));
    let place = |(in_arena, i): (bool, usize)| {
        if in_arena { (&arena, 4096 * i as u64, 4096) } else { (&many[i], 0, 4096) }
    };
    let cases: [(&str, &wgpu::ComputePipeline, Ends); 9] = [
        ("one arena, input read_write, two offsets", &read_write, &|i| [at(i % 2), at(1 - i % 2)]),
        ("one arena, input read_write, each its own offset", &read_write, &|i| [at(i), at(i + 1)]),
        ("two buffers in turn, input read", &read, &|i| [own(i % 2), own(1 - i % 2)]),
        ("two buffers in turn, input read_write", &read_write, &|i| [own(i % 2), own(1 - i % 2)]),
        ("many buffers, input read", &read, &|i| [own(i), own(i + 1)]),
        ("many buffers, input read_write", &read_write, &|i| [own(i), own(i + 1)]),
        ("independent: one input read, each its own output buffer", &read, &|i| [own(0), own(i + 1)]),
        ("independent: one input read_write, each its own output buffer", &read_write, &|i| [own(0), own(i + 1)]),
        ("independent: one input read, outputs at offsets of one arena", &read, &|i| [own(0), at(i)]),
    ];
    for (name, pipeline, ends) in cases {
        let groups: Vec<_> = (0..CHAIN).map(|i| p.group(pipeline, 0, &ends(i).map(place))).collect();
        let t = p.time(REPEATS, |pass| {
            pass.set_pipeline(pipeline);
            for group in &groups {
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(16, 1, 1);
            }
        });
        let n = CHAIN as f64;
        row(
            &format!("160 dispatches, {name}: µs a dispatch"),
            format!(
                "GPU {:.2}, wall {:.2}, encode {:.2}, submit {:.2}",
                t.gpu / n,
                t.wall / n,
                t.encode / n,
                t.submit / n
            ),
        );
    }
}

/// A step: one 4 KiB block by write_buffer, 160 chained dispatches that read it, one submit.
fn steps(p: &Probe) {
    let pipeline = p.pipeline(STEP_LINK);
    let data = [p.storage(4096), p.storage(4096)];
    let ends: Vec<_> = (0..2).map(|i| p.group(&pipeline, 0, &[(&data[i], 0, 4096), (&data[1 - i], 0, 4096)])).collect();
    let ring: Vec<_> = (0..3).map(|_| p.storage(4096)).collect();
    let blocks: Vec<_> = ring.iter().map(|b| p.group(&pipeline, 1, &[(b, 0, 4096)])).collect();
    let encode = |slot: usize| {
        p.queue.write_buffer(&ring[slot], 0, &[1; 4096]);
        let mut encoder = p.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(1, &blocks[slot], &[]);
        for i in 0..CHAIN {
            pass.set_bind_group(0, &ends[i % 2], &[]);
            pass.dispatch_workgroups(16, 1, 1);
        }
        drop(pass);
        encoder.finish()
    };
    for (name, n_ring, ahead) in [
        ("write, encode, submit, wait in turn", 3, 0),
        ("one in flight, the next encoded meanwhile", 3, 1),
        ("two in flight, ring of three", 3, 2),
        ("two in flight, one block for all", 1, 2),
    ] {
        let (mut flying, mut laps, mut last) = (std::collections::VecDeque::new(), Vec::new(), Instant::now());
        for i in 0..REPEATS * 2 + 4 {
            let commands = encode(i % n_ring);
            while !flying.is_empty() && flying.len() >= usize::max(ahead, 1) {
                p.wait(flying.pop_front());
            }
            flying.push_back(p.queue.submit([commands]));
            if ahead == 0 {
                p.wait(flying.pop_front());
            }
            laps.push(us(last));
            last = Instant::now();
        }
        p.wait(None);
        row(&format!("step of 160 dispatches, {name}: µs a step"), format!("{:.0}", median(laps.split_off(4))));
    }
}

/// RMS norm before a 4-bit matrix-vector product: not there, a kernel of its own, and two fusions.
fn norms(p: &Probe) {
    let (n, links, regions) = if p.cpu { (768u64, 2, 2) } else { (6144, 32, 8) };
    for k in [2048u64, 4096] {
        let size = n * k / 2;
        let weights = p.storage(size * regions);
        let [x, y, g] = [(); 3].map(|()| p.storage(4 * n.max(k)));
        let fill = |text: &str| text.replace("Ku", &format!("{k}u"));
        let norm = p.pipeline(&fill(NORM));
        let norm_group = p.group(&norm, 0, &[(&x, 0, 0), (&y, 0, 0), (&g, 0, 0)]);
        let squares = "dot(x[2u * k], x[2u * k]) + dot(x[2u * k + 1u], x[2u * k + 1u])";
        let cases = [
            ("matrix-vector product alone", "", "xv", "0.0", "1.0", false),
            ("norm kernel + product", "", "xv", "0.0", "1.0", true),
            ("fused, factor applied to the sum", "", "xg", squares, "inverseSqrt(part[i].z / f32(Ku) + 1e-5)", false),
            ("fused, normed x in workgroup memory", SHARED_PROLOGUE, "xw", "0.0", "norm", false),
        ];
        for (name, prologue, load, squares, factor, separate) in cases {
            let loads = "fn xv(i: u32) -> vec4<f32> { return x[i]; } fn xg(i: u32) -> vec4<f32> { return x[i] * g[i]; } fn xw(i: u32) -> vec4<f32> { return xs[i]; }\n";
            let shared = if prologue.is_empty() { "1".to_string() } else { (k / 4).to_string() };
            let text = MATVEC
                .replace("PROLOGUE", prologue)
                .replace("LOAD", load)
                .replace("SQUARES", squares)
                .replace("FACTOR", factor);
            // `g` stays statically used in every variant, so that all have the same bindings.
            let text =
                text.replace("SHARED", &shared).replace("0.01 *", "select(0.01, g[0].x, row > 0x7fffffffu) *") + loads;
            let product = p.pipeline(&fill(&text));
            let groups: Vec<_> = (0..links)
                .map(|i| {
                    let (from, to) = if separate || i % 2 == 1 { (&y, &x) } else { (&x, &y) };
                    p.group(
                        &product,
                        0,
                        &[(from, 0, 0), (to, 0, 0), (&g, 0, 0), (&weights, size * (i % regions), size)],
                    )
                })
                .collect();
            let t = p.time(REPEATS, |pass| {
                for group in &groups {
                    if separate {
                        pass.set_pipeline(&norm);
                        pass.set_bind_group(0, &norm_group, &[]);
                        pass.dispatch_workgroups(1, 1, 1);
                    }
                    pass.set_pipeline(&product);
                    pass.set_bind_group(0, group, &[]);
                    pass.dispatch_workgroups(n as u32 / 8, 1, 1);
                }
            });
            row(
                &format!("K {k}, N {n}, {name}: µs"),
                format!("GPU {:.1}, wall {:.1}", t.gpu / links as f64, t.wall / links as f64),
            );
        }
    }
}

fn stream(p: &Probe, max_binding: u64) {
    let size = u64::min(max_binding & !0xfff, if p.cpu { 64 << 20 } else { 2 << 30 });
    let (source, sink) = (p.storage(size), p.storage(16));
    let pipeline = p.pipeline(&STREAM.replace("COUNT", &(size / 16).to_string()));
    let group = p.group(&pipeline, 0, &[(&source, 0, size), (&sink, 0, 16)]);
    for workgroups in if p.cpu { [64u32, 128, 512] } else { [1024, 4096, 16384] } {
        let t = p.time(REPEATS, |pass| {
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(workgroups, 1, 1);
        });
        let per_pass = u64::from(workgroups) * 256 * 16 * 8;
        let bytes = (size / per_pass * per_pass) as f64;
        row(
            &format!("read-only stream of {} MiB, {workgroups} workgroups: GB/s", size >> 20),
            format!("{:.1} (wall {:.1})", bytes / t.gpu / 1e3, bytes / t.wall / 1e3),
        );
    }
}

fn uploads(p: &Probe) {
    let (size, chunk) = if p.cpu { (64u64 << 20, 8u64 << 20) } else { (1 << 30, 64 << 20) };
    let data = vec![7u8; size as usize];
    let time = |name: &str, run: &dyn Fn()| {
        let laps = (0..6)
            .map(|_| {
                let start = Instant::now();
                run();
                us(start)
            })
            .collect::<Vec<_>>()
            .split_off(1);
        row(
            &format!("upload of {} MiB (median of 5), {name}: GB/s", size >> 20),
            format!("{:.2}", size as f64 / median(laps) / 1e3),
        );
    };
    let target = p.storage(size);
    time("write_buffer in chunks, a submit each", &|| {
        for (at, part) in (0u64..).step_by(chunk as usize).zip(data.chunks(chunk as usize)) {
            p.queue.write_buffer(&target, at, part);
            p.queue.submit([]);
        }
        p.wait(None);
    });
    let ring: Vec<_> = (0..3).map(|_| p.buffer(chunk, Usage::MAP_WRITE | Usage::COPY_SRC)).collect();
    time("ring of 3 mapped chunks", &|| {
        let mut flying = [const { None }; 3];
        for (i, part) in data.chunks(chunk as usize).enumerate() {
            let stage = &ring[i % 3];
            stage.map_async(wgpu::MapMode::Write, .., |r| r.expect("the chunk is free"));
            match flying[i % 3].take() {
                Some(index) => p.wait(Some(index)),
                None => drop(p.device.poll(wgpu::PollType::Poll)),
            }
            stage.get_mapped_range_mut(..).expect("it is mapped").copy_from_slice(part);
            stage.unmap();
            let mut encoder = p.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(stage, 0, &target, i as u64 * chunk, chunk);
            flying[i % 3] = Some(p.queue.submit([encoder.finish()]));
        }
        p.wait(None);
    });
    let primary = p.device.features().contains(Features::MAPPABLE_PRIMARY_BUFFERS);
    for (name, usage) in [
        ("mapped at creation, through wgpu's staging", Usage::COPY_DST),
        ("mapped at creation, primary", Usage::COPY_DST | Usage::MAP_WRITE),
    ] {
        if primary || !usage.contains(Usage::MAP_WRITE) {
            time(name, &|| {
                let desc = wgpu::BufferDescriptor {
                    label: None,
                    size,
                    usage: usage | Usage::STORAGE,
                    mapped_at_creation: true,
                };
                let buffer = p.device.create_buffer(&desc);
                buffer.get_mapped_range_mut(..).expect("it is mapped").copy_from_slice(&data);
                buffer.unmap();
                p.queue.submit([]);
                p.wait(None);
            });
        }
    }
}

/// From submit to four bytes in hand, after one small dispatch.
fn readback(p: &Probe) {
    let pipeline = p.pipeline(&LINK.replace("ACCESS", "read").replace("SALT", "0"));
    let (x, y, read) = (p.storage(4096), p.storage(4096), p.buffer(4, Usage::MAP_READ | Usage::COPY_DST));
    let group = p.group(&pipeline, 0, &[(&x, 0, 4096), (&y, 0, 4096)]);
    for spin in [true, false] {
        let laps = (0..REPEATS)
            .map(|_| {
                let mut encoder = p.device.create_command_encoder(&Default::default());
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&pipeline);
                pass.set_bind_group(0, &group, &[]);
                pass.dispatch_workgroups(16, 1, 1);
                drop(pass);
                encoder.copy_buffer_to_buffer(&y, 0, &read, 0, 4);
                let start = Instant::now();
                p.queue.submit([encoder.finish()]);
                let done = std::sync::Arc::new(AtomicU32::new(0));
                let flag = done.clone();
                read.map_async(wgpu::MapMode::Read, .., move |_| flag.store(1, Ordering::Release));
                while done.load(Ordering::Acquire) == 0 {
                    if spin { drop(p.device.poll(wgpu::PollType::Poll)) } else { p.wait(None) }
                }
                black_box(read.get_mapped_range(..).expect("it is mapped")[0]);
                read.unmap();
                us(start)
            })
            .collect();
        let how = if spin { "poll in a loop" } else { "poll(Wait)" };
        row(&format!("read-back of 4 bytes after one dispatch, {how}: µs"), format!("{:.0}", median(laps)));
    }
}

/// Pipelines that differ in a constant; the salt starts at the clock, so that no cache on disk knows them.
fn pipelines(p: &Probe) {
    let clock = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.subsec_nanos() / 2);
    let salt = AtomicU32::new(clock);
    for count in [60, 500] {
        for n_threads in [1, 4, 8] {
            let (left, start) = (AtomicU32::new(count), Instant::now());
            std::thread::scope(|scope| {
                for _ in 0..n_threads {
                    scope.spawn(|| {
                        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                            let salt = salt.fetch_add(1, Ordering::Relaxed).to_string();
                            black_box(p.pipeline(&LINK.replace("ACCESS", "read").replace("SALT", &salt)));
                        }
                    });
                }
            });
            row(&format!("{count} distinct pipelines on {n_threads} threads: ms"), format!("{:.0}", us(start) / 1e3));
        }
    }
}
