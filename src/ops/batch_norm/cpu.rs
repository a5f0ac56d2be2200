//! Native kernels.

use super::eval::{ScaleShift, ScaleShiftDgrad, ScaleShiftSums};
use super::train::{Dgrad, Moments, Normalize, Sums};
use crate::ops::Op;
use crate::program::Io;

pub(super) fn moments(op: &Moments, io: &mut Io<'_, f32>) {
    op.reference(io);
}

pub(super) fn normalize(op: &Normalize, io: &mut Io<'_, f32>) {
    op.reference(io);
}

pub(super) fn sums(op: &Sums, io: &mut Io<'_, f32>) {
    op.reference(io);
}

pub(super) fn dgrad(op: &Dgrad, io: &mut Io<'_, f32>) {
    op.reference(io);
}

pub(super) fn scale_shift(op: &ScaleShift, io: &mut Io<'_, f32>) {
    op.reference(io);
}

pub(super) fn scale_shift_dgrad(op: &ScaleShiftDgrad, io: &mut Io<'_, f32>) {
    op.reference(io);
}

pub(super) fn scale_shift_sums(op: &ScaleShiftSums, io: &mut Io<'_, f32>) {
    op.reference(io);
}
