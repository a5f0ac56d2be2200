//! The plain cell: the references of its parts, one after the other; a skip is enlarged before it is multiplied, as the architecture has it.

use super::Fprop;
use crate::ops::conv2d::{self, gradients};
use crate::ops::resample::{Kind, Resample, Transpose};
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

/// The shape of `x` at the resolution of `y`.
fn enlarged(x: Shape) -> Shape {
    Shape::new(&[x[0], 2 * x[1], 2 * x[2], x[3]])
}

pub(super) fn fprop<T: Real>(op: &Fprop, io: &mut Io<'_, T>) {
    let [x, packed, w0, b0, w2, b2] = [0, 1, 2, 3, 4, 5].map(|i| io.inputs[i]);
    let [(y, shape), (b, _), (s, units), (g, gate)] = &mut *io.outputs else {
        unreachable!("four outputs by the shape rule");
    };
    part(&op.bottleneck, &[x, packed], &mut [(&mut **b, *shape)]);
    let mut p = vec![T::zero(); gate.len()];
    let mut skip = vec![T::zero(); shape.len()];
    match io.inputs.get(6) {
        None => skip.copy_from_slice(x.0),
        Some(&v) => {
            let large = enlarged(x.1);
            let mut image = vec![T::zero(); large.len()];
            part(&Resample(Kind::Bilinear), &[x], &mut [(&mut image, large)]);
            let product = conv2d::Fprop::pointwise();
            part(&product, &[(&image, large), v], &mut [(&mut skip, *shape)]);
        }
    }
    part(
        &op.excite(),
        &[(&**b, *shape), w0, b0, w2, b2, (&skip, *shape)],
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
    let [mut db, mut ds, mut dg] = [dy.1, s.1, g.1].map(|shape| vec![T::zero(); shape.len()]);
    part(
        &op.excite_dgrad(),
        &[dy, b, w0, w2, s, g],
        &mut [(&mut db, dy.1), (&mut ds, s.1), (&mut dg, g.1)],
    );
    let mut dx = vec![T::zero(); x.1.len()];
    part(
        &mbconv::Dgrad(op.bottleneck),
        &[(&db, dy.1), x, packed],
        &mut [(&mut dx, x.1)],
    );
    let mut through = vec![T::zero(); x.1.len()];
    match io.inputs.get(8..10) {
        Some(&[v, packed]) => {
            let (kind, large) = (Kind::Bilinear, enlarged(x.1));
            let mut image = vec![T::zero(); large.len()];
            let product = gradients::Dgrad::pointwise(large, v.1);
            part(&product, &[dy, packed], &mut [(&mut image, large)]);
            let transpose = Transpose { kind, image: x.1 };
            part(&transpose, &[(&image, large)], &mut [(&mut through, x.1)]);
        }
        _ => through.copy_from_slice(dy.0),
    }
    for ((sum, dx), through) in io.out().iter_mut().zip(dx).zip(through) {
        *sum = dx + through;
    }
}
