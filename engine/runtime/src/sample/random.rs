//! Counter-based random numbers: a number is a function of (seed, position), so that rows of a batch are independent
//! and a rolled-back step draws the same number again.

/// SplitMix64 (Steele, Lea and Flood 2014), started at a hash of seed and counter.
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of one position.
    pub fn at(seed: u64, position: u32) -> Self {
        let mut start = Self { state: seed };
        let hashed = start.next() ^ u64::from(position).wrapping_mul(0xD1B5_4A32_D192_ED03);
        Self { state: hashed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
