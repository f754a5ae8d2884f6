//! Normal and beta variates of a keyed stream: pure functions of its key, the same bits on every
//! platform.

use crate::rng::Stream;
use depo_structures::portable::{exp, ln};

/// Numbers drawn one after another from a stream.
#[derive(Debug, Clone, Copy)]
pub struct Variates {
    stream: Stream,
    counter: u64,
}

impl Variates {
    /// Starts with the stream's first draw.
    pub const fn new(stream: Stream) -> Self {
        Self { stream, counter: 0 }
    }

    /// Uniform number in (0, 1].
    pub fn unit(&mut self) -> f64 {
        self.counter += 1;
        1.0 - self.stream.unit(self.counter - 1)
    }

    /// Standard normal number (Marsaglia and Bray, "A convenient method for generating normal
    /// variables", SIAM Review 1964).
    pub fn normal(&mut self) -> f64 {
        loop {
            let (across, up) = (2.0 * self.unit() - 1.0, 2.0 * self.unit() - 1.0);
            let radius = across * across + up * up;
            if radius > 0.0 && radius < 1.0 {
                return across * (-2.0 * ln(radius) / radius).sqrt();
            }
        }
    }

    /// Logarithm of a gamma variate of any shape above 0: of shape + 1 (Marsaglia and Tsang, "A
    /// simple method for generating gamma variables", ACM TOMS 2000), times U^(1 / shape), which
    /// would underflow for small shapes.
    fn ln_gamma(&mut self, shape: f64) -> f64 {
        let d = shape + 2.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let normal = self.normal();
            let root = 1.0 + c * normal;
            if root <= 0.0 {
                continue;
            }
            let (cube, ln_cube) = (root * root * root, 3.0 * ln(root));
            if ln(self.unit()) < normal * normal / 2.0 + d * (1.0 - cube + ln_cube) {
                return ln(d) + ln_cube + ln(self.unit()) / shape;
            }
        }
    }

    /// Beta variate of shapes above 0, in [0, 1].
    pub fn beta(&mut self, alpha: f64, beta: f64) -> f64 {
        let (successes, failures) = (self.ln_gamma(alpha), self.ln_gamma(beta));
        1.0 / (1.0 + exp(failures - successes))
    }
}
