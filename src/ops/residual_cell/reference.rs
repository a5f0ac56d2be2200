//! The plain cell: the references of its two parts, one after the other.

use super::Fprop;
use crate::ops::{Op, mbconv};
use crate::program::Io;
use crate::real::Real;
use crate::tensor::Shape;

/// Runs the reference of a part.
fn part<'a, T: Real>(
    op: &impl Op,
    inputs: &'a [(&'a [T], Shape)],
    outputs: &'a mut [(&'a mut [T], Shape)],
) {
    op.reference(&mut Io {
        inputs,
        outputs,
        updates: &mut [],
        workspace: &mut [],
        noise: crate::program::Noise::default(),
    });
}

pub(super) fn fprop<T: Real>(op: &Fprop, io: &mut Io<'_, T>) {
    let [x, packed, w0, b0, w2, b2] = [0, 1, 2, 3, 4, 5].map(|i| io.inputs[i]);
    let [(y, shape), (b, _), (s, units), (g, gate)] = &mut *io.outputs else {
        unreachable!("four outputs by the shape rule");
    };
    part(&op.bottleneck, &[x, packed], &mut [(&mut **b, *shape)]);
    let mut p = vec![T::zero(); gate.len()];
    part(
        &op.excite(),
        &[(&**b, *shape), w0, b0, w2, b2, x],
        &mut [
            (&mut **y, *shape),
            (&mut p, *gate),
            (&mut **s, *units),
            (&mut **g, *gate),
        ],
    );
}

pub(super) fn dgrad<T: Real>(op: &Fprop, io: &mut Io<'_, T>) {
    let [dy, x, packed, b, w0, w2, s, g] = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| io.inputs[i]);
    let [mut db, mut ds, mut dg] = [x.1, s.1, g.1].map(|shape| vec![T::zero(); shape.len()]);
    part(
        &op.excite_dgrad(),
        &[dy, b, w0, w2, s, g],
        &mut [(&mut db, x.1), (&mut ds, s.1), (&mut dg, g.1)],
    );
    let dx = io.out();
    part(
        &mbconv::Dgrad(op.bottleneck),
        &[(&db, x.1), x, packed],
        &mut [(&mut *dx, x.1)],
    );
    for (dx, dy) in dx.iter_mut().zip(dy.0) {
        *dx += *dy;
    }
}
