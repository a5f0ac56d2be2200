//! The programs of stage 2 (SPEC section 6): data-dependent initialisation, and the update of the energy network.

use super::guard::programs::{Judgement, Kept};
use super::vae_programs::{Recorded, VAE, spectral_loss};
use crate::config::{Ebm, TrainEbm};
use crate::energy::energy;
use crate::langevin::programs::{Chains, EBM};
use crate::nn::{Mode, Net};
use crate::ops::binary::{add, combine, mul, sub};
use crate::ops::layout::{concat, slice};
use crate::ops::optim::{AdamSettings, adam_clip, clipped_gradients};
use crate::ops::reduce::mean;
use crate::ops::{Recorder, Var};
use crate::program::gpu::Precision;
use crate::tape::Tape;
use crate::tensor::Shape;

/// One forward pass of the feed `x` (of shape `images`) that sets weight norms and biases from the data. Output: `energy`.
pub fn data_init(config: &Ebm, images: Shape) -> Recorded {
    let tape = Tape::new();
    let net = Net::new(&tape, EBM, Mode::Eval).with_data_init();
    let x = tape.feed("x", images);
    tape.output("energy", energy(config, &net, x));
    let params = net.params();
    drop(net);
    Recorded {
        tape,
        params,
        power_vectors: Vec::new(),
        moments: Vec::new(),
    }
}

/// The energy of the feed `x`, `[n]`, in evaluation mode. Output: `energy`.
pub fn evaluate(config: &Ebm, images: Shape) -> Recorded {
    let tape = Tape::new();
    let net = Net::new(&tape, EBM, Mode::Eval);
    let x = tape.feed("x", images);
    tape.output("energy", energy(config, &net, x));
    let params = net.params();
    drop(net);
    Recorded {
        tape,
        params,
        power_vectors: Vec::new(),
        moments: Vec::new(),
    }
}

/// The update of the energy network at the end of the chains.
///
/// Negatives are decoded from the chains' state; no gradient flows through the chain. Feeds: `x` (positives, as many as there
/// are chains), scalars `lr`, `t` (updates from 1). Outputs: `loss`, `loss_total`, `pos_out`, `neg_out` `[n]`, `norm_loss`.
/// With `trace` also `final_neg_x` and each gradient before and after clipping.
///
/// In f32 the network is recorded layer by layer: the first step of Adam is the sign of a gradient, and where that is near zero the official
/// code's order of sums decides it. With a lower `precision` that order means nothing, and activations, skips and pooling are joined with
/// the convolutions as in the chains.
pub fn train_step(
    chains: &Chains,
    config: &TrainEbm,
    precision: Precision,
    power_iterations: usize,
    trace: bool,
) -> Recorded {
    record(chains, config, precision, power_iterations, trace, None)
}

/// The same under a guard, which withholds the update of a bad step. A further feed is `extra_alpha`, added to the weight of the
/// spectral regularisation; a further output is `apply`, 1 or 0.
pub(crate) fn guarded_step(
    chains: &Chains,
    config: &TrainEbm,
    precision: Precision,
    power_iterations: usize,
    guard: &Judgement,
) -> Recorded {
    record(
        chains,
        config,
        precision,
        power_iterations,
        false,
        Some(guard),
    )
}

fn record(
    chains: &Chains,
    config: &TrainEbm,
    precision: Precision,
    power_iterations: usize,
    trace: bool,
    guard: Option<&Judgement>,
) -> Recorded {
    let tape = Tape::new();
    let (vae, net) = (
        Net::new(&tape, VAE, Mode::Eval),
        Net::new(&tape, EBM, Mode::Train).joining_in_training(precision != Precision::F32),
    );
    let n = chains.n;
    let positives = tape.feed("x", chains.model.image_shape(n));
    let (lr, t) = (
        tape.feed("lr", Shape::SCALAR),
        tape.feed("t", Shape::SCALAR),
    );
    let eps: Vec<Var> = chains
        .states()
        .iter()
        .map(|(name, shape)| tape.state(name, *shape))
        .collect();
    let negatives = chains.negatives(&tape, &vae, &eps, config.use_mu_cd);
    let both = energy(&chains.ebm, &net, concat(&tape, &[positives, negatives], 0));
    let (pos, neg) = (slice(&tape, both, 0, 0, n), slice(&tape, both, 0, n, n));
    let loss = sub(&tape, mean(&tape, pos), mean(&tape, neg));
    let mut kept = Kept::default();
    let spectral = spectral_loss(&net, power_iterations, guard.map(|_| &mut kept));
    let mut total = combine(&tape, 1.0, loss, config.alpha_s, spectral.loss);
    if guard.is_some() {
        let extra = mul(
            &tape,
            spectral.loss,
            tape.feed("extra_alpha", Shape::SCALAR),
        );
        total = add(&tape, total, extra);
    }

    let params = net.trainable();
    let vars: Vec<Var> = params.iter().map(|(_, v)| *v).collect();
    let grads = tape.grad(total, &vars);
    let mut moments = Vec::new();
    let mut moment = |kind: &str| -> Vec<Var> {
        let state = |(name, v): &(String, Var)| {
            let (name, shape) = (format!("{EBM}.{kind}.{name}"), tape.shape(*v));
            moments.push((name.clone(), shape));
            tape.state(&name, shape)
        };
        params.iter().map(state).collect()
    };
    let (m, v) = (moment("exp_avg"), moment("exp_avg_sq"));
    tape.output("loss", loss);
    tape.output("loss_total", total);
    tape.output("pos_out", pos);
    tape.output("neg_out", neg);
    tape.output("norm_loss", spectral.loss);
    let settings = AdamSettings {
        weight_decay: config.wd,
        clip: config.clip_grad.then(Default::default),
        ..AdamSettings::default()
    };
    let clipped = match settings.clip {
        Some(clip) if trace => clipped_gradients(&tape, &grads, &v, t, clip, settings.beta2),
        _ => grads.clone(),
    };
    let t = match guard {
        None => t,
        Some(guard) => guard.stage2(&tape, chains, [loss, negatives, t], [&grads, &eps], &kept),
    };
    adam_clip(&tape, &vars, &grads, &m, &v, lr, t, settings);
    if trace {
        tape.output("final_neg_x", negatives);
        for (i, (name, _)) in params.iter().enumerate() {
            tape.output(&format!("grad.{name}"), grads[i]);
            tape.output(&format!("clipped.{name}"), clipped[i]);
        }
    }
    let specs = net.params();
    drop((vae, net));
    Recorded {
        tape,
        params: specs,
        power_vectors: spectral.vectors,
        moments,
    }
}
