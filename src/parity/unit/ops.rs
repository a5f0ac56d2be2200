//! `unit/ops`: single operations with all their gradients.

use std::collections::{BTreeMap, BTreeSet};

use super::Step;
use crate::ops::batch_norm::{Activation, batch_norm_fold, batch_norm_train, scale_shift};
use crate::ops::binary::sum_to;
use crate::ops::conv2d::{Geometry, conv2d};
use crate::ops::dwconv::dwconv;
use crate::ops::layout::reshape;
use crate::ops::resample::{avg_pool2, bilinear2, nearest2};
use crate::ops::squeeze_excite::squeeze_excite;
use crate::ops::unary::{Function, unary};
use crate::ops::weight_norm::weight_norm;
use crate::ops::{Recorder, Var};
use crate::parity::ParityError;
use crate::parity::array::Array;
use crate::parity::machine::Machine;
use crate::parity::rule::Checks;

/// From one layout to the other.
type Bring = fn(&Array) -> Array;

/// Settings of a variant, as far as they are stated.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
struct Settings {
    stride: Option<usize>,
    pad: Option<u16>,
    dilation: Option<usize>,
    groups: Option<usize>,
}

/// One variant of an op: its step, its results by the file's names, and how to bring each into the file's layout.
struct Variant<'a> {
    cx: &'a Checks<'a>,
    prefix: String,
    step: Step,
    results: Vec<(String, Bring)>,
}

/// Runs every variant of every op.
pub(in crate::parity) fn run(cx: &mut Checks<'_>, m: &mut Machine) -> Result<(), ParityError> {
    let settings: BTreeMap<String, Settings> = serde_json::from_str(cx.file.setting("params")?)
        .map_err(|e| cx.file.error(format!("its metadata has bad `params`: {e}")))?;
    // The first two parts of `{op}.{variant}.{tensor}`.
    let variants: BTreeSet<(String, String)> = (cx.file.tensors())
        .filter_map(|(name, _)| {
            let (op, rest) = name.split_once('.')?;
            let (variant, _) = rest.rsplit_once('.')?;
            Some((op.to_owned(), variant.to_owned()))
        })
        .collect();
    for (op, variant) in &variants {
        let settings = settings.get(&format!("{op}.{variant}"));
        let mut forms: Vec<Variant<'_>> = vec![record(cx, op, variant, settings.copied())?];
        // Depthwise convolutions have a kernel of their own beside the grouped one.
        if let ("conv2d", Some(s)) = (op.as_str(), settings)
            && let Some(depthwise) = depthwise(cx, op, variant, *s)?
        {
            forms.push(depthwise);
        }
        let mut results = Vec::new();
        for form in forms {
            results.extend(form.run(m)?);
        }
        for (name, value) in results {
            cx.compare(&name, &value)?;
        }
    }
    Ok(())
}

fn record<'a>(
    cx: &'a Checks<'a>,
    op: &str,
    variant: &str,
    settings: Option<Settings>,
) -> Result<Variant<'a>, ParityError> {
    let mut v = Variant::new(cx, op, variant);
    let one = |f: Function| vec![f];
    let functions = match op {
        "conv2d" => return v.convolution(settings),
        "bilinear_x2_align_corners" => return v.of_image(|step, x| bilinear2(&step.tape, x)),
        "nearest_x2" => return v.of_image(|step, x| nearest2(&step.tape, x)),
        "avg_pool2x2" => return v.of_image(|step, x| avg_pool2(&step.tape, x)),
        "sum_pool" => {
            return v.of_image(|step, x| {
                let [n, c] = [step.tape.shape(x)[0], step.tape.shape(x).last()];
                let pooled = sum_to(&step.tape, x, [n, 1, 1, c].into());
                reshape(&step.tape, pooled, [n, c])
            });
        }
        "squeeze_excite" => return v.excitation(),
        "weight_norm" => return v.weight_norm(),
        "batch_norm_train"
        | "batch_norm_swish_train"
        | "batch_norm_eval"
        | "batch_norm_swish_eval" => return v.batch_norm(op),
        "swish" => one(Function::Swish),
        "lip_swish" => one(Function::LipSwish),
        "elu" => one(Function::Elu),
        "elu_twice" => vec![Function::Elu; 2],
        "soft_clamp" => one(Function::SoftClamp),
        "sigmoid" => one(Function::Sigmoid),
        "softplus" => one(Function::Softplus),
        "relu" => one(Function::Relu),
        other => {
            let message = format!("this build knows no operation `{other}`");
            return Err(cx.file.error(message));
        }
    };
    let (x, dy) = (v.feed("x", Array::clone)?, v.feed("dy", Array::clone)?);
    let y = (functions.iter()).fold(x, |y, f| unary(&v.step.tape, *f, y));
    v.result("y", y, Array::clone);
    v.gradients(y, dy, &[("x", x, Array::clone)]);
    Ok(v)
}

/// The depthwise kernel on a convolution that it can do.
fn depthwise<'a>(
    cx: &'a Checks<'a>,
    op: &str,
    variant: &str,
    settings: Settings,
) -> Result<Option<Variant<'a>>, ParityError> {
    let mut v = Variant::new(cx, op, variant);
    let shape = &v.tensor("w")?.shape;
    let groups = settings.groups.unwrap_or(1);
    let fits = shape[1] == 1
        && shape[0] == groups
        && groups > 1
        && settings.dilation.unwrap_or(1) == 1
        && shape[2] == shape[3];
    if !fits {
        return Ok(None);
    }
    let pad = usize::from(settings.pad.unwrap_or(0));
    let (x, w) = (v.feed("x", Array::to_engine)?, v.feed("w", to_depthwise)?);
    let dy = v.feed("dy", Array::to_engine)?;
    let y = dwconv(&v.step.tape, x, w, settings.stride.unwrap_or(1), pad);
    v.result("y", y, Array::to_files);
    v.gradients(
        y,
        dy,
        &[("x", x, Array::to_files), ("w", w, from_depthwise)],
    );
    Ok(Some(v))
}

/// Depthwise weights: `[c, 1, kh, kw]` in the file, `[kh, kw, c]` here.
fn to_depthwise(a: &Array) -> Array {
    let hwio = a.to_hwio();
    let shape = [hwio.shape[0], hwio.shape[1], hwio.shape[3]];
    hwio.reshaped(shape)
}

fn from_depthwise(a: &Array) -> Array {
    let shape = [a.shape[0], a.shape[1], 1, a.shape[2]];
    a.clone().reshaped(shape).to_oihw()
}

/// `[cout, 1, 1, 1]` in the file, `[cout]` here.
fn flat(a: &Array) -> Array {
    Array::vector(a.data.clone())
}

fn unflat(a: &Array) -> Array {
    let shape = [a.data.len(), 1, 1, 1];
    a.clone().reshaped(shape)
}

impl<'a> Variant<'a> {
    fn new(cx: &'a Checks<'a>, op: &str, variant: &str) -> Self {
        Variant {
            cx,
            prefix: format!("{op}.{variant}"),
            step: Step::default(),
            results: Vec::new(),
        }
    }

    fn tensor(&self, name: &str) -> Result<&'a Array, ParityError> {
        self.cx.file.tensor(&format!("{}.{name}", self.prefix))
    }

    fn feed(&mut self, name: &str, bring: Bring) -> Result<Var, ParityError> {
        let array = bring(self.tensor(name)?);
        Ok(self.step.feed(name, &array))
    }

    fn result(&mut self, name: &str, var: Var, back: Bring) {
        self.step.tape.output(name, var);
        self.results.push((name.to_owned(), back));
    }

    /// Makes the gradients of `sum(y dy)` results, each under `d` and its tensor's name.
    fn gradients(&mut self, y: Var, dy: Var, of: &[(&str, Var, Bring)]) {
        let wrt: Vec<Var> = of.iter().map(|(_, v, _)| *v).collect();
        let gradients = self.step.tape.grad_from(&[(y, dy)], &wrt);
        for ((name, _, back), gradient) in of.iter().zip(gradients) {
            self.result(&format!("d{name}"), gradient, *back);
        }
    }

    /// Runs, and gives the results in the layout of the files under their full names.
    fn run(self, m: &mut Machine) -> Result<Vec<(String, Array)>, ParityError> {
        let program = self.step.run(m)?;
        let mut results = Vec::new();
        for (name, back) in &self.results {
            let value = back(&m.fetch_engine(program, name)?);
            results.push((format!("{}.{name}", self.prefix), value));
        }
        for (state, _, _) in &self.step.states {
            let after = Array::vector(m.read(state)?);
            results.push((format!("{state}_after"), after));
        }
        Ok(results)
    }

    fn convolution(mut self, settings: Option<Settings>) -> Result<Self, ParityError> {
        let kernel = self.tensor("w")?.shape[2];
        let stated = settings.ok_or_else(|| {
            let message = format!("`params` says nothing about `{}`", self.prefix);
            self.cx.file.error(message)
        })?;
        let pad = i32::from(stated.pad.unwrap_or(0));
        let geometry = Geometry {
            pad: [[pad; 2]; 2],
            dilation: stated.dilation.unwrap_or(1),
            ..Geometry::same(kernel)
                .strided(stated.stride.unwrap_or(1))
                .grouped(stated.groups.unwrap_or(1))
        };
        let (x, w) = (
            self.feed("x", Array::to_engine)?,
            self.feed("w", Array::to_hwio)?,
        );
        let dy = self.feed("dy", Array::to_engine)?;
        let b = match self.cx.file.find(&format!("{}.b", self.prefix)) {
            Some(_) => Some(self.feed("b", Array::clone)?),
            None => None,
        };
        let y = conv2d(&self.step.tape, x, w, b, geometry);
        self.result("y", y, Array::to_files);
        let mut of: Vec<(&str, Var, Bring)> =
            vec![("x", x, Array::to_files), ("w", w, Array::to_oihw)];
        of.extend(b.map(|b| ("b", b, Array::clone as Bring)));
        self.gradients(y, dy, &of);
        Ok(self)
    }

    fn of_image(mut self, f: impl FnOnce(&Step, Var) -> Var) -> Result<Self, ParityError> {
        let (x, dy) = (
            self.feed("x", Array::to_engine)?,
            self.feed("dy", Array::to_engine)?,
        );
        let y = f(&self.step, x);
        self.result("y", y, Array::to_files);
        self.gradients(y, dy, &[("x", x, Array::to_files)]);
        Ok(self)
    }

    fn batch_norm(mut self, op: &str) -> Result<Self, ParityError> {
        let activation = match op.contains("swish") {
            true => Activation::Swish,
            false => Activation::None,
        };
        let (x, dy) = (
            self.feed("x", Array::to_engine)?,
            self.feed("dy", Array::to_engine)?,
        );
        let (gamma, beta) = (
            self.feed("gamma", Array::clone)?,
            self.feed("beta", Array::clone)?,
        );
        let mut statistics = Vec::new();
        for name in ["running_mean", "running_var"] {
            let start = self.tensor(name)?;
            let state = format!("{}.{name}", self.prefix);
            statistics.push(self.step.state(&state, start));
        }
        let (tape, mean, var) = (&self.step.tape, statistics[0], statistics[1]);
        let y = if op.ends_with("train") {
            batch_norm_train(tape, x, gamma, beta, mean, var, activation)
        } else {
            let (scale, shift) = batch_norm_fold(tape, gamma, beta, mean, var);
            scale_shift(tape, x, scale, shift, activation)
        };
        self.result("y", y, Array::to_files);
        let of: [(&str, Var, Bring); 3] = [
            ("x", x, Array::to_files),
            ("gamma", gamma, Array::clone),
            ("beta", beta, Array::clone),
        ];
        self.gradients(y, dy, &of);
        Ok(self)
    }

    fn excitation(mut self) -> Result<Self, ParityError> {
        let (x, dy) = (
            self.feed("x", Array::to_engine)?,
            self.feed("dy", Array::to_engine)?,
        );
        let (w0, b0) = (
            self.feed("w0", Array::transposed)?,
            self.feed("b0", Array::clone)?,
        );
        let (w2, b2) = (
            self.feed("w2", Array::transposed)?,
            self.feed("b2", Array::clone)?,
        );
        let y = squeeze_excite(&self.step.tape, x, w0, b0, w2, b2, None);
        self.result("y", y, Array::to_files);
        let of: [(&str, Var, Bring); 5] = [
            ("x", x, Array::to_files),
            ("w0", w0, Array::transposed),
            ("b0", b0, Array::clone),
            ("w2", w2, Array::transposed),
            ("b2", b2, Array::clone),
        ];
        self.gradients(y, dy, &of);
        Ok(self)
    }

    fn weight_norm(mut self) -> Result<Self, ParityError> {
        let (w, dy) = (
            self.feed("w", Array::to_hwio)?,
            self.feed("dy", Array::to_hwio)?,
        );
        let gain = self.feed("log_weight_norm", flat)?;
        let y = weight_norm(&self.step.tape, w, gain, None);
        self.result("y", y, Array::to_oihw);
        let of: [(&str, Var, Bring); 2] =
            [("w", w, Array::to_oihw), ("log_weight_norm", gain, unflat)];
        self.gradients(y, dy, &of);
        Ok(self)
    }
}
