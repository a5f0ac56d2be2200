//! The numbers of `shared/parity/unit` that belong to distributions, optimisers and weight norm: the native kernels within the pass
//! rule of the files, the references in double precision within their rounding.

mod common;

use std::collections::BTreeSet;

use common::layout::Array;
use common::parity::{Parity, Precision};
use common::step::Step;
use vaebm::ops::decoder::{dmol_log_prob, dmol_mean, dmol_sample, reduce_bits};
use vaebm::ops::kl_balance::{Alpha, alpha};
use vaebm::ops::latent::{kl, log_prob, sample, sample_log_prob};
use vaebm::ops::optim::{AdamSettings, AdamaxSettings, Clip, adam_clip, adamax, clipped_gradients};
use vaebm::ops::state::stop_gradient;
use vaebm::ops::weight_norm::weight_norm;
use vaebm::ops::{Recorder, Var};
use vaebm::tensor::Shape;

/// The results of one file, compared as they come in.
struct Checked {
    file: Parity,
    failures: Vec<String>,
    seen: BTreeSet<String>,
}

impl Checked {
    fn open(test: &str) -> Option<Self> {
        Some(Checked {
            file: Parity::open(test)?,
            failures: Vec::new(),
            seen: BTreeSet::new(),
        })
    }

    fn check(&mut self, name: &str, own: &Array<f64>, precision: Precision) {
        if let Err(e) = self.file.check(name, own, precision) {
            self.failures.push(e);
        }
        self.seen.insert(name.to_owned());
    }

    /// Fails if anything did, or if an expectation that `ours` covers was never compared.
    fn finish(self, ours: impl Fn(&str) -> bool) {
        assert!(
            self.failures.is_empty(),
            "{} failures:\n{}",
            self.failures.len(),
            self.failures.join("\n")
        );
        let missed: Vec<String> = (self.file.expectations().into_iter())
            .filter(|name| ours(name) && !self.seen.contains(name))
            .collect();
        assert!(
            missed.is_empty(),
            "expectations that nothing checks: {missed:?}"
        );
    }
}

const PRECISIONS: [Precision; 2] = [Precision::Single, Precision::Double];

/// Two matrices of elements as the parameters of single-element samples: `[count, 2]`.
fn parameters(mu: &Array<f32>, log_sigma: &Array<f32>) -> Array<f32> {
    let pairs = mu.data.iter().zip(&log_sigma.data);
    Array {
        shape: vec![mu.data.len(), 2],
        data: pairs.flat_map(|(m, s)| [*m, *s]).collect(),
    }
}

fn column(array: &Array<f32>) -> Array<f32> {
    array.clone().reshaped(&[array.data.len(), 1])
}

/// Every second number of `[count, 2]`, in the shape of the file.
fn every_second(array: &Array<f64>, first: usize, shape: &[usize]) -> Array<f64> {
    Array {
        shape: shape.to_vec(),
        data: array.data.iter().skip(first).step_by(2).copied().collect(),
    }
}

/// Each element of the file is a sample of its own here, so that per-sample sums are per-element values.
fn normals(checked: &mut Checked, precision: Precision) {
    let mut step = Step::default();
    let file = &checked.file;
    let shape = file.tensor("mu").shape.clone();
    let q = step.feed(
        "q",
        &parameters(file.tensor("mu"), file.tensor("log_sigma")),
    );
    let p = step.feed(
        "p",
        &parameters(file.tensor("mu2"), file.tensor("log_sigma2")),
    );
    let eps = step.feed("eps", &column(file.tensor("eps")));
    let constant = |value: f32| Array {
        shape: vec![shape.iter().product(), 1],
        data: vec![value; shape.iter().product()],
    };
    let (zeros, ones) = (
        step.feed("zeros", &constant(0.0)),
        step.feed("ones", &constant(1.0)),
    );
    let centred = parameters(&constant(0.0), file.tensor("log_sigma"));
    let centred = step.feed("centred", &centred);
    let tape = &step.tape;
    let (z, log_q) = sample_log_prob(tape, q, eps, 1.0);
    let (log_p, divergence) = (log_prob(tape, p, z, 1.0), kl(tape, q, p));
    for (name, var) in [
        ("normal.mu", sample(tape, q, zeros, 1.0)),
        ("normal.sigma", sample(tape, centred, ones, 1.0)),
        ("normal.z", z),
        ("normal.log_q", log_q),
        ("normal.log_p", log_p),
        ("normal.kl", divergence),
    ] {
        tape.output(name, var);
    }
    let one = |v: Var| vaebm::ops::fill(tape, tape.shape(v), 1.0);
    let seeds = [(divergence, one(divergence)), (log_p, one(log_p))];
    let gradients = tape.grad_from(&seeds, &[q, p]);
    tape.output("dq", gradients[0]);
    tape.output("dp", gradients[1]);
    let results = step.run(precision);
    for (name, value) in &results {
        if name.starts_with("normal.") {
            checked.check(name, &value.clone().reshaped(&shape), precision);
        }
    }
    for (name, result, first) in [
        ("grad.mu", "dq", 0),
        ("grad.log_sigma", "dq", 1),
        ("grad.mu2", "dp", 0),
        ("grad.log_sigma2", "dp", 1),
    ] {
        let value = every_second(&results[result], first, &shape);
        checked.check(name, &value, precision);
    }
}

/// Each pixel of the file is an image of its own here: the file has log-probabilities of pixels.
fn mixture(checked: &mut Checked, name: &str, bits: u32, precision: Precision) {
    let mut step = Step::default();
    let pixels = |tensor: &str| {
        let nhwc = checked.file.tensor(&format!("{name}.{tensor}")).to_nhwc();
        let shape = [nhwc.data.len() / nhwc.shape[3], 1, 1, nhwc.shape[3]];
        nhwc.reshaped(&shape)
    };
    let [logits, x, u_gumbel, u] =
        ["logits", "x", "u_gumbel", "u"].map(|tensor| step.feed(tensor, &pixels(tensor)));
    let tape = &step.tape;
    let log_prob = dmol_log_prob(tape, logits, x, bits);
    tape.output("log_prob", log_prob);
    tape.output("grad_logits", tape.grad(log_prob, &[logits])[0]);
    tape.output("sample_t1.0", dmol_sample(tape, logits, u_gumbel, u, 1.0));
    tape.output("sample_t0.7", dmol_sample(tape, logits, u_gumbel, u, 0.7));
    tape.output("mean", dmol_mean(tape, logits));
    for (result, value) in step.run(precision) {
        let full = format!("{name}.{result}");
        let want = checked.file.tensor(&full).shape.clone();
        let value = match want[..] {
            [n, c, h, w] => value.reshaped(&[n, h, w, c]).to_nchw(),
            _ => value.reshaped(&want),
        };
        checked.check(&full, &value, precision);
    }
}

#[test]
fn distributions() {
    let Some(mut checked) = Checked::open("unit/distributions") else {
        return;
    };
    for precision in PRECISIONS {
        normals(&mut checked, precision);
        for bits in [5, 8] {
            mixture(&mut checked, &format!("dmol{bits}"), bits, precision);
        }
    }
    for name in checked.file.expectations() {
        if let Some(bits) = name.strip_prefix("pre_process.") {
            let bits = bits.parse().expect("a number of bits");
            let images = checked.file.tensor("pre_process.in").clone();
            let data = (images.data.iter()).map(|x| f64::from(reduce_bits(*x, bits)));
            let own = Array {
                data: data.collect(),
                shape: images.shape,
            };
            checked.check(&name, &own, Precision::Single);
        } else if let Some(rest) = name.strip_prefix("alpha.") {
            let (kind, groups) = rest.split_once('.').expect("kind and groups");
            let kind = match kind {
                "equal" => Alpha::Equal,
                "linear" => Alpha::Linear,
                "sqrt" => Alpha::Sqrt,
                "square" => Alpha::Square,
                other => panic!("an unknown kind `{other}`"),
            };
            let groups: Vec<usize> = (groups.split('_'))
                .map(|g| g.parse().expect("a number of groups"))
                .collect();
            let data = alpha(kind, &groups);
            let own = Array {
                shape: vec![data.len()],
                data,
            };
            checked.check(&name, &own, Precision::Double);
        }
    }
    checked.finish(|_| true);
}

/// An optimiser's states in one step that records all of a file's iterations, and what it made of them.
struct Training {
    step: Step,
    /// Parameters, first and second moments.
    states: [Vec<Var>; 3],
}

/// Tensors that each optimiser file moves.
const TENSORS: usize = 3;

impl Training {
    fn start(file: &Parity) -> Self {
        let mut step = Step::default();
        let mut states = [Vec::new(), Vec::new(), Vec::new()];
        for i in 0..TENSORS {
            let p = file.tensor(&format!("p0.{i}"));
            let zeros = Array {
                shape: p.shape.clone(),
                data: vec![0.0; p.data.len()],
            };
            for (kind, (list, start)) in (states.iter_mut()).zip([p, &zeros, &zeros]).enumerate() {
                list.push(step.state(&format!("state.{kind}.{i}"), start));
            }
        }
        Training { step, states }
    }

    fn gradients(&mut self, file: &Parity, iteration: usize) -> Vec<Var> {
        let names = (0..TENSORS).map(|i| format!("g.{iteration}.{i}"));
        names
            .map(|name| self.step.feed(&name, file.tensor(&name)))
            .collect()
    }

    fn scalar(&self, value: f64) -> Var {
        self.step.tape.constant(Shape::SCALAR, vec![value])
    }

    /// Makes copies of these tensors as they are now results.
    fn keep(&self, prefix: &str, tensors: &[Var]) {
        for (i, v) in tensors.iter().enumerate() {
            let now = stop_gradient(&self.step.tape, *v);
            self.step.output(&format!("{prefix}.{i}"), now);
        }
    }

    fn check(self, mut checked: Checked) {
        for precision in PRECISIONS {
            for (name, value) in self.step.run(precision) {
                if checked.file.expectations().contains(&name) {
                    checked.check(&name, &value, precision);
                }
            }
        }
        checked.finish(|_| true);
    }
}

#[test]
fn adamax_steps() {
    let Some(checked) = Checked::open("unit/adamax") else {
        return;
    };
    let settings = AdamaxSettings::default();
    let stated = ["eps", "weight_decay", "betas"].map(|name| checked.file.setting(name));
    assert_eq!(stated, ["0.001", "0.0003", "0.9,0.999"]);
    let mut training = Training::start(&checked.file);
    for iteration in 0..6 {
        let g = training.gradients(&checked.file, iteration);
        let lr = format!("lr.{iteration}");
        let lr = training.step.feed(&lr, checked.file.tensor(&lr));
        let t = training.scalar((iteration + 1) as f64);
        let [p, m, u] = &training.states;
        adamax(&training.step.tape, p, &g, m, u, lr, t, settings);
        training.keep(&format!("after.{iteration}"), p);
    }
    let [_, m, u] = &training.states;
    training.keep("state.exp_avg", m);
    training.keep("state.exp_inf", u);
    training.check(checked);
}

#[test]
fn clipped_adam_steps() {
    let Some(checked) = Checked::open("unit/clip_adam") else {
        return;
    };
    let mut training = Training::start(&checked.file);
    // The published stage 2 of CIFAR-10.
    let lr = training.scalar(4e-5);
    for iteration in 0..5 {
        let g = training.gradients(&checked.file, iteration);
        let t = training.scalar((iteration + 1) as f64);
        let [p, m, v] = &training.states;
        let settings = AdamSettings::default();
        let tape = &training.step.tape;
        let clipped = clipped_gradients(tape, &g, v, t, Clip::default(), settings.beta2);
        adam_clip(tape, p, &g, m, v, lr, t, settings);
        training.keep(&format!("clipped.{iteration}"), &clipped);
        training.keep(&format!("after.{iteration}"), p);
    }
    training.check(checked);
}

#[test]
fn weight_norm_of_every_variant() {
    let Some(mut checked) = Checked::open("unit/ops") else {
        return;
    };
    for variant in checked.file.variants("weight_norm") {
        let name = |tensor: &str| format!("weight_norm.{variant}.{tensor}");
        let mut step = Step::default();
        let [w, dy] = ["w", "dy"].map(|t| step.feed(t, &checked.file.tensor(&name(t)).to_hwio()));
        let gains = checked.file.tensor(&name("log_weight_norm"));
        let gain_shape = gains.shape.clone();
        let gains = gains.clone().reshaped(&[gain_shape[0]]);
        let gains = step.feed("log_weight_norm", &gains);
        let y = weight_norm(&step.tape, w, gains, None);
        let gradients = step.tape.grad_from(&[(y, dy)], &[w, gains]);
        step.output("y", y);
        step.output("dw", gradients[0]);
        step.output("dlog_weight_norm", gradients[1]);
        for precision in PRECISIONS {
            for (result, value) in step.run(precision) {
                let value = match result.as_str() {
                    "dlog_weight_norm" => value.reshaped(&gain_shape),
                    _ => value.to_oihw(),
                };
                checked.check(&name(&result), &value, precision);
            }
        }
    }
    checked.finish(|name| name.starts_with("weight_norm."));
}
