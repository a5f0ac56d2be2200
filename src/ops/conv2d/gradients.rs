//! The gradients of a convolution with respect to its image and its weights.

use super::packed::Layout;
use super::{Fprop, bytes, cpu, cuda, for_each_pixel, packed_bytes, products};
use crate::ensure_shape;
use crate::ops::activation::Activation;
use crate::ops::conv2d::Geometry;
use crate::ops::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// The weights as [`Dgrad`] reads them, and some forward passes, in layouts that are the affair of the device: they are packed once per
/// parameter version.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Pack {
    pub groups: usize,
}

/// `dx[n, iy, ix, i] = act'(x) * sum over the windows that read it of dy[n, oy, ox, o] w[ky, kx, i, o] + start`, from
/// `(dy, packed w[, x][, start])`.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Dgrad {
    pub geometry: Geometry,
    pub pre: Activation,
    /// The shape of `x`, which stride leaves open.
    pub image: Shape,
    /// The shape of `w`.
    pub weights: Shape,
    /// Whether it begins from another gradient of `x`, which is added.
    pub start: bool,
}

/// `dw[ky, kx, i, o] = sum over (n, oy, ox) of act(x[n, iy, ix, i]) dy[n, oy, ox, o]`, from `(x, dy)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wgrad {
    pub geometry: Geometry,
    pub pre: Activation,
    /// The shape of `w`.
    pub weights: Shape,
}

impl Dgrad {
    /// That of [`Fprop::pointwise`].
    pub(in crate::ops) fn pointwise(image: Shape, weights: Shape) -> Self {
        let of = Fprop::pointwise();
        Dgrad {
            geometry: of.geometry,
            pre: of.pre,
            image,
            weights,
            start: false,
        }
    }

    pub(super) fn record(
        r: &dyn Recorder,
        of: &Fprop,
        dy: Var,
        [packed, w]: [Var; 2],
        x: Var,
        start: Option<Var>,
    ) -> Var {
        let op = Dgrad {
            geometry: of.geometry,
            pre: of.pre,
            image: r.shape(x),
            weights: r.shape(w),
            start: start.is_some(),
        };
        let slope = (of.pre != Activation::None).then_some(x);
        let inputs: Vec<Var> = [dy, packed].into_iter().chain(slope).chain(start).collect();
        record1(r, op, &inputs)
    }

    /// Of a convolution that does nothing else.
    pub(super) fn plain(
        r: &dyn Recorder,
        geometry: Geometry,
        dy: Var,
        w: Var,
        image: Shape,
    ) -> Var {
        let op = Dgrad {
            geometry,
            pre: Activation::None,
            image,
            weights: r.shape(w),
            start: false,
        };
        record1(r, op, &[dy, packed(r, geometry, w)])
    }

    /// The index of `x` among the inputs.
    pub(super) fn slope_index(&self) -> Option<usize> {
        (self.pre != Activation::None).then_some(2)
    }

    /// The index of the gradient that this one begins from.
    pub(super) fn start_index(&self) -> Option<usize> {
        self.start
            .then_some(2 + usize::from(self.pre != Activation::None))
    }
}

/// The weights as [`Dgrad`] reads them, and windows forward.
pub(in crate::ops) fn packed(r: &dyn Recorder, geometry: Geometry, w: Var) -> Var {
    let pack = Pack {
        groups: geometry.groups,
    };
    record1(r, pack, &[w])
}

impl Wgrad {
    pub(super) fn record(r: &dyn Recorder, of: &Fprop, x: Var, dy: Var, weights: Shape) -> Var {
        let op = Wgrad {
            geometry: of.geometry,
            pre: of.pre,
            weights,
        };
        record1(r, op, &[x, dy])
    }
}

impl Op for Pack {
    const NAME: &'static str = "conv2d_pack";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[w] = shapes.inputs else {
            return Err(ShapeError("takes weights".into()));
        };
        ensure_shape!(
            w.rank() == 4 && self.groups > 0 && w.last() % self.groups == 0,
            "takes weights [kh, kw, cin / groups, cout], not {w}"
        );
        Ok(vec![Shape::new(&[Layout::new(w, self.groups).len])])
    }

    /// As they are; a device's own layout may take more room, which stays zero.
    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let w = io.input(0);
        let packed = io.out();
        packed.fill(T::zero());
        packed[..w.len()].copy_from_slice(w);
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::pack(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::pack(self, cx)
    }

    /// Second derivatives are never asked for.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None]
    }
}

impl Op for Dgrad {
    const NAME: &'static str = "conv2d_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let slope = usize::from(self.pre != Activation::None);
        let count = 2 + slope + usize::from(self.start);
        let packed = Layout::new(self.weights, self.geometry.groups).len;
        ensure_shape!(
            shapes.inputs.len() == count
                && shapes.inputs[0].last() == self.weights.last()
                && shapes.inputs[1].dims() == [packed],
            "takes dy and the packed weights {}, not {:?}",
            self.weights,
            shapes.inputs
        );
        ensure_shape!(
            shapes.inputs[2..].iter().all(|x| *x == self.image),
            "takes x and a gradient of it of shape {}, not {:?}",
            self.image,
            shapes.inputs
        );
        Ok(vec![self.image])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (dy, w) = (io.input(0), io.input(1));
        let (y_shape, w_shape, x_shape) = (io.input_shape(0), self.weights, self.image);
        let x = self.slope_index().map(|i| io.input(i));
        let start = self.start_index().map(|i| io.input(i));
        let dx = io.out();
        let (cin, cout) = (x_shape.last(), w_shape.last());
        let (in_group, out_group) = (w_shape[2], cout / self.geometry.groups);
        dx.fill(T::zero());
        for_each_pixel(self.geometry, x_shape, w_shape, y_shape, |from, tap, to| {
            for i in 0..cin {
                let first = i / in_group * out_group;
                let row = &w[(tap * in_group + i % in_group) * cout + first..][..out_group];
                let dy = &dy[to * cout + first..][..out_group];
                dx[from * cin + i] += dy.iter().zip(row).map(|(dy, w)| *dy * *w).sum();
            }
        });
        for (dx, x) in dx.iter_mut().zip(x.into_iter().flatten()) {
            *dx *= self.pre.derivative(*x);
        }
        for (dx, start) in dx.iter_mut().zip(start.into_iter().flatten()) {
            *dx += *start;
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::dgrad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::dgrad(self, cx)
    }

    fn workspace(&self, _: Shapes<'_>) -> usize {
        cpu::dgrad_workspace(self)
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: products(self.weights, shapes.inputs[0])
                + self.pre.flops() * self.image.len() as f64,
            bytes: compulsory_bytes(shapes) - packed_bytes(shapes, [1]) + bytes(self.weights.len()),
        }
    }
}

impl Op for Wgrad {
    const NAME: &'static str = "conv2d_wgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 2
                && shapes.inputs[0].last() == self.weights[2] * self.geometry.groups
                && shapes.inputs[1].last() == self.weights.last(),
            "takes x and dy of a convolution with weights {}, not {:?}",
            self.weights,
            shapes.inputs
        );
        Ok(vec![self.weights])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, dy) = (io.input(0), io.input(1));
        let (x_shape, y_shape, w_shape) = (io.input_shape(0), io.input_shape(1), self.weights);
        let dw = io.out();
        let (cin, cout) = (x_shape.last(), w_shape.last());
        let (in_group, out_group) = (w_shape[2], cout / self.geometry.groups);
        dw.fill(T::zero());
        for_each_pixel(self.geometry, x_shape, w_shape, y_shape, |from, tap, to| {
            for i in 0..cin {
                let value = self.pre.value(x[from * cin + i]);
                let first = i / in_group * out_group;
                let dy = &dy[to * cout + first..][..out_group];
                let row = &mut dw[(tap * in_group + i % in_group) * cout + first..][..out_group];
                for (dw, dy) in row.iter_mut().zip(dy) {
                    *dw += value * *dy;
                }
            }
        });
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::wgrad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::wgrad(self, cx)
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
            flops: products(self.weights, shapes.inputs[1])
                + self.pre.flops() * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
