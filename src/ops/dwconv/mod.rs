//! Depthwise convolution: each channel with its own window.
//!
//! `y[n, oy, ox, c] = sum over (ky, kx) of x[n, oy * stride - pad + ky, ox * stride - pad + kx, c] w[ky, kx, c]`
//!
//! `x [n, h, w, c]`, `w [kh, kw, c]`, `y [n, oh, ow, c]`; zero padding on all four sides.

pub mod cases;
mod cpu;
mod cuda;
mod gradients;

use super::conv2d::Geometry;
use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1};
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;
use gradients::{Dgrad, Wgrad};

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Fprop::NAME, Dgrad::NAME, Wgrad::NAME];

/// The forward pass: `y` from `(x, w)`.
#[derive(Clone, Copy, Debug)]
struct Fprop {
    stride: usize,
    pad: usize,
}

/// A depthwise convolution.
pub fn dwconv(r: &dyn Recorder, x: Var, w: Var, stride: usize, pad: usize) -> Var {
    record1(r, Fprop { stride, pad }, &[x, w])
}

impl Fprop {
    fn geometry(&self) -> Geometry {
        Geometry {
            stride: self.stride,
            dilation: 1,
            pad: [[self.pad as i32; 2]; 2],
            groups: 1,
        }
    }

    /// Calls `visit(pixel of x, tap of w, pixel of y)` for every product.
    fn for_each_pixel(&self, x: Shape, w: Shape, y: Shape, visit: impl FnMut(usize, usize, usize)) {
        let (x, y) = ([x[0], x[1], x[2]], [y[0], y[1], y[2]]);
        self.geometry().for_each_tap(x, [w[0], w[1]], y, visit);
    }
}

/// FLOPs of one pass: the same number for fprop, dgrad and wgrad.
fn products(w: Shape, y: Shape) -> f64 {
    2.0 * (w[0] * w[1]) as f64 * y.len() as f64
}

impl Op for Fprop {
    const NAME: &'static str = "dwconv_fprop";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[x, w] = shapes.inputs else {
            return Err(ShapeError("takes an image and weights".into()));
        };
        ensure_shape!(
            x.rank() == 4 && w.rank() == 3 && x.last() == w.last(),
            "takes an image [n, h, w, c] and weights [kh, kw, c], not {x} and {w}"
        );
        let geometry = self.geometry();
        let (oh, ow) = (
            geometry.output(0, x[1], w[0])?,
            geometry.output(1, x[2], w[1])?,
        );
        Ok(vec![Shape::new(&[x[0], oh, ow, x[3]])])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, w) = (io.input(0), io.input(1));
        let (x_shape, w_shape, y_shape) =
            (io.input_shape(0), io.input_shape(1), io.output_shape(0));
        let (c, y) = (x_shape.last(), io.out());
        y.fill(T::zero());
        self.for_each_pixel(x_shape, w_shape, y_shape, |from, tap, to| {
            for k in 0..c {
                y[to * c + k] += x[from * c + k] * w[tap * c + k];
            }
        });
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::fprop(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::fprop(self, cx.shapes).into()
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::fprop_workspace(self, shapes)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let (r, dy, x, w) = (cx.recorder, cx.cotangent(0), cx.inputs[0], cx.inputs[1]);
        let dgrad = Dgrad {
            of: *self,
            image: cx.input_shape(0),
        };
        let wgrad = Wgrad {
            of: *self,
            weights: cx.input_shape(1),
        };
        vec![
            cx.wanted(0, || record1(r, dgrad, &[dy, w])),
            cx.wanted(1, || record1(r, wgrad, &[x, dy])),
        ]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: products(shapes.inputs[1], shapes.outputs[0]),
            bytes: compulsory_bytes(shapes),
        }
    }
}
