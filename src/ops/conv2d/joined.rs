//! The 1x1 convolution of two images side by side, without putting them side by side:
//!
//! `y[p, o] = b[o] + sum over i of x[p, i] w[i, o] + sum over j of x2[p, j] w[cx + j, o]`, `p = (n, y, x)`.
//!
//! `x [n, h, w, cx]`, `x2 [n, h, w, c2]`, `w [1, 1, cx + c2, cout]`, `y [n, h, w, cout]`. Both sums run in the same accumulators, and one
//! product makes both gradients: the concatenation would be written and read once, and its gradient taken apart again.

use std::sync::Arc;

use super::gradients::{Dgrad, Wgrad};
use super::packed::Layout;
use super::{Geometry, bytes, cpu, cuda, packed_bytes, products};
use crate::ensure_shape;
use crate::ops::activation::Activation;
use crate::ops::binary::sum_to;
use crate::ops::layout::{concat, slice};
use crate::ops::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// The axis of `w` along which the rows of both images follow each other.
const ROWS: usize = 2;

/// The weights, packed and as they are, and the bias among the inputs.
pub(super) const W: usize = 2;
pub(super) const PACKED: usize = 4;
pub(super) const BIAS: usize = 3;

/// `y` from `(x, x2, w, b, packed w)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined;

/// The weights as [`JoinedDgrad`] reads them, and [`Joined`] where a window stays; see [`super::gradients::Pack`]. A native layout has the two images' parts apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct JoinedPack {
    /// The channels of `x`.
    pub split: usize,
}

/// `(dx, dx2)` from `(dy, packed w[, start])`: `dx = dy w^T + start` of the first `split` channels, `dx2` of the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct JoinedDgrad {
    /// The channels of `x`.
    pub split: usize,
    /// The shape of `w`.
    pub weights: Shape,
    /// Whether `dx` begins from another gradient.
    pub start: bool,
}

/// The 1x1 convolution of `x` and `x2`, in this order along the channels.
pub fn conv2d_joined(r: &dyn Recorder, x: Var, x2: Var, w: Var, bias: Var) -> Var {
    let split = r.shape(x).last();
    let packed = record1(r, JoinedPack { split }, &[w]);
    record1(r, Joined, &[x, x2, w, bias, packed])
}

impl Op for Joined {
    const NAME: &'static str = "conv2d_joined";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[x, x2, w, b, packed] = shapes.inputs else {
            return Err(ShapeError(
                "takes two images, weights, a bias and packed weights".to_owned(),
            ));
        };
        ensure_shape!(
            x.rank() == 4 && x.last() > 0 && x2.last() > 0 && x2.with_last(x.last()) == x,
            "takes images of one size, not {x} and {x2}"
        );
        ensure_shape!(
            w.last() > 0 && w.dims() == [1, 1, x.last() + x2.last(), w.last()],
            "weights {w} do not fit images {x} and {x2}"
        );
        ensure_shape!(
            b.dims() == [w.last()],
            "the bias is {b}, the weights are {w}"
        );
        let len = Layout::joined(w, x.last()).len;
        ensure_shape!(
            packed.dims() == [len],
            "takes {len} packed weights, not {packed}"
        );
        Ok(vec![x.with_last(w.last())])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, x2, w, b) = (io.input(0), io.input(1), io.input(2), io.input(3));
        let (cx, c2) = (io.input_shape(0).last(), io.input_shape(1).last());
        let cout = b.len();
        for (p, y) in io.out().chunks_exact_mut(cout).enumerate() {
            y.copy_from_slice(b);
            let pixel = x[p * cx..][..cx].iter().chain(&x2[p * c2..][..c2]);
            for (value, row) in pixel.zip(w.chunks_exact(cout)) {
                for (y, w) in y.iter_mut().zip(row) {
                    *y += *value * *w;
                }
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::joined(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::joined(cx)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let (r, dy, w) = (cx.recorder, cx.cotangent(0), cx.inputs[2]);
        let weights = cx.input_shape(2);
        let channels = [0, 1].map(|i| cx.input_shape(i).last());
        let mut gradients = vec![None; 5];
        match [cx.wants[0], cx.wants[1]] {
            [false, false] => {}
            [true, true] => {
                let start = cx.so_far(0);
                let op = JoinedDgrad {
                    split: channels[0],
                    weights,
                    start: start.is_some(),
                };
                let inputs: Vec<Var> = [dy, cx.inputs[PACKED]].into_iter().chain(start).collect();
                let both = r.record(Arc::new(op), &inputs, &[]);
                (gradients[0], gradients[1]) = (Some(both[0]), Some(both[1]));
            }
            [first, _] => {
                // One of them alone: its own rows of the weights.
                let (i, from) = if first { (0, 0) } else { (1, channels[0]) };
                let rows = slice(r, w, ROWS, from, channels[i]);
                let dx = Dgrad::plain(r, Geometry::same(1), dy, rows, cx.input_shape(i));
                gradients[i] = Some(dx);
            }
        }
        gradients[2] = cx.wanted(2, || {
            let part = |i: usize| {
                let op = Wgrad {
                    geometry: Geometry::same(1),
                    pre: Activation::None,
                    weights: Shape::new(&[1, 1, channels[i], weights.last()]),
                };
                record1(r, op, &[cx.inputs[i], dy])
            };
            concat(r, &[part(0), part(1)], ROWS)
        });
        gradients[3] = cx.wanted(3, || sum_to(r, dy, cx.input_shape(3)));
        gradients
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: products(shapes.inputs[2], shapes.outputs[0]),
            bytes: compulsory_bytes(shapes) - packed_bytes(shapes, [PACKED]),
        }
    }
}

impl Op for JoinedPack {
    const NAME: &'static str = "conv2d_joined_pack";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[w] = shapes.inputs else {
            return Err(ShapeError("takes weights".into()));
        };
        ensure_shape!(
            w.rank() == 4 && w[0] * w[1] == 1 && self.split <= w[ROWS],
            "takes weights [1, 1, cx + c2, cout] with {} rows or more, not {w}",
            self.split
        );
        Ok(vec![Shape::new(&[Layout::joined(w, self.split).len])])
    }

    /// As they are; a device's own layout may take more room, which stays zero.
    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let w = io.input(0);
        let packed = io.out();
        packed.fill(T::zero());
        packed[..w.len()].copy_from_slice(w);
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::joined_pack(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::joined_pack(self, cx)
    }

    /// Second derivatives are never asked for.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None]
    }
}

impl Op for JoinedDgrad {
    const NAME: &'static str = "conv2d_joined_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let count = 2 + usize::from(self.start);
        let packed = Layout::joined(self.weights, self.split).len;
        ensure_shape!(
            shapes.inputs.len() == count
                && shapes.inputs[0].last() == self.weights.last()
                && shapes.inputs[1].dims() == [packed],
            "takes dy and the packed weights {}, not {:?}",
            self.weights,
            shapes.inputs
        );
        let dy = shapes.inputs[0];
        let dx = dy.with_last(self.split);
        ensure_shape!(
            shapes.inputs[2..].iter().all(|start| *start == dx),
            "takes a gradient {dx} to begin from, not {:?}",
            shapes.inputs
        );
        Ok(vec![dx, dy.with_last(self.weights[ROWS] - self.split)])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (dy, w) = (io.input(0), io.input(1));
        let start = self.start.then(|| io.input(2));
        let (cx, c2, cout) = (
            self.split,
            self.weights[ROWS] - self.split,
            self.weights.last(),
        );
        for (p, dy) in dy.chunks_exact(cout).enumerate() {
            for (i, row) in w.chunks_exact(cout).take(cx + c2).enumerate() {
                let value: T = dy.iter().zip(row).map(|(dy, w)| *dy * *w).sum();
                if i < cx {
                    let begun = start.map_or(T::zero(), |s| s[p * cx + i]);
                    io.output(0)[p * cx + i] = value + begun;
                } else {
                    io.output(1)[p * c2 + i - cx] = value;
                }
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::joined_dgrad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::joined_dgrad(self, cx)
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: products(self.weights, shapes.inputs[0]),
            bytes: compulsory_bytes(shapes) - packed_bytes(shapes, [1]) + bytes(self.weights.len()),
        }
    }
}
