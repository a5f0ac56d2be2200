//! Native kernel: noise is drawn a block at a time where it is used.

use super::super::noise::first_element;
use super::Update;
use crate::device::cpu::simd::{self, Kernel, Simd};
use crate::device::cpu::slices::{for_each_task, load, store};
use crate::philox;
use crate::program::{Io, Noise};

/// Elements whose noise is drawn at once.
const BLOCK: usize = 1024;
/// Elements of a task.
const PIECE: usize = 8 * BLOCK;

/// A piece of one tensor.
struct Piece<'a> {
    /// Which tensor.
    tensor: usize,
    /// Where the piece starts in it.
    start: usize,
    /// The number in the noise's stream of the piece's first element.
    first: u64,
    g: &'a [f32],
    eps: &'a mut [f32],
}

/// `eps += root noise - half g`.
struct Move<'a> {
    root: f32,
    half: f32,
    g: &'a [f32],
    noise: &'a [f32],
    eps: &'a mut [f32],
}

impl Kernel for Move<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (root, half) = (s.splat(self.root), s.splat(self.half));
        for at in (0..self.eps.len()).step_by(S::LANES) {
            let drifted = s.fnma(half, load(s, self.g, at), load(s, self.eps, at));
            let moved = s.fma(root, load(s, self.noise, at), drifted);
            store(s, self.eps, at, moved);
        }
    }
}

pub(super) fn update(op: &Update, io: &mut Io<'_, f32>) {
    let count = io.updates.len();
    let (isa, step_size, inputs) = (simd::isa(), io.input(count)[0], io.inputs);
    let (mut root, half) = (step_size.sqrt(), 0.5 * step_size);
    if op.scaled {
        root *= io.input(op.tensors(count))[0];
    }
    let Noise { seed, step, .. } = io.noise;
    let mut pieces = Vec::new();
    for (tensor, (eps, shape)) in io.updates.iter_mut().enumerate() {
        let first = first_element(&io.noise, *shape);
        let chunks = eps.chunks_mut(PIECE).zip(inputs[tensor].0.chunks(PIECE));
        pieces.extend(chunks.enumerate().map(|(i, (eps, g))| Piece {
            tensor,
            start: i * PIECE,
            first: first + (i * PIECE) as u64,
            g,
            eps,
        }));
    }
    let elements: usize = pieces.iter().map(|p| p.eps.len()).sum();
    for_each_task(pieces, 48 * elements as u64, |piece| {
        let mut drawn = [0.0; BLOCK];
        let blocks = piece.eps.chunks_mut(BLOCK).zip(piece.g.chunks(BLOCK));
        for (i, (eps, g)) in blocks.enumerate() {
            let noise = match op.first_stream {
                Some(stream) => {
                    let noise = &mut drawn[..eps.len()];
                    let first = piece.first + (i * BLOCK) as u64;
                    philox::fill_normal(noise, seed, stream + piece.tensor as u32, step, first);
                    &*noise
                }
                None => {
                    let given = inputs[count + 1 + piece.tensor].0;
                    &given[piece.start + i * BLOCK..][..eps.len()]
                }
            };
            simd::dispatch(
                isa,
                Move {
                    root,
                    half,
                    g,
                    noise,
                    eps,
                },
            );
        }
    });
}
