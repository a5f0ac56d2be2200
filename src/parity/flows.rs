//! `nf_cells`: each flow alone, with its masks, effective weights and gradients.

use std::path::Path;

use super::ParityError;
use super::array::Array;
use super::machine::Machine;
use super::model::VaeCase;
use super::rule::Checks;
use crate::nn::params::{Init, ParamSpec};
use crate::nn::{Mode, Net, flow};
use crate::ops::Var;
use crate::tape::Tape;
use crate::train::vae_programs::VAE;

/// A layer's path below the cells, as the test spells it: `nf_cells.0.cell1.conv.convz.0` is `0.cell1.convz.0`.
fn short(path: &str) -> Option<String> {
    let rest = path.strip_prefix("nf_cells.")?;
    Some(match rest.strip_suffix(".mu.conv_0") {
        Some(cell) => format!("{cell}.mu"),
        None => rest.replacen(".conv.convz.", ".convz.", 1),
    })
}

pub(super) fn cells(
    folder: &Path,
    cx: &mut Checks<'_>,
    m: &mut Machine,
) -> Result<(), ParityError> {
    let case = VaeCase::open(folder)?;
    for j in 0..cx.file.count(|j| format!("in.{j}")) {
        pair(&case, j, cx, m)?;
    }
    Ok(())
}

/// The pair of cells number `j`.
fn pair(case: &VaeCase, j: usize, cx: &mut Checks<'_>, m: &mut Machine) -> Result<(), ParityError> {
    let input = cx.file.tensor(&format!("in.{j}"))?;
    let tape = Tape::new();
    let net = Net::new(&tape, VAE, Mode::Eval);
    let place = net.root().sub("nf_cells").sub(j);
    let shape = input.to_engine().shape();
    let (z, cotangent) = (tape.feed("in", shape), tape.feed("cot", shape));
    let middle = flow::cell(&place.sub("cell1"), z, false);
    let out = flow::cell(&place.sub("cell2"), middle, true);
    let trained = net.trainable();
    let wrt: Vec<Var> = [z]
        .into_iter()
        .chain(trained.iter().map(|(_, v)| *v))
        .collect();
    let gradients = tape.grad_from(&[(out, cotangent)], &wrt);
    tape.output("mid", middle);
    tape.output("out", out);
    tape.output("grad_in", gradients[0]);
    for ((name, _), gradient) in trained.iter().zip(&gradients[1..]) {
        tape.output(&format!("grad.{name}"), *gradient);
    }
    for (path, weight) in net.effective_weights() {
        tape.output(&format!("wn.{path}"), weight);
    }
    let specs = net.params();
    m.load(VAE, &specs, &case.weights)?;
    let program = m.prepare(&tape, "parity/flow")?;
    m.feed(program, "in", input)?;
    m.feed(program, "cot", cx.file.tensor(&format!("cot.{j}"))?)?;
    m.run(program)?;
    for name in ["mid", "out", "grad_in"] {
        cx.compare(&format!("{name}.{j}"), &m.fetch(program, name)?)?;
    }
    let spec_of = |name: &str| -> Result<&ParamSpec, ParityError> {
        let found = specs.iter().find(|s| s.name == name);
        found.ok_or_else(|| ParityError::NoWeight(name.to_owned()))
    };
    for (path, _) in net.effective_weights() {
        let Some(layer) = short(&path) else { continue };
        let weight = spec_of(&format!("{path}.weight"))?;
        let gain = spec_of(&format!("{path}.log_weight_norm"))?;
        let effective = m.fetch_like(program, &format!("wn.{path}"), weight)?;
        cx.compare(&format!("wn.{layer}"), &effective)?;
        if let Init::LogNorm {
            mask: Some(mask), ..
        } = &gain.init
        {
            let mask = Array::new(weight.official_shape(), weight.to_official(mask));
            cx.compare(&format!("mask.{layer}"), &mask)?;
        }
        for (kind, spec) in [("grad_w", weight), ("grad_lwn", gain)] {
            let gradient = m.fetch_like(program, &format!("grad.{}", spec.name), spec)?;
            cx.compare(&format!("{kind}.{layer}"), &gradient)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn layers_are_spelt_as_in_the_files() {
        assert_eq!(
            short("nf_cells.0.cell1.conv.convz.0").as_deref(),
            Some("0.cell1.convz.0")
        );
        assert_eq!(
            short("nf_cells.2.cell2.mu.conv_0").as_deref(),
            Some("2.cell2.mu")
        );
        assert_eq!(short("stem"), None);
    }
}
