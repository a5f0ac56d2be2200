//! The programs of chains that move pixels: an energy network without the VAE's density, the baselines that the paper compares
//! itself with (VAEBM section 5, ablations).
//!
//! A chain's state is one image. It follows `exp(-E(x) / T)` by Langevin steps in `x` itself: `x <- x - eta / (2 T) dE/dx + sqrt(eta)
//! N(0, 1)`, then back onto `[0, 1]` where a pixel left it, as data lie there and the energy of anything else is never trained. The
//! published pixel models write drift and noise as two free numbers, `x <- x - alpha dE/dx + sigma N(0, 1)`; these are
//! `eta = sigma^2` and `T = sigma^2 / (2 alpha)`.

use super::programs::{Chains, EBM, START_STREAM, STEP_STREAM, StepNoise};
use crate::config::Model;
use crate::energy::energy;
use crate::nn::{Mode, Net};
use crate::ops::langevin::{LangevinNoise, langevin_update};
use crate::ops::state::assign;
use crate::ops::unary::{Function, affine, unary};
use crate::ops::{Recorder, Var, decoder, noise};
use crate::tape::Tape;
use crate::tensor::Shape;
use crate::train::vae_programs::VAE;

/// The name and shape of the chains' only state.
pub(super) fn state(chains: &Chains) -> (String, Shape) {
    let name = format!("chains{}.x", chains.n);
    (name, chains.model.image_shape(chains.n))
}

/// The images that the chains are at, in `[0, 1]`.
pub(super) fn images(chains: &Chains, tape: &Tape) -> Var {
    let (name, shape) = state(chains);
    tape.state(&name, shape)
}

/// Starts all chains: from pixels uniform in `[0, 1]`, or from draws of the VAE, the same that the VAEBM's chains start at.
pub(super) fn start(chains: &Chains) -> Tape {
    let tape = Tape::new();
    let x = images(chains, &tape);
    let fresh = match chains.ebm.model {
        Model::PixelsFromVae => {
            let vae = Net::new(&tape, VAE, Mode::Eval);
            let eps: Vec<Var> = (chains.noise_states().into_iter().enumerate())
                .map(|(i, (_, shape))| noise::normal(&tape, shape, START_STREAM + i as u32))
                .collect();
            let logits = chains.decoded(&vae, &eps).logits;
            let drawn = decoder::normal_sample(&tape, logits, eps[eps.len() - 1]);
            clamped(&tape, drawn)
        }
        Model::Pixels | Model::Vaebm => noise::uniform(&tape, tape.shape(x), START_STREAM),
    };
    assign(&tape, x, fresh);
    tape
}

/// One Langevin step, with the feeds and outputs of [`Chains::step`] as far as there are such: scalar `step_size` (eta), `noise_x` if
/// given; `energy` and `dvalue` (`E / T`), `[n]`, and with `trace` `neg_x` and `grad.x`.
pub(super) fn step(chains: &Chains, step_noise: StepNoise, trace: bool, tape: &Tape) {
    let ebm = Net::new(tape, EBM, Mode::Eval);
    let eta = tape.feed("step_size", Shape::SCALAR);
    let x = images(chains, tape);
    let (e, u) = potential(chains, &ebm, x);
    let grads = tape.grad(u, &[x]);
    tape.output("energy", e);
    tape.output("dvalue", u);
    if trace {
        // Before the update: an output of the state itself would show the state after it.
        tape.output("neg_x", affine(tape, x, 1.0, 0.0));
        tape.output("grad.x", grads[0]);
    }
    match step_noise {
        StepNoise::Generated => {
            let noise = LangevinNoise::Philox {
                first_stream: STEP_STREAM,
            };
            langevin_update(tape, &[x], &grads, eta, noise);
        }
        StepNoise::Fed => {
            let given = [tape.feed("noise_x", tape.shape(x))];
            langevin_update(tape, &[x], &grads, eta, LangevinNoise::Given(&given));
        }
    }
    confine(tape, x);
}

/// The energy `E(x)` and `U = E(x) / T`, `[n]`.
pub(super) fn potential(chains: &Chains, ebm: &Net<'_>, x: Var) -> (Var, Var) {
    let e = energy(&chains.ebm, ebm, x);
    let temperature = chains.ebm.pixel_temperature;
    (e, affine(ebm.tape, e, 1.0 / temperature, 0.0))
}

/// Moves the state `x` back onto `[0, 1]`.
pub(super) fn confine(tape: &Tape, x: Var) {
    assign(tape, x, clamped(tape, x));
}

/// `x` with what is outside `[0, 1]` moved to the nearer end, however far it is.
fn clamped(tape: &Tape, x: Var) -> Var {
    let under_one = unary(
        tape,
        Function::Relu,
        affine(tape, unary(tape, Function::Relu, x), -1.0, 1.0),
    );
    affine(tape, under_one, -1.0, 1.0)
}

/// The images that the chains are at. There is no density around a mean here, so `sample` and `mean` are the same; `mu` is in the
/// decoder's units, `[-1, 1]`.
pub(super) fn ends(chains: &Chains) -> Tape {
    let tape = Tape::new();
    let ebm = Net::new(&tape, EBM, Mode::Eval);
    let x = images(chains, &tape);
    let copy = affine(&tape, x, 1.0, 0.0);
    tape.output("sample", copy);
    tape.output("mean", copy);
    tape.output("mu", affine(&tape, x, 2.0, -1.0));
    tape.output("energy", energy(&chains.ebm, &ebm, x));
    drop(ebm);
    tape
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Ebm, EnergyNet, Target, Vae};
    use crate::device::Device;
    use crate::device::host::Cpu;
    use crate::nn::params::initialise;
    use crate::nvae::Nvae;
    use crate::program::Noise as Counter;

    const N: usize = 2;

    fn chains(model: Model) -> Chains {
        let vae = Vae {
            num_groups_per_scale: 2,
            num_latent_per_group: 3,
            num_channels_enc: 4,
            num_channels_dec: 4,
            ..Vae::default()
        };
        Chains {
            model: Nvae::new(vae, 16, 1),
            ebm: Ebm {
                network: EnergyNet::Mnist,
                n_channel: 4,
                model,
                pixel_temperature: 1e-3,
                ..Ebm::default()
            },
            n: N,
            target: Target::Paper,
            temperature: 1.0,
        }
    }

    fn device(chains: &Chains) -> Cpu {
        let mut device = Cpu::new();
        let (vae, ebm) = chains.params();
        initialise(&mut device, VAE, &vae, 1).unwrap();
        initialise(&mut device, EBM, &ebm, 2).unwrap();
        device
    }

    /// The images after the start program.
    fn started(model: Model) -> Vec<f32> {
        let chains = chains(model);
        let mut device = device(&chains);
        let start = device.prepare(chains.start().plan("start")).unwrap();
        device.run(start, Counter::default()).unwrap();
        let ends = device.prepare(chains.images().plan("ends")).unwrap();
        device.run(ends, Counter::default()).unwrap();
        device.fetch(ends, "sample").unwrap()
    }

    #[test]
    fn a_step_is_drift_by_the_energy_over_the_temperature_and_noise_within_the_range() {
        let chains = chains(Model::Pixels);
        let mut device = device(&chains);
        let program = device
            .prepare(chains.step(StepNoise::Fed, true).plan("step"))
            .unwrap();
        let (name, shape) = state(&chains);
        let x: Vec<f32> = (0..shape.len()).map(|i| (i % 17) as f32 / 16.0).collect();
        let noise: Vec<f32> = (0..shape.len()).map(|i| (i % 7) as f32 - 3.0).collect();
        let eta = 0.01_f32;
        let run = |device: &mut Cpu, x: &[f32], noise: &[f32], eta: f32| {
            device.write_state(&name, x).unwrap();
            device.feed(program, "noise_x", noise).unwrap();
            device.feed(program, "step_size", &[eta]).unwrap();
            device.run(program, Counter::default()).unwrap();
        };
        run(&mut device, &x, &noise, eta);
        assert_eq!(device.fetch(program, "neg_x").unwrap(), x);
        let grads = device.fetch(program, "grad.x").unwrap();
        let after = device.read_state(&name).unwrap();
        let mut ends = 0;
        for i in 0..x.len() {
            let free = x[i] - eta / 2.0 * grads[i] + eta.sqrt() * noise[i];
            assert!((after[i] - free.clamp(0.0, 1.0)).abs() < 1e-6, "pixel {i}");
            ends += usize::from(after[i] == 0.0 || after[i] == 1.0);
        }
        assert!(0 < ends && ends < x.len());

        // U is the energy over the temperature, and the gradient is U's: along it U rises by the square of its length.
        let energies = device.fetch(program, "energy").unwrap();
        let values = device.fetch(program, "dvalue").unwrap();
        for (e, u) in energies.iter().zip(&values) {
            assert!((u - e / 1e-3).abs() <= 1e-5 * u.abs());
        }
        let norm = |chain: usize| -> f64 {
            let row = &grads[chain * x.len() / N..(chain + 1) * x.len() / N];
            row.iter().map(|g| f64::from(*g).powi(2)).sum()
        };
        let h = 0.1;
        let along = |sign: f32| -> Vec<f32> {
            x.iter()
                .zip(&grads)
                .map(|(x, g)| x + sign * h * g)
                .collect()
        };
        let zeros = vec![0.0; x.len()];
        run(&mut device, &along(1.0), &zeros, eta);
        let up = device.fetch(program, "dvalue").unwrap();
        run(&mut device, &along(-1.0), &zeros, eta);
        let down = device.fetch(program, "dvalue").unwrap();
        for chain in 0..N {
            let slope = f64::from(up[chain] - down[chain]) / f64::from(2.0 * h);
            let want = norm(chain);
            assert!((slope - want).abs() < 0.02 * want, "{slope} {want}");
        }
    }

    #[test]
    fn what_is_far_outside_comes_back_to_the_end_that_it_left() {
        let tape = Tape::new();
        let x = tape.feed("x", [7]);
        tape.output("clamped", clamped(&tape, x));
        let mut device = Cpu::new();
        let program = device.prepare(tape.plan("clamp")).unwrap();
        let values = [-1e30, -0.5, 0.0, 0.25, 1.0, 1.5, 1e30];
        device.feed(program, "x", &values).unwrap();
        device.run(program, Counter::default()).unwrap();
        let after = device.fetch(program, "clamped").unwrap();
        assert_eq!(after, [0.0, 0.0, 0.0, 0.25, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn chains_start_at_uniform_noise_or_at_the_samples_that_a_vaebm_starts_at() {
        let uniform = started(Model::Pixels);
        assert!(uniform.iter().all(|v| (0.0..=1.0).contains(v)));
        let mean = uniform.iter().sum::<f32>() / uniform.len() as f32;
        assert!((mean - 0.5).abs() < 0.05, "{mean}");
        let drawn: Vec<f32> = started(Model::Vaebm);
        assert!(drawn.iter().any(|v| *v != drawn[0]));
        let from_vae = started(Model::PixelsFromVae);
        for (a, b) in from_vae.iter().zip(&drawn) {
            assert!((a - b.clamp(0.0, 1.0)).abs() < 1e-6);
        }
    }
}
