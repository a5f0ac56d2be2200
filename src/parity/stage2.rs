//! The tests of stage 2: Langevin chains and updates of the energy network.

use std::path::Path;

use super::ParityError;
use super::array::Array;
use super::machine::{Machine, layer_of};
use super::model::{EbmCase, VaeCase};
use super::rule::Checks;
use crate::config::{Target, TrainEbm};
use crate::device::ProgramId;
use crate::langevin::programs::{Chains, EBM, StepNoise};
use crate::program::gpu::Precision;
use crate::train::ebm_programs;
use crate::train::vae_programs::{POWER_ITERATIONS, VAE};

/// The chains of a test with one prepared step.
struct Prepared {
    chains: Chains,
    step: ProgramId,
    ebm: EbmCase,
}

fn prepare(folder: &Path, cx: &Checks<'_>, m: &mut Machine) -> Result<Prepared, ParityError> {
    let (vae, ebm) = (VaeCase::open(folder)?, EbmCase::open(folder)?);
    let chains = Chains {
        model: vae.model.clone(),
        ebm: ebm.ebm.clone(),
        n: cx.file.number("batch_size")?,
        target: Target::Official,
        temperature: 1.0,
    };
    let (vae_params, ebm_params) = chains.params();
    m.load(VAE, &vae_params, &vae.weights)?;
    m.load(EBM, &ebm_params, &ebm.weights)?;
    let step = m.prepare(&chains.step(StepNoise::Fed, true), "parity/langevin")?;
    Ok(Prepared { chains, step, ebm })
}

impl Prepared {
    /// Name in the files and state of each of the chains' tensors: groups top-down, then pixels.
    fn tensors(&self) -> Vec<(String, String)> {
        let states = self.chains.states();
        let pixels = states.len() - 1;
        let named = states.into_iter().enumerate().map(|(i, (state, _))| {
            let name = if i < pixels {
                format!("eps_z.{i}")
            } else {
                "eps_x".into()
            };
            (name, state)
        });
        named.collect()
    }

    /// Runs the chains from `<prefix>init.*` with the noise of the file, and compares every step.
    fn run(&self, cx: &mut Checks<'_>, m: &mut Machine, prefix: &str) -> Result<(), ParityError> {
        let file = cx.file;
        let tensors = self.tensors();
        for ((name, state), (_, shape)) in tensors.iter().zip(self.chains.states()) {
            let start = file.tensor(&format!("{prefix}init.{name}"))?.to_engine();
            m.write(state, shape, &start.data)?;
        }
        m.feed_number(self.step, "step_size", file.number("step_size")?)?;
        let pixels = tensors.len() - 1;
        for k in 0..file.number("num_steps")? {
            for g in 0..pixels {
                let noise = file.tensor(&format!("{prefix}noise_z.{k}.{g}"))?;
                m.feed(self.step, &format!("noise_z.{g}"), noise)?;
            }
            let noise = file.tensor(&format!("{prefix}noise_x.{k}"))?;
            m.feed(self.step, "noise_x", noise)?;
            m.run(self.step)?;
            for output in m.outputs(self.step) {
                let value = m.fetch(self.step, &output)?;
                // The chain's gradient is per sample, the files' is that of the batch mean (trap 2).
                let (name, value) = match output.strip_prefix("grad.") {
                    Some(of) => (
                        format!("grad_of_mean.{of}"),
                        value.scaled(1.0 / self.chains.n as f64),
                    ),
                    None => (output, value),
                };
                cx.compare(&format!("{prefix}step{k}.{name}"), &value)?;
            }
            for ((name, state), (_, shape)) in tensors.iter().zip(self.chains.states()) {
                let value = Array::from_engine(shape, m.read(state)?);
                cx.compare(&format!("{prefix}step{k}.{name}"), &value)?;
            }
        }
        Ok(())
    }
}

/// `langevin_*`: a chain and the decoder's mean at its end.
pub(super) fn langevin(
    folder: &Path,
    cx: &mut Checks<'_>,
    m: &mut Machine,
) -> Result<(), ParityError> {
    let prepared = prepare(folder, cx, m)?;
    prepared.run(cx, m, "")?;
    let images = m.prepare(&prepared.chains.images(), "parity/images")?;
    m.run(images)?;
    cx.compare("final_mu", &m.fetch(images, "mu")?)
}

/// `ebm_train_*`: chains and the update of the energy network at their ends.
pub(super) fn train(
    folder: &Path,
    cx: &mut Checks<'_>,
    m: &mut Machine,
) -> Result<(), ParityError> {
    let prepared = prepare(folder, cx, m)?;
    let file = cx.file;
    let config = TrainEbm {
        wd: file.number("wd")?,
        alpha_s: file.number("alpha_s")?,
        // Python's spelling.
        use_mu_cd: file.setting("use_mu_cd")? == "True",
        clip_grad: true,
        ..TrainEbm::default()
    };
    let steps = POWER_ITERATIONS.map(|power| {
        ebm_programs::train_step(&prepared.chains, &config, Precision::F32, power, true)
    });
    // The programs declare the VAE's parameters too; those are not moved.
    let specs = &steps[0].params;
    m.load(EBM, specs, &prepared.ebm.weights)?;
    m.clear(&steps[0].moments)?;
    m.start_power_vectors(&steps[0].power_vectors, |layer| {
        file.tensor(&format!("sr_u0.{layer}")).cloned()
    })?;
    let mut programs = Vec::new();
    for step in &steps {
        programs.push(m.prepare(&step.tape, "parity/update")?);
    }
    for it in 0..file.count(|it| format!("it{it}.image")) {
        let prefix = format!("it{it}.");
        prepared.run(cx, m, &prefix)?;
        let program = programs[it.min(1)];
        m.feed(program, "x", file.tensor(&format!("{prefix}image"))?)?;
        m.feed_number(program, "lr", file.number("lr")?)?;
        m.feed_number(program, "t", (it + 1) as f64)?;
        m.run(program)?;
        for output in m.outputs(program) {
            let of = output.split_once('.').map(|(_, parameter)| parameter);
            let value = match specs.iter().find(|s| Some(s.name.as_str()) == of) {
                Some(spec) => m.fetch_like(program, &output, spec)?,
                None => m.fetch(program, &output)?,
            };
            cx.compare(&format!("{prefix}{output}"), &value)?;
        }
        for (state, _) in &steps[0].power_vectors {
            let name = format!("{prefix}sr_u.{}", layer_of(state));
            cx.compare(&name, &Array::vector(m.read(state)?))?;
        }
        for spec in specs {
            let name = format!("{prefix}after.{}", spec.name);
            cx.compare(&name, &m.parameter(EBM, spec)?)?;
        }
    }
    for kind in ["exp_avg", "exp_avg_sq"] {
        for spec in specs {
            let moment = m.like_parameter(&format!("{EBM}.{kind}.{}", spec.name), spec)?;
            cx.compare(&format!("adam.{kind}.{}", spec.name), &moment)?;
        }
    }
    Ok(())
}
