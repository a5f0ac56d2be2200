//! The tests of stage 1: evaluation, training steps, prior samples.

use std::path::Path;

use super::ParityError;
use super::array::Array;
use super::machine::{Machine, layer_of};
use super::model::VaeCase;
use super::rule::Checks;
use crate::config::TrainVae;
use crate::device::ProgramId;
use crate::eval::likelihood::Likelihood;
use crate::nn::params::ParamSpec;
use crate::nn::{Mode, Net};
use crate::tape::Tape;
use crate::train::vae_programs::{
    NoiseSource, POWER_ITERATIONS, VAE, eval_pass, loss_dimensions, train_step,
};

/// Feeds one noise tensor per latent group.
pub(super) fn feed_latents(
    cx: &Checks<'_>,
    m: &mut Machine,
    program: ProgramId,
    groups: usize,
    name: impl Fn(usize) -> String,
) -> Result<(), ParityError> {
    for g in 0..groups {
        m.feed(program, &format!("eps.{g}"), cx.file.tensor(&name(g))?)?;
    }
    Ok(())
}

/// `stage1_eval`: passes in evaluation mode and the likelihoods they estimate.
pub(super) fn eval(folder: &Path, cx: &mut Checks<'_>, m: &mut Machine) -> Result<(), ParityError> {
    let case = VaeCase::open(folder)?;
    let x = cx.file.tensor("x")?;
    let recorded = eval_pass(&case.model, case.bits, x.shape[0], NoiseSource::Feeds);
    m.load(VAE, &recorded.params, &case.weights)?;
    let program = m.prepare(&recorded.tape, "parity/eval")?;
    m.feed(program, "x", x)?;
    let groups = case.model.groups().len();
    let passes: usize = cx.file.number("K")?;
    let mut likelihood = Likelihood::new(loss_dimensions(&case.model));
    for k in 0..passes {
        feed_latents(cx, m, program, groups, |g| format!("eps.{k}.{g}"))?;
        m.run(program)?;
        for name in m.outputs(program) {
            cx.compare(&format!("k{k}.{name}"), &m.fetch(program, &name)?)?;
        }
        let mut values = |name| Ok::<_, ParityError>(m.fetch(program, name)?.data);
        likelihood.add_pass(&values("recon_loss")?, &values("kl")?, &values("log_iw")?);
    }
    let estimate = likelihood.estimate();
    for (name, value) in [
        ("nelbo", estimate.nelbo),
        ("log_p", estimate.log_p),
        ("bpd_elbo", estimate.bpd_elbo),
        ("bpd_logp", estimate.bpd_log_p),
    ] {
        cx.compare(name, &Array::scalar(value))?;
    }
    Ok(())
}

/// `stage1_train`: steps of Adamax with everything that goes into them.
pub(super) fn train(
    folder: &Path,
    cx: &mut Checks<'_>,
    m: &mut Machine,
) -> Result<(), ParityError> {
    let case = VaeCase::open(folder)?;
    let file = cx.file;
    let config = TrainVae {
        weight_decay: file.number("weight_decay")?,
        ..TrainVae::default()
    };
    let n = file.tensor("x.0")?.shape[0];
    let steps = POWER_ITERATIONS.map(|power| {
        train_step(
            &case.model,
            &config,
            case.bits,
            n,
            power,
            NoiseSource::Feeds,
        )
    });
    let specs = &steps[0].params;
    m.load(VAE, specs, &case.weights)?;
    m.clear(&steps[0].moments)?;
    m.start_power_vectors(&steps[0].power_vectors, |layer| {
        file.tensor(&format!("sr_u0.{layer}")).cloned()
    })?;
    let mut programs = Vec::new();
    for step in &steps {
        programs.push(m.prepare(&step.tape, "parity/train")?);
    }
    cx.compare("alpha_i", &Array::vector(case.model.kl_alpha()))?;
    let groups = case.model.groups().len();
    for it in 0..file.count(|it| format!("x.{it}")) {
        let program = programs[it.min(1)];
        m.feed(program, "x", file.tensor(&format!("x.{it}"))?)?;
        feed_latents(cx, m, program, groups, |g| format!("eps.{it}.{g}"))?;
        let kl_coeff = file.constant(&format!("it{it}.kl_coeff"))?;
        for (feed, value) in [
            ("lr", file.number("lr")?),
            ("t", (it + 1) as f64),
            ("kl_coeff", kl_coeff),
            ("norm_coeff", file.constant(&format!("it{it}.wdn_coeff"))?),
        ] {
            m.feed_number(program, feed, value)?;
        }
        m.run(program)?;
        for name in m.outputs(program) {
            let full = format!("it{it}.{name}");
            if !cx.wants(&full) {
                continue;
            }
            let parameter = name.strip_prefix("grad.");
            let value = match specs.iter().find(|s| Some(s.name.as_str()) == parameter) {
                Some(spec) => m.fetch_like(program, &name, spec)?,
                None => m.fetch(program, &name)?,
            };
            // The official balancer returns its sum already weighted by the KL coefficient.
            let value = match name == "balanced_kl" {
                true => value.scaled(kl_coeff),
                false => value,
            };
            cx.compare(&full, &value)?;
        }
        let mut means = Vec::new();
        for g in 0..groups {
            let kl = m.fetch(program, &format!("kl_all.{g}"))?.data;
            means.push(kl.iter().sum::<f64>() / kl.len() as f64);
        }
        cx.compare(&format!("it{it}.kl_vals"), &Array::vector(means))?;
        for (state, _) in &steps[0].power_vectors {
            let name = format!("it{it}.sr_u.{}", layer_of(state));
            cx.compare(&name, &Array::vector(m.read(state)?))?;
        }
        compare_states(cx, m, &case, specs, &format!("after{}.", it + 1), it + 1)?;
    }
    Ok(())
}

/// `stage1_trace`: the inputs and results of every block in evaluation mode.
pub(super) fn trace(
    folder: &Path,
    cx: &mut Checks<'_>,
    m: &mut Machine,
) -> Result<(), ParityError> {
    let case = VaeCase::open(folder)?;
    let x = cx.file.tensor("x")?;
    let n = x.shape[0];
    let tape = Tape::unfused();
    let net = Net::new(&tape, VAE, Mode::Eval).with_traces();
    let eps = NoiseSource::Feeds.latents(&tape, &case.model, n);
    let images = tape.feed("x", case.model.image_shape(n));
    case.model.forward(&net, images, &eps);
    for (name, var) in net.traces() {
        if cx.wants(&name) {
            tape.output(&name, var);
        }
    }
    m.load(VAE, &net.params(), &case.weights)?;
    let program = m.prepare(&tape, "parity/trace")?;
    m.feed(program, "x", x)?;
    feed_latents(cx, m, program, eps.len(), |g| format!("eps.{g}"))?;
    m.run(program)?;
    for name in m.outputs(program) {
        cx.compare(&name, &m.fetch(program, &name)?)?;
    }
    Ok(())
}

/// Compares the state dict after `passes` passes in training mode through the layers of `passed`.
pub(super) fn compare_states(
    cx: &mut Checks<'_>,
    m: &mut Machine,
    case: &VaeCase,
    passed: &[ParamSpec],
    prefix: &str,
    passes: usize,
) -> Result<(), ParityError> {
    for spec in &case.params {
        let name = format!("{prefix}{}", spec.name);
        if cx.wants(&name) {
            cx.compare(&name, &m.parameter(VAE, spec)?)?;
        }
    }
    // Counters of passes, which nothing reads: they are not kept as states.
    for (name, before) in &case.weights {
        let Some(layer) = name.strip_suffix(".num_batches_tracked") else {
            continue;
        };
        let mean = format!("{layer}.running_mean");
        let passes = match passed.iter().any(|p| p.name == mean) {
            true => passes as f64,
            false => 0.0,
        };
        let mut after = before.clone();
        after.data.iter_mut().for_each(|v| *v += passes);
        cx.compare(&format!("{prefix}{name}"), &after)?;
    }
    Ok(())
}
