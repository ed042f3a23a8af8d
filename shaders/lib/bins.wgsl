// Bins over how far logits lie below their row's greatest: how many are in each, and their mass, the sum of exp(-distance),
// in units of 2^-40 of 64 bits, since sums of integers do not depend on their order. A row's bins are three tables:
// counts, low words and high words of the masses; two words of lib/gathered follow. 12 bytes of workgroup memory a bin. No bin
// holds tokens that may not come.

const BINS = 256u;
const BIN_WORDS = 3u * BINS + 2u;
// Bins of one natural logarithm; the last bin holds all that is farther.
const BINS_EACH = 8.0;
// A distance that only logits have which stand for what may not come (choice::LEAST_LOGIT).
const FORBIDDEN = 9e37;

var<workgroup> bin_counts: array<atomic<u32>, BINS>;
var<workgroup> bin_lows: array<atomic<u32>, BINS>;
var<workgroup> bin_highs: array<atomic<u32>, BINS>;

fn bin_of(distance: f32) -> u32 { return u32(min(distance * BINS_EACH, f32(BINS - 1u))); }

// Gaps (a distance's bits, which grow with it) of a bin: from the first to before the end.
fn bin_start(bin: u32) -> u32 { return bitcast<u32>(f32(bin) * (1.0 / BINS_EACH)); }
fn bin_end(bin: u32) -> u32 { return select(bin_start(bin + 1u), bitcast<u32>(FORBIDDEN), bin == BINS - 1u); }

fn empty_bins(thread: u32) {
    for (var bin = thread; bin < BINS; bin += WG) {
        atomicStore(&bin_counts[bin], 0u);
        atomicStore(&bin_lows[bin], 0u);
        atomicStore(&bin_highs[bin], 0u);
    }
}

fn add_to_bin(bin: u32, distance: f32) {
    let units = exp(-distance) * 256.0;
    let whole = floor(units);
    let low = u32((units - whole) * 4294967296.0);
    atomicAdd(&bin_counts[bin], 1u);
    let before = atomicAdd(&bin_lows[bin], low);
    atomicAdd(&bin_highs[bin], u32(whole) + select(0u, 1u, before + low < before));
}

// A mass as a number.
fn mass_of(low: u32, high: u32) -> f32 { return f32(high) * 0.00390625 + f32(low) * 9.094947017729282e-13; }
