//! The kernel distance between two sets of features: the unbiased squared maximum mean discrepancy with the cubic kernel
//! `(x . y / width + 1)^3` (Binkowski et al., ICLR 2018, "KID"). Unlike the Fréchet distance its expectation does not depend on how many
//! images there are, and it is negative as often as not where the two laws are the same.

use rayon::prelude::*;

use super::interval::Interval;

/// Blocks that the interval is from.
const BLOCKS: usize = 10;

/// The distance of two sets `[n, width]`, row-major, with its 95% interval.
///
/// Both sets are dealt into blocks, row `i` into block `i % blocks`, so that each block has images from all over a sorted set. Blocks
/// give independent unbiased estimates: their mean is the distance, and Student's t over them the interval.
///
/// # Panics
/// For fewer than four rows in either set: two blocks of two.
pub fn kernel_distance(a: &[f32], b: &[f32], width: usize) -> Interval {
    let fewest = (a.len() / width).min(b.len() / width);
    let blocks = BLOCKS.min(fewest / 2);
    let deal = |features: &[f32], block: usize| -> Vec<f64> {
        let rows = features.chunks_exact(width).skip(block).step_by(blocks);
        rows.flatten().map(|v| f64::from(*v)).collect()
    };
    let estimates: Vec<f64> = (0..blocks)
        .into_par_iter()
        .map(|block| discrepancy(&deal(a, block), &deal(b, block), width))
        .collect();
    Interval::of(&estimates)
}

/// The unbiased squared discrepancy of two sets of at least two rows each.
fn discrepancy(a: &[f64], b: &[f64], width: usize) -> f64 {
    let (m, n) = ((a.len() / width) as f64, (b.len() / width) as f64);
    within(a, width) / (m * (m - 1.0)) + within(b, width) / (n * (n - 1.0))
        - 2.0 * between(a, b, width) / (m * n)
}

/// The kernel summed over ordered pairs of different rows.
fn within(a: &[f64], width: usize) -> f64 {
    let rows = a.chunks_exact(width).enumerate();
    2.0 * rows
        .map(|(i, x)| against(x, &a[(i + 1) * width..]))
        .sum::<f64>()
}

/// The kernel summed over pairs of a row of each.
fn between(a: &[f64], b: &[f64], width: usize) -> f64 {
    a.chunks_exact(width).map(|x| against(x, b)).sum()
}

fn against(x: &[f64], rows: &[f64]) -> f64 {
    let kernel = |y: &[f64]| {
        let product: f64 = x.iter().zip(y).map(|(x, y)| x * y).sum();
        (product / x.len() as f64 + 1.0).powi(3)
    };
    rows.chunks_exact(x.len()).map(kernel).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox;

    fn cloud(n: usize, width: usize, shift: f32, step: u32) -> Vec<f32> {
        let mut noise = vec![0.0; n * width];
        philox::fill_normal(&mut noise, 3, 0, step, 0);
        noise.iter_mut().for_each(|v| *v += shift);
        noise
    }

    #[test]
    fn one_shift_of_points_has_the_distance_worked_out_by_hand() {
        // k(0, 0) = 1, k(2, 2) = 125, k(0, 2) = 1: all points of a set alike, so every block says 1 + 125 - 2.
        let distance = kernel_distance(&[0.0; 8], &[2.0; 6], 1);
        assert_eq!((distance.mean, distance.half_width), (124.0, 0.0));
    }

    #[test]
    fn one_law_is_at_no_distance_within_the_interval_and_a_shift_is() {
        let (a, b) = (cloud(2000, 4, 0.0, 0), cloud(1500, 4, 0.0, 1));
        let same = kernel_distance(&a, &b, 4);
        assert!(!same.excludes_zero(), "{same:?}");
        let shifted = kernel_distance(&a, &cloud(1500, 4, 0.5, 2), 4);
        assert!(shifted.excludes_zero() && shifted.mean > 0.0, "{shifted:?}");
        let back = kernel_distance(&cloud(1500, 4, 0.5, 2), &a, 4);
        assert!((back.mean - shifted.mean).abs() < 1e-12);
    }

    #[test]
    fn its_mean_over_pairs_of_sets_is_zero_at_any_size() {
        // The biased form would be near 2 E[k(x, x)] / n, far above zero for sets this small.
        let of = |i: u32| {
            kernel_distance(&cloud(8, 2, 0.0, 2 * i), &cloud(8, 2, 0.0, 2 * i + 1), 2).mean
        };
        let estimates: Vec<f64> = (0..400).map(of).collect();
        let all = Interval::of(&estimates);
        assert!(!all.excludes_zero(), "{all:?}");
        assert!(estimates.iter().filter(|d| **d < 0.0).count() > 100);
    }
}
