//! One number of many tensors, summed in `f64`.

use std::sync::Arc;

use super::cuda;
use crate::device::cpu::slices::for_each_task;
use crate::ensure_shape;
use crate::ops::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// What is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `sqrt(sum_k |a_k|^2)`.
    Norm,
    /// `sqrt(mean_k mean_i (a_k[i] - b_k[i])^2)`: every tensor counts as much as every other.
    Distance,
    /// The share of elements that are not strictly inside (0, 1).
    Clamped,
}

/// `y` from `a_0 .. a_k`, and for a distance `b_0 .. b_k` after them.
#[derive(Debug)]
pub(super) struct Measure(pub(super) Kind);

/// The Euclidean norm of all elements of all tensors, a scalar.
pub fn norm(r: &dyn Recorder, tensors: &[Var]) -> Var {
    r.record(Arc::new(Measure(Kind::Norm)), tensors, &[])[0]
}

/// The root of the mean squared difference between the tensors of two lists, a scalar in which each tensor has the same weight.
pub fn distance(r: &dyn Recorder, a: &[Var], b: &[Var]) -> Var {
    r.record(Arc::new(Measure(Kind::Distance)), &[a, b].concat(), &[])[0]
}

/// The share of pixels at or beyond the ends of `[0, 1]`, a scalar. What is not a number counts among them.
pub fn clamped(r: &dyn Recorder, images: Var) -> Var {
    r.record(Arc::new(Measure(Kind::Clamped)), &[images], &[])[0]
}

impl Kind {
    /// What an element of `a`, and of `b` if there is one, adds.
    fn term<T: Real>(self, a: T, b: T) -> f64 {
        match self {
            Kind::Norm => a.f64() * a.f64(),
            // In the number type: a distance of what the type tells apart.
            Kind::Distance => (a - b).f64().powi(2),
            Kind::Clamped => f64::from(u8::from(!(a > T::zero() && a < T::one()))),
        }
    }

    /// How many of the inputs are `a`.
    pub(super) fn tensors(self, inputs: usize) -> usize {
        match self {
            Kind::Distance => inputs / 2,
            Kind::Norm | Kind::Clamped => inputs,
        }
    }

    /// The weight in the sum of an element of tensor `k`.
    pub(super) fn weight(self, a: &[Shape], k: usize) -> f64 {
        match self {
            Kind::Norm => 1.0,
            Kind::Distance | Kind::Clamped => 1.0 / (a.len() * a[k].len().max(1)) as f64,
        }
    }

    pub(super) fn has_root(self) -> bool {
        self != Kind::Clamped
    }

    fn finish(self, sum: f64) -> f64 {
        if self.has_root() { sum.sqrt() } else { sum }
    }
}

/// Elements of a piece of the native kernel.
const PIECE: usize = 16 * 1024;
/// Sums that a piece is made of, so that no addition waits for the one before it.
const LANES: usize = 8;

/// The sum of one piece, in an order that depends on its length alone.
fn sum(kind: Kind, a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (rows, rest) = a.as_chunks::<LANES>();
    let (other, other_rest) = b.as_chunks::<LANES>();
    for (a, b) in rows.iter().zip(other) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += kind.term(*a, *b);
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(rest.iter().zip(other_rest)) {
        *lane += kind.term(*a, *b);
    }
    lanes.iter().sum()
}

impl Op for Measure {
    const NAME: &'static str = "guard_measure";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let count = self.0.tensors(shapes.inputs.len());
        let (a, b) = shapes.inputs.split_at(count);
        ensure_shape!(count > 0, "takes at least one tensor");
        ensure_shape!(b.is_empty() || a == b, "a distance between {a:?} and {b:?}");
        Ok(vec![Shape::SCALAR])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let count = self.0.tensors(io.inputs.len());
        let shapes: Vec<Shape> = io.inputs[..count].iter().map(|(_, s)| *s).collect();
        let mut total = 0.0;
        for k in 0..count {
            let a = io.input(k);
            let b = io.inputs.get(count + k).map_or(a, |(b, _)| *b);
            let sum: f64 = a.iter().zip(b).map(|(a, b)| self.0.term(*a, *b)).sum();
            total += self.0.weight(&shapes, k) * sum;
        }
        io.out()[0] = T::of(self.0.finish(total));
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        let kind = self.0;
        let count = kind.tensors(io.inputs.len());
        let shapes: Vec<Shape> = io.inputs[..count].iter().map(|(_, s)| *s).collect();
        let mut pieces = Vec::new();
        for k in 0..count {
            let a = io.input(k);
            let b = io.inputs.get(count + k).map_or(a, |(b, _)| *b);
            let weight = kind.weight(&shapes, k);
            let cut = a.chunks(PIECE).zip(b.chunks(PIECE));
            pieces.extend(cut.map(|(a, b)| (weight, a, b)));
        }
        let mut sums = vec![0.0; pieces.len()];
        let tasks = pieces.iter().zip(&mut sums).collect();
        let elements: usize = shapes.iter().map(Shape::len).sum();
        for_each_task(
            tasks,
            4 * elements as u64,
            |((weight, a, b), to): (&(f64, &[f32], &[f32]), &mut f64)| {
                *to = weight * sum(kind, a, b);
            },
        );
        io.out()[0] = kind.finish(sums.iter().sum()) as f32;
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::measure(self, cx.shapes)
    }

    /// It looks on; no gradient flows through it.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let elements: usize = shapes.inputs.iter().map(Shape::len).sum();
        Cost {
            flops: 2.0 * elements as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
