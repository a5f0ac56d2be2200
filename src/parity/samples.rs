//! The tests of sampling from the prior: stage 1's samples, batch-norm re-estimation, stage 2's decoder.

use std::path::Path;

use super::ParityError;
use super::machine::Machine;
use super::model::VaeCase;
use super::rule::Checks;
use super::stage1::{compare_states, feed_latents};
use crate::config::Decoder;
use crate::nn::{Mode, Net};
use crate::ops::layout::{concat, reshape, slice};
use crate::ops::unary::{Function, affine, unary};
use crate::ops::{Recorder, Var, decoder, fill, latent};
use crate::tape::Tape;
use crate::train::vae_programs::{NoiseSource, VAE, prior_samples};

/// Temperature of the samples that re-estimate batch norms; the format fixes it.
const READJUST_TEMPERATURE: f64 = 0.7;

/// `stage1_prior`: samples at several temperatures.
pub(super) fn prior(
    folder: &Path,
    cx: &mut Checks<'_>,
    m: &mut Machine,
) -> Result<(), ParityError> {
    let case = VaeCase::open(folder)?;
    let file = cx.file;
    let groups = case.model.groups().len();
    for t in 0..file.count(|t| format!("t{t}.temp")) {
        let temperature = file.constant(&format!("t{t}.temp"))?;
        let n = file.tensor(&format!("eps.{t}.0"))?.shape[0];
        let recorded = prior_samples(&case.model, n, temperature, Mode::Eval, NoiseSource::Feeds);
        m.load(VAE, &recorded.params, &case.weights)?;
        let program = m.prepare(&recorded.tape, "parity/prior")?;
        feed_latents(cx, m, program, groups, |g| format!("eps.{t}.{g}"))?;
        for name in ["eps_x", "u_gumbel", "u"] {
            if let Some(noise) = file.find(&format!("t{t}.{name}")) {
                m.feed(program, name, noise)?;
            }
        }
        m.run(program)?;
        // The official code shows the probabilities of Bernoulli pixels as they are, whatever the temperature.
        let sample = match case.model.config.decoder {
            Decoder::Bernoulli => "image",
            Decoder::Normal | Decoder::Dmol => "sample",
        };
        for (output, name) in [
            ("logits", "logits"),
            (sample, "x_sample"),
            ("image", "x_mean"),
        ] {
            let name = format!("t{t}.{name}");
            if cx.wants(&name) {
                cx.compare(&name, &m.fetch(program, output)?)?;
            }
        }
    }
    Ok(())
}

/// `stage1_bn_readjust`: samples in training mode, which move the decoder's running statistics.
pub(super) fn readjust(
    folder: &Path,
    cx: &mut Checks<'_>,
    m: &mut Machine,
) -> Result<(), ParityError> {
    let case = VaeCase::open(folder)?;
    let n = cx.file.tensor("eps.0.0")?.shape[0];
    let recorded = prior_samples(
        &case.model,
        n,
        READJUST_TEMPERATURE,
        Mode::Train,
        NoiseSource::Feeds,
    );
    // All of them: what sampling does not pass through must stay as it was.
    m.load(VAE, &case.params, &case.weights)?;
    let program = m.prepare(&recorded.tape, "parity/readjust")?;
    let groups = case.model.groups().len();
    let passes = cx.file.count(|it| format!("eps.{it}.0"));
    for it in 0..passes {
        feed_latents(cx, m, program, groups, |g| format!("eps.{it}.{g}"))?;
        m.run(program)?;
        cx.compare(&format!("logits.{it}"), &m.fetch(program, "logits")?)?;
    }
    compare_states(cx, m, &case, &recorded.params, "after.", passes)
}

/// `vae_sample`: the decoder as stage 2 uses it, with the densities of its latents and of an image.
pub(super) fn vae_sample(
    folder: &Path,
    cx: &mut Checks<'_>,
    m: &mut Machine,
) -> Result<(), ParityError> {
    let case = VaeCase::open(folder)?;
    let file = cx.file;
    let n = file.tensor("eps.0")?.shape[0];
    for t in 0..file.count(|t| format!("t{t}.temp")) {
        let temperature = file.constant(&format!("t{t}.temp"))?;
        let tape = Tape::new();
        let net = Net::new(&tape, VAE, Mode::Eval);
        let eps = NoiseSource::Feeds.latents(&tape, &case.model, n);
        let sampled = case.model.decode(&net, &eps, temperature);
        tape.output("logits", sampled.logits);
        tape.output("log_p_total", sampled.log_p);
        for (g, z) in sampled.z.iter().enumerate() {
            tape.output(&format!("z.{g}"), *z);
        }
        match case.model.config.decoder {
            Decoder::Normal => {
                let eps_x = NoiseSource::Feeds.pixels(&tape, &case.model, n);
                normal_outputs(&tape, sampled.logits, eps_x);
            }
            Decoder::Dmol => {
                let x = tape.feed("x", case.model.image_shape(n));
                let log_prob = mixture_log_prob(&tape, sampled.logits, x, case.bits);
                tape.output("log_prob", log_prob);
            }
            // Stage 2 has no use for it beyond the latents.
            Decoder::Bernoulli => {}
        }
        m.load(VAE, &net.params(), &case.weights)?;
        let program = m.prepare(&tape, "parity/vae_sample")?;
        feed_latents(cx, m, program, eps.len(), |g| format!("eps.{g}"))?;
        match case.model.config.decoder {
            Decoder::Normal => m.feed(program, "eps_x", file.tensor("eps_x")?)?,
            Decoder::Dmol => m.feed(program, "x", file.tensor(&format!("t{t}.x"))?)?,
            Decoder::Bernoulli => {}
        }
        m.run(program)?;
        for name in m.outputs(program) {
            cx.compare(&format!("t{t}.{name}"), &m.fetch(program, &name)?)?;
        }
    }
    Ok(())
}

/// `mu`, `sigma`, `sigma1` (with the floor of stage 2), the sample `x` and its density per element under `sigma1`.
///
/// Densities come summed over a sample, so each element is made a sample of its own.
fn normal_outputs(tape: &Tape, logits: Var, eps_x: Var) {
    let image = tape.shape(eps_x);
    let elements = image.len();
    let constant = |value: f64| fill(tape, [elements, 1].into(), value);
    let pairs = latent::elementwise(tape, logits);
    let log_sigma = slice(tape, pairs, 1, 1, 1);
    let centred = concat(tape, &[constant(0.0), log_sigma], 1);
    let x = decoder::normal_sample(tape, logits, eps_x);
    let column = reshape(tape, x, [elements, 1]);
    let log_prob = decoder::normal_log_prob_clamped(tape, pairs, column);
    // The density at the mean is 1 / (sigma sqrt(2 pi)); the mean 0 is the image value 1/2.
    let at_mean = decoder::normal_log_prob_clamped(tape, centred, constant(0.5));
    let half_ln_2pi = 0.5 * (2.0 * std::f64::consts::PI).ln();
    let sigma1 = unary(
        tape,
        Function::Exp,
        affine(tape, at_mean, -1.0, -half_ln_2pi),
    );
    for (name, value) in [
        ("mu", decoder::normal_mean(tape, logits)),
        ("sigma", latent::sample(tape, centred, constant(1.0), 1.0)),
        ("sigma1", sigma1),
        ("x", x),
        ("log_prob", log_prob),
    ] {
        tape.output(name, reshape(tape, value, image));
    }
}

/// The log-probability `[n, h, w]` of each pixel of `x`.
fn mixture_log_prob(tape: &Tape, logits: Var, x: Var, bits: u32) -> Var {
    let (shape, image) = (tape.shape(logits), tape.shape(x));
    let pixels = image.rows();
    let logits = reshape(tape, logits, [pixels, 1, 1, shape.last()]);
    let x = reshape(tape, x, [pixels, 1, 1, image.last()]);
    let log_prob = decoder::dmol_log_prob(tape, logits, x, bits);
    reshape(tape, log_prob, &image.dims()[..3])
}
