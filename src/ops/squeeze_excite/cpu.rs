//! Native kernels: adapters to [`crate::device::cpu::excite`].

use super::Fprop;
use super::dgrad::Dgrad;
use crate::device::cpu::excite::{self, ExciteGeometry, ExciteSaved, ExciteWeights};
use crate::program::Io;
use crate::tensor::Shape;

fn describe(x: Shape, w0: Shape) -> ExciteGeometry {
    ExciteGeometry {
        n: x[0],
        h: x[1],
        w: x[2],
        c: x[3],
        hidden: w0[1],
    }
}

pub(super) fn fprop(op: &Fprop, io: &mut Io<'_, f32>) {
    let g = describe(io.input_shape(0), io.input_shape(1));
    let [x, w0, b0, w2, b2] = [0, 1, 2, 3, 4].map(|i| io.input(i));
    let weights = ExciteWeights { w0, b0, w2, b2 };
    let skip = op.skip.then(|| io.input(5));
    let [(y, _), (p, _), (s, _), (gate, _)] = &mut *io.outputs else {
        unreachable!("four outputs by the shape rule");
    };
    excite::fprop(&g, x, weights, skip, op.alpha as f32, y, p, s, gate);
}

pub(super) fn dgrad(op: &Dgrad, io: &mut Io<'_, f32>) {
    let g = describe(io.input_shape(1), io.input_shape(2));
    let [dy, x, w0, w2, inner, gate] = [0, 1, 2, 3, 4, 5].map(|i| io.input(i));
    let saved = ExciteSaved {
        x,
        w0,
        w2,
        inner,
        gate,
    };
    let [(dx, _), (ds, _), (dg, _)] = &mut *io.outputs else {
        unreachable!("three outputs by the shape rule");
    };
    excite::dgrad(&g, dy, saved, op.alpha as f32, dx, ds, dg);
}
