//! The gradient of squeeze-and-excite.

use super::{cpu, cuda};
use crate::ensure_shape;
use crate::ops::{Backward, Op, ShapeError, Shapes, Var, compulsory_bytes};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// `(dx, ds, dg)` from `(dy, x, w0, w2, s, g)`: the gradients of the image and of what goes into ReLU and sigmoid.
///
/// `dg[n, c] = g (1 - g) * alpha * sum over h, w of dy x`, `ds = [s > 0] (dg w2^T)`, `dx = alpha dy g + ds w0^T / (h w)`.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Dgrad {
    pub alpha: f64,
}

impl Op for Dgrad {
    const NAME: &'static str = "squeeze_excite_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 6 && shapes.inputs[0] == shapes.inputs[1],
            "takes dy and x of one shape, w0, w2, s and g, not {:?}",
            shapes.inputs
        );
        Ok(vec![shapes.inputs[1], shapes.inputs[4], shapes.inputs[5]])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let [dy, x, w0, w2, s, g] = [0, 1, 2, 3, 4, 5].map(|i| io.input(i));
        let (shape, hidden) = (io.input_shape(1), io.input_shape(4)[1]);
        let (c, pixels) = (shape[3], shape[1] * shape[2]);
        let alpha = T::of(self.alpha);
        let [(dx, _), (ds, _), (dg, _)] = &mut *io.outputs else {
            unreachable!("three outputs by the shape rule");
        };
        for n in 0..shape[0] {
            let image = n * pixels * c;
            for k in 0..c {
                let sum: T = (0..pixels)
                    .map(|i| dy[image + i * c + k] * x[image + i * c + k])
                    .sum();
                let gate = g[n * c + k];
                dg[n * c + k] = alpha * sum * gate * (T::one() - gate);
            }
            for j in 0..hidden {
                let sum: T = (0..c).map(|k| dg[n * c + k] * w2[j * c + k]).sum();
                let open = s[n * hidden + j] > T::zero();
                ds[n * hidden + j] = if open { sum } else { T::zero() };
            }
            for k in 0..c {
                let sum: T = (0..hidden)
                    .map(|j| ds[n * hidden + j] * w0[k * hidden + j])
                    .sum();
                let mean = sum / T::of(pixels as f64);
                for i in 0..pixels {
                    let at = image + i * c + k;
                    dx[at] = alpha * dy[at] * g[n * c + k] + mean;
                }
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::dgrad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::dgrad(self, cx.shapes)
    }

    /// Second derivatives are never asked for.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; 6]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let (x, w0) = (shapes.inputs[1], shapes.inputs[2]);
        Cost {
            flops: super::flops(x, w0),
            bytes: compulsory_bytes(shapes),
        }
    }
}
