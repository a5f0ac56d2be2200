//! `unit/distributions`: Normals, mixtures of logistics, reduction of bits, sizes of latent groups.

use super::Step;
use crate::ops::decoder::{dmol_log_prob, dmol_mean, dmol_sample, reduce_bits};
use crate::ops::kl_balance::{Alpha, alpha};
use crate::ops::latent::{kl, log_prob, sample, sample_log_prob};
use crate::ops::{Recorder, Var, fill};
use crate::parity::ParityError;
use crate::parity::array::Array;
use crate::parity::machine::Machine;
use crate::parity::rule::Checks;

pub(in crate::parity) fn run(cx: &mut Checks<'_>, m: &mut Machine) -> Result<(), ParityError> {
    normals(cx, m)?;
    let file = cx.file;
    for (name, _) in file.tensors() {
        let bad = || file.error(format!("this build cannot read the name `{name}`"));
        if let Some(mixture) = name.strip_suffix(".logits") {
            let bits = mixture.strip_prefix("dmol").and_then(|b| b.parse().ok());
            mixture_of_logistics(mixture, bits.ok_or_else(bad)?, cx, m)?;
        } else if let Some(bits) = name.strip_prefix("pre_process.").filter(|n| *n != "in") {
            let bits = bits.parse().map_err(|_| bad())?;
            let images = file.tensor("pre_process.in")?;
            let reduce = |x: &f64| f64::from(reduce_bits(*x as f32, bits));
            let data = images.data.iter().map(reduce).collect();
            cx.compare(name, &Array::new(images.shape.clone(), data))?;
        } else if let Some(sizes) = name.strip_prefix("alpha.") {
            let sizes = group_sizes(sizes).ok_or_else(bad)?;
            cx.compare(name, &Array::vector(sizes))?;
        }
    }
    Ok(())
}

/// `<kind>.<groups per scale>`, the latter joined by underscores.
fn group_sizes(name: &str) -> Option<Vec<f64>> {
    let (kind, groups) = name.split_once('.')?;
    let kind = match kind {
        "equal" => Alpha::Equal,
        "linear" => Alpha::Linear,
        "sqrt" => Alpha::Sqrt,
        "square" => Alpha::Square,
        _ => return None,
    };
    let groups: Option<Vec<usize>> = groups.split('_').map(|g| g.parse().ok()).collect();
    Some(alpha(kind, &groups?))
}

/// Two matrices of elements as the parameters of single-element samples: `[count, 2]`.
fn parameters(mu: &Array, log_sigma: &Array) -> Array {
    let pairs = mu.data.iter().zip(&log_sigma.data);
    let data = pairs.flat_map(|(m, s)| [*m, *s]).collect();
    Array::new([mu.data.len(), 2], data)
}

/// Each element of the file is a sample of its own here, so that per-sample sums are per-element values.
fn normals(cx: &mut Checks<'_>, m: &mut Machine) -> Result<(), ParityError> {
    let file = cx.file;
    let shape = file.tensor("mu")?.shape.clone();
    let count = shape.iter().product();
    let constant = |value: f64| Array::new([count, 1], vec![value; count]);
    let mut step = Step::default();
    let mut pair = |name: &str, mu: &Array, log_sigma: &str| {
        let log_sigma = file.tensor(log_sigma)?;
        Ok::<Var, ParityError>(step.feed(name, &parameters(mu, log_sigma)))
    };
    let q = pair("q", file.tensor("mu")?, "log_sigma")?;
    let p = pair("p", file.tensor("mu2")?, "log_sigma2")?;
    let centred = pair("centred", &constant(0.0), "log_sigma")?;
    let eps = step.feed("eps", &file.tensor("eps")?.clone().reshaped([count, 1]));
    let (zeros, ones) = (
        step.feed("zeros", &constant(0.0)),
        step.feed("ones", &constant(1.0)),
    );
    let tape = &step.tape;
    let (z, log_q) = sample_log_prob(tape, q, eps, 1.0);
    let (log_p, divergence) = (log_prob(tape, p, z, 1.0), kl(tape, q, p));
    let values = [
        ("normal.mu", sample(tape, q, zeros, 1.0)),
        ("normal.sigma", sample(tape, centred, ones, 1.0)),
        ("normal.z", z),
        ("normal.log_q", log_q),
        ("normal.log_p", log_p),
        ("normal.kl", divergence),
    ];
    for (name, var) in values {
        tape.output(name, var);
    }
    let one = |v: Var| fill(tape, tape.shape(v), 1.0);
    let seeds = [(divergence, one(divergence)), (log_p, one(log_p))];
    let gradients = tape.grad_from(&seeds, &[q, p]);
    tape.output("dq", gradients[0]);
    tape.output("dp", gradients[1]);
    let program = step.run(m)?;
    for (name, _) in values {
        let value = m.fetch(program, name)?.reshaped(shape.clone());
        cx.compare(name, &value)?;
    }
    for (name, result, first) in [
        ("grad.mu", "dq", 0),
        ("grad.log_sigma", "dq", 1),
        ("grad.mu2", "dp", 0),
        ("grad.log_sigma2", "dp", 1),
    ] {
        let pairs = m.fetch(program, result)?.data;
        let data = pairs.into_iter().skip(first).step_by(2).collect();
        cx.compare(name, &Array::new(shape.clone(), data))?;
    }
    Ok(())
}

/// Each pixel of the file is an image of its own here: the file has log-probabilities of pixels.
fn mixture_of_logistics(
    name: &str,
    bits: u32,
    cx: &mut Checks<'_>,
    m: &mut Machine,
) -> Result<(), ParityError> {
    let file = cx.file;
    let mut step = Step::default();
    let mut pixels = |tensor: &str| {
        let nhwc = file.tensor(&format!("{name}.{tensor}"))?.to_engine();
        let channels = nhwc.shape().last();
        let shape = [nhwc.data.len() / channels, 1, 1, channels];
        Ok::<Var, ParityError>(step.feed(tensor, &nhwc.reshaped(shape)))
    };
    let (logits, x) = (pixels("logits")?, pixels("x")?);
    let (u_gumbel, u) = (pixels("u_gumbel")?, pixels("u")?);
    let tape = &step.tape;
    let log_prob = dmol_log_prob(tape, logits, x, bits);
    tape.output("log_prob", log_prob);
    tape.output("grad_logits", tape.grad(log_prob, &[logits])[0]);
    tape.output("mean", dmol_mean(tape, logits));
    for (full, _) in file.below(&format!("{name}.sample_t")) {
        let temperature = full.parse().map_err(|_| {
            file.error(format!(
                "`{name}.sample_t{full}` does not end in a temperature"
            ))
        })?;
        let sample = dmol_sample(tape, logits, u_gumbel, u, temperature);
        tape.output(&format!("sample_t{full}"), sample);
    }
    let program = step.run(m)?;
    for output in m.outputs(program) {
        let full = format!("{name}.{output}");
        let want = &file.tensor(&full)?.shape;
        let value = m.fetch_engine(program, &output)?;
        let value = match want[..] {
            [n, c, h, w] => value.reshaped([n, h, w, c]).to_files(),
            _ => value.reshaped(want.clone()),
        };
        cx.compare(&full, &value)?;
    }
    Ok(())
}
