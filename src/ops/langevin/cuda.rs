//! Launches of `kernels/langevin.cu`.

use super::super::noise::row_len;
use super::Update;
use crate::ops::Shapes;
use crate::program::gpu::{GpuLaunch, THREADS, Tensor, Word};
use crate::tensor::Shape;

/// Elements of a piece: a multiple of four, so that every piece begins at an aligned address.
const PIECE: usize = 4 * THREADS as usize;

/// The pieces of the updated tensors, `(tensor, start, count)`, in order.
fn pieces(updates: &[Shape]) -> impl Iterator<Item = (usize, usize, usize)> {
    updates.iter().enumerate().flat_map(|(tensor, shape)| {
        let starts = (0..shape.len()).step_by(PIECE);
        starts.map(move |start| (tensor, start, PIECE.min(shape.len() - start)))
    })
}

/// One launch for all tensors.
pub(super) fn update(op: &Update, shapes: Shapes<'_>) -> GpuLaunch {
    let tensors = shapes.updates.len();
    let mut items = Vec::new();
    let mut blocks = 0;
    for (k, start, count) in pieces(shapes.updates) {
        let (noise, stream) = match op.first_stream {
            Some(first) => (Word::Number(0), first + k as u32),
            None => (Word::Address(Tensor::Input(tensors + 1 + k), start), 0),
        };
        items.extend([
            Word::Address(Tensor::Update(k), start),
            Word::Address(Tensor::Input(k), start),
            noise,
            Word::Number(start as u64),
            Word::Number(count as u64),
            Word::Number(row_len(shapes.updates[k]) as u64),
            Word::Number(stream.into()),
        ]);
        blocks += 1;
    }
    let launch = match op.first_stream {
        Some(_) => GpuLaunch::new("langevin", "langevin_update_f32").noise(),
        None => GpuLaunch::new("langevin", "langevin_update_f32_given"),
    };
    launch
        .blocks(blocks)
        .table(items)
        .input(tensors)
        .input_or_null(op.scaled.then(|| op.tensors(tensors)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_every_element_once_and_begin_aligned() {
        let shapes = [[3, 5], [0, 7], [4, 3072], [1, 1025]].map(Shape::from);
        let mut seen = shapes.map(|s| vec![0; s.len()]);
        for (tensor, start, count) in pieces(&shapes) {
            assert!(start % 4 == 0 && count > 0);
            seen[tensor][start..start + count]
                .iter_mut()
                .for_each(|n| *n += 1);
        }
        assert!(seen.iter().flatten().all(|n| *n == 1));
    }

    #[test]
    fn one_launch_has_a_row_of_the_table_for_each_block() {
        let updates = [[3, 5], [4, 3072]].map(Shape::from);
        let inputs = [updates[0], updates[1], Shape::SCALAR];
        let shapes = Shapes {
            inputs: &inputs,
            outputs: &[],
            updates: &updates,
        };
        let op = Update {
            first_stream: Some(11),
            scaled: false,
        };
        let launch = update(&op, shapes);
        assert_eq!(launch.grid, [13, 1, 1]);
        let crate::program::gpu::Arg::Table(table) = &launch.args[1] else {
            panic!("the second argument is the table");
        };
        assert_eq!(table.len(), 13 * 7);
        assert_eq!(table[table.len() - 1], Word::Number(12));
    }
}
