//! What a device can do at most, measured where the model runs: the limits that speeds are shares of.

/// Limits of a device.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ceilings {
    /// Reading memory that no cache holds, in 10^9 bytes a second.
    pub read_gb_s: f64,
    /// Single-precision multiplications with addition that need no memory, in 10^9 operations a second, two each.
    /// Matrix units, where there are some, are faster.
    pub gflop_s: f64,
}

impl Ceilings {
    /// Seconds that work takes at least.
    pub fn least_s(&self, bytes: u64, flops: u64) -> f64 {
        f64::max(bytes as f64 / self.read_gb_s.max(1e-9), flops as f64 / self.gflop_s.max(1e-9)) / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_the_two_decides() {
        let ceilings = Ceilings { read_gb_s: 2.0, gflop_s: 10.0 };
        assert_eq!(ceilings.least_s(4_000_000_000, 1_000_000_000), 2.0);
        assert_eq!(ceilings.least_s(4_000_000_000, 50_000_000_000), 5.0);
    }
}
