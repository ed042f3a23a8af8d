//! How much memory opening and converting take: some rows, whatever the file's size.
#![allow(unsafe_code)]

use ingot_models::Model;
use ingot_models::convert::{ConvertOptions, GgufType, convert, convert_gguf};
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counted.
struct Counted;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// Most bytes besides those that were there before.
fn most_of(f: impl FnOnce()) -> usize {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    f();
    MOST.load(Ordering::Relaxed) - before
}

const WIDTH: u64 = 4096;
const N_VOCAB: u64 = 24 << 10;

/// A Llama of one layer in Q8_0, of zeros that take no place on the disk. Gives its bytes.
fn write_file(path: &Path) -> u64 {
    let text = |text: &str, out: &mut Vec<u8>| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let numbers = [
        ("block_count", 1u32),
        ("context_length", 64),
        ("embedding_length", WIDTH as u32),
        ("feed_forward_length", 256),
        ("attention.head_count", 32),
        ("attention.head_count_kv", 1),
    ];
    let layer = [
        ("attn_q", WIDTH, WIDTH),
        ("attn_k", 128, WIDTH),
        ("attn_v", 128, WIDTH),
        ("attn_output", WIDTH, WIDTH),
        ("ffn_gate", 256, WIDTH),
        ("ffn_up", 256, WIDTH),
        ("ffn_down", WIDTH, 256),
        ("attn_norm", WIDTH, 0),
        ("ffn_norm", WIDTH, 0),
    ];
    let mut tensors = vec![("token_embd".to_owned(), N_VOCAB, WIDTH), ("output_norm".to_owned(), WIDTH, 0)];
    tensors.extend(layer.map(|(name, n_rows, n_cols)| (format!("blk.0.{name}"), n_rows, n_cols)));
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((numbers.len() as u64 + 1).to_le_bytes());
    text("general.architecture", &mut out);
    out.extend(8u32.to_le_bytes());
    text("llama", &mut out);
    for (key, number) in numbers {
        text(&format!("llama.{key}"), &mut out);
        out.extend(4u32.to_le_bytes());
        out.extend(number.to_le_bytes());
    }
    let mut at = 0u64;
    for (name, n_rows, n_cols) in tensors {
        text(&format!("{name}.weight"), &mut out);
        let (sizes, kind, n_bytes) = match n_cols {
            0 => (vec![n_rows], 0u32, n_rows * 4),
            _ => (vec![n_cols, n_rows], 8, n_rows * n_cols / 32 * 34),
        };
        out.extend((sizes.len() as u32).to_le_bytes());
        sizes.iter().for_each(|size| out.extend(size.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(at.to_le_bytes());
        at = (at + n_bytes).next_multiple_of(32);
    }
    let n_bytes = out.len() as u64 + 32 + at;
    let mut file = File::create(path).expect("a temporary file");
    file.write_all(&out).expect("a temporary file");
    file.set_len(n_bytes).expect("a temporary file");
    n_bytes
}

#[test]
fn memory_does_not_grow_with_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("model.gguf");
    let n_bytes = write_file(&file) as usize;
    let opened = most_of(|| {
        let model = Model::open(&file).unwrap_or_else(|error| panic!("{error}"));
        model.graph().unwrap_or_else(|error| panic!("{error}"));
    });
    assert!(opened < 4 << 20, "{opened} bytes to open a file of {n_bytes}");
    // A few MiB of rows for each thread, and the scales of one matrix.
    let bound = (24 << 20) + (12 << 20) * std::thread::available_parallelism().map_or(1, usize::from);
    let repack = ConvertOptions { repack: true, ..ConvertOptions::default() };
    let mlx = most_of(|| {
        convert(&file, &folder.path().join("mlx"), &repack, &mut |_, _| true).unwrap_or_else(|error| panic!("{error}"));
    });
    let kind = GgufType::parse("q4_0").expect("a type");
    let gguf = most_of(|| {
        let out = folder.path().join("out.gguf");
        convert_gguf(&file, &out, kind, &mut |_, _| true).unwrap_or_else(|error| panic!("{error}"));
    });
    println!("a file of {n_bytes} bytes: {opened} to open, {mlx} to repack, {gguf} to quantize, of {bound}");
    assert!(mlx < bound && gguf < bound, "{mlx} and {gguf} bytes, allowed {bound}");
}
