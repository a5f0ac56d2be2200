//! Native kernels: those of the parts. An image of the model stays in cache between them.

use super::Fprop;
use crate::ops::conv2d::{self, gradients};
use crate::ops::{Op, Shapes, mbconv};
use crate::program::{Io, Noise};
use crate::tensor::Shape;

/// Parts of the scratch begin on whole vectors.
const ALIGN: usize = 16;

fn part<'a>(
    op: &impl Op,
    inputs: &'a [(&'a [f32], Shape)],
    outputs: &'a mut [(&'a mut [f32], Shape)],
    workspace: &'a mut [f32],
) {
    op.cpu(&mut Io {
        inputs,
        outputs,
        updates: &mut [],
        workspace,
        noise: Noise::default(),
    });
}

/// The scratch that a part asks for; none of them asks by the shape of what it makes.
fn wanted(op: &impl Op, inputs: &[Shape]) -> usize {
    op.workspace(Shapes {
        inputs,
        outputs: &[],
        updates: &[],
    })
}

fn room(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

/// Takes a tensor of this shape off the scratch.
fn take<'a>(scratch: &mut &'a mut [f32], shape: Shape) -> &'a mut [f32] {
    let (taken, rest) = std::mem::take(scratch).split_at_mut(room(shape.len()));
    *scratch = rest;
    &mut taken[..shape.len()]
}

/// Elements of the rooms that [`take`] takes.
fn rooms<const N: usize>(shapes: [Shape; N]) -> usize {
    shapes.iter().map(|shape| room(shape.len())).sum()
}

/// `[n, c]` of images `[n, h, w, c]`.
fn row(x: Shape) -> Shape {
    Shape::new(&[x[0], x[3]])
}

/// The shape of `y`.
fn outer(op: &Fprop, x: Shape) -> Shape {
    let grow = if op.enlarges() { 2 } else { 1 };
    Shape::new(&[x[0], grow * x[1], grow * x[2], op.bottleneck.channels.co])
}

pub(super) fn fprop_workspace(op: &Fprop, inputs: &[Shape]) -> usize {
    let x = inputs[0];
    let y = outer(op, x);
    let bottleneck = wanted(&op.bottleneck, &inputs[..2]);
    rooms([row(y)])
        + match inputs.get(6) {
            None => bottleneck,
            Some(&v) => {
                let product = wanted(&conv2d::Fprop::pointwise(), &[x, v]);
                rooms([op.low(x), y]) + bottleneck.max(product)
            }
        }
}

pub(super) fn fprop(op: &Fprop, io: &mut Io<'_, f32>) {
    let [x, packed, w0, b0, w2, b2] = [0, 1, 2, 3, 4, 5].map(|i| io.inputs[i]);
    let [(y, shape), (b, _), (s, units), (g, gate)] = &mut *io.outputs else {
        unreachable!("four outputs by the shape rule");
    };
    let mut scratch = &mut *io.workspace;
    let means = take(&mut scratch, *gate);
    let skip = match io.inputs.get(6) {
        None => x,
        Some(&v) => {
            let low_shape = op.low(x.1);
            let low = take(&mut scratch, low_shape);
            let skip = take(&mut scratch, *shape);
            let product = conv2d::Fprop::pointwise();
            part(&product, &[x, v], &mut [(&mut *low, low_shape)], scratch);
            part(
                &op.interpolation(x.1).0,
                &[(&*low, low_shape)],
                &mut [(&mut *skip, *shape)],
                &mut [],
            );
            (&*skip, *shape)
        }
    };
    part(
        &op.bottleneck,
        &[x, packed],
        &mut [(&mut **b, *shape)],
        scratch,
    );
    part(
        &op.excite(),
        &[(&**b, *shape), w0, b0, w2, b2, skip],
        &mut [
            (&mut **y, *shape),
            (means, *gate),
            (&mut **s, *units),
            (&mut **g, *gate),
        ],
        &mut [],
    );
}

pub(super) fn dgrad_workspace(op: &Fprop, inputs: &[Shape]) -> usize {
    let [dy, x, s] = [0, 1, 6].map(|i| inputs[i]);
    let bottleneck = wanted(&mbconv::Dgrad(op.bottleneck), &[dy, x]);
    rooms([dy, s, row(dy)])
        + match inputs.get(8..10) {
            Some(&[v, packed]) => {
                let low = op.low(x);
                let product = wanted(&gradients::Dgrad::pointwise(x, v), &[low, packed]);
                rooms([low, x]) + bottleneck.max(product)
            }
            _ => bottleneck,
        }
}

pub(super) fn dgrad(op: &Fprop, io: &mut Io<'_, f32>) {
    let [dy, x, packed, b, w0, w2, s, g] = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| io.inputs[i]);
    let mut scratch = &mut *io.workspace;
    let [db, ds, dg] = [dy.1, s.1, g.1].map(|shape| take(&mut scratch, shape));
    part(
        &op.excite_dgrad(),
        &[dy, b, w0, w2, s, g],
        &mut [(&mut *db, dy.1), (ds, s.1), (dg, g.1)],
        &mut [],
    );
    let residual = match io.inputs.get(8..10) {
        Some(&[v, packed]) => {
            let low_shape = op.low(x.1);
            let low = take(&mut scratch, low_shape);
            let through = take(&mut scratch, x.1);
            part(
                &op.interpolation(x.1).1,
                &[dy],
                &mut [(&mut *low, low_shape)],
                &mut [],
            );
            part(
                &gradients::Dgrad::pointwise(x.1, v.1),
                &[(&*low, low_shape), packed],
                &mut [(&mut *through, x.1)],
                scratch,
            );
            &*through
        }
        _ => dy.0,
    };
    let dx = &mut *io.outputs[0].0;
    mbconv::cpu::dgrad_plus(
        &op.bottleneck,
        x.1,
        [db, x.0, packed.0],
        Some(residual),
        dx,
        scratch,
    );
}
