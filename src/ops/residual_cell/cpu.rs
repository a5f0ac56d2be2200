//! Native kernels: those of the two parts. An image of the model stays in cache between them.

use super::Fprop;
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

/// The scratch that a part asks for; both directions of the bottleneck ask by the shape of `x` alone.
fn wanted(op: &impl Op, inputs: &[Shape]) -> usize {
    op.workspace(Shapes {
        inputs,
        outputs: &[],
        updates: &[],
    })
}

/// `[n, c]` of images `[n, h, w, c]`.
fn row(x: Shape) -> usize {
    (x[0] * x[3]).next_multiple_of(ALIGN)
}

pub(super) fn fprop_workspace(op: &Fprop, x: Shape) -> usize {
    row(x) + wanted(&op.bottleneck, &[x])
}

pub(super) fn fprop(op: &Fprop, io: &mut Io<'_, f32>) {
    let [x, packed, w0, b0, w2, b2] = [0, 1, 2, 3, 4, 5].map(|i| io.inputs[i]);
    let [(y, shape), (b, _), (s, units), (g, gate)] = &mut *io.outputs else {
        unreachable!("four outputs by the shape rule");
    };
    let (means, scratch) = io.workspace.split_at_mut(row(*shape));
    part(
        &op.bottleneck,
        &[x, packed],
        &mut [(&mut **b, *shape)],
        scratch,
    );
    part(
        &op.excite(),
        &[(&**b, *shape), w0, b0, w2, b2, x],
        &mut [
            (&mut **y, *shape),
            (&mut means[..gate.len()], *gate),
            (&mut **s, *units),
            (&mut **g, *gate),
        ],
        &mut [],
    );
}

pub(super) fn dgrad_workspace(op: &Fprop, x: Shape, s: Shape) -> usize {
    let bottleneck = wanted(&mbconv::Dgrad(op.bottleneck), &[x, x]);
    x.len().next_multiple_of(ALIGN) + s.len().next_multiple_of(ALIGN) + row(x) + bottleneck
}

pub(super) fn dgrad(op: &Fprop, io: &mut Io<'_, f32>) {
    let [dy, x, packed, b, w0, w2, s, g] = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| io.inputs[i]);
    let (db, rest) = (io.workspace).split_at_mut(x.1.len().next_multiple_of(ALIGN));
    let (ds, rest) = rest.split_at_mut(s.1.len().next_multiple_of(ALIGN));
    let (dg, scratch) = rest.split_at_mut(row(x.1));
    let db = &mut db[..x.1.len()];
    part(
        &op.excite_dgrad(),
        &[dy, b, w0, w2, s, g],
        &mut [
            (&mut *db, x.1),
            (&mut ds[..s.1.len()], s.1),
            (&mut dg[..g.1.len()], g.1),
        ],
        &mut [],
    );
    let dx = &mut *io.outputs[0].0;
    mbconv::cpu::dgrad_plus(
        &op.bottleneck,
        x.1,
        [db, x.0, packed.0],
        Some(dy.0),
        dx,
        scratch,
    );
}
