//! The Normal distribution of one element, from the two numbers a network gives for it.
//!
//! `mu = scl(m)`, `sigma = (exp(scl(s)) + 0.01) temperature` with `scl(x) = 5 tanh(x / 5)`; stage 2 scores images with
//! `max(scl(s), -2)` in the exponent.

use crate::ensure_shape;
use crate::ops::ShapeError;
use crate::ops::unary::Function;
use crate::real::Real;
use crate::tensor::Shape;

/// Added to every sigma.
pub(crate) const SIGMA_OFFSET: f64 = 0.01;
/// The floor of `log_sigma` where there is one.
pub(crate) const LOG_SIGMA_FLOOR: f64 = -2.0;
/// `ln(2 pi) / 2`.
pub(crate) const HALF_LN_2PI: f64 = 0.918_938_533_204_672_8;

/// How a Normal is made from a network's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Law {
    /// Factor of sigma.
    pub temperature: f64,
    /// Whether `log_sigma` has a floor; its gradient is zero strictly below it.
    pub floor: bool,
}

impl Law {
    /// Without a floor.
    pub fn at(temperature: f64) -> Self {
        Law {
            temperature,
            floor: false,
        }
    }
}

/// A Normal distribution with the slopes of its parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gaussian<T> {
    /// The mean.
    pub mu: T,
    /// The standard deviation.
    pub sigma: T,
    /// Derivative of `mu` by the network's first number.
    pub mu_slope: T,
    /// Derivative of `sigma` by the network's second number.
    pub sigma_slope: T,
}

impl<T: Real> Gaussian<T> {
    /// The distribution that a network's two numbers stand for.
    pub fn new(law: Law, mu: T, log_sigma: T) -> Self {
        let clamp = Function::SoftClamp;
        let exponent = clamp.value(log_sigma);
        let below = law.floor && exponent < T::of(LOG_SIGMA_FLOOR);
        let (exponent, slope) = if below {
            (T::of(LOG_SIGMA_FLOOR), T::zero())
        } else {
            (exponent, clamp.derivative(log_sigma))
        };
        let spread = exponent.exp();
        let temperature = T::of(law.temperature);
        Gaussian {
            mu: clamp.value(mu),
            sigma: (spread + T::of(SIGMA_OFFSET)) * temperature,
            mu_slope: clamp.derivative(mu),
            sigma_slope: spread * slope * temperature,
        }
    }

    /// The log-density of a point that lies `deviations` standard deviations from the mean.
    pub fn log_density(&self, deviations: T) -> T {
        T::of(-0.5) * deviations * deviations - T::of(HALF_LN_2PI) - self.sigma.ln()
    }
}

/// The places of one element: in a tensor of latents or pixels `[n, .., c]`, and in that of its parameters `[n, .., 2 c]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element {
    /// The sample.
    pub n: usize,
    /// The channel.
    pub c: usize,
    /// In the tensor itself.
    pub z: usize,
    /// Of its mean.
    pub mu: usize,
    /// Of its log sigma.
    pub log_sigma: usize,
}

/// All elements whose parameters have this shape, in order.
pub(crate) fn elements(params: Shape) -> impl Iterator<Item = Element> {
    let channels = params.last() / 2;
    let positions = params.rows() / params[0].max(1);
    (0..params.rows()).flat_map(move |row| {
        (0..channels).map(move |c| Element {
            n: row / positions.max(1),
            c,
            z: row * channels + c,
            mu: 2 * row * channels + c,
            log_sigma: (2 * row + 1) * channels + c,
        })
    })
}

/// Checks that parameters `[n, .., 2 c]` fit a tensor `[n, .., c]`.
pub(crate) fn check(params: Shape, z: Shape) -> Result<(), ShapeError> {
    ensure_shape!(
        params.rank() >= 2 && z.rank() == params.rank() && z.with_last(2 * z.last()) == params,
        "distribution parameters [n, .., 2 c] of shape {params} do not fit a tensor [n, .., c] of shape {z}"
    );
    Ok(())
}

/// The shape `[n]` of a number per sample.
pub(crate) fn per_sample(shape: Shape) -> Shape {
    Shape::new(&[shape[0]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOORED: Law = Law {
        temperature: 1.0,
        floor: true,
    };

    #[test]
    fn sigma_keeps_its_offset_and_the_top_prior_is_1_01() {
        assert_eq!(Gaussian::new(Law::at(1.0), 0.0, 0.0).sigma, 1.01f64);
        assert_eq!(Gaussian::new(Law::at(0.5), 0.0, 0.0).sigma, 0.505f64);
    }

    #[test]
    fn the_floor_has_no_gradient_strictly_below_and_the_whole_one_at_and_above() {
        let at = 5.0 * (-0.4f64).atanh();
        let below = Gaussian::new(FLOORED, 0.0, at - 1e-9);
        let above = Gaussian::new(FLOORED, 0.0, at + 1e-9);
        assert_eq!(below.sigma, (-2.0f64).exp() + 0.01);
        assert_eq!(below.sigma_slope, 0.0);
        assert!((above.sigma_slope - (-2.0f64).exp() * (1.0 - 0.16)).abs() < 1e-9);
        // A number whose clamped value is the floor itself, bit for bit.
        let exact = (0..100)
            .map(|i| f32::from_bits((at as f32).to_bits() - 50 + i))
            .find(|s| Function::SoftClamp.value(*s) == -2.0)
            .expect("the clamp reaches its floor");
        assert!(Gaussian::new(FLOORED, 0.0, exact).sigma_slope > 0.1);
    }
}
