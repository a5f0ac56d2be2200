//! Native kernels: adapters to [`crate::device::cpu::bn`].

use super::eval::{ScaleShift, ScaleShiftDgrad, ScaleShiftSums};
use super::train::{Dgrad, Normalize, Sums};
use super::{Activation, inverse_deviation};
use crate::device::cpu::bn::{self, Affine};
use crate::program::Io;
use crate::tensor::Shape;

fn extents(shape: Shape) -> (usize, usize) {
    (shape.rows(), shape.last())
}

pub(super) fn moments_workspace(x: Shape) -> usize {
    bn::moments_workspace(x.rows(), x.last())
}

pub(super) fn moments(io: &mut Io<'_, f32>) {
    let (x, (rows, c)) = (io.input(0), extents(io.input_shape(0)));
    let [(mean, _), (var, _)] = &mut *io.outputs else {
        unreachable!("two outputs by the shape rule");
    };
    bn::moments(rows, c, x, mean, var, io.workspace);
}

/// The affine map of inputs `first..first + 4` = `(mean, var, gamma, beta)`; `inverse` holds the inverse deviations.
fn affine<'a>(io: &Io<'a, f32>, first: usize, inverse: &'a mut [f32]) -> Affine<'a> {
    let [mean, var, gamma, beta] = [0, 1, 2, 3].map(|i| io.input(first + i));
    for (inverse, var) in inverse.iter_mut().zip(var) {
        *inverse = inverse_deviation(*var);
    }
    Affine {
        mean: Some(mean),
        inv_std: Some(inverse),
        gamma,
        beta,
    }
}

/// Room for the inverse deviations.
pub(super) fn normalize_workspace(x: Shape) -> usize {
    x.last()
}

pub(super) fn normalize(op: &Normalize, io: &mut Io<'_, f32>) {
    let (x, (rows, c)) = (io.input(0), extents(io.input_shape(0)));
    let inverse = std::mem::take(&mut io.workspace);
    let affine = affine(io, 1, inverse);
    bn::forward(rows, c, x, &affine, op.0.into(), io.out());
}

pub(super) fn sums_workspace(x: Shape) -> usize {
    x.last() + bn::backward_workspace(x.rows(), x.last())
}

pub(super) fn sums(op: &Sums, io: &mut Io<'_, f32>) {
    let (dy, x, (rows, c)) = (io.input(0), io.input(1), extents(io.input_shape(0)));
    let (inverse, partials) = std::mem::take(&mut io.workspace).split_at_mut(c);
    let affine = affine(io, 2, inverse);
    let [(dbeta, _), (dgamma, _)] = &mut *io.outputs else {
        unreachable!("two outputs by the shape rule");
    };
    bn::gradient_sums(
        rows,
        c,
        x,
        dy,
        &affine,
        op.0.into(),
        dgamma,
        dbeta,
        partials,
    );
}

pub(super) fn dgrad(op: &Dgrad, io: &mut Io<'_, f32>) {
    let (dy, x, (rows, c)) = (io.input(0), io.input(1), extents(io.input_shape(0)));
    let inverse = std::mem::take(&mut io.workspace);
    let affine = affine(io, 2, inverse);
    let sums = (io.input(6), io.input(7));
    bn::backward_dx(rows, c, x, dy, &affine, op.0.into(), sums, io.out());
}

/// The affine map of evaluation mode.
fn folded<'a>(scale: &'a [f32], shift: &'a [f32]) -> Affine<'a> {
    Affine {
        mean: None,
        inv_std: None,
        gamma: scale,
        beta: shift,
    }
}

pub(super) fn scale_shift(op: &ScaleShift, io: &mut Io<'_, f32>) {
    let (x, (rows, c)) = (io.input(0), extents(io.input_shape(0)));
    let affine = folded(io.input(1), io.input(2));
    bn::forward(rows, c, x, &affine, op.0.into(), io.out());
}

/// Room for zeros where there is no summand.
pub(super) fn scale_shift_dgrad_workspace(op: &ScaleShiftDgrad, dy: Shape) -> usize {
    match op.0 {
        Activation::None => dy.last(),
        _ => 0,
    }
}

pub(super) fn scale_shift_dgrad(op: &ScaleShiftDgrad, io: &mut Io<'_, f32>) {
    let (dy, (rows, c)) = (io.input(0), extents(io.input_shape(0)));
    if op.0 == Activation::None {
        io.workspace.fill(0.0);
        let affine = folded(io.input(1), io.workspace);
        let dx = &mut *io.outputs[0].0;
        return bn::forward(rows, c, dy, &affine, op.0.into(), dx);
    }
    let (x, affine) = (io.input(1), folded(io.input(2), io.input(3)));
    bn::backward_constant(rows, c, x, dy, &affine, op.0.into(), io.out());
}

pub(super) fn scale_shift_sums(op: &ScaleShiftSums, io: &mut Io<'_, f32>) {
    let (dy, x, (rows, c)) = (io.input(0), io.input(1), extents(io.input_shape(0)));
    let affine = folded(io.input(2), io.input(3));
    let [(dscale, _), (dshift, _)] = &mut *io.outputs else {
        unreachable!("two outputs by the shape rule");
    };
    bn::gradient_sums(
        rows,
        c,
        x,
        dy,
        &affine,
        op.0.into(),
        dscale,
        dshift,
        io.workspace,
    );
}
