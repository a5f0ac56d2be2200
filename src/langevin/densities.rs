//! Densities with known answers, on which samplers can be tested and compared.
//!
//! | density | `U(x)` up to its constant | known of it |
//! |---|---|---|
//! | gaussian | `sum_i x_i^2 / (2 s_i^2)` | variances `s_i^2`, a geometric sequence from `1/kappa` to 1 |
//! | funnel | `v^2/18 + (d-1) v/2 + e^-v sum_i x_i^2 / 2` | Neal, "Slice sampling" (2003): `v ~ N(0, 9)`, `x_i ~ N(0, e^v)` given `v` |
//! | mixture | `-ln(w N(x; m) + (1-w) N(x; -m))` | two unit Gaussians, `m` along the first axis, `2 abs(m)` apart |

use std::fmt;

use super::potential::{Potential, Recorded};
use super::programs::START_STREAM;
use crate::config::{ChainsConfig, Density};
use crate::ops::binary::{combine, mul, sum_of};
use crate::ops::layout::{reshape, slice};
use crate::ops::noise;
use crate::ops::reduce::sum_rows;
use crate::ops::state::assign;
use crate::ops::unary::{Function, affine, unary};
use crate::ops::{Recorder, Var};
use crate::tape::Tape;
use crate::tensor::Shape;

/// Variance of the funnel's neck.
pub const NECK_VARIANCE: f64 = 9.0;

/// A density in `dim` dimensions with so many chains, which start at standard normal numbers.
#[derive(Clone, Debug)]
pub struct Analytic {
    /// Which.
    pub density: Density,
    /// Chains.
    pub chains: usize,
    /// Dimensions.
    pub dim: usize,
    /// Of the Gaussian: largest over smallest variance.
    pub condition_number: f64,
    /// Of the mixture: the distance of its means.
    pub separation: f64,
    /// Of the mixture: the weight of the component at the positive end.
    pub weight: f64,
    /// Coordinates that are traced, at most.
    pub coordinates: usize,
}

impl Analytic {
    /// The density that a configuration names, if it does.
    pub fn of(config: &ChainsConfig) -> Option<Self> {
        Some(Analytic {
            density: config.target_density?,
            chains: config.num_chains,
            dim: config.dim,
            condition_number: config.condition_number,
            separation: config.separation,
            weight: config.weight,
            coordinates: config.coordinates,
        })
    }

    /// The Gaussian's variances, smallest first.
    pub fn variances(&self) -> Vec<f64> {
        let last = (self.dim - 1).max(1) as f64;
        (0..self.dim)
            .map(|i| match self.dim {
                1 => 1.0,
                _ => self.condition_number.powf(i as f64 / last - 1.0),
            })
            .collect()
    }

    /// A step size eta with which the discretisation is stable, and biased by a few percent.
    pub fn default_step_size(&self) -> f64 {
        match self.density {
            Density::Gaussian => 0.1 * self.variances()[0],
            Density::Funnel => 0.01,
            Density::Mixture => 0.1,
        }
    }

    fn column(&self, tape: &Tape, x: Var) -> Var {
        reshape(tape, slice(tape, x, 1, 0, 1), [self.chains])
    }
}

impl fmt::Display for Analytic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} dimension(s)", self.density, self.dim)?;
        match self.density {
            Density::Gaussian => write!(f, ", condition number {}", self.condition_number),
            Density::Funnel => Ok(()),
            Density::Mixture => write!(
                f,
                ", means {} apart, weight {}",
                self.separation, self.weight
            ),
        }
    }
}

fn half_square_norm(tape: &Tape, x: Var) -> Var {
    affine(
        tape,
        sum_rows(tape, unary(tape, Function::Square, x)),
        0.5,
        0.0,
    )
}

impl Potential for Analytic {
    fn chains(&self) -> usize {
        self.chains
    }

    fn resized(&self, chains: usize) -> Self {
        Analytic {
            chains,
            ..self.clone()
        }
    }

    fn states(&self) -> Vec<(String, Shape)> {
        let shape = Shape::new(&[self.chains, self.dim]);
        vec![(format!("{}.x", self.density), shape)]
    }

    fn start(&self) -> Tape {
        let tape = Tape::new();
        let [(name, shape)] = &self.states()[..] else {
            unreachable!("one state");
        };
        let x = tape.state(name, *shape);
        assign(&tape, x, noise::normal(&tape, *shape, START_STREAM));
        tape
    }

    fn record(&self, tape: &Tape, at: &[Var]) -> Recorded {
        let x = at[0];
        let mut total = Vec::new();
        let summands = match self.density {
            Density::Gaussian => {
                let inverse = self.variances().iter().map(|v| v.sqrt().recip()).collect();
                let inverse = tape.constant(Shape::new(&[self.dim]), inverse);
                vec![half_square_norm(tape, mul(tape, x, inverse))]
            }
            Density::Funnel => {
                let v = self.column(tape, x);
                let rest = half_square_norm(tape, slice(tape, x, 1, 1, self.dim - 1));
                let narrow = unary(tape, Function::Exp, affine(tape, v, -1.0, 0.0));
                let square = unary(tape, Function::Square, v);
                let half = 0.5 * (self.dim - 1) as f64;
                let neck = combine(tape, 0.5 / NECK_VARIANCE, square, half, v);
                vec![neck, mul(tape, rest, narrow)]
            }
            Density::Mixture => {
                // ln(w e^a + (1-w) e^-a) = -a + ln(1-w) + softplus(2a + ln(w / (1-w))) with a = |m| x_0.
                let (m, w) = (0.5 * self.separation, self.weight);
                let first = self.column(tape, x);
                let logit = affine(tape, first, 2.0 * m, (w / (1.0 - w)).ln());
                let softplus = unary(tape, Function::Softplus, logit);
                total.push(half_square_norm(tape, x));
                vec![combine(tape, m, first, -1.0, softplus)]
            }
        };
        let standard_normal = !total.is_empty();
        total.extend(&summands);
        Recorded {
            total: sum_of(tape, &total),
            summands,
            standard_normal,
            told: Vec::new(),
        }
    }

    /// Evenly spread, the first and the last among them.
    fn coordinates(&self) -> Vec<usize> {
        let count = self.coordinates.min(self.dim);
        let last = count.saturating_sub(1).max(1);
        (0..count).map(|i| i * (self.dim - 1) / last).collect()
    }
}
