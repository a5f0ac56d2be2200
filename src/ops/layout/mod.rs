//! Tensors taken apart and put together: concatenation, slices, another shape for the same numbers.
//!
//! - `concat`: `y[.., offset_k + j, ..] = x_k[.., j, ..]` along one axis.
//! - `slice`: `y[.., j, ..] = x[.., start + j, ..]`; its gradient is zero outside.
//! - `reshape`: the same numbers in row-major order.

pub mod cases;
mod cuda;

pub(in crate::ops) use cuda::copy;

use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, record1};
use crate::ensure_shape;
use crate::program::Io;
use crate::program::gpu::{GpuContext, GpuKernel, Narrow};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Concat::NAME, Slice::NAME, Place::NAME, Reshape::NAME];

#[derive(Clone, Copy, Debug)]
struct Concat {
    axis: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slice {
    axis: usize,
    start: usize,
    len: usize,
}

/// The transpose of a slice: `x` where it was cut out, zero elsewhere.
#[derive(Clone, Copy, Debug)]
struct Place {
    slice: Slice,
    whole: Shape,
}

#[derive(Clone, Copy, Debug)]
struct Reshape(Shape);

/// Tensors one after the other along `axis`; of one tensor, itself.
pub fn concat(r: &dyn Recorder, parts: &[Var], axis: usize) -> Var {
    match parts {
        [only] => *only,
        _ => record1(r, Concat { axis }, parts),
    }
}

/// `len` entries of `axis` from `start` on; all of them, the tensor itself.
pub fn slice(r: &dyn Recorder, x: Var, axis: usize, start: usize, len: usize) -> Var {
    if start == 0 && r.shape(x).dims().get(axis) == Some(&len) {
        return x;
    }
    record1(r, Slice { axis, start, len }, &[x])
}

/// The same numbers in another shape.
pub fn reshape(r: &dyn Recorder, x: Var, shape: impl Into<Shape>) -> Var {
    let shape = shape.into();
    if r.shape(x) == shape {
        return x;
    }
    record1(r, Reshape(shape), &[x])
}

/// The number of elements before an axis, and of one entry of it.
fn around(shape: Shape, axis: usize) -> (usize, usize) {
    let dims = shape.dims();
    (
        dims[..axis].iter().product(),
        dims[axis + 1..].iter().product(),
    )
}

fn with_extent(shape: Shape, axis: usize, extent: usize) -> Shape {
    let mut dims = shape.dims().to_vec();
    dims[axis] = extent;
    Shape::new(&dims)
}

impl Op for Concat {
    const NAME: &'static str = "concat";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let Some(&first) = shapes.inputs.first() else {
            return Err(ShapeError("takes at least one tensor".into()));
        };
        ensure_shape!(
            self.axis < first.rank(),
            "{first} has no axis {}",
            self.axis
        );
        for s in shapes.inputs {
            ensure_shape!(
                s.rank() == first.rank() && with_extent(*s, self.axis, first[self.axis]) == first,
                "{first} and {s} differ in more than axis {}",
                self.axis
            );
        }
        let total = shapes.inputs.iter().map(|s| s[self.axis]).sum();
        Ok(vec![with_extent(first, self.axis, total)])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let inputs = io.inputs;
        let shape = io.output_shape(0);
        let (outer, _) = around(shape, self.axis);
        let y = io.out();
        let mut at = 0;
        for row in 0..outer {
            for (x, _) in inputs {
                let width = x.len() / outer;
                y[at..at + width].copy_from_slice(&x[row * width..][..width]);
                at += width;
            }
        }
    }

    /// Rows are copied whole: there is nothing to gain.
    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::concat(self, cx).into()
    }

    fn narrow(&self, cx: GpuContext<'_>) -> Narrow {
        cuda::concat_narrow(self, cx)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let dy = cx.cotangent(0);
        let mut start = 0;
        (0..cx.inputs.len())
            .map(|i| {
                let len = cx.input_shape(i)[self.axis];
                start += len;
                cx.wanted(i, || slice(cx.recorder, dy, self.axis, start - len, len))
            })
            .collect()
    }
}

impl Op for Slice {
    const NAME: &'static str = "slice";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[x] = shapes.inputs else {
            return Err(ShapeError("takes one tensor".into()));
        };
        ensure_shape!(
            self.axis < x.rank() && self.start + self.len <= x[self.axis],
            "{x} has no entries {}..{} of axis {}",
            self.start,
            self.start + self.len,
            self.axis
        );
        Ok(vec![with_extent(x, self.axis, self.len)])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, shape) = (io.input(0), io.input_shape(0));
        let (outer, inner) = around(shape, self.axis);
        let (row, width) = (shape[self.axis] * inner, self.len * inner);
        let y = io.out();
        for o in 0..outer {
            let from = &x[o * row + self.start * inner..][..width];
            y[o * width..][..width].copy_from_slice(from);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::slice(self, cx).into()
    }

    fn narrow(&self, cx: GpuContext<'_>) -> Narrow {
        cuda::slice_narrow(self, cx.shapes.inputs[0], cx)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let place = Place {
            slice: *self,
            whole: cx.input_shape(0),
        };
        vec![cx.wanted(0, || record1(cx.recorder, place, &[cx.cotangent(0)]))]
    }
}

impl Op for Place {
    const NAME: &'static str = "slice_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let Slice { axis, len, .. } = self.slice;
        ensure_shape!(
            shapes.inputs.len() == 1 && shapes.inputs[0] == with_extent(self.whole, axis, len),
            "takes the gradient of {len} entries of axis {axis} of {}, not {:?}",
            self.whole,
            shapes.inputs
        );
        Ok(vec![self.whole])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let dy = io.input(0);
        let (outer, inner) = around(self.whole, self.slice.axis);
        let (row, width) = (self.whole[self.slice.axis] * inner, self.slice.len * inner);
        let dx = io.out();
        dx.fill(T::zero());
        for o in 0..outer {
            dx[o * row + self.slice.start * inner..][..width]
                .copy_from_slice(&dy[o * width..][..width]);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::place(self, cx.narrow).into()
    }

    fn narrow(&self, cx: GpuContext<'_>) -> Narrow {
        cuda::slice_narrow(&self.slice, self.whole, cx)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let Slice { axis, start, len } = self.slice;
        vec![cx.wanted(0, || slice(cx.recorder, cx.cotangent(0), axis, start, len))]
    }
}

impl Op for Reshape {
    const NAME: &'static str = "reshape";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 1 && shapes.inputs[0].len() == self.0.len(),
            "{:?} has not as many numbers as {}",
            shapes.inputs,
            self.0
        );
        Ok(vec![self.0])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let x = io.input(0);
        io.out().copy_from_slice(x);
    }

    /// A copy is a copy.
    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::reshape(cx).into()
    }

    fn narrow(&self, cx: GpuContext<'_>) -> Narrow {
        cuda::reshape_narrow(cx)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![cx.wanted(0, || {
            reshape(cx.recorder, cx.cotangent(0), cx.input_shape(0))
        })]
    }
}
