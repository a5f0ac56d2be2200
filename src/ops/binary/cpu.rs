//! Native kernels: vectors for the layouts that the networks use, the plain loop for the rest.

use super::sum::SumTo;
use super::{Binary, Function};
use crate::device::cpu::bn;
use crate::device::cpu::pointwise::{self, Lanes};
use crate::device::cpu::simd::Simd;
use crate::ops::{Op, Shapes};
use crate::program::Io;

impl Lanes<2> for Function {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [a, b]: [S::V; 2]) -> S::V {
        match self {
            Function::Combine { alpha, beta } => {
                let b = s.mul(b, s.splat(beta as f32));
                s.fma(a, s.splat(alpha as f32), b)
            }
            Function::Mul => s.mul(a, b),
            Function::Div => s.div(a, b),
        }
    }
}

pub(super) fn binary(op: &Binary, io: &mut Io<'_, f32>) {
    let (a, b) = (io.input(0), io.input(1));
    if a.len() == b.len() {
        pointwise::map([a, b], io.out(), op.0);
    } else {
        op.reference(io);
    }
}

/// The sum of `N` numbers, in order.
#[derive(Clone, Copy)]
struct Sum;

impl<const N: usize> Lanes<N> for Sum {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: [S::V; N]) -> S::V {
        let mut sum = x[0];
        for x in &x[1..] {
            sum = s.add(sum, *x);
        }
        sum
    }
}

pub(super) fn sum_of(io: &mut Io<'_, f32>) {
    let inputs = io.inputs;
    let y = io.out();
    match inputs {
        [(a, _), (b, _)] => pointwise::map([a, b], y, Sum),
        [(a, _), (b, _), (c, _)] => pointwise::map([a, b, c], y, Sum),
        [(a, _), (b, _), (c, _), (d, _)] => pointwise::map([a, b, c, d], y, Sum),
        _ => {
            y.copy_from_slice(inputs[0].0);
            for (x, _) in &inputs[1..] {
                y.iter_mut().zip(*x).for_each(|(y, x)| *y += x);
            }
        }
    }
}

/// Whether everything goes into one number per channel: the gradient of a bias.
fn is_column_sum(op: &SumTo, x: crate::tensor::Shape) -> bool {
    op.0.rank() == 1 && op.0.len() == x.last() && x.rank() > 1 && !x.is_empty()
}

pub(super) fn sum_to_workspace(op: &SumTo, shapes: Shapes<'_>) -> usize {
    let x = shapes.inputs[0];
    if is_column_sum(op, x) {
        bn::column_sum_workspace(x.rows(), x.last())
    } else {
        0
    }
}

pub(super) fn sum_to(op: &SumTo, io: &mut Io<'_, f32>) {
    let (x, shape) = (io.input(0), io.input_shape(0));
    if is_column_sum(op, shape) {
        let y = &mut *io.outputs[0].0;
        bn::column_sum(shape.rows(), shape.last(), x, y, false, io.workspace);
    } else {
        op.reference(io);
    }
}
