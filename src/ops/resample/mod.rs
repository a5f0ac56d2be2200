//! Resampling of images by a factor of 2, each channel by itself: `x [n, h, w, c]`.
//!
//! - `avg_pool2`: `y[n, i, j, c]` is the mean of `x[n, 2i..2i+2, 2j..2j+2, c]`; an odd last row or column is dropped.
//! - `nearest2`: `y[n, i, j, c] = x[n, i / 2, j / 2, c]`.
//! - `bilinear2`: to `2h x 2w` with aligned corners: output `i` reads position `i (h - 1) / (2h - 1)`.
//!
//! The gradient is the transpose of the same linear map.

pub mod cases;
mod cpu;
mod cuda;

use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1};
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel, Narrow};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Resample::NAME, Transpose::NAME];

/// Which map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    AvgPool,
    Nearest,
    Bilinear,
}

/// `y = A x`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resample(pub Kind);

/// Average pooling, for ops that it is a part of.
pub(super) const AVG_POOL: Resample = Resample(Kind::AvgPool);

/// `dx = A^T dy`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transpose {
    pub kind: Kind,
    /// The shape of `x`, which pooling leaves open.
    pub image: Shape,
}

/// 2x2 average pooling with stride 2; an odd last row or column is dropped.
pub fn avg_pool2(r: &dyn Recorder, x: Var) -> Var {
    record1(r, Resample(Kind::AvgPool), &[x])
}

/// The gradient of [`avg_pool2`] of an image of this shape.
pub(super) fn avg_pool2_dgrad(r: &dyn Recorder, dy: Var, image: Shape) -> Var {
    record1(r, avg_pool_transpose(image), &[dy])
}

/// The same as an op, for ops that it is a part of.
pub(super) fn avg_pool_transpose(image: Shape) -> Transpose {
    Transpose {
        kind: Kind::AvgPool,
        image,
    }
}

/// Each pixel four times.
pub fn nearest2(r: &dyn Recorder, x: Var) -> Var {
    record1(r, Resample(Kind::Nearest), &[x])
}

/// Bilinear interpolation to twice the size, corner pixels on corner pixels.
pub fn bilinear2(r: &dyn Recorder, x: Var) -> Var {
    record1(r, Resample(Kind::Bilinear), &[x])
}

/// The two neighbours along one axis that an output reads: the first, how far the second lies behind it, and its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Taps {
    first: usize,
    step: usize,
    /// The weight of the second neighbour, as a fraction, so that either number type rounds it once.
    weight: (usize, usize),
}

impl Taps {
    fn weights<T: Real>(&self) -> (T, T) {
        let (numerator, denominator) = self.weight;
        let second = T::of(numerator as f64) / T::of(denominator as f64);
        (T::one() - second, second)
    }
}

impl Kind {
    fn output(self, extent: usize) -> usize {
        match self {
            Kind::AvgPool => extent / 2,
            Kind::Nearest | Kind::Bilinear => 2 * extent,
        }
    }

    /// What output `i` reads of an axis of `extent` inputs.
    fn taps(self, i: usize, extent: usize) -> Taps {
        let (first, step, weight) = match self {
            Kind::AvgPool => (2 * i, 1, (1, 2)),
            Kind::Nearest => (i / 2, 0, (0, 1)),
            Kind::Bilinear => {
                let (position, unit) = (i * (extent - 1), 2 * extent - 1);
                let first = position / unit;
                let step = usize::from(first + 1 < extent);
                (first, step, (position % unit, unit))
            }
        };
        Taps {
            first,
            step,
            weight,
        }
    }

    /// Calls `visit(pixel of x, pixel of y, weight)` for every entry of the map.
    fn for_each_entry<T: Real>(self, x: Shape, mut visit: impl FnMut(usize, usize, T)) {
        let [h, w] = [x[1], x[2]];
        let [oh, ow] = [self.output(h), self.output(w)];
        for (n, i, j) in
            (0..x[0]).flat_map(|n| (0..oh).flat_map(move |i| (0..ow).map(move |j| (n, i, j))))
        {
            let (rows, columns) = (self.taps(i, h), self.taps(j, w));
            let (up, down) = rows.weights::<T>();
            let (left, right) = columns.weights::<T>();
            for (iy, wy) in [(rows.first, up), (rows.first + rows.step, down)] {
                for (ix, wx) in [(columns.first, left), (columns.first + columns.step, right)] {
                    visit((n * h + iy) * w + ix, (n * oh + i) * ow + j, wy * wx);
                }
            }
        }
    }

    fn cost(self, x: Shape, shapes: Shapes<'_>) -> Cost {
        let outputs =
            x.rows() / (x[1] * x[2]).max(1) * self.output(x[1]) * self.output(x[2]) * x[3];
        let flops = match self {
            Kind::AvgPool => 4.0,
            Kind::Nearest => 0.0,
            Kind::Bilinear => 8.0,
        };
        Cost {
            flops: flops * outputs as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for Resample {
    const NAME: &'static str = "resample";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[x] = shapes.inputs else {
            return Err(ShapeError("takes one image".into()));
        };
        ensure_shape!(x.rank() == 4, "takes an image [n, h, w, c], not {x}");
        let (h, w) = (self.0.output(x[1]), self.0.output(x[2]));
        ensure_shape!(h > 0 && w > 0, "{x} is too small to be pooled");
        Ok(vec![Shape::new(&[x[0], h, w, x[3]])])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, shape) = (io.input(0), io.input_shape(0));
        let (c, y) = (shape.last(), io.out());
        y.fill(T::zero());
        self.0.for_each_entry(shape, |from, to, weight: T| {
            for k in 0..c {
                y[to * c + k] += weight * x[from * c + k];
            }
        });
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::forward(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::forward(self, cx).into()
    }

    fn narrow(&self, cx: GpuContext<'_>) -> Narrow {
        cuda::narrow(cx)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let transpose = Transpose {
            kind: self.0,
            image: cx.input_shape(0),
        };
        vec![cx.wanted(0, || record1(cx.recorder, transpose, &[cx.cotangent(0)]))]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        self.0.cost(shapes.inputs[0], shapes)
    }
}

impl Op for Transpose {
    const NAME: &'static str = "resample_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 1 && shapes.inputs[0].last() == self.image.last(),
            "takes the gradient of a resampled {}, not {:?}",
            self.image,
            shapes.inputs
        );
        Ok(vec![self.image])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let dy = io.input(0);
        let (c, dx) = (self.image.last(), io.out());
        dx.fill(T::zero());
        (self.kind).for_each_entry(self.image, |to, from, weight: T| {
            for k in 0..c {
                dx[to * c + k] += weight * dy[from * c + k];
            }
        });
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::transpose(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::transpose(self, cx).into()
    }

    fn narrow(&self, cx: GpuContext<'_>) -> Narrow {
        cuda::narrow(cx)
    }

    /// Second derivatives are never asked for.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        self.kind.cost(self.image, shapes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bilinear_maps_corners_to_corners() {
        for extent in [1, 2, 5, 8] {
            let first = Kind::Bilinear.taps(0, extent);
            let last = Kind::Bilinear.taps(2 * extent - 1, extent);
            assert_eq!((first.first, first.weight.0), (0, 0));
            assert_eq!((last.first, last.weight.0), (extent - 1, 0));
        }
    }
}
