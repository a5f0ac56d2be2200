//! Native kernels: the plain loops.

use super::{Unary, UnaryGrad};
use crate::ops::Op;
use crate::program::Io;

pub(super) fn value(op: &Unary, io: &mut Io<'_, f32>) {
    op.reference(io);
}

pub(super) fn derivative(op: &UnaryGrad, io: &mut Io<'_, f32>) {
    op.reference(io);
}
