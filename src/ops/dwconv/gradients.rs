//! The gradients of a depthwise convolution with respect to its image and its weights.

use super::{Fprop, cpu, cuda, products};
use crate::ensure_shape;
use crate::ops::{Backward, Op, ShapeError, Shapes, Var, compulsory_bytes};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// `dx[n, iy, ix, c] = sum over the windows that read it of dy[n, oy, ox, c] w[ky, kx, c]`, from `(dy, w)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dgrad {
    pub of: Fprop,
    /// The shape of `x`, which stride leaves open.
    pub image: Shape,
}

/// `dw[ky, kx, c] = sum over (n, oy, ox) of x[n, iy, ix, c] dy[n, oy, ox, c]`, from `(x, dy)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wgrad {
    pub of: Fprop,
    /// The shape of `w`.
    pub weights: Shape,
}

impl Op for Dgrad {
    const NAME: &'static str = "dwconv_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 2 && shapes.inputs.iter().all(|s| s.last() == self.image.last()),
            "takes dy and w of {} channels, not {:?}",
            self.image.last(),
            shapes.inputs
        );
        Ok(vec![self.image])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (dy, w) = (io.input(0), io.input(1));
        let (y_shape, w_shape) = (io.input_shape(0), io.input_shape(1));
        let (c, dx) = (self.image.last(), io.out());
        dx.fill(T::zero());
        (self.of).for_each_pixel(self.image, w_shape, y_shape, |from, tap, to| {
            for k in 0..c {
                dx[from * c + k] += dy[to * c + k] * w[tap * c + k];
            }
        });
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::dgrad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::dgrad(self, cx.shapes).into()
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::dgrad_workspace(self, shapes)
    }

    /// Second derivatives are never asked for.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None, None]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: products(shapes.inputs[1], shapes.inputs[0]),
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for Wgrad {
    const NAME: &'static str = "dwconv_wgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 2
                && shapes
                    .inputs
                    .iter()
                    .all(|s| s.last() == self.weights.last()),
            "takes x and dy of {} channels, not {:?}",
            self.weights.last(),
            shapes.inputs
        );
        Ok(vec![self.weights])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, dy) = (io.input(0), io.input(1));
        let (x_shape, y_shape) = (io.input_shape(0), io.input_shape(1));
        let (c, dw) = (self.weights.last(), io.out());
        dw.fill(T::zero());
        (self.of).for_each_pixel(x_shape, self.weights, y_shape, |from, tap, to| {
            for k in 0..c {
                dw[tap * c + k] += x[from * c + k] * dy[to * c + k];
            }
        });
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::wgrad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::wgrad(self, cx.shapes)
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::wgrad_workspace(self, shapes)
    }

    /// Second derivatives are never asked for.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None, None]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: products(self.weights, shapes.inputs[1]),
            bytes: compulsory_bytes(shapes),
        }
    }
}
