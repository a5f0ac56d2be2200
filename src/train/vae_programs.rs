//! The programs of stage 1 (SPEC section 4): a training step, an evaluation pass, prior samples.

use super::guard::programs::{Judgement, Kept};
use crate::config::{Decoder, TrainVae};
use crate::nn::params::{ParamSpec, Role};
use crate::nn::{Mode, Net};
use crate::nvae::Nvae;
use crate::ops::binary::{add, combine, mul, sum_of};
use crate::ops::optim::{AdamaxSettings, adamax};
use crate::ops::reduce::mean;
use crate::ops::unary::affine;
use crate::ops::{Recorder, Var, decoder, fill, kl_balance, noise, spectral};
use crate::tape::Tape;
use crate::tensor::Shape;

/// The prefix of the VAE's states.
pub const VAE: &str = "vae";

/// The first stream of the noise of evaluation passes; training takes the streams below.
pub const EVAL_STREAM: u32 = 1 << 16;
/// The first stream of the noise of prior samples.
pub const SAMPLE_STREAM: u32 = 2 << 16;
/// The first stream of the prior samples that re-estimate batch norms; 3 and 4 are those of chains.
pub const READJUST_STREAM: u32 = 5 << 16;

/// Power iterations of the very first step, and of every other one.
pub const POWER_ITERATIONS: [usize; 2] = [40, 4];

/// A recorded step with the parameters that it declared.
pub struct Recorded {
    /// The step; plan it under a name of your choice.
    pub tape: Tape,
    /// Parameters and statistics, without prefix.
    pub params: Vec<ParamSpec>,
    /// Vectors of the power iterations, as states: they start as normalised noise.
    pub power_vectors: Vec<(String, Shape)>,
    /// Optimiser states: they start at zero.
    pub moments: Vec<(String, Shape)>,
}

/// Where a program's posterior or prior noise comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoiseSource {
    /// The counter-based generator, from this stream on, one stream per group and one more for pixels.
    Streams(u32),
    /// Feeds `eps.<group>` and `eps_x`, or for a mixture of logistics the uniforms `u_gumbel` and `u`.
    Feeds,
}

impl NoiseSource {
    /// One tensor per latent group, top-down.
    pub fn latents(self, tape: &Tape, model: &Nvae, n: usize) -> Vec<Var> {
        let groups = model.groups();
        let one = |(g, group): (usize, &crate::nvae::Group)| match self {
            NoiseSource::Streams(first) => noise::normal(tape, group.shape(n), first + g as u32),
            NoiseSource::Feeds => tape.feed(&format!("eps.{g}"), group.shape(n)),
        };
        groups.iter().enumerate().map(one).collect()
    }

    /// The noise of pixels.
    pub fn pixels(self, tape: &Tape, model: &Nvae, n: usize) -> Var {
        match self {
            NoiseSource::Streams(first) => noise::normal(
                tape,
                model.image_shape(n),
                first + model.groups().len() as u32,
            ),
            NoiseSource::Feeds => tape.feed("eps_x", model.image_shape(n)),
        }
    }
}

impl NoiseSource {
    /// The uniforms that choose a mixture's components and the pixels' values, strictly inside (0, 1).
    ///
    /// The published sampler draws them from (1e-5, 1 - 1e-5); so do streams, after those of the latents.
    fn mixture(self, tape: &Tape, model: &Nvae, n: usize) -> [Var; 2] {
        let pixels = model.image_shape(n);
        let components = pixels.with_last(model.config.num_mixture_dec);
        let draw = |offset: u32, name: &str, shape: Shape| match self {
            NoiseSource::Streams(first) => {
                let stream = first + model.groups().len() as u32 + offset;
                let u = noise::uniform(tape, shape, stream);
                affine(tape, u, 1.0 - 2e-5, 1e-5)
            }
            NoiseSource::Feeds => tape.feed(name, shape),
        };
        [draw(0, "u_gumbel", components), draw(1, "u", pixels)]
    }
}

/// Pixels at each border of a padded image that the loss leaves out: MNIST is padded from 28 to 32 (SPEC section 3).
pub fn loss_crop(model: &Nvae) -> usize {
    match (model.config.decoder, model.size) {
        (Decoder::Bernoulli, 32) => 2,
        _ => 0,
    }
}

/// Values of an image that the loss counts, channels times pixels: what bits per dimension are per.
pub fn loss_dimensions(model: &Nvae) -> usize {
    let side = model.size - 2 * loss_crop(model);
    side * side * model.channels
}

/// `-log p(x|z)`, `[n]` in nats.
pub fn reconstruction_loss(tape: &Tape, model: &Nvae, logits: Var, x: Var, bits: u32) -> Var {
    let log_prob = match model.config.decoder {
        Decoder::Normal => decoder::normal_log_prob(tape, logits, x),
        Decoder::Bernoulli => decoder::bernoulli_log_prob(tape, logits, x, loss_crop(model)),
        Decoder::Dmol => decoder::dmol_log_prob(tape, logits, x, bits),
    };
    affine(tape, log_prob, -1.0, 0.0)
}

/// A training step on a batch of `n`.
///
/// Feeds: `x`; scalars `lr`, `t` (steps from 1), `kl_coeff`, `norm_coeff`. Outputs: `loss`, `recon`, `kl` (batch means, nats),
/// `norm_loss`, `bn_loss`. Parameters move by Adamax.
pub fn train_step(
    model: &Nvae,
    config: &TrainVae,
    bits: u32,
    n: usize,
    power_iterations: usize,
    source: NoiseSource,
) -> Recorded {
    record(model, config, bits, n, power_iterations, source, None)
}

/// The same with noise from streams under a guard, which withholds the update of a bad step. A further output is `apply`, 1 or 0.
pub(crate) fn guarded_step(
    model: &Nvae,
    config: &TrainVae,
    bits: u32,
    n: usize,
    power_iterations: usize,
    guard: &Judgement,
) -> Recorded {
    let source = NoiseSource::Streams(0);
    record(
        model,
        config,
        bits,
        n,
        power_iterations,
        source,
        Some(guard),
    )
}

/// The running statistics that a training pass moves before anything is known of the step.
fn statistics(model: &Nvae, n: usize) -> Vec<(String, Shape)> {
    let tape = Tape::new();
    let net = Net::new(&tape, VAE, Mode::Train);
    let eps = NoiseSource::Streams(0).latents(&tape, model, n);
    model.forward(&net, tape.feed("x", model.image_shape(n)), &eps);
    let specs = net.params().into_iter();
    specs
        .filter(|p| p.role == Role::Statistic)
        .map(|p| (net.state_name(&p.name), p.shape))
        .collect()
}

fn record(
    model: &Nvae,
    config: &TrainVae,
    bits: u32,
    n: usize,
    power_iterations: usize,
    source: NoiseSource,
    guard: Option<&Judgement>,
) -> Recorded {
    let tape = Tape::new();
    let mut kept = Kept::default();
    if guard.is_some() {
        let states = statistics(model, n);
        let states: Vec<Var> = states
            .iter()
            .map(|(s, shape)| tape.state(s, *shape))
            .collect();
        kept.add(&tape, &states);
    }
    let net = Net::new(&tape, VAE, Mode::Train);
    let x = tape.feed("x", model.image_shape(n));
    let scalar = |name: &str| tape.feed(name, Shape::SCALAR);
    let (lr, t, kl_coeff, norm_coeff) = (
        scalar("lr"),
        scalar("t"),
        scalar("kl_coeff"),
        scalar("norm_coeff"),
    );
    let eps = source.latents(&tape, model, n);
    let posterior = model.forward(&net, x, &eps);

    let recon = reconstruction_loss(&tape, model, posterior.logits, x, bits);
    let (balanced, kl_coeffs) =
        kl_balance::kl_balance(&tape, &posterior.kl, &model.kl_alpha(), kl_coeff);
    let nelbo = mean(&tape, add(&tape, recon, mul(&tape, balanced, kl_coeff)));
    let spectral = spectral_loss(&net, power_iterations, guard.map(|_| &mut kept));
    let bn_loss = batch_norm_loss(&net);
    let regulariser = mul(&tape, add(&tape, spectral.loss, bn_loss), norm_coeff);
    let loss = add(&tape, nelbo, regulariser);

    let params = net.trainable();
    let vars: Vec<Var> = params.iter().map(|(_, v)| *v).collect();
    let grads = tape.grad(loss, &vars);
    let mut moments = Vec::new();
    let mut moment = |kind: &str| -> Vec<Var> {
        let state = |(name, v): &(String, Var)| {
            let (name, shape) = (format!("{VAE}.{kind}.{name}"), tape.shape(*v));
            moments.push((name.clone(), shape));
            tape.state(&name, shape)
        };
        params.iter().map(state).collect()
    };
    let (m, u) = (moment("exp_avg"), moment("exp_inf"));
    let settings = AdamaxSettings {
        weight_decay: config.weight_decay,
        ..AdamaxSettings::default()
    };
    let t = match guard {
        None => t,
        Some(guard) => guard.stage1(&tape, loss, &grads, t, &kept),
    };
    adamax(&tape, &vars, &grads, &m, &u, lr, t, settings);

    tape.output("loss", loss);
    tape.output("loss_nelbo", nelbo);
    tape.output("recon_loss", recon);
    tape.output("logits", posterior.logits);
    tape.output("balanced_kl", balanced);
    tape.output("kl_coeffs", kl_coeffs);
    tape.output("recon", mean(&tape, recon));
    tape.output("kl", mean(&tape, sum_of(&tape, &posterior.kl)));
    tape.output("norm_loss", spectral.loss);
    tape.output("bn_loss", bn_loss);
    tape.output("log_q", posterior.log_q);
    tape.output("log_p", posterior.log_p);
    for (g, (kl, diag)) in posterior
        .kl
        .iter()
        .zip(&posterior.kl_per_channel)
        .enumerate()
    {
        tape.output(&format!("kl_all.{g}"), *kl);
        tape.output(&format!("kl_diag.{g}"), *diag);
    }
    for ((name, _), g) in params.iter().zip(&grads) {
        if source == NoiseSource::Feeds {
            tape.output(&format!("grad.{name}"), *g);
        }
    }
    let params = net.params();
    drop(net);
    Recorded {
        tape,
        params,
        power_vectors: spectral.vectors,
        moments,
    }
}

/// One forward pass of the feed `x` that sets gains and biases of the layers that start from data: those of `res_elu` (SPEC section
/// 1). Its noise is that of a training step. Output: `logits`.
pub fn data_init(model: &Nvae, n: usize) -> Recorded {
    let tape = Tape::new();
    let net = Net::new(&tape, VAE, Mode::Eval).with_data_init();
    let x = tape.feed("x", model.image_shape(n));
    let eps = NoiseSource::Streams(0).latents(&tape, model, n);
    tape.output("logits", model.forward(&net, x, &eps).logits);
    recorded(net.params(), tape)
}

/// The sum of the largest singular values of all effective weights, and the vectors it keeps.
pub(crate) struct SpectralLoss {
    pub loss: Var,
    pub vectors: Vec<(String, Shape)>,
}

/// Under a guard the vectors are kept as they were.
pub(crate) fn spectral_loss(
    net: &Net<'_>,
    iterations: usize,
    kept: Option<&mut Kept>,
) -> SpectralLoss {
    let tape = net.tape;
    let mut vectors = Vec::new();
    let (mut weights, mut starts) = (Vec::new(), Vec::new());
    for (layer, w) in net.effective_weights() {
        let (name, shape) = (
            net.state_name(&format!("sr_u.{layer}")),
            Shape::new(&[tape.shape(w).last()]),
        );
        weights.push(w);
        starts.push(tape.state(&name, shape));
        vectors.push((name, shape));
    }
    if let Some(kept) = kept {
        kept.add(tape, &starts);
    }
    SpectralLoss {
        loss: spectral::sigma_sum(tape, &weights, &starts, iterations),
        vectors,
    }
}

/// The sum of the largest `|gamma|` of all batch norms.
fn batch_norm_loss(net: &Net<'_>) -> Var {
    let gammas = net.gammas();
    match gammas.is_empty() {
        true => fill(net.tape, Shape::SCALAR, 0.0),
        false => spectral::max_abs_sum(net.tape, &gammas),
    }
}

/// An evaluation pass. Feed: `x`. Outputs, each `[n]` in nats: `recon_loss`, `kl` (sum over groups), `log_q`, `log_p`,
/// `log_iw` = log importance weight; `kl_all.<group>`; `logits`.
pub fn eval_pass(model: &Nvae, bits: u32, n: usize, source: NoiseSource) -> Recorded {
    let tape = Tape::new();
    let net = Net::new(&tape, VAE, Mode::Eval);
    let x = tape.feed("x", model.image_shape(n));
    let eps = source.latents(&tape, model, n);
    let posterior = model.forward(&net, x, &eps);
    let recon = reconstruction_loss(&tape, model, posterior.logits, x, bits);
    let density_ratio = combine(&tape, 1.0, posterior.log_p, -1.0, posterior.log_q);
    tape.output("recon_loss", recon);
    tape.output("kl", sum_of(&tape, &posterior.kl));
    tape.output("log_q", posterior.log_q);
    tape.output("log_p", posterior.log_p);
    tape.output("log_iw", combine(&tape, 1.0, density_ratio, -1.0, recon));
    tape.output("logits", posterior.logits);
    for (g, kl) in posterior.kl.iter().enumerate() {
        tape.output(&format!("kl_all.{g}"), *kl);
    }
    recorded(net.params(), tape)
}

/// Samples of the VAE from its prior. Outputs: `logits`; `image`, the mean of the output distribution in `[0, 1]`; for the Normal
/// decoder and the mixture of logistics also `sample`, a draw from that distribution. In training mode batch norm follows the
/// batch and the running statistics move: the re-estimation of SPEC section 2.
pub fn prior_samples(
    model: &Nvae,
    n: usize,
    temperature: f64,
    mode: Mode,
    source: NoiseSource,
) -> Recorded {
    let tape = Tape::new();
    let net = Net::new(&tape, VAE, mode);
    let eps = source.latents(&tape, model, n);
    let sampled = model.decode(&net, &eps, temperature);
    tape.output("logits", sampled.logits);
    match model.config.decoder {
        Decoder::Normal => {
            let eps_x = source.pixels(&tape, model, n);
            let mu = decoder::normal_mean(&tape, sampled.logits);
            tape.output("image", affine(&tape, mu, 0.5, 0.5));
            tape.output(
                "sample",
                decoder::normal_sample(&tape, sampled.logits, eps_x),
            );
        }
        Decoder::Bernoulli => {
            use crate::ops::unary::{Function, unary};
            tape.output("image", unary(&tape, Function::Sigmoid, sampled.logits));
        }
        Decoder::Dmol => {
            let [u_gumbel, u] = source.mixture(&tape, model, n);
            let sample = decoder::dmol_sample(&tape, sampled.logits, u_gumbel, u, temperature);
            tape.output("image", decoder::dmol_mean(&tape, sampled.logits));
            tape.output("sample", sample);
        }
    }
    recorded(net.params(), tape)
}

fn recorded(params: Vec<ParamSpec>, tape: Tape) -> Recorded {
    Recorded {
        tape,
        params,
        power_vectors: Vec::new(),
        moments: Vec::new(),
    }
}
