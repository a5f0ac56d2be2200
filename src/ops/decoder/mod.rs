//! Output distributions over images: Normal, Bernoulli and a mixture of discretised logistics.
//!
//! Images are `[n, h, w, c]` in [0, 1]; the first and the last work on `y = 2 x - 1`. Log-probabilities are summed over each
//! image: `[n]`.

mod bernoulli;
mod bits;
pub mod cases;
mod cpu;
mod cuda;
mod dmol;
mod dmol_sample;
mod logistic;
mod normal;

pub use bits::reduce_bits;

use super::latent::LogProb;
use super::latent::gaussian::Law;
use super::{Op, Recorder, Var, record1};

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[
    normal::NormalSample::NAME,
    normal::NormalSampleGrad::NAME,
    normal::NormalMean::NAME,
    normal::NormalMeanGrad::NAME,
    bernoulli::Bernoulli::NAME,
    bernoulli::BernoulliGrad::NAME,
    dmol::Dmol::NAME,
    dmol::DmolGrad::NAME,
    dmol_sample::DmolSample::NAME,
    dmol_sample::DmolMean::NAME,
];

/// The log-density `[n]` of `2 x - 1` under a Normal decoder as stage 1 scores it; `params` `[n, h, w, 2 c]`.
pub fn normal_log_prob(r: &dyn Recorder, params: Var, x: Var) -> Var {
    let op = LogProb {
        law: Law::at(1.0),
        image: true,
    };
    record1(r, op, &[params, x])
}

/// As [`normal_log_prob`] with log sigma floored at -2: how stage 2 scores images. No gradient passes strictly below the floor.
pub fn normal_log_prob_clamped(r: &dyn Recorder, params: Var, x: Var) -> Var {
    let op = LogProb {
        law: Law {
            temperature: 1.0,
            floor: true,
        },
        image: true,
    };
    record1(r, op, &[params, x])
}

/// A sample of a Normal decoder, `clamp(mu + sigma eps, -1, 1) / 2 + 1 / 2`; without a floor of log sigma. No gradient passes
/// strictly outside the bounds.
pub fn normal_sample(r: &dyn Recorder, params: Var, eps: Var) -> Var {
    record1(r, normal::NormalSample, &[params, eps])
}

/// The mean of a Normal decoder, `5 tanh(m / 5)` in [-5, 5]; not an image in [0, 1] yet.
pub fn normal_mean(r: &dyn Recorder, params: Var) -> Var {
    record1(r, normal::NormalMean, &[params])
}

/// The log-probability `[n]` of images under independent Bernoulli pixels, `x l - softplus(l)` with logits `l`; `crop` pixels at
/// each border are left out of the sum.
pub fn bernoulli_log_prob(r: &dyn Recorder, logits: Var, x: Var, crop: usize) -> Var {
    record1(r, bernoulli::Bernoulli { crop }, &[logits, x])
}

/// The log-probability `[n]` of RGB images `x` `[n, h, w, 3]` of `bits` bits a colour under a mixture of discretised logistics;
/// `logits` `[n, h, w, 10 m]` for `m` components.
///
/// # Panics
/// When a gradient of `x` is asked for: it is data.
pub fn dmol_log_prob(r: &dyn Recorder, logits: Var, x: Var, bits: u32) -> Var {
    record1(r, dmol::Dmol { bits }, &[logits, x])
}

/// A sample in [0, 1], `[n, h, w, 3]`, of a mixture of logistics, from uniforms in (0, 1): `u_gumbel` `[n, h, w, m]` chooses the
/// component, `u` `[n, h, w, 3]` the value. The published sampler draws them from (1e-5, 1 - 1e-5).
///
/// # Panics
/// When a gradient is asked for: the choice of a component has none.
pub fn dmol_sample(r: &dyn Recorder, logits: Var, u_gumbel: Var, u: Var, temperature: f64) -> Var {
    let op = dmol_sample::DmolSample { temperature };
    record1(r, op, &[logits, u_gumbel, u])
}

/// The mean in [0, 1], `[n, h, w, 3]`, of a mixture of logistics: means and colour coefficients averaged over components.
///
/// # Panics
/// When a gradient is asked for: evaluation alone uses it.
pub fn dmol_mean(r: &dyn Recorder, logits: Var) -> Var {
    record1(r, dmol_sample::DmolMean, &[logits])
}
