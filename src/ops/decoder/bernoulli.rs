//! Independent Bernoulli pixels.

use std::sync::Arc;

use super::{cpu, cuda};
use crate::ensure_shape;
use crate::ops::unary::{Function, sigmoid};
use crate::ops::{ACTIVATION_FLOPS, Backward, Op, ShapeError, Shapes, Var, compulsory_bytes};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// `log_p[n] = sum of x l - softplus(l)` from `(logits, x)`, without `crop` pixels at each border.
#[derive(Debug)]
pub(super) struct Bernoulli {
    pub crop: usize,
}

/// `(dlogits, dx)` from `(logits, x, dlog_p)`: `dlog_p (x - sigma(l))` and `dlog_p l`, zero at the border.
#[derive(Debug)]
pub(super) struct BernoulliGrad {
    pub crop: usize,
}

/// Calls `visit(sample, element, whether it counts)` for every element of an image batch.
fn for_each(shape: Shape, crop: usize, mut visit: impl FnMut(usize, usize, bool)) {
    let inside = |at: usize, extent: usize| at >= crop && at + crop < extent;
    let mut element = 0;
    for n in 0..shape[0] {
        for h in 0..shape[1] {
            for w in 0..shape[2] {
                let counts = inside(h, shape[1]) && inside(w, shape[2]);
                for _ in 0..shape[3] {
                    visit(n, element, counts);
                    element += 1;
                }
            }
        }
    }
}

fn check(logits: Shape, x: Shape) -> Result<(), ShapeError> {
    ensure_shape!(
        logits.rank() == 4 && logits == x,
        "takes logits and images of one shape [n, h, w, c], not {logits} and {x}"
    );
    Ok(())
}

impl Op for Bernoulli {
    const NAME: &'static str = "bernoulli_log_prob";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[logits, x] = shapes.inputs else {
            return Err(ShapeError("takes logits and images".into()));
        };
        check(logits, x)?;
        Ok(vec![Shape::new(&[x[0]])])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (logits, x, shape) = (io.input(0), io.input(1), io.input_shape(0));
        let log_p = io.out();
        log_p.fill(T::zero());
        for_each(shape, self.crop, |n, i, counts| {
            if counts {
                log_p[n] += x[i] * logits[i] - Function::Softplus.value(logits[i]);
            }
        });
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::bernoulli(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::bernoulli(self, cx.shapes)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let inputs = [cx.inputs[0], cx.inputs[1], cx.cotangent(0)];
        let op = Arc::new(BernoulliGrad { crop: self.crop });
        let gradients = cx.recorder.record(op, &inputs, &[]);
        (0..2).map(|i| cx.wanted(i, || gradients[i])).collect()
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (ACTIVATION_FLOPS + 3.0) * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for BernoulliGrad {
    const NAME: &'static str = "bernoulli_log_prob_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[logits, x, dlog_p] = shapes.inputs else {
            return Err(ShapeError("takes logits, images and dlog_p".into()));
        };
        check(logits, x)?;
        ensure_shape!(dlog_p == Shape::new(&[x[0]]), "dlog_p has shape {dlog_p}");
        Ok(vec![logits, x])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (logits, x, dlog_p) = (io.input(0), io.input(1), io.input(2));
        for_each(io.input_shape(0), self.crop, |n, i, counts| {
            let dlog_p = if counts { dlog_p[n] } else { T::zero() };
            io.output(0)[i] = dlog_p * (x[i] - sigmoid(logits[i]));
            io.output(1)[i] = dlog_p * logits[i];
        });
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::bernoulli_grad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::bernoulli_grad(self, cx.shapes).into()
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (ACTIVATION_FLOPS + 3.0) * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
