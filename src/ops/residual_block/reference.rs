//! The plain block: the references of its parts, one after the other.

use super::{ACTIVATION, Fprop};
use crate::ops::{Op, conv2d, resample};
use crate::program::Io;
use crate::real::Real;
use crate::tensor::Shape;

/// Runs the reference of a part with one result of this shape.
fn part<T: Real>(op: &impl Op, inputs: &[(&[T], Shape)], shape: Shape) -> Vec<T> {
    let mut result = vec![T::zero(); shape.len()];
    op.reference(&mut Io {
        inputs,
        outputs: &mut [(&mut result, shape)],
        updates: &mut [],
        workspace: &mut [],
        noise: crate::program::Noise::default(),
    });
    result
}

/// Adds a skip's part.
fn add<T: Real>(sum: &mut [T], part: &[T]) {
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum += *part;
    }
}

pub(super) fn fprop<T: Real>(op: &Fprop, io: &mut Io<'_, T>) {
    let [a, w1, b1, w2, b2] = [1, 2, 3, 4, 5].map(|i| io.inputs[i]);
    let shape = io.output_shape(2);
    let conv = conv2d::same(3, ACTIVATION, true);
    let h = part(&conv2d::same(3, conv2d::NONE, true), &[a, w1, b1], shape);
    let mut sum = part(&conv, &[(&h, shape), w2, b2], shape);
    if op.skip {
        let skip = conv2d::same(1, conv2d::NONE, false);
        add(&mut sum, &part(&skip, &[a, io.inputs[6]], shape));
    } else {
        add(&mut sum, a.0);
    }
    if op.down {
        sum = part(&resample::AVG_POOL, &[(&sum, shape)], op.output(shape));
    }
    io.output(2).copy_from_slice(&h);
    for (a, p) in io.output(1).iter_mut().zip(&sum) {
        *a = ACTIVATION.value(*p);
    }
    io.output(0).copy_from_slice(&sum);
}

pub(super) fn dgrad<T: Real>(op: &Fprop, io: &mut Io<'_, T>) {
    let [dout, p, h, w1, w2] = [0, 1, 2, 3, 4].map(|i| io.inputs[i]);
    let (cin, cout) = (p.1.last(), h.1.last());
    let pooled;
    let ds = if op.down {
        pooled = part(&resample::avg_pool_transpose(h.1), &[dout], h.1);
        (&*pooled, h.1)
    } else {
        dout
    };
    let weights = |k: usize, cin: usize| Shape::new(&[k, k, cin, cout]);
    let second = conv2d::same_dgrad(ACTIVATION, h.1, weights(3, cout));
    let dh = part(&second, &[ds, w2, h], h.1);
    let first = conv2d::same_dgrad(conv2d::NONE, p.1, weights(3, cin));
    let mut dp = part(&first, &[(&dh, h.1), w1], p.1);
    if op.skip {
        let skip = conv2d::same_dgrad(conv2d::NONE, p.1, weights(1, cin));
        add(&mut dp, &part(&skip, &[ds, io.inputs[5]], p.1));
    } else {
        add(&mut dp, ds.0);
    }
    for (dp, p) in dp.iter_mut().zip(p.0) {
        *dp *= ACTIVATION.derivative(*p);
    }
    io.output(0).copy_from_slice(&dp);
    io.output(1).copy_from_slice(&dh);
}
