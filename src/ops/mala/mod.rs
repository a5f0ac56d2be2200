//! What makes Langevin steps Metropolis-adjusted (MALA: Roberts and Tweedie, "Exponential convergence of Langevin distributions and
//! their discrete approximations", Bernoulli 1996): acceptance of proposals, and adaptation of the step size.
//!
//! - [`accept()`]: each chain goes to its proposal or stays, decided on the device by counter-based noise.
//! - [`adapt()`]: dual averaging of the step size towards a target acceptance.

mod accept;
mod adapt;
pub mod cases;
mod cuda;

pub use accept::{Point, Rule, accept};
pub use adapt::{AVERAGES, adapt, averaged_step_size, averages_from};

use super::Op;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[accept::Accept::NAME, adapt::Adapt::NAME];

/// The probability of a proposal from the logarithm of its ratio; 0 for what is not a number.
fn probability(log_alpha: f64) -> f64 {
    if log_alpha >= 0.0 {
        1.0
    } else if log_alpha < 0.0 {
        log_alpha.exp()
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests;
