//! The op-level numbers of `shared/parity/unit/ops`: the native kernels within the pass rule of the files, the references in
//! double precision within their rounding.

mod common;

use std::collections::BTreeSet;

use common::layout::Array;
use common::parity::{Parity, Precision};
use common::step::Step;
use vaebm::ops::batch_norm::{Activation, batch_norm_fold, batch_norm_train, scale_shift};
use vaebm::ops::binary::sum_to;
use vaebm::ops::conv2d::{Geometry, conv2d};
use vaebm::ops::dwconv::dwconv;
use vaebm::ops::layout::reshape;
use vaebm::ops::resample::{avg_pool2, bilinear2, nearest2};
use vaebm::ops::squeeze_excite::squeeze_excite;
use vaebm::ops::unary::{Function, unary};
use vaebm::ops::{Recorder, Var};

/// Ops of the file that other tests check.
const ELSEWHERE: [&str; 1] = ["weight_norm"];

const UNARY: [(&str, Function); 7] = [
    ("swish", Function::Swish),
    ("lip_swish", Function::LipSwish),
    ("elu", Function::Elu),
    ("soft_clamp", Function::SoftClamp),
    ("sigmoid", Function::Sigmoid),
    ("softplus", Function::Softplus),
    ("relu", Function::Relu),
];

/// From the engine's layout back to that of the file.
type Back = fn(&Array<f64>) -> Array<f64>;

/// One variant of an op: its step, its results by the file's names, and how to bring each into the file's layout.
struct Variant<'a> {
    file: &'a Parity,
    prefix: String,
    step: Step,
    results: Vec<(String, Back)>,
}

impl<'a> Variant<'a> {
    fn new(file: &'a Parity, op: &str, variant: &str) -> Self {
        Variant {
            file,
            prefix: format!("{op}.{variant}"),
            step: Step::default(),
            results: Vec::new(),
        }
    }

    fn tensor(&self, name: &str) -> &'a Array<f32> {
        self.file.tensor(&format!("{}.{name}", self.prefix))
    }

    fn find(&self, name: &str) -> Option<&'a Array<f32>> {
        self.file.find(&format!("{}.{name}", self.prefix))
    }

    fn feed(&mut self, name: &str, bring: fn(&Array<f32>) -> Array<f32>) -> Var {
        self.step.feed(name, &bring(self.tensor(name)))
    }

    fn result(&mut self, name: &str, var: Var, back: Back) {
        self.step.output(name, var);
        self.results.push((name.to_owned(), back));
    }

    /// Makes the gradients of `sum(y dy)` results, each under `d` and its tensor's name.
    fn gradients(&mut self, y: Var, dy: Var, of: &[(&str, Var, Back)]) {
        let wrt: Vec<Var> = of.iter().map(|(_, v, _)| *v).collect();
        let gradients = self.step.tape.grad_from(&[(y, dy)], &wrt);
        for ((name, _, back), gradient) in of.iter().zip(gradients) {
            self.result(&format!("d{name}"), gradient, *back);
        }
    }

    /// Runs in both precisions and adds what fails.
    fn check(self, failures: &mut Vec<String>, seen: &mut BTreeSet<String>) {
        for precision in [Precision::Single, Precision::Double] {
            let own = self.step.run(precision);
            for (name, back) in &self.results {
                let full = format!("{}.{name}", self.prefix);
                let state = name.strip_suffix("_after").unwrap_or(name);
                if let Err(e) = self.file.check(&full, &back(&own[state]), precision) {
                    failures.push(e);
                }
                seen.insert(full);
            }
        }
    }
}

fn same<T: Copy>(a: &Array<T>) -> Array<T> {
    a.clone()
}

/// Depthwise weights: `[c, 1, kh, kw]` in the file, `[kh, kw, c]` here.
fn depthwise(a: &Array<f32>) -> Array<f32> {
    let hwio = a.to_hwio();
    let shape = [hwio.shape[0], hwio.shape[1], hwio.shape[3]];
    hwio.reshaped(&shape)
}

fn from_depthwise(a: &Array<f64>) -> Array<f64> {
    let shape = [a.shape[0], a.shape[1], 1, a.shape[2]];
    a.clone().reshaped(&shape).to_oihw()
}

/// The geometry that the file states for a convolution.
fn geometry(file: &Parity, name: &str, kernel: usize) -> Geometry {
    let all: serde_json::Value = serde_json::from_str(file.setting("params")).expect("JSON");
    let number = |key: &str| all[name][key].as_u64().expect("a number") as usize;
    let pad = number("pad") as i32;
    Geometry {
        pad: [[pad; 2]; 2],
        dilation: number("dilation"),
        ..Geometry::same(kernel)
            .strided(number("stride"))
            .grouped(number("groups"))
    }
}

fn convolution<'a>(file: &'a Parity, variant: &str) -> Variant<'a> {
    let mut v = Variant::new(file, "conv2d", variant);
    let kernel = v.tensor("w").shape[2];
    let geometry = geometry(file, &v.prefix, kernel);
    let (x, w) = (v.feed("x", Array::to_nhwc), v.feed("w", Array::to_hwio));
    let dy = v.feed("dy", Array::to_nhwc);
    let b = v.find("b").map(|_| v.feed("b", same));
    let y = conv2d(&v.step.tape, x, w, b, geometry);
    v.result("y", y, Array::to_nchw);
    let mut of: Vec<(&str, Var, Back)> = vec![("x", x, Array::to_nchw), ("w", w, Array::to_oihw)];
    of.extend(b.map(|b| ("b", b, same as Back)));
    v.gradients(y, dy, &of);
    v
}

fn depthwise_convolution<'a>(file: &'a Parity, variant: &str) -> Variant<'a> {
    let mut v = Variant::new(file, "conv2d", variant);
    let kernel = v.tensor("w").shape[2];
    let stride = geometry(file, &v.prefix, kernel).stride;
    let (x, w) = (v.feed("x", Array::to_nhwc), v.feed("w", depthwise));
    let dy = v.feed("dy", Array::to_nhwc);
    let y = dwconv(&v.step.tape, x, w, stride, kernel / 2);
    v.result("y", y, Array::to_nchw);
    v.gradients(y, dy, &[("x", x, Array::to_nchw), ("w", w, from_depthwise)]);
    v
}

fn batch_norm<'a>(file: &'a Parity, op: &str, variant: &str) -> Variant<'a> {
    let mut v = Variant::new(file, op, variant);
    let activation = match op.contains("swish") {
        true => Activation::Swish,
        false => Activation::None,
    };
    let (x, dy) = (v.feed("x", Array::to_nhwc), v.feed("dy", Array::to_nhwc));
    let (gamma, beta) = (v.feed("gamma", same), v.feed("beta", same));
    let [mean, var] = ["running_mean", "running_var"].map(|name| {
        v.step
            .state(name, v.file.tensor(&format!("{op}.{variant}.{name}")))
    });
    let tape = &v.step.tape;
    let y = if op.ends_with("train") {
        batch_norm_train(tape, x, gamma, beta, mean, var, activation)
    } else {
        let (scale, shift) = batch_norm_fold(tape, gamma, beta, mean, var);
        scale_shift(tape, x, scale, shift, activation)
    };
    v.result("y", y, Array::to_nchw);
    let of: [(&str, Var, Back); 3] = [
        ("x", x, Array::to_nchw),
        ("gamma", gamma, same),
        ("beta", beta, same),
    ];
    v.gradients(y, dy, &of);
    if op.ends_with("train") {
        for state in ["running_mean_after", "running_var_after"] {
            v.results.push((state.to_owned(), same));
        }
    }
    v
}

fn of_image<'a>(file: &'a Parity, op: &str, variant: &str) -> Variant<'a> {
    let mut v = Variant::new(file, op, variant);
    let x = v.feed("x", Array::to_nhwc);
    let (y, back): (Var, Back) = match op {
        "bilinear_x2_align_corners" => (bilinear2(&v.step.tape, x), Array::to_nchw),
        "nearest_x2" => (nearest2(&v.step.tape, x), Array::to_nchw),
        "avg_pool2x2" => (avg_pool2(&v.step.tape, x), Array::to_nchw),
        "sum_pool" => {
            let tape = &v.step.tape;
            let [n, c] = [tape.shape(x)[0], tape.shape(x)[3]];
            let pooled = sum_to(tape, x, [n, 1, 1, c].into());
            (reshape(tape, pooled, [n, c]), same)
        }
        _ => unreachable!("one of the four"),
    };
    let dy = match op {
        "sum_pool" => v.feed("dy", same),
        _ => v.feed("dy", Array::to_nhwc),
    };
    v.result("y", y, back);
    v.gradients(y, dy, &[("x", x, Array::to_nchw)]);
    v
}

fn function<'a>(file: &'a Parity, op: &str, variant: &str, functions: &[Function]) -> Variant<'a> {
    let mut v = Variant::new(file, op, variant);
    let (x, dy) = (v.feed("x", same), v.feed("dy", same));
    let y = (functions.iter()).fold(x, |y, f| unary(&v.step.tape, *f, y));
    v.result("y", y, same);
    v.gradients(y, dy, &[("x", x, same)]);
    v
}

fn excitation<'a>(file: &'a Parity, variant: &str) -> Variant<'a> {
    let mut v = Variant::new(file, "squeeze_excite", variant);
    let (x, dy) = (v.feed("x", Array::to_nhwc), v.feed("dy", Array::to_nhwc));
    let (w0, b0) = (v.feed("w0", Array::transposed), v.feed("b0", same));
    let (w2, b2) = (v.feed("w2", Array::transposed), v.feed("b2", same));
    let y = squeeze_excite(&v.step.tape, x, w0, b0, w2, b2, None);
    v.result("y", y, Array::to_nchw);
    let of: [(&str, Var, Back); 5] = [
        ("x", x, Array::to_nchw),
        ("w0", w0, Array::transposed),
        ("b0", b0, same),
        ("w2", w2, Array::transposed),
        ("b2", b2, same),
    ];
    v.gradients(y, dy, &of);
    v
}

#[test]
fn every_number_of_the_file_is_met() {
    let Some(file) = Parity::open("unit/ops") else {
        return;
    };
    let (mut failures, mut seen) = (Vec::new(), BTreeSet::new());
    let mut check = |v: Variant<'_>| v.check(&mut failures, &mut seen);
    for variant in file.variants("conv2d") {
        check(convolution(&file, &variant));
        if variant.starts_with("dw") {
            check(depthwise_convolution(&file, &variant));
        }
    }
    for op in [
        "batch_norm_train",
        "batch_norm_eval",
        "batch_norm_swish_train",
        "batch_norm_swish_eval",
    ] {
        for variant in file.variants(op) {
            check(batch_norm(&file, op, &variant));
        }
    }
    for op in [
        "bilinear_x2_align_corners",
        "nearest_x2",
        "avg_pool2x2",
        "sum_pool",
    ] {
        for variant in file.variants(op) {
            check(of_image(&file, op, &variant));
        }
    }
    for (op, f) in UNARY {
        for variant in file.variants(op) {
            check(function(&file, op, &variant, &[f]));
        }
    }
    for variant in file.variants("elu_twice") {
        let twice = [Function::Elu, Function::Elu];
        check(function(&file, "elu_twice", &variant, &twice));
    }
    for variant in file.variants("squeeze_excite") {
        check(excitation(&file, &variant));
    }
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );

    let elsewhere = |name: &str| ELSEWHERE.contains(&name.split('.').next().unwrap_or(name));
    let missed: Vec<String> = (file.expectations().into_iter())
        .filter(|name| !seen.contains(name) && !elsewhere(name))
        .collect();
    assert!(
        missed.is_empty(),
        "expectations that nothing checks: {missed:?}"
    );
}
