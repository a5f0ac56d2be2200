//! The programs of a chain: start, one step, the image at its end.
//!
//! A chain's state is one noise tensor per latent group and one for pixels, all standard normal at the start. One step moves
//! all of them at once along one gradient. Chains of a model without the VAE's density move pixels instead: [`super::pixels`].

use super::pixels;
use super::potential::{Potential, Recorded};
use crate::config::{Ebm, Model, Target};
use crate::energy::energy;
use crate::nn::params::ParamSpec;
use crate::nn::{Mode, Net};
use crate::nvae::{Nvae, Sampled};
use crate::ops::binary::{combine, sum_of};
use crate::ops::langevin::{LangevinNoise, langevin_update};
use crate::ops::reduce::sum_rows;
use crate::ops::state::assign;
use crate::ops::unary::{Function, affine, unary};
use crate::ops::{Recorder, Var, decoder, noise};
use crate::tape::Tape;
use crate::tensor::Shape;
use crate::train::vae_programs::VAE;

/// The prefix of the energy network's states.
pub const EBM: &str = "ebm";
/// The first stream of a chain's starting noise; its steps take streams from [`STEP_STREAM`] on.
pub const START_STREAM: u32 = 3 << 16;
/// The first stream of the noise of Langevin steps.
pub const STEP_STREAM: u32 = 4 << 16;

/// A group of chains that move together: the networks, how many, and what they follow.
#[derive(Clone, Debug)]
pub struct Chains {
    /// The VAE.
    pub model: Nvae,
    /// The energy network.
    pub ebm: Ebm,
    /// How many chains.
    pub n: usize,
    /// The density that they follow.
    pub target: Target,
    /// Multiplies every prior sigma.
    pub temperature: f64,
}

/// Whether a step draws its own noise or is given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepNoise {
    /// The counter-based generator.
    Generated,
    /// Feeds `noise_z.<group>` and `noise_x`.
    Fed,
}

/// What a place in noise space comes to.
struct Evaluated {
    sampled: Sampled,
    /// The image, drawn with the chain's own pixel noise.
    x: Var,
    /// `E(x)`, `[n]`.
    energy: Var,
    /// `log p(x|z)`, `[n]`, where the target has it.
    log_px: Option<Var>,
    /// `U`, `[n]`.
    total: Var,
}

impl Chains {
    /// The names and shapes of the chains' states: groups top-down, then pixels. Names carry the number of chains, so that
    /// training and sampling can have different ones on one device.
    ///
    /// Chains that move pixels have one state, the image.
    pub fn states(&self) -> Vec<(String, Shape)> {
        match self.ebm.model {
            Model::Vaebm => self.noise_states(),
            Model::Pixels | Model::PixelsFromVae => vec![pixels::state(self)],
        }
    }

    /// The noise that an image of the VAE is made from.
    pub(super) fn noise_states(&self) -> Vec<(String, Shape)> {
        let groups = self.model.groups();
        let mut states: Vec<(String, Shape)> = (groups.iter().enumerate())
            .map(|(g, group)| (format!("chains{}.eps_z.{g}", self.n), group.shape(self.n)))
            .collect();
        states.push((
            format!("chains{}.eps_x", self.n),
            self.model.image_shape(self.n),
        ));
        states
    }

    fn vars(&self, tape: &Tape) -> Vec<Var> {
        let states = self.noise_states();
        states
            .iter()
            .map(|(name, shape)| tape.state(name, *shape))
            .collect()
    }

    /// Starts all chains: from standard normal noise, or where chains of pixels start.
    pub fn start(&self) -> Tape {
        if self.moves_pixels() {
            return pixels::start(self);
        }
        let tape = Tape::new();
        for (i, eps) in self.vars(&tape).into_iter().enumerate() {
            let fresh = noise::normal(&tape, tape.shape(eps), START_STREAM + i as u32);
            assign(&tape, eps, fresh);
        }
        tape
    }

    /// Whether the chains move pixels rather than the VAE's noise.
    pub fn moves_pixels(&self) -> bool {
        self.ebm.model != Model::Vaebm
    }

    /// The images at the chains' states, as negatives of training: draws, or with `means` the decoder's means. Chains of pixels are
    /// at images themselves.
    pub fn negatives(&self, tape: &Tape, vae: &Net<'_>, states: &[Var], means: bool) -> Var {
        let last = states[states.len() - 1];
        if self.moves_pixels() {
            return last;
        }
        let logits = self.decoded(vae, states).logits;
        if means {
            affine(tape, decoder::normal_mean(tape, logits), 0.5, 0.5)
        } else {
            decoder::normal_sample(tape, logits, last)
        }
    }

    /// The decoder at the chains' state. The VAE is in evaluation mode (SPEC section 6).
    pub fn decoded(&self, vae: &Net<'_>, eps: &[Var]) -> Sampled {
        let (_, eps_z) = eps.split_last().expect("a chain has pixels");
        self.model.decode(vae, eps_z, self.temperature)
    }

    /// One Langevin step: `eps <- eps - eta/2 dU/deps + sqrt(eta) N(0, 1)`, with `U` per chain.
    ///
    /// Feed: scalar `step_size` (eta). Outputs, at the state before the update, `[n]`: `energy`, `log_p_total`, `log_pxgz` (official
    /// target), `dvalue` (U). With `trace` also `neg_x`, `logits` and the gradients, for parity and diagnostics.
    pub fn step(&self, step_noise: StepNoise, trace: bool) -> Tape {
        let tape = Tape::new();
        self.record_step(&tape, step_noise, trace);
        tape
    }

    /// The same with every fusible region in its plain parts.
    pub fn step_unfused(&self, step_noise: StepNoise, trace: bool) -> Tape {
        let tape = Tape::unfused();
        self.record_step(&tape, step_noise, trace);
        tape
    }

    fn record_step(&self, tape: &Tape, step_noise: StepNoise, trace: bool) {
        if self.moves_pixels() {
            return pixels::step(self, step_noise, trace, tape);
        }
        let (vae, ebm) = (
            Net::new(tape, VAE, Mode::Eval),
            Net::new(tape, EBM, Mode::Eval),
        );
        let eta = tape.feed("step_size", Shape::SCALAR);
        let eps = self.vars(tape);
        let Evaluated {
            sampled,
            x,
            energy: e,
            log_px,
            total: u,
        } = self.evaluate(&vae, &ebm, &eps);
        if let Some(log_px) = log_px {
            tape.output("log_pxgz", log_px);
        }
        let grads = tape.grad(u, &eps);
        tape.output("energy", e);
        tape.output("log_p_total", sampled.log_p);
        tape.output("dvalue", u);
        if trace {
            tape.output("neg_x", x);
            tape.output("logits", sampled.logits);
            for (i, g) in grads.iter().enumerate() {
                let name = if i + 1 == grads.len() {
                    "grad.eps_x".to_owned()
                } else {
                    format!("grad.eps_z.{i}")
                };
                tape.output(&name, *g);
            }
        }
        match step_noise {
            StepNoise::Generated => {
                let noise = LangevinNoise::Philox {
                    first_stream: STEP_STREAM,
                };
                langevin_update(tape, &eps, &grads, eta, noise);
            }
            StepNoise::Fed => {
                let fed = |(i, v): (usize, &Var)| {
                    let name = if i + 1 == eps.len() {
                        "noise_x".to_owned()
                    } else {
                        format!("noise_z.{i}")
                    };
                    tape.feed(&name, tape.shape(*v))
                };
                let given: Vec<Var> = eps.iter().enumerate().map(fed).collect();
                langevin_update(tape, &eps, &grads, eta, LangevinNoise::Given(&given));
            }
        }
    }

    /// The energy of the density that the chains follow, at noise given as tensors: groups top-down, then pixels.
    fn evaluate(&self, vae: &Net<'_>, ebm: &Net<'_>, eps: &[Var]) -> Evaluated {
        let tape = vae.tape;
        let sampled = self.decoded(vae, eps);
        let x = decoder::normal_sample(tape, sampled.logits, eps[eps.len() - 1]);
        let e = energy(&self.ebm, ebm, x);
        let (total, log_px) = match self.target {
            Target::Official => {
                let log_px = decoder::normal_log_prob_clamped(tape, sampled.logits, x);
                let densities = combine(tape, 1.0, sampled.log_p, 1.0, log_px);
                (combine(tape, 1.0, e, -1.0, densities), Some(log_px))
            }
            Target::Paper => {
                let halves: Vec<Var> = eps
                    .iter()
                    .map(|v| {
                        affine(
                            tape,
                            sum_rows(tape, unary(tape, Function::Square, *v)),
                            0.5,
                            0.0,
                        )
                    })
                    .collect();
                (combine(tape, 1.0, e, 1.0, sum_of(tape, &halves)), None)
            }
        };
        Evaluated {
            sampled,
            x,
            energy: e,
            log_px,
            total,
        }
    }

    /// The images at the chains' state: `sample` with the chain's own pixel noise and `mean`, both in `[0, 1]` units (the mean is not
    /// clamped), `mu` as the decoder gives it (soft-clamped to `[-5, 5]`), and `energy` of the sample.
    pub fn images(&self) -> Tape {
        if self.moves_pixels() {
            return pixels::ends(self);
        }
        let tape = Tape::new();
        let (vae, ebm) = (
            Net::new(&tape, VAE, Mode::Eval),
            Net::new(&tape, EBM, Mode::Eval),
        );
        let eps = self.vars(&tape);
        let sampled = self.decoded(&vae, &eps);
        let x = decoder::normal_sample(&tape, sampled.logits, eps[eps.len() - 1]);
        let mu = decoder::normal_mean(&tape, sampled.logits);
        tape.output("sample", x);
        tape.output("mu", mu);
        tape.output("mean", affine(&tape, mu, 0.5, 0.5));
        tape.output("energy", energy(&self.ebm, &ebm, x));
        tape
    }

    /// The parameters of both networks, `(VAE, energy network)`, without prefix.
    pub fn params(&self) -> (Vec<ParamSpec>, Vec<ParamSpec>) {
        let tape = Tape::unfused();
        let (vae, ebm) = (
            Net::new(&tape, VAE, Mode::Eval),
            Net::new(&tape, EBM, Mode::Eval),
        );
        let sampled = self.decoded(&vae, &self.vars(&tape));
        energy(&self.ebm, &ebm, decoder::normal_mean(&tape, sampled.logits));
        (vae.params(), ebm.params())
    }
}

/// `exp(-E(T(eps)) - |eps|^2 / 2)` or the published code's density, in noise space; `exp(-E(x) / T)` for chains that move pixels. Of a
/// place they tell the energy network's `energy` and the mean pixel, `brightness`.
impl Potential for Chains {
    fn chains(&self) -> usize {
        self.n
    }

    fn resized(&self, n: usize) -> Self {
        Chains { n, ..self.clone() }
    }

    fn states(&self) -> Vec<(String, Shape)> {
        Chains::states(self)
    }

    fn start(&self) -> Tape {
        Chains::start(self)
    }

    fn record(&self, tape: &Tape, at: &[Var]) -> Recorded {
        let ebm = Net::new(tape, EBM, Mode::Eval);
        let told = |energy: Var, x: Var| {
            let pixels = tape.shape(x).len() / self.n.max(1);
            let brightness = affine(tape, sum_rows(tape, x), 1.0 / pixels as f64, 0.0);
            vec![("energy", energy), ("brightness", brightness)]
        };
        if self.moves_pixels() {
            let (e, u) = pixels::potential(self, &ebm, at[0]);
            return Recorded {
                total: u,
                summands: vec![u],
                standard_normal: false,
                told: told(e, at[0]),
            };
        }
        let vae = Net::new(tape, VAE, Mode::Eval);
        let place = self.evaluate(&vae, &ebm, at);
        let mut summands = vec![place.energy];
        if let Some(log_px) = place.log_px {
            // Group by group: their sum is larger than any of them, and has fewer digits left for a difference.
            let densities = place.sampled.log_p_of_groups.iter().chain([&log_px]);
            summands.extend(densities.map(|density| affine(tape, *density, -1.0, 0.0)));
        }
        Recorded {
            total: place.total,
            summands,
            standard_normal: self.target == Target::Paper,
            told: told(place.energy, place.x),
        }
    }

    fn confine(&self, tape: &Tape, states: &[Var]) {
        if self.moves_pixels() {
            pixels::confine(tape, states[0]);
        }
    }

    /// None: a pixel of noise says nothing by itself.
    fn coordinates(&self) -> Vec<usize> {
        Vec::new()
    }
}
