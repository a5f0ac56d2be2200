//! Native kernels: matrix products of [`crate::device::cpu::gemm`].

use super::Fprop;
use crate::device::cpu::gemm::{Epilogue, Lhs, Rhs, gemm, pack, packed_len};
use crate::ops::Shapes;
use crate::program::Io;

pub(super) fn fprop(op: &Fprop, io: &mut Io<'_, f32>) {
    let (x, w) = (io.input_shape(0), io.input_shape(1));
    let epilogue = Epilogue {
        bias: op.bias.then(|| io.input(2)),
        ..Epilogue::default()
    };
    let (lhs, rhs) = (
        Lhs::rows(io.input(0), x[1]),
        Rhs::Rows {
            data: io.input(1),
            stride: w[1],
        },
    );
    gemm(x[0], w[1], w[0], lhs, rhs, io.out(), w[1], epilogue);
}

/// `w` transposed.
pub(super) fn dgrad_workspace(shapes: Shapes<'_>) -> usize {
    let w = shapes.inputs[1];
    packed_len(w[1], w[0])
}

pub(super) fn dgrad(io: &mut Io<'_, f32>) {
    let (dy, w) = (io.input_shape(0), io.input_shape(1));
    let (inputs, outputs) = (w[0], w[1]);
    pack(outputs, inputs, io.input(1), 1, outputs, io.workspace);
    let (lhs, rhs) = (Lhs::rows(io.input(0), outputs), Rhs::Packed(io.workspace));
    let dx = &mut *io.outputs[0].0;
    gemm(
        dy[0],
        inputs,
        outputs,
        lhs,
        rhs,
        dx,
        inputs,
        Epilogue::default(),
    );
}

pub(super) fn wgrad(io: &mut Io<'_, f32>) {
    let (x, dy) = (io.input_shape(0), io.input_shape(1));
    let (lhs, rhs) = (
        Lhs::transposed(io.input(0), x[1]),
        Rhs::Rows {
            data: io.input(1),
            stride: dy[1],
        },
    );
    gemm(
        x[1],
        dy[1],
        x[0],
        lhs,
        rhs,
        io.out(),
        dy[1],
        Epilogue::default(),
    );
}
