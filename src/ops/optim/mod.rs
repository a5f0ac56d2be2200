//! Optimisers: one node moves all parameters of a network.
//!
//! Both take L2 weight decay into the gradient (`g += weight_decay p`), the learning rate and the number `t = 1, 2, ..` of the
//! step as scalars, so that schedules need no new program. A step of number 0 is none: it changes nothing, whatever the gradients
//! hold.

mod adam;
mod adamax;
pub mod cases;
mod cuda;

pub use adam::{AdamSettings, Clip, adam_clip, clipped_gradients};
pub use adamax::{AdamaxSettings, adamax};

use super::{Op, ShapeError, Shapes, Var};
use crate::device::cpu::slices::for_each_task;
use crate::ensure_shape;
use crate::program::Io;
use crate::real::Real;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[
    adamax::Adamax::NAME,
    adam::AdamClip::NAME,
    adam::ClippedGradients::NAME,
];

/// Checks `(g_0 .. g_k, learning rate, t)` against updates `(p_0 .. p_k, first moments, second moments)`; returns `k + 1`.
fn check(shapes: Shapes<'_>) -> Result<usize, ShapeError> {
    let Some((scalars, gradients)) = shapes.inputs.split_last_chunk::<2>().map(|(a, b)| (b, a))
    else {
        return Err(ShapeError("takes gradients, learning rate and t".into()));
    };
    let count = gradients.len();
    ensure_shape!(
        scalars.iter().all(|s| s.len() == 1),
        "learning rate and t have shapes {scalars:?}"
    );
    ensure_shape!(
        shapes.updates.len() == 3 * count,
        "{count} gradients for {} parameters and moments",
        shapes.updates.len()
    );
    for states in shapes.updates.chunks(count.max(1)) {
        for (g, state) in gradients.iter().zip(states) {
            ensure_shape!(
                g == state,
                "a gradient {g} for a parameter or moment {state}"
            );
        }
    }
    Ok(count)
}

/// The tensors of an optimiser's node in recorded order: inputs and updates.
fn arguments(
    parameters: [&[Var]; 3],
    gradients: &[Var],
    learning_rate: Var,
    t: Var,
) -> (Vec<Var>, Vec<Var>) {
    let inputs = gradients
        .iter()
        .copied()
        .chain([learning_rate, t])
        .collect();
    (inputs, parameters.concat())
}

/// `1 - beta^t`, what a moment that started at zero lacks; in `f64`, since in the first steps almost nothing is left of the 1.
fn correction<T: Real>(beta: f64, t: T) -> T {
    T::of(1.0 - beta.powf(t.f64()))
}

/// Whether the number of a step says that nothing is to change.
fn is_no_step<T: Real>(t: T) -> bool {
    t == T::zero()
}

/// One piece of a parameter and what belongs to it.
struct Piece<'a> {
    g: &'a [f32],
    p: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

/// Elements of a piece: what stays in the first-level cache.
const PIECE: usize = 2048;

/// Cuts all parameters and their companions into pieces, in order.
fn pieces<'a>(io: &'a mut Io<'_, f32>) -> Vec<Piece<'a>> {
    let count = io.updates.len() / 3;
    let (params, moments) = io.updates.split_at_mut(count);
    let (first, second) = moments.split_at_mut(count);
    let states = params.iter_mut().zip(first).zip(second);
    let mut pieces = Vec::new();
    for (((p, first), second), (g, _)) in states.zip(io.inputs) {
        let moments = first.0.chunks_mut(PIECE).zip(second.0.chunks_mut(PIECE));
        let values = p.0.chunks_mut(PIECE).zip(g.chunks(PIECE));
        pieces.extend(values.zip(moments).map(|((p, g), (first, second))| Piece {
            g,
            p,
            first,
            second,
        }));
    }
    pieces
}

/// Runs an update on all pieces, a group of them in each task.
fn update(io: &mut Io<'_, f32>, work: impl Fn(&mut Piece<'_>) + Sync + Send) {
    let elements: usize = io.updates.iter().map(|(p, _)| p.len() / 3).sum();
    let mut pieces = pieces(io);
    let tasks = pieces.chunks_mut(8).collect();
    for_each_task(tasks, 32 * elements as u64, |group: &mut [Piece<'_>]| {
        group.iter_mut().for_each(&work);
    });
}
