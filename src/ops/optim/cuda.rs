//! Launches of `kernels/optim.cu`.

use bytemuck::{Pod, Zeroable};

use super::adam::{AdamClip, ClippedGradients};
use super::adamax::Adamax;
use super::{AdamSettings, AdamaxSettings};
use crate::ops::Shapes;
use crate::program::gpu::{GpuLaunch, THREADS, Tensor, Word};
use crate::tensor::Shape;

const MODULE: &str = "optim";
/// Elements of a piece: eight for each thread, and a multiple of four, so that every piece begins at an aligned address.
const PIECE: usize = 8 * THREADS as usize;

/// `AdamaxSettings` of the kernel: `fresh` is `1 - beta`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AdamaxArgument {
    beta1: f32,
    fresh1: f32,
    ln_beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
}

impl From<AdamaxSettings> for AdamaxArgument {
    fn from(s: AdamaxSettings) -> Self {
        AdamaxArgument {
            beta1: s.beta1 as f32,
            fresh1: (1.0 - s.beta1) as f32,
            ln_beta1: s.beta1.ln() as f32,
            beta2: s.beta2 as f32,
            eps: s.eps as f32,
            weight_decay: s.weight_decay as f32,
        }
    }
}

/// `AdamSettings` of the kernel: `fresh` is `1 - beta`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AdamArgument {
    beta1: f32,
    fresh1: f32,
    ln_beta1: f32,
    beta2: f32,
    fresh2: f32,
    ln_beta2: f32,
    eps: f32,
    weight_decay: f32,
    sigmas: f32,
    floor: f32,
    clip: u32,
}

impl From<AdamSettings> for AdamArgument {
    fn from(s: AdamSettings) -> Self {
        let (sigmas, floor) = s.clip.map_or((0.0, 0.0), |clip| (clip.sigmas, clip.floor));
        AdamArgument {
            beta1: s.beta1 as f32,
            fresh1: (1.0 - s.beta1) as f32,
            ln_beta1: s.beta1.ln() as f32,
            beta2: s.beta2 as f32,
            fresh2: (1.0 - s.beta2) as f32,
            ln_beta2: s.beta2.ln() as f32,
            eps: s.eps as f32,
            weight_decay: s.weight_decay as f32,
            sigmas: sigmas as f32,
            floor: floor as f32,
            clip: s.clip.is_some().into(),
        }
    }
}

/// The pieces of the parameters, `(parameter, start, count)`, in order.
fn pieces(parameters: &[Shape]) -> Vec<(usize, usize, usize)> {
    let all = parameters.iter().enumerate().flat_map(|(k, shape)| {
        let starts = (0..shape.len()).step_by(PIECE);
        starts.map(move |start| (k, start, PIECE.min(shape.len() - start)))
    });
    all.collect()
}

/// A block for each piece; `tensors(k)` are gradient, parameter and moments of parameter `k`.
fn launch(
    kernel: &str,
    parameters: &[Shape],
    tensors: impl Fn(usize) -> [Option<Tensor>; 4],
) -> GpuLaunch {
    let pieces = pieces(parameters);
    let rows = pieces.iter().flat_map(|&(k, start, count)| {
        let place = |t: Option<Tensor>| t.map_or(Word::Number(0), |t| Word::Address(t, start));
        let places = tensors(k).map(place);
        places.into_iter().chain([Word::Number(count as u64)])
    });
    GpuLaunch::new(MODULE, kernel)
        .blocks(pieces.len())
        .table(rows.collect())
}

/// Both optimisers: inputs are gradients, learning rate and t, updates are parameters and moments.
fn optimiser(kernel: &str, shapes: Shapes<'_>) -> GpuLaunch {
    let count = shapes.updates.len() / 3;
    let tensors = |k: usize| {
        let update = |list: usize| Some(Tensor::Update(list * count + k));
        [Some(Tensor::Input(k)), update(0), update(1), update(2)]
    };
    launch(kernel, &shapes.updates[..count], tensors)
        .input(count)
        .input(count + 1)
}

pub(super) fn adamax(op: &Adamax, shapes: Shapes<'_>) -> GpuLaunch {
    optimiser("adamax_f32", shapes).value(AdamaxArgument::from(op.0))
}

pub(super) fn adam_clip(op: &AdamClip, shapes: Shapes<'_>) -> GpuLaunch {
    optimiser("adam_clip_f32", shapes).value(AdamArgument::from(op.0))
}

pub(super) fn clipped_gradients(op: &ClippedGradients, shapes: Shapes<'_>) -> GpuLaunch {
    let count = shapes.outputs.len();
    let settings = AdamSettings {
        beta2: op.beta2,
        clip: Some(op.clip),
        ..AdamSettings::default()
    };
    let tensors = |k: usize| {
        let (g, v) = (Tensor::Input(k), Tensor::Input(count + k));
        [Some(g), Some(Tensor::Output(k)), None, Some(v)]
    };
    launch("clipped_gradients_f32", shapes.outputs, tensors)
        .input(2 * count)
        .value(AdamArgument::from(settings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::gpu::Arg;

    #[test]
    fn pieces_cover_every_element_once_and_begin_aligned() {
        let shapes = [[1, 1], [3, 683], [0, 4], [2, 2048], [5, 1000]].map(Shape::from);
        let mut seen = shapes.map(|s| vec![0; s.len()]);
        for (k, start, count) in pieces(&shapes) {
            assert!(start % 4 == 0 && count > 0);
            seen[k][start..start + count]
                .iter_mut()
                .for_each(|n| *n += 1);
        }
        assert!(seen.iter().flatten().all(|n| *n == 1));
    }

    #[test]
    fn a_row_holds_the_tensors_of_one_parameter() {
        let parameters = [Shape::from([2, 2048]), Shape::from([3])];
        let inputs = [&parameters[..], &[Shape::SCALAR; 2]].concat();
        let shapes = Shapes {
            inputs: &inputs,
            outputs: &[],
            updates: &parameters.repeat(3),
        };
        let launch = adamax(&Adamax(AdamaxSettings::default()), shapes);
        assert_eq!(launch.grid, [3, 1, 1]);
        let Arg::Table(table) = &launch.args[0] else {
            panic!("the first argument is the table");
        };
        let rows: Vec<&[Word]> = table.chunks(5).collect();
        assert_eq!(rows.len(), 3);
        let at = |t: Tensor, start: usize| Word::Address(t, start);
        let second_piece = [
            at(Tensor::Input(0), 2048),
            at(Tensor::Update(0), 2048),
            at(Tensor::Update(2), 2048),
            at(Tensor::Update(4), 2048),
            Word::Number(2048),
        ];
        assert_eq!(rows[1], second_piece);
        assert_eq!(rows[2][1], at(Tensor::Update(1), 0));
    }
}
