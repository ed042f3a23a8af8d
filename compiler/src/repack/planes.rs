//! How codes of a row lie in [`Layout::Packed`](ingot_ir::weight::Layout::Packed): what `shaders/lib/planes.wgsl`,
//! `slot/weight_fp4.wgsl` and `slot/weight_fp8.wgsl` read, where the reasons are.

use ingot_ir::weight::Format;

/// An order of a row's bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Arrangement {
    kind: Kind,
    /// Whether a block's eights change places.
    turned: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// As stored.
    Plain,
    /// Codes of so many bits, in planes.
    Codes(u32),
    /// Places of 4 bits in a table, two a byte: codes 0 and 4, 1 and 5, 2 and 6, 3 and 7 of eight.
    Places,
    /// Numbers of 4 bits, the bits of each four spread over 16.
    Fp4,
}

impl Arrangement {
    /// Of the rows of a format.
    pub(super) fn of(format: Format, n_cols: u32) -> Self {
        let kind = match format {
            Format::F32 | Format::F16 | Format::Bf16 => Kind::Plain,
            Format::Affine { bits, .. } => Kind::Codes(bits.into()),
            Format::K(k) if k.has_table() => Kind::Places,
            Format::K(k) => Kind::Codes(k.bits()),
            // Two bytes a pair of columns, as codes.
            Format::Mxfp8 => Kind::Codes(8),
            Format::Mxfp4 | Format::Nvfp4 { .. } => Kind::Fp4,
        };
        Self { kind, turned: n_cols.is_multiple_of(32) }
    }

    /// Bits of a column in a block's low words.
    fn low_bits(self) -> u32 {
        match self.kind {
            Kind::Plain => 0,
            Kind::Codes(bits) => 1 << bits.ilog2(),
            Kind::Places | Kind::Fp4 => 4,
        }
    }

    /// Bytes of a row's low plane, of a row of `code_bytes` bytes; the others are its high plane.
    pub(super) fn low_row_bytes(self, code_bytes: u64) -> u64 {
        match self.kind {
            Kind::Codes(bits) => code_bytes / u64::from(bits) * u64::from(self.low_bits()),
            Kind::Plain | Kind::Places | Kind::Fp4 => code_bytes,
        }
    }

    /// Eights of a block.
    fn eights(self) -> usize {
        if self.low_bits() == 8 { 2 } else { 4 }
    }

    /// The eight of a row that lies at place `place`, both counted through the row.
    fn eight_at(self, place: usize) -> usize {
        if !self.turned {
            return place;
        }
        let block = place / self.eights();
        place ^ if self.eights() == 2 { block / 4 % 2 } else { block / 2 % 4 }
    }

    /// Fills `out` with bytes `within ..` of a row's low plane.
    pub(super) fn fill_low(self, row: &[u8], within: usize, out: &mut [u8]) {
        match self.kind {
            Kind::Plain => out.copy_from_slice(&row[within..within + out.len()]),
            Kind::Codes(1) => self.low_halves::<1>(row, within, out),
            Kind::Codes(2) => self.low_pairs::<2>(row, within, out),
            Kind::Codes(3) => self.low_pairs::<3>(row, within, out),
            Kind::Codes(4) => self.words(row, within, out, |word| word),
            Kind::Codes(5) => self.nibbles::<5>(row, within, out),
            Kind::Codes(6) => self.nibbles::<6>(row, within, out),
            Kind::Codes(_) => self.bytes(row, within, out),
            Kind::Places => self.words(row, within, out, places_word),
            Kind::Fp4 => self.words(row, within, out, fp4_word),
        }
    }

    /// Fills `out` with bytes `within ..` of a row's high plane.
    pub(super) fn fill_high(self, row: &[u8], within: usize, out: &mut [u8]) {
        match self.kind {
            Kind::Codes(3) => self.high_bits::<3>(row, within, out),
            Kind::Codes(5) => self.high_bits::<5>(row, within, out),
            Kind::Codes(6) => self.high_pairs::<6>(row, within, out),
            _ => {}
        }
    }

    /// Codes of 8 bits, whole.
    fn bytes(self, row: &[u8], within: usize, out: &mut [u8]) {
        self.eights_of::<16, 8>(row, within, out, |place, codes, bytes| {
            bytes[8 * place..][..8].copy_from_slice(&interleave_bytes(codes).to_le_bytes());
        });
    }

    /// Codes of 4 bits, eight a word.
    fn words(self, row: &[u8], within: usize, out: &mut [u8], order: impl Fn(u32) -> u32) {
        let word = |place: usize, word: &mut [u8]| {
            let eight = self.eight_at(place);
            let stored = u32::from_le_bytes(std::array::from_fn(|ix| row[4 * eight + ix]));
            word.copy_from_slice(&order(stored).to_le_bytes());
        };
        if self.turned {
            for_blocks::<16>(within, out, |block, bytes| {
                bytes.chunks_exact_mut(4).enumerate().for_each(|(ix, bytes)| word(4 * block + ix, bytes));
            });
        } else {
            for_blocks::<4>(within, out, |place, bytes| word(place, bytes));
        }
    }

    /// The low four bits of codes.
    fn nibbles<const BITS: u32>(self, row: &[u8], within: usize, out: &mut [u8]) {
        self.eights_of::<16, BITS>(row, within, out, |place, codes, bytes| {
            let word = narrow::<4>(codes) as u32;
            bytes[4 * place..][..4].copy_from_slice(&word.to_le_bytes());
        });
    }

    /// The low two bits of codes.
    fn low_pairs<const BITS: u32>(self, row: &[u8], within: usize, out: &mut [u8]) {
        self.eights_of::<8, BITS>(row, within, out, put_pairs);
    }

    /// The low bit of codes.
    fn low_halves<const BITS: u32>(self, row: &[u8], within: usize, out: &mut [u8]) {
        self.eights_of::<4, BITS>(row, within, out, put_bits);
    }

    /// The highest bit of codes of 3 and 5 bits.
    fn high_bits<const BITS: u32>(self, row: &[u8], within: usize, out: &mut [u8]) {
        self.eights_of::<4, BITS>(row, within, out, |place, codes, bytes| put_bits(place, codes >> (BITS - 1), bytes));
    }

    /// The two highest bits of codes.
    fn high_pairs<const BITS: u32>(self, row: &[u8], within: usize, out: &mut [u8]) {
        self.eights_of::<8, BITS>(row, within, out, |place, codes, bytes| put_pairs(place, codes >> (BITS - 2), bytes));
    }

    /// Blocks of `BYTES` bytes, to which `put` adds each eight: its place in the block and its codes, a byte each.
    fn eights_of<const BYTES: usize, const BITS: u32>(
        self,
        row: &[u8],
        within: usize,
        out: &mut [u8],
        put: impl Fn(usize, u64, &mut [u8; BYTES]),
    ) {
        for_blocks::<BYTES>(within, out, |block, bytes| {
            for place in 0..self.eights() {
                let eight = self.eight_at(block * self.eights() + place);
                put(place, eight_codes::<BITS>(row, eight), bytes);
            }
        });
    }
}

/// Fills `out` with bytes `within ..` of blocks that `fill` makes from zeros.
fn for_blocks<const BYTES: usize>(within: usize, out: &mut [u8], fill: impl Fn(usize, &mut [u8; BYTES])) {
    let mut at = 0;
    while at < out.len() {
        let byte = within + at;
        let mut bytes = [0; BYTES];
        fill(byte / BYTES, &mut bytes);
        let first = byte % BYTES;
        let n = (BYTES - first).min(out.len() - at);
        out[at..at + n].copy_from_slice(&bytes[first..first + n]);
        at += n;
    }
}

/// Two bits of each code: a word for two eights, four columns of each in either half.
fn put_pairs(place: usize, codes: u64, bytes: &mut [u8; 8]) {
    let [first, last, ..] = narrow::<2>(codes).to_le_bytes();
    let at = place / 2 * 4 + place % 2;
    (bytes[at], bytes[at + 2]) = (first, last);
}

/// One bit of each code: a word for four eights, four columns of each in either half.
fn put_bits(place: usize, codes: u64, bytes: &mut [u8; 4]) {
    let [both, ..] = narrow::<1>(codes).to_le_bytes();
    let shift = 4 * (place % 2);
    bytes[place / 2] |= (both & 15) << shift;
    bytes[place / 2 + 2] |= (both >> 4) << shift;
}

/// Codes of `BITS` bits of a row's eight columns, a byte each.
fn eight_codes<const BITS: u32>(row: &[u8], eight: usize) -> u64 {
    let n = BITS as usize;
    let mut stored = [0; 8];
    stored[..n].copy_from_slice(&row[eight * n..][..n]);
    let codes = u64::from_le_bytes(stored);
    if BITS == 8 {
        return codes;
    }
    let fours = (codes & const { ones(4 * BITS, 64) }) | ((codes >> (4 * BITS)) & const { ones(4 * BITS, 64) }) << 32;
    let twos = (fours & const { ones(2 * BITS, 32) })
        | (fours & const { ones(2 * BITS, 32) << (2 * BITS) }) << (16 - 2 * BITS);
    (twos & const { ones(BITS, 16) }) | (twos & const { ones(BITS, 16) << BITS }) << (8 - BITS)
}

/// The low `BITS` bits (4 at most) of eight bytes, side by side.
fn narrow<const BITS: u32>(codes: u64) -> u64 {
    let ones_each = codes & const { ones(BITS, 8) };
    let twos = (ones_each & const { ones(BITS, 16) }) | (ones_each >> (8 - BITS)) & const { ones(BITS, 16) << BITS };
    let fours =
        (twos & const { ones(2 * BITS, 32) }) | (twos >> (16 - 2 * BITS)) & const { ones(2 * BITS, 32) << (2 * BITS) };
    (fours & const { ones(4 * BITS, 64) }) | (fours >> 32) << (4 * BITS)
}

/// `n` ones, again every `period` bits.
const fn ones(n: u32, period: u32) -> u64 {
    let one = if n >= 64 { u64::MAX } else { (1 << n) - 1 };
    let mut mask = 0;
    let mut at = 0;
    while at < 64 {
        mask |= one << at;
        at += period;
    }
    mask
}

/// Bytes of columns 0 to 7 in the order of two words: columns 0, 1, 4, 5 and 2, 3, 6, 7.
fn interleave_bytes(codes: u64) -> u64 {
    (codes & 0xffff_0000_0000_ffff) | ((codes >> 16) & 0xffff_0000) | ((codes & 0xffff_0000) << 16)
}

/// Codes of eight columns, those of columns j and j + 4 in byte j.
fn places_word(codes: u32) -> u32 {
    let spread = |codes: u32| {
        let pairs = (codes & 0xff) | (codes & 0xff00) << 8;
        (pairs & 0x000f_000f) | (pairs & 0x00f0_00f0) << 4
    };
    spread(codes & 0xffff) | spread(codes >> 16) << 4
}

/// Numbers of 4 bits (three of size, then a sign) of eight columns: of the four in each half of the word sizes go to bits 9,
/// 12, 1 and 4 and above, signs to bits 15, 8, 7 and 0.
fn fp4_word(codes: u32) -> u32 {
    let part = |at: u32, n: u32, to: u32| ((codes >> at) & (0x0001_0001 * n)) << to;
    let sizes = part(0, 7, 9) | part(4, 7, 12) | part(8, 7, 1) | part(12, 7, 4);
    sizes | part(3, 1, 15) | part(7, 1, 8) | part(11, 1, 7) | part(15, 1, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A code of a row's low-first bit stream.
    fn code(row: &[u8], bits: u32, column: usize) -> u32 {
        (0..bits as usize)
            .map(|ix| column * bits as usize + ix)
            .fold(0, |code, bit| code | u32::from(row[bit / 8] >> (bit % 8) & 1) << (bit % bits as usize))
    }

    #[test]
    fn places_meet_in_bytes() {
        assert_eq!(places_word(0x7654_3210), 0x7362_5140);
    }

    #[test]
    fn eights_widen_and_narrow() {
        let row: Vec<u8> = (0..64u32).map(|ix| (ix * 151 + 13) as u8).collect();
        let check = |codes: u64, bits: u32, eight: usize| {
            for (ix, byte) in codes.to_le_bytes().into_iter().enumerate() {
                assert_eq!(u32::from(byte), code(&row, bits, 8 * eight + ix), "{bits} bits, column {ix}");
            }
        };
        for eight in 0..7 {
            check(eight_codes::<1>(&row, eight), 1, eight);
            check(eight_codes::<2>(&row, eight), 2, eight);
            check(eight_codes::<3>(&row, eight), 3, eight);
            check(eight_codes::<5>(&row, eight), 5, eight);
            check(eight_codes::<6>(&row, eight), 6, eight);
            check(eight_codes::<8>(&row, eight), 8, eight);
            let bits =
                |codes: u64, n: u32| (0..8).map(|ix| (codes >> (8 * ix) & ((1 << n) - 1)) << (n * ix)).sum::<u64>();
            let codes = eight_codes::<8>(&row, eight);
            assert_eq!(
                [narrow::<1>(codes), narrow::<2>(codes), narrow::<4>(codes)],
                [bits(codes, 1), bits(codes, 2), bits(codes, 4)]
            );
        }
    }
}
