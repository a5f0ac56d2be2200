//! Normal distributions in vectors.
//!
//! Parameters hold `c` means and then `c` log sigmas in each position, and `c` is small and odd, so that vectors over them would
//! run half empty. Kernels therefore work on blocks of whole positions, gathered into dense arrays first.

use super::gaussian::{LOG_SIGMA_FLOOR, Law, SIGMA_OFFSET};
use crate::device::cpu::simd::Simd;
use crate::device::cpu::slices::{load, store};
use crate::device::cpu::vmath;
use crate::ops::unary::{soft_clamp, soft_clamp_slope};
use crate::tensor::Shape;

/// Elements of a block.
pub(crate) const BLOCK: usize = 512;
/// Elements of a task, about.
const PIECE: usize = 8 * BLOCK;

/// Numbers of a block, with room for the vector that starts at its last element.
pub(crate) type Dense = [f32; BLOCK + 16];

/// A block of zeros.
pub(crate) const DENSE: Dense = [0.0; BLOCK + 16];

/// Whether blocks hold at least one position.
pub(crate) fn fits(params: Shape) -> bool {
    (2..=2 * BLOCK).contains(&params.last())
}

/// The samples of which tasks consist: `(sample, elements)`, in order, of parameters of this shape; each a number of whole positions
/// of one sample.
pub(crate) fn pieces(params: Shape) -> Vec<(usize, usize)> {
    let channels = params.last() / 2;
    let per_sample = params.rows() / params[0].max(1) * channels;
    let piece = PIECE.div_ceil(channels) * channels;
    let starts = (0..params[0]).flat_map(|n| (0..per_sample).step_by(piece).map(move |at| (n, at)));
    starts
        .map(|(n, at)| (n, piece.min(per_sample - at)))
        .collect()
}

/// Cuts `factor` times as many elements as each piece has off a slice, piece by piece.
pub(crate) struct Cutter<'a>(&'a mut [f32]);

impl<'a> Cutter<'a> {
    pub fn new(x: &'a mut [f32]) -> Self {
        Cutter(x)
    }

    pub fn next(&mut self, len: usize) -> &'a mut [f32] {
        let (head, tail) = std::mem::take(&mut self.0).split_at_mut(len);
        self.0 = tail;
        head
    }
}

/// Blocks of a piece of `len` elements with `channels` a position, as ranges of elements.
pub(crate) fn blocks(len: usize, channels: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let block = BLOCK / channels * channels;
    (0..len)
        .step_by(block)
        .map(move |at| at..(at + block).min(len))
}

/// Splits positions `[.., 2 c]` into `c` first and `c` second numbers each.
#[inline(always)]
pub(crate) fn gather<S: Simd>(
    s: S,
    params: &[f32],
    channels: usize,
    first: &mut Dense,
    second: &mut Dense,
) {
    for (p, row) in params.chunks_exact(2 * channels).enumerate() {
        for k in (0..channels).step_by(S::LANES) {
            // What a vector holds beyond its position is overwritten by the next.
            let at = p * channels + k;
            store(s, first, at, load(s, row, k));
            store(s, second, at, load(s, &row[channels..], k));
        }
    }
}

/// The opposite of [`gather`].
#[inline(always)]
pub(crate) fn scatter<S: Simd>(
    s: S,
    first: &Dense,
    second: &Dense,
    channels: usize,
    params: &mut [f32],
) {
    for p in 0..params.len() / (2 * channels) {
        let row = &mut params[2 * p * channels..];
        for k in (0..channels).step_by(S::LANES) {
            store(s, row, k, load(s, first, p * channels + k));
        }
        let row = &mut row[channels..];
        for k in (0..channels).step_by(S::LANES) {
            store(s, row, k, load(s, second, p * channels + k));
        }
    }
}

/// The sum of a block's first `len` numbers.
#[inline(always)]
pub(crate) fn sum<S: Simd>(s: S, terms: &Dense, len: usize) -> f64 {
    let terms = &terms[..len];
    let mut sum = s.splat(0.0);
    for at in (0..len).step_by(S::LANES) {
        sum = s.add(sum, load(s, terms, at));
    }
    f64::from(s.sum(sum))
}

/// `exp(5 tanh(x / 5))`, floored or not, and the exponent before the floor.
#[inline(always)]
fn spread<S: Simd>(s: S, law: Law, log_sigma: S::V) -> (S::V, S::V) {
    let exponent = soft_clamp(s, log_sigma);
    let floored = if law.floor {
        s.max(s.splat(LOG_SIGMA_FLOOR as f32), exponent)
    } else {
        exponent
    };
    (vmath::exp(s, floored), exponent)
}

/// The standard deviation.
#[inline(always)]
pub(crate) fn sigma<S: Simd>(s: S, law: Law, log_sigma: S::V) -> S::V {
    let (spread, _) = spread(s, law, log_sigma);
    let sigma = s.add(spread, s.splat(SIGMA_OFFSET as f32));
    s.mul(sigma, s.splat(law.temperature as f32))
}

/// The standard deviation and its slope.
#[inline(always)]
pub(crate) fn sigma_and_slope<S: Simd>(s: S, law: Law, log_sigma: S::V) -> (S::V, S::V) {
    let (spread, exponent) = spread(s, law, log_sigma);
    let mut slope = s.mul(spread, soft_clamp_slope(s, log_sigma));
    if law.floor {
        let floor = s.splat(LOG_SIGMA_FLOOR as f32);
        slope = s.select_gt(floor, exponent, s.splat(0.0), slope);
    }
    let temperature = s.splat(law.temperature as f32);
    let sigma = s.add(spread, s.splat(SIGMA_OFFSET as f32));
    (s.mul(sigma, temperature), s.mul(slope, temperature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::simd::{Kernel, available, dispatch};

    struct RoundTrip(usize);
    impl Kernel for RoundTrip {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let channels = self.0;
            let positions = BLOCK / channels;
            let params: Vec<f32> = (0..2 * positions * channels).map(|i| i as f32).collect();
            let (mut first, mut second) = (DENSE, DENSE);
            gather(s, &params, channels, &mut first, &mut second);
            for (e, (a, b)) in first
                .iter()
                .zip(&second)
                .take(positions * channels)
                .enumerate()
            {
                let at = e / channels * 2 * channels + e % channels;
                assert_eq!((*a, *b), (params[at], params[at + channels]));
            }
            let mut back = vec![-1.0; params.len()];
            scatter(s, &first, &second, channels, &mut back);
            assert_eq!(back, params);
        }
    }

    #[test]
    fn scattering_undoes_gathering() {
        for isa in available() {
            for channels in [1, 3, 4, 8, 20, 33, 512] {
                dispatch(isa, RoundTrip(channels));
            }
        }
    }

    #[test]
    fn pieces_cover_every_sample_in_whole_positions() {
        let shape = Shape::new(&[3, 50, 41, 14]);
        let pieces = pieces(shape);
        for n in 0..3 {
            let of_sample = pieces.iter().filter(|(sample, _)| *sample == n);
            assert_eq!(of_sample.map(|(_, len)| len).sum::<usize>(), 50 * 41 * 7);
        }
        assert!(pieces.iter().all(|(_, len)| len % 7 == 0));
        assert!(pieces.is_sorted_by_key(|(n, _)| *n));
    }
}
