//! Native kernels: straight loops for the layouts that the networks use, the plain loop for the rest.

use super::sum::SumTo;
use super::{Binary, Function};
use crate::ops::Op;
use crate::program::Io;

pub(super) fn binary(op: &Binary, io: &mut Io<'_, f32>) {
    let (a, b) = (io.input(0), io.input(1));
    let c = io.outputs[0].0.iter_mut();
    if a.len() == b.len() {
        let pairs = c.zip(a.iter().zip(b));
        match op.0 {
            Function::Combine { alpha, beta } => {
                let (alpha, beta) = (alpha as f32, beta as f32);
                pairs.for_each(|(c, (a, b))| *c = alpha * a + beta * b);
            }
            Function::Mul => pairs.for_each(|(c, (a, b))| *c = a * b),
            Function::Div => pairs.for_each(|(c, (a, b))| *c = a / b),
        }
    } else {
        op.reference(io);
    }
}

pub(super) fn sum_of(io: &mut Io<'_, f32>) {
    let inputs = io.inputs;
    let y = io.out();
    y.copy_from_slice(inputs[0].0);
    for (x, _) in &inputs[1..] {
        y.iter_mut().zip(*x).for_each(|(y, x)| *y += x);
    }
}

/// Sums in `f64` where everything goes into few numbers: a plain `f32` sum over a whole batch would lose digits.
pub(super) fn sum_to(op: &SumTo, io: &mut Io<'_, f32>) {
    let (x, shape) = (io.input(0), io.input_shape(0));
    let y = io.out();
    if y.len() == shape.last() && op.0.len() == op.0.last() {
        let mut sums = vec![0.0f64; y.len()];
        for row in x.chunks_exact(y.len().max(1)) {
            sums.iter_mut()
                .zip(row)
                .for_each(|(s, x)| *s += f64::from(*x));
        }
        y.iter_mut().zip(sums).for_each(|(y, s)| *y = s as f32);
    } else {
        op.reference(io);
    }
}
