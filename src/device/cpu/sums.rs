//! Sums of long rows, with a rounding error that does not grow with their length.

use super::simd::{self, Kernel, Simd};
use super::slices::{CHUNK, for_each_task, load, store};

/// Chains that a piece is summed in, whatever the width of vectors.
const CHAINS: usize = 64;

/// The sum of at most [`CHUNK`] numbers: chains in `f32`, their sum in `f64`.
struct Piece<'a> {
    x: &'a [f32],
    sum: &'a mut f64,
}

impl Kernel for Piece<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut chains = [0.0; CHAINS];
        for x in self.x.chunks(CHAINS) {
            for at in (0..x.len()).step_by(S::LANES) {
                let sum = s.add(load(s, &chains, at), load(s, x, at));
                store(s, &mut chains, at, sum);
            }
        }
        *self.sum = chains.iter().map(|c| f64::from(*c)).sum();
    }
}

/// The sums of consecutive rows of `len` numbers.
pub fn row_sums(x: &[f32], len: usize) -> Vec<f64> {
    if len < 2 * CHAINS {
        let rows = x.chunks(len.max(1));
        return rows
            .map(|row| row.iter().map(|x| f64::from(*x)).sum())
            .collect();
    }
    let isa = simd::isa();
    let pieces: Vec<&[f32]> = x.chunks(len).flat_map(|row| row.chunks(CHUNK)).collect();
    let mut sums = vec![0.0; pieces.len()];
    // Tasks of about a chunk, be it one piece or many short rows.
    let group = CHUNK.div_ceil(len);
    let tasks = pieces.chunks(group).zip(sums.chunks_mut(group)).collect();
    for_each_task(
        tasks,
        8 * x.len() as u64,
        |(pieces, sums): (&[&[f32]], &mut [f64])| {
            for (x, sum) in pieces.iter().zip(sums) {
                simd::dispatch(isa, Piece { x, sum });
            }
        },
    );
    let pieces_per_row = len.div_ceil(CHUNK);
    sums.chunks(pieces_per_row)
        .map(|row| row.iter().sum())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_every_length_are_summed_whole() {
        for len in [1, 3, 127, 128, 200, CHUNK, CHUNK + 1, 2 * CHUNK + 77] {
            let x: Vec<f32> = (0..3 * len).map(|i| (i % 7) as f32).collect();
            let want: Vec<f64> = x
                .chunks(len)
                .map(|row| row.iter().map(|x| f64::from(*x)).sum())
                .collect();
            assert_eq!(row_sums(&x, len), want, "{len}");
        }
    }

    #[test]
    fn rounding_does_not_grow_with_the_length() {
        let x = vec![0.1f32; 1 << 20];
        let want = f64::from(0.1f32) * f64::from(1 << 20);
        assert!((row_sums(&x, x.len())[0] / want - 1.0).abs() < 1e-5);
    }
}
