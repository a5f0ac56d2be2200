//! Native kernels.

use super::Fprop;
use super::gradients::{Dgrad, Wgrad};
use crate::ops::Op;
use crate::program::Io;

pub(super) fn fprop(op: &Fprop, io: &mut Io<'_, f32>) {
    op.reference(io);
}

pub(super) fn dgrad(op: &Dgrad, io: &mut Io<'_, f32>) {
    op.reference(io);
}

pub(super) fn wgrad(op: &Wgrad, io: &mut Io<'_, f32>) {
    op.reference(io);
}
