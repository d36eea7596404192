//! How long a server's answers usually take.

/// Samples kept.
const KEPT: usize = 64;
/// The percentile is worked out anew after so many samples.
const EVERY: u32 = 16;

/// The 95th percentile of the last answers' delays, in microseconds.
#[derive(Clone, Debug)]
pub struct Latency {
    samples: [u32; KEPT],
    count: u32,
    p95: u32,
}

impl Default for Latency {
    /// No answer yet.
    fn default() -> Self {
        Self { samples: [0; KEPT], count: 0, p95: 0 }
    }
}

impl Latency {
    /// An answer took `micros`.
    pub fn record(&mut self, micros: u32) {
        self.samples[self.count as usize % KEPT] = micros;
        self.count = self.count.wrapping_add(1);
        if self.count.is_multiple_of(EVERY) {
            let n = (self.count as usize).min(KEPT);
            let mut sorted = self.samples;
            sorted[..n].sort_unstable();
            self.p95 = sorted[(n * 95 / 100).min(n - 1)];
        }
    }

    /// The percentile; 0 until there are enough samples.
    pub fn p95(&self) -> u32 {
        self.p95
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nineteen_of_twenty_are_faster() {
        let mut l = Latency::default();
        for i in 0..64 {
            l.record(if i % 16 == 0 { 9000 } else { 100 });
        }
        assert_eq!(l.p95(), 9000);
        for _ in 0..64 {
            l.record(100);
        }
        assert_eq!(l.p95(), 100);
    }
}
