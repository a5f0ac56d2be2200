//! One discretised logistic: the probability of the bin around a value, and where a mixture's numbers stand in a pixel.

use crate::ops::unary::{Function, sigmoid};
use crate::real::Real;

/// Log scales are at least this; no gradient passes strictly below.
pub(super) const LOG_SCALE_FLOOR: f64 = -7.0;

/// Below it the lowest bin reaches to minus infinity.
const LOWEST: f64 = -0.999;
/// Above it the highest bin reaches to infinity.
const HIGHEST: f64 = 0.99;
/// Bins of smaller probability are scored by their density.
const SMALLEST_BIN: f64 = 1e-5;

/// Where the numbers of a mixture stand among a pixel's `10 m` channels: `m` logits, then for each colour `m` means, `m` log
/// scales and `m` coefficients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// The number of components.
    pub components: usize,
}

impl Layout {
    pub fn of_channels(channels: usize) -> Self {
        Layout {
            components: channels / 10,
        }
    }

    pub fn mean(self, colour: usize, k: usize) -> usize {
        self.components * (1 + 3 * colour) + k
    }

    pub fn log_scale(self, colour: usize, k: usize) -> usize {
        self.components * (2 + 3 * colour) + k
    }

    pub fn coefficient(self, colour: usize, k: usize) -> usize {
        self.components * (3 + 3 * colour) + k
    }
}

/// A log-probability with its derivatives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bin<T> {
    pub log_p: T,
    pub by_mean: T,
    pub by_log_scale: T,
}

/// The log-probability of value `y` in [-1, 1], one of `levels + 1`, under a logistic.
///
/// With `i = exp(-log_scale)`, `d = y - mean`, `plus = i (d + 1 / levels)`, `min = i (d - 1 / levels)` the bin has probability
/// `D = sigma(plus) - sigma(min)`. It is taken as `sigma(plus) sigma(-min) (1 - exp(min - plus))`, which is the same without
/// cancellation; likewise `d ln D / d d = i (1 - sigma(plus) - sigma(min))`. Each branch has its own derivative, so an infinity of a
/// branch that is not taken reaches nothing.
pub(super) fn bin<T: Real>(y: T, mean: T, log_scale: T, levels: T) -> Bin<T> {
    let softplus = |x: T| Function::Softplus.value(x);
    let one = T::one();
    let floored = log_scale < T::of(LOG_SCALE_FLOOR);
    let s = if floored {
        T::of(LOG_SCALE_FLOOR)
    } else {
        log_scale
    };
    let i = (-s).exp();
    let mid = i * (y - mean);
    let half = i / levels;
    let (plus, min) = (mid + half, mid - half);
    let open = -(-(half + half)).exp_m1();
    let probability = sigmoid(plus) * sigmoid(-min) * open;
    let (log_p, by_mean, by_scale) = if y < T::of(LOWEST) {
        let slope = sigmoid(-plus);
        (plus - softplus(plus), -i * slope, -plus * slope)
    } else if y > T::of(HIGHEST) {
        let slope = -sigmoid(min);
        (-softplus(min), -i * slope, -min * slope)
    } else if probability > T::of(SMALLEST_BIN) {
        let slope = sigmoid(-plus) - sigmoid(min);
        let width = (sigmoid(-plus) / sigmoid(-min) + sigmoid(min) / sigmoid(plus)) / open;
        (probability.ln(), -i * slope, -mid * slope - half * width)
    } else {
        let slope = sigmoid(-mid) - sigmoid(mid);
        let log_p = mid - s - softplus(mid) - softplus(mid) - (levels / T::of(2.0)).ln();
        (log_p, -i * slope, -one - mid * slope)
    };
    Bin {
        log_p,
        by_mean,
        by_log_scale: if floored { T::zero() } else { by_scale },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bin's probability straight from its definition.
    fn plain(y: f64, mean: f64, s: f64, levels: f64) -> f64 {
        let i = (-s).exp();
        let edge = |shift: f64| 1.0 / (1.0 + (-i * (y - mean + shift)).exp());
        if y < -0.999 {
            edge(1.0 / levels).ln()
        } else if y > 0.99 {
            (1.0 - edge(-1.0 / levels)).ln()
        } else {
            (edge(1.0 / levels) - edge(-1.0 / levels)).ln()
        }
    }

    #[test]
    fn bins_have_the_probability_of_their_definition() {
        for y in [-1.0, -0.6, 0.0, 0.3, 0.98, 1.0] {
            for (mean, s) in [(0.1, -2.0), (-0.4, -3.0), (0.9, 0.5), (y, -7.0)] {
                let want = plain(y, mean, s, 255.0);
                if want > SMALLEST_BIN.ln() {
                    let got = bin(y, mean, s, 255.0).log_p;
                    assert!((got - want).abs() < 1e-9, "{y} {mean} {s}: {got} {want}");
                }
            }
        }
    }

    #[test]
    fn the_probabilities_of_all_bins_sum_to_one() {
        let levels = 31.0;
        let total: f64 = (0..32)
            .map(|k| {
                bin(f64::from(k) / levels * 2.0 - 1.0, 0.2, -1.5, levels)
                    .log_p
                    .exp()
            })
            .sum();
        // The branch on y > 0.99 takes only the last of these bins, the one on y < -0.999 only the first.
        assert!((total - 1.0).abs() < 1e-12, "{total}");
    }

    #[test]
    fn far_from_its_mean_a_value_has_finite_numbers() {
        for y in [-1.0f32, 0.1, 1.0] {
            for mean in [-300.0f32, 300.0] {
                for s in [-50.0f32, 40.0] {
                    let b = bin(y, mean, s, 255.0);
                    assert!(
                        [b.log_p, b.by_mean, b.by_log_scale]
                            .iter()
                            .all(|v| v.is_finite()),
                        "{y} {mean} {s}: {b:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_log_scale_has_no_gradient_strictly_below_its_floor() {
        assert_eq!(bin(0.0f64, 0.1, -7.01, 255.0).by_log_scale, 0.0);
        assert!(bin(0.0f64, 0.1, -7.0, 255.0).by_log_scale.abs() > 1.0);
    }
}
