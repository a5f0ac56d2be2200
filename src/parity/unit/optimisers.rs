//! `unit/adamax` and `unit/clip_adam`: some steps of each optimiser on a few tensors.

use super::Step;
use crate::ops::Var;
use crate::ops::optim::{AdamSettings, AdamaxSettings, Clip, adam_clip, adamax, clipped_gradients};
use crate::ops::state::stop_gradient;
use crate::parity::ParityError;
use crate::parity::array::Array;
use crate::parity::file::TestFile;
use crate::parity::machine::Machine;
use crate::parity::rule::Checks;
use crate::tensor::Shape;

/// Learning rate of `unit/clip_adam`, that of the published stage 2 of CIFAR-10; the file does not state it.
const CLIP_ADAM_RATE: f64 = 4e-5;

/// All iterations of a file recorded as one step.
struct Training<'a> {
    file: &'a TestFile,
    step: Step,
    /// Parameters, first and second moments.
    states: [Vec<Var>; 3],
}

pub(in crate::parity) fn run(
    test: &str,
    cx: &mut Checks<'_>,
    m: &mut Machine,
) -> Result<(), ParityError> {
    let file = cx.file;
    let mut training = Training::start(file)?;
    for it in 0..file.count(|it| format!("g.{it}.0")) {
        match test {
            "adamax" => training.adamax(it)?,
            _ => training.clipped_adam(it)?,
        }
    }
    if test == "adamax" {
        training.keep("state.exp_avg", &training.states[1]);
        training.keep("state.exp_inf", &training.states[2]);
    }
    let program = training.step.run(m)?;
    for name in m.outputs(program) {
        // Layouts do not matter to an optimiser: these tensors came in as they were.
        cx.compare(&name, &m.fetch_engine(program, &name)?)?;
    }
    Ok(())
}

impl<'a> Training<'a> {
    fn start(file: &'a TestFile) -> Result<Self, ParityError> {
        let mut step = Step::default();
        let mut states = [Vec::new(), Vec::new(), Vec::new()];
        for i in 0..file.count(|i| format!("p0.{i}")) {
            let p = file.tensor(&format!("p0.{i}"))?;
            let zeros = p.clone().scaled(0.0);
            for (kind, (list, start)) in (states.iter_mut()).zip([p, &zeros, &zeros]).enumerate() {
                list.push(step.state(&format!("state.{kind}.{i}"), start));
            }
        }
        Ok(Training { file, step, states })
    }

    fn gradients(&mut self, it: usize) -> Result<Vec<Var>, ParityError> {
        let feed = |i: usize| {
            let name = format!("g.{it}.{i}");
            Ok(self.step.feed(&name, self.file.tensor(&name)?))
        };
        (0..self.states[0].len()).map(feed).collect()
    }

    fn scalar(&mut self, name: &str, value: f64) -> Var {
        self.step.feed(name, &Array::scalar(value))
    }

    /// Makes copies of these tensors as they are now results.
    fn keep(&self, prefix: &str, tensors: &[Var]) {
        for (i, v) in tensors.iter().enumerate() {
            let now = stop_gradient(&self.step.tape, *v);
            self.step.tape.output(&format!("{prefix}.{i}"), now);
        }
    }

    fn adamax(&mut self, it: usize) -> Result<(), ParityError> {
        let betas = self.file.setting("betas")?.split_once(',');
        let (beta1, beta2) = betas
            .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
            .ok_or_else(|| self.file.error("its metadata has bad `betas`"))?;
        let settings = AdamaxSettings {
            beta1,
            beta2,
            eps: self.file.number("eps")?,
            weight_decay: self.file.number("weight_decay")?,
        };
        let lr = self.file.constant(&format!("lr.{it}"))?;
        let g = self.gradients(it)?;
        let lr = self.scalar(&format!("lr.{it}"), lr);
        let t = self.scalar(&format!("t.{it}"), (it + 1) as f64);
        let [p, moments, norms] = &self.states;
        adamax(&self.step.tape, p, &g, moments, norms, lr, t, settings);
        self.keep(&format!("after.{it}"), p);
        Ok(())
    }

    fn clipped_adam(&mut self, it: usize) -> Result<(), ParityError> {
        let settings = AdamSettings::default();
        let g = self.gradients(it)?;
        let lr = self.step.tape.feed("lr", Shape::SCALAR);
        if it == 0 {
            self.scalar("lr", CLIP_ADAM_RATE);
        }
        let t = self.scalar(&format!("t.{it}"), (it + 1) as f64);
        let [p, first, second] = &self.states;
        let tape = &self.step.tape;
        let clipped = clipped_gradients(tape, &g, second, t, Clip::default(), settings.beta2);
        adam_clip(tape, p, &g, first, second, lr, t, settings);
        self.keep(&format!("clipped.{it}"), &clipped);
        self.keep(&format!("after.{it}"), p);
        Ok(())
    }
}
