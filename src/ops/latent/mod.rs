//! Latent variables: Normal distributions from a network's numbers, their samples, log-densities and divergences.
//!
//! Parameters `[n, .., 2 c]` hold the means in their first `c` channels and the log sigmas in the others, both before the soft
//! clamp; latents and their noise are `[n, .., c]`. With `mu = scl(m)`, `sigma = (exp(scl(s)) + 0.01) temperature`:
//! `z = eps sigma + mu`; `log p(z) = -((z - mu) / sigma)^2 / 2 - ln(2 pi) / 2 - ln sigma`, summed over each sample;
//! `kl(q, p) = ((mu_q - mu_p)^2 + sigma_q^2) / (2 sigma_p^2) - 1 / 2 - ln(sigma_q / sigma_p)`; under flows, for which there is no
//! such form, `log q(z_0) - log p(z)`.
//! The 0.01 belongs to the model: the prior of the first group, made from zeros, has sigma 1.01.

pub mod cases;
pub(crate) mod cpu;
pub(in crate::ops) mod cuda;
mod density;
pub(crate) mod gaussian;
mod kl;
pub(crate) mod lanes;
mod ratio;
mod sample;
pub(in crate::ops) mod samples;

use std::sync::Arc;

pub(crate) use density::LogProb;
use gaussian::Law;

use super::layout::{concat, reshape, slice};
use super::{Op, Recorder, Var, record1};

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[
    sample::Sample::NAME,
    sample::SampleGrad::NAME,
    density::LogProb::NAME,
    density::LogProbGrad::NAME,
    kl::Divergence::NAME,
    kl::DivergenceGrad::NAME,
    ratio::LogRatio::NAME,
    ratio::LogRatioGrad::NAME,
];

/// A reparameterised sample `z = eps sigma + mu`, of the shape of `eps`.
pub fn sample(r: &dyn Recorder, params: Var, eps: Var, temperature: f64) -> Var {
    let op = sample::Sample {
        law: Law::at(temperature),
        density: false,
    };
    record1(r, op, &[params, eps])
}

/// A reparameterised sample and its log-density `[n]`: `-eps^2 / 2 - ln(2 pi) / 2 - ln sigma`, summed over each sample.
pub fn sample_log_prob(r: &dyn Recorder, params: Var, eps: Var, temperature: f64) -> (Var, Var) {
    let op = sample::Sample {
        law: Law::at(temperature),
        density: true,
    };
    let outputs = r.record(Arc::new(op), &[params, eps], &[]);
    (outputs[0], outputs[1])
}

/// The log-density `[n]` of latents `z`.
pub fn log_prob(r: &dyn Recorder, params: Var, z: Var, temperature: f64) -> Var {
    let op = LogProb {
        law: Law::at(temperature),
        image: false,
    };
    record1(r, op, &[params, z])
}

/// The estimate `log q(z_0) - log p(z)` of the divergence from one sample, summed over each: `[n]`. `z_0` is `q`'s sample from `eps`,
/// and `z` what volume-preserving flows made of it.
pub fn log_ratio(r: &dyn Recorder, q_params: Var, eps: Var, p_params: Var, z: Var) -> Var {
    let inputs = [q_params, eps, p_params, z];
    record1(r, ratio::LogRatio(kl::Keep::Samples), &inputs)
}

/// The same of each channel `[c]`: summed over positions, averaged over the batch.
pub fn log_ratio_per_channel(
    r: &dyn Recorder,
    q_params: Var,
    eps: Var,
    p_params: Var,
    z: Var,
) -> Var {
    let inputs = [q_params, eps, p_params, z];
    record1(r, ratio::LogRatio(kl::Keep::Channels), &inputs)
}

/// Parameters `[n, .., 2 c]` as `[count, 2]`, each element a sample of its own: its densities and samples are those of single
/// elements, in the order of a tensor `[n, .., c]`.
pub fn elementwise(r: &dyn Recorder, params: Var) -> Var {
    let shape = r.shape(params);
    let (axis, channels) = (shape.rank() - 1, shape.last() / 2);
    let part = |start: usize| {
        let part = slice(r, params, axis, start, channels);
        reshape(r, part, [shape.len() / 2, 1])
    };
    concat(r, &[part(0), part(channels)], 1)
}

/// The analytic divergence of `q` from `p`, summed over each sample: `[n]`.
pub fn kl(r: &dyn Recorder, q_params: Var, p_params: Var) -> Var {
    record1(r, kl::Divergence(kl::Keep::Samples), &[q_params, p_params])
}

/// The analytic divergence of `q` from `p` of each channel `[c]`: summed over positions, averaged over the batch.
pub fn kl_per_channel(r: &dyn Recorder, q_params: Var, p_params: Var) -> Var {
    record1(r, kl::Divergence(kl::Keep::Channels), &[q_params, p_params])
}
