//! The tests of energy networks: data-dependent initialisation, energies with their gradients, spectral norms.

use std::collections::BTreeMap;
use std::path::Path;

use super::ParityError;
use super::array::Array;
use super::machine::{Machine, layer_of};
use super::model::EbmCase;
use super::rule::Checks;
use crate::energy::energy;
use crate::langevin::programs::EBM;
use crate::nn::{Mode, Net};
use crate::ops::Var;
use crate::tape::Tape;
use crate::train::ebm_programs;
use crate::train::vae_programs::{POWER_ITERATIONS, spectral_loss};

/// Weights that a test brings itself, under a prefix.
fn own_weights(cx: &Checks<'_>, prefix: &str) -> BTreeMap<String, Array> {
    let below = cx.file.below(prefix);
    below
        .map(|(name, w)| (name.to_owned(), w.clone()))
        .collect()
}

/// `ebm_data_init`: the first forward pass of a fresh network.
pub(super) fn data_init(cx: &mut Checks<'_>, m: &mut Machine) -> Result<(), ParityError> {
    let case = EbmCase::new(cx.file.path(), own_weights(cx, "before."))?;
    let images = cx.file.tensor("images")?;
    let recorded = ebm_programs::data_init(&case.ebm, images.to_engine().shape());
    m.load(EBM, &recorded.params, &case.weights)?;
    let program = m.prepare(&recorded.tape, "parity/data_init")?;
    m.feed(program, "x", images)?;
    m.run(program)?;
    cx.compare("energy", &m.fetch(program, "energy")?)?;
    for spec in &recorded.params {
        let name = format!("after.{}", spec.name);
        cx.compare(&name, &m.parameter(EBM, spec)?)?;
    }
    Ok(())
}

/// `unit/ebm_*`: energies and their gradient by the images.
pub(super) fn unit(cx: &mut Checks<'_>, m: &mut Machine) -> Result<(), ParityError> {
    let case = EbmCase::new(cx.file.path(), own_weights(cx, "w."))?;
    let x = cx.file.tensor("x")?;
    let tape = Tape::new();
    let net = Net::new(&tape, EBM, Mode::Eval);
    let images = tape.feed("x", x.to_engine().shape());
    let e = energy(&case.ebm, &net, images);
    tape.output("energy", e);
    tape.output("grad_x", tape.grad(e, &[images])[0]);
    m.load(EBM, &net.params(), &case.weights)?;
    let program = m.prepare(&tape, "parity/energy")?;
    m.feed(program, "x", x)?;
    m.run(program)?;
    for name in ["energy", "grad_x"] {
        cx.compare(name, &m.fetch(program, name)?)?;
    }
    Ok(())
}

/// `ebm_forward`: energies and spectral norms with all their gradients.
pub(super) fn forward(
    folder: &Path,
    cx: &mut Checks<'_>,
    m: &mut Machine,
) -> Result<(), ParityError> {
    let case = EbmCase::open(folder)?;
    let file = cx.file;
    let x = file.tensor("x")?;
    let mut iterations = 0;
    for (run, power) in POWER_ITERATIONS.into_iter().enumerate() {
        iterations += power;
        let tape = Tape::new();
        let net = Net::new(&tape, EBM, Mode::Train);
        let images = tape.feed("x", x.to_engine().shape());
        let e = energy(&case.ebm, &net, images);
        let spectral = spectral_loss(&net, power, None);
        let trained = net.trainable();
        let vars: Vec<Var> = trained.iter().map(|(_, v)| *v).collect();
        let wrt = [&[images], &vars[..]].concat();
        let gradients = tape.grad(e, &wrt);
        tape.output("energy", e);
        tape.output("sr_loss", spectral.loss);
        tape.output("grad_x", gradients[0]);
        let spectral_gradients = tape.grad(spectral.loss, &vars);
        for (i, (name, _)) in trained.iter().enumerate() {
            tape.output(&format!("grad.{name}"), gradients[i + 1]);
            tape.output(&format!("sr_grad.{name}"), spectral_gradients[i]);
        }
        let specs = net.params();
        let program = m.prepare(&tape, "parity/ebm_forward")?;
        if run == 0 {
            m.load(EBM, &specs, &case.weights)?;
            m.start_power_vectors(&spectral.vectors, |layer| {
                file.tensor(&format!("sr_u0.{layer}")).cloned()
            })?;
        }
        m.feed(program, "x", x)?;
        m.run(program)?;
        let loss = m.fetch(program, "sr_loss")?;
        cx.compare(&format!("sr_loss.{iterations}"), &loss)?;
        for (state, _) in &spectral.vectors {
            let name = format!("sr_u{iterations}.{}", layer_of(state));
            cx.compare(&name, &Array::vector(m.read(state)?))?;
        }
        // The energy is the same in both runs, and the file holds the spectral gradient of the first.
        if run == 0 {
            for name in ["energy", "grad_x"] {
                cx.compare(name, &m.fetch(program, name)?)?;
            }
            for spec in &specs {
                for kind in ["grad", "sr_grad"] {
                    let name = format!("{kind}.{}", spec.name);
                    cx.compare(&name, &m.fetch_like(program, &name, spec)?)?;
                }
            }
        }
    }
    Ok(())
}
