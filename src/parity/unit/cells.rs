//! `unit/cells`: every primitive as a cell with squeeze-excite, keeping, halving and doubling the resolution.

use std::collections::BTreeMap;

use crate::nn::params::ParamSpec;
use crate::nn::{Mode, Net, Stride, primitive_cell};
use crate::ops::Var;
use crate::parity::ParityError;
use crate::parity::array::Array;
use crate::parity::machine::Machine;
use crate::parity::rule::Checks;
use crate::tape::Tape;

/// One cell of the file.
struct Cell<'a> {
    /// `<primitive>.s<stride>`.
    name: &'a str,
    primitive: &'a str,
    stride: Stride,
    input: &'a Array,
}

/// Runs all cells: first in evaluation mode, where convolutions that initialise from data do so, then in training mode.
pub(in crate::parity) fn run(cx: &mut Checks<'_>, m: &mut Machine) -> Result<(), ParityError> {
    let file = cx.file;
    for (tensor, input) in file.tensors() {
        let Some(name) = tensor.strip_suffix(".in") else {
            continue;
        };
        let (primitive, stride) = match name.rsplit_once(".s") {
            Some((primitive, "1")) => (primitive, Stride::Same),
            Some((primitive, "2")) => (primitive, Stride::Down),
            Some((primitive, "-1")) => (primitive, Stride::Up),
            _ => return Err(file.error(format!("`{tensor}` is not of a stride 1, 2 or -1"))),
        };
        let cell = Cell {
            name,
            primitive,
            stride,
            input,
        };
        let weights: BTreeMap<String, Array> = (file.below(&format!("{name}.w.")))
            .map(|(name, array)| (name.to_owned(), array.clone()))
            .collect();
        let specs = cell.specs(cx)?;
        m.load(name, &specs, &weights)?;
        cell.eval(cx, m)?;
        if file
            .expectations()
            .contains_key(&format!("{name}.train.out"))
        {
            cell.pass(cx, m, Tape::new(), Mode::Train, "train", true)?;
        }
        for spec in &specs {
            let after = format!("{name}.after.{}", spec.name);
            if cx.wants(&after) {
                cx.compare(&after, &m.parameter(name, spec)?)?;
            }
        }
    }
    Ok(())
}

impl Cell<'_> {
    fn record(&self, cx: &Checks<'_>, net: &Net<'_>, x: Var) -> Result<Var, ParityError> {
        primitive_cell(&net.root(), x, self.primitive, self.stride).ok_or_else(|| {
            let message = format!("this build knows no primitive `{}`", self.primitive);
            cx.file.error(message)
        })
    }

    fn specs(&self, cx: &Checks<'_>) -> Result<Vec<ParamSpec>, ParityError> {
        let tape = Tape::unfused();
        let net = Net::new(&tape, self.name, Mode::Eval);
        let x = tape.feed("in", self.input.to_engine().shape());
        self.record(cx, &net, x)?;
        Ok(net.params())
    }

    /// The evaluation pass. Its fused form has no gradient of weights, so the plain parts give that one; values and the input's
    /// gradient come from both.
    fn eval(&self, cx: &mut Checks<'_>, m: &mut Machine) -> Result<(), ParityError> {
        self.pass(cx, m, Tape::unfused(), Mode::Eval, "eval", true)?;
        self.pass(cx, m, Tape::new(), Mode::Eval, "eval", false)
    }

    fn pass(
        &self,
        cx: &mut Checks<'_>,
        m: &mut Machine,
        tape: Tape,
        mode: Mode,
        kind: &str,
        weights: bool,
    ) -> Result<(), ParityError> {
        let net = Net::new(&tape, self.name, mode);
        let net = match mode {
            Mode::Eval => net.with_data_init(),
            Mode::Train => net,
        };
        let x = tape.feed("in", self.input.to_engine().shape());
        let out = self.record(cx, &net, x)?;
        let cotangent = cx.file.tensor(&format!("{}.cot", self.name))?;
        let dout = tape.feed("cot", cotangent.to_engine().shape());
        let trained = match weights {
            true => net.trainable(),
            false => Vec::new(),
        };
        let wrt: Vec<Var> = [x]
            .into_iter()
            .chain(trained.iter().map(|(_, v)| *v))
            .collect();
        let gradients = tape.grad_from(&[(out, dout)], &wrt);
        tape.output("out", out);
        tape.output("grad_in", gradients[0]);
        for ((name, _), gradient) in trained.iter().zip(&gradients[1..]) {
            tape.output(&format!("grad.{name}"), *gradient);
        }
        let program = m.prepare(&tape, "parity/cell")?;
        m.feed(program, "in", self.input)?;
        m.feed(program, "cot", cotangent)?;
        m.run(program)?;
        let prefix = format!("{}.{kind}", self.name);
        for name in ["out", "grad_in"] {
            cx.compare(&format!("{prefix}.{name}"), &m.fetch(program, name)?)?;
        }
        for spec in net
            .params()
            .iter()
            .filter(|s| weights && s.role.is_trainable())
        {
            let gradient = m.fetch_like(program, &format!("grad.{}", spec.name), spec)?;
            cx.compare(&format!("{prefix}.grad.{}", spec.name), &gradient)?;
        }
        Ok(())
    }
}
