//! Squeeze-and-excite with the residual sum that follows it:
//!
//! `p[n, c] = mean over h, w of x`, `s = relu(p w0 + b0)`, `g = sigma(s w2 + b2)`, `y[n, h, w, c] = skip + alpha * x * g[n, c]`.
//!
//! `x`, `skip` and `y` `[n, h, w, c]`, `w0 [c, hidden]`, `w2 [hidden, c]`. The kernel also writes `p`, `s` and `g`, a few hundred
//! numbers an image that the gradient reads.

pub mod cases;
mod cpu;
pub(super) mod cuda;
pub(super) mod dgrad;

use std::sync::Arc;

use super::binary::sum_to;
use super::linear;
use super::unary::{Function, sigmoid};
use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes};
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;
use dgrad::Dgrad;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Fprop::NAME, Dgrad::NAME];

/// `(y, p, s, g)` from `(x, w0, b0, w2, b2[, skip])`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fprop {
    /// The factor of the branch; 1 without a skip.
    pub alpha: f64,
    pub skip: bool,
}

/// `se(x)`, or `skip + alpha * se(x)`.
pub fn squeeze_excite(
    r: &dyn Recorder,
    x: Var,
    w0: Var,
    b0: Var,
    w2: Var,
    b2: Var,
    skip: Option<(Var, f64)>,
) -> Var {
    let op = Fprop {
        alpha: skip.map_or(1.0, |(_, alpha)| alpha),
        skip: skip.is_some(),
    };
    let inputs: Vec<Var> = [x, w0, b0, w2, b2]
        .into_iter()
        .chain(skip.map(|(v, _)| v))
        .collect();
    r.record(Arc::new(op), &inputs, &[])[0]
}

/// FLOPs of one direction for images `x` and a first layer `w0`.
pub(crate) fn flops(x: Shape, w0: Shape) -> f64 {
    4.0 * x.len() as f64 + 4.0 * (x[0] * w0.len()) as f64
}

/// The mean over the pixels of each image: `p [n, c]`.
fn squeeze<T: Real>(x: &[T], shape: Shape, p: &mut [T]) {
    let (c, pixels) = (shape[3], shape[1] * shape[2]);
    for (n, p) in p.chunks_exact_mut(c).enumerate() {
        for (k, p) in p.iter_mut().enumerate() {
            let channel = x[n * pixels * c + k..].iter().step_by(c).take(pixels);
            *p = channel.copied().sum::<T>() / T::of(pixels as f64);
        }
    }
}

/// `f(a w + b)` of one row.
fn dense<T: Real>(a: &[T], w: &[T], b: &[T], y: &mut [T], f: impl Fn(T) -> T) {
    for (o, y) in y.iter_mut().enumerate() {
        let sum: T = (a.iter().enumerate())
            .map(|(i, a)| *a * w[i * b.len() + o])
            .sum();
        *y = f(sum + b[o]);
    }
}

impl Op for Fprop {
    const NAME: &'static str = "squeeze_excite_fprop";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let count = 5 + usize::from(self.skip);
        ensure_shape!(
            shapes.inputs.len() == count,
            "takes {count} tensors, not {}",
            shapes.inputs.len()
        );
        let [x, w0, b0, w2, b2] = [0, 1, 2, 3, 4].map(|i| shapes.inputs[i]);
        ensure_shape!(
            x.rank() == 4 && w0.rank() == 2 && x[1] * x[2] > 0,
            "takes an image [n, h, w, c] and weights [c, hidden], not {x} and {w0}"
        );
        let (c, hidden) = (x[3], w0[1]);
        ensure_shape!(
            w0[0] == c && w2.dims() == [hidden, c] && b0.dims() == [hidden] && b2.dims() == [c],
            "w0 {w0}, b0 {b0}, w2 {w2}, b2 {b2} do not fit {c} channels"
        );
        ensure_shape!(
            shapes.inputs[5..].iter().all(|s| *s == x),
            "the skip is {:?}, the branch {x}",
            &shapes.inputs[5..]
        );
        let row = |width| Shape::new(&[x[0], width]);
        Ok(vec![x, row(c), row(hidden), row(c)])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let [x, w0, b0, w2, b2] = [0, 1, 2, 3, 4].map(|i| io.input(i));
        let skip = self.skip.then(|| io.input(5));
        let shape = io.input_shape(0);
        let (c, hidden, image) = (shape[3], b0.len(), shape[1] * shape[2] * shape[3]);
        let [(y, _), (p, _), (s, _), (g, _)] = &mut *io.outputs else {
            unreachable!("four outputs by the shape rule");
        };
        squeeze(x, shape, p);
        for n in 0..shape[0] {
            let s = &mut s[n * hidden..][..hidden];
            let g = &mut g[n * c..][..c];
            dense(&p[n * c..][..c], w0, b0, s, |v| Function::Relu.value(v));
            dense(s, w2, b2, g, sigmoid);
            for i in n * image..(n + 1) * image {
                let branch = T::of(self.alpha) * x[i] * g[i % c];
                y[i] = skip.map_or(T::zero(), |skip| skip[i]) + branch;
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::fprop(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::fprop(self, cx.shapes)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let (r, dy) = (cx.recorder, cx.cotangent(0));
        let [p, s, g] = [1, 2, 3].map(|i| cx.outputs[i]);
        let inputs = [dy, cx.inputs[0], cx.inputs[1], cx.inputs[3], s, g];
        let mut gradients = vec![None; cx.inputs.len()];
        if cx.wants[..5].contains(&true) {
            let of = Dgrad { alpha: self.alpha };
            let parts = r.record(Arc::new(of), &inputs, &[]);
            let [dx, ds, dg] = [0, 1, 2].map(|i| parts[i]);
            gradients[0] = cx.wanted(0, || dx);
            gradients[1] = cx.wanted(1, || linear::wgrad(r, p, ds));
            gradients[2] = cx.wanted(2, || sum_to(r, ds, cx.input_shape(2)));
            gradients[3] = cx.wanted(3, || linear::wgrad(r, s, dg));
            gradients[4] = cx.wanted(4, || sum_to(r, dg, cx.input_shape(4)));
        }
        if self.skip {
            gradients[5] = cx.wanted(5, || dy);
        }
        gradients
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let (x, w0) = (shapes.inputs[0], shapes.inputs[1]);
        Cost {
            flops: flops(x, w0),
            bytes: compulsory_bytes(shapes),
        }
    }
}
