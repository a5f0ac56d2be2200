//! Fidelity and diversity of samples, by the spheres about each image that reach to its k-th nearest neighbour in its own set:
//! improved precision and recall (Kynkaanniemi et al., NeurIPS 2019), density and coverage (Naeem et al., ICML 2020).

use rayon::prelude::*;

/// The neighbour that a sphere reaches to: for precision and recall, and for density and coverage, as in the two papers.
const NEIGHBOURS: [usize; 2] = [3, 5];

/// Rows that each set needs: every row must have its neighbours.
pub const FEWEST: usize = NEIGHBOURS[1] + 1;

/// What the spheres say; all are shares but `density`, whose expectation is 1 where the two laws are the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fidelity {
    /// Share of samples in the sphere of a real image.
    pub precision: f64,
    /// Share of real images in the sphere of a sample.
    pub recall: f64,
    /// How many spheres of real images a sample is in, over `k`.
    pub density: f64,
    /// Share of real images with a sample in their sphere.
    pub coverage: f64,
}

/// Of samples against real images, both `[n, width]`, row-major. Figures compare only between sets of the same sizes.
///
/// # Panics
/// For fewer than [`FEWEST`] rows in either set.
pub fn fidelity(real: &[f32], samples: &[f32], width: usize) -> Fidelity {
    let real_radii = radii(real, width);
    let sample_radii = radii(samples, width);
    let rows = |set: &[f32]| (set.len() / width) as f64;

    /// What one sample is inside of: any wide sphere, any narrow one, how many of the wide.
    #[derive(Clone, Copy)]
    struct Inside {
        narrow: bool,
        wide: usize,
    }
    let inside = |row: &[f32], spheres: &[f32], radii: &[[f64; 2]]| {
        let mut found = Inside {
            narrow: false,
            wide: 0,
        };
        for (centre, [narrow, wide]) in spheres.chunks_exact(width).zip(radii) {
            let distance = squared_distance(row, centre);
            found.narrow |= distance <= *narrow;
            found.wide += usize::from(distance <= *wide);
        }
        found
    };
    let samples_inside: Vec<Inside> = samples
        .par_chunks_exact(width)
        .map(|row| inside(row, real, &real_radii))
        .collect();
    // A real image is covered where its own sphere holds a sample, and recalled where it lies in a sample's.
    let real_found: Vec<(bool, bool)> = real
        .par_chunks_exact(width)
        .zip(&real_radii)
        .map(|(row, [_, wide])| {
            let (mut recalled, mut covered) = (false, false);
            for (sample, [narrow, _]) in samples.chunks_exact(width).zip(&sample_radii) {
                let distance = squared_distance(row, sample);
                recalled |= distance <= *narrow;
                covered |= distance <= *wide;
            }
            (recalled, covered)
        })
        .collect();

    let precise = samples_inside.iter().filter(|i| i.narrow).count();
    let dense: usize = samples_inside.iter().map(|i| i.wide).sum();
    let recalled = real_found.iter().filter(|f| f.0).count();
    let covered = real_found.iter().filter(|f| f.1).count();
    Fidelity {
        precision: precise as f64 / rows(samples),
        recall: recalled as f64 / rows(real),
        density: dense as f64 / (NEIGHBOURS[1] as f64 * rows(samples)),
        coverage: covered as f64 / rows(real),
    }
}

/// For each row the squared distances to its nearest neighbours of the two orders, itself not counted.
fn radii(set: &[f32], width: usize) -> Vec<[f64; 2]> {
    let rows = set.len() / width;
    assert!(rows >= FEWEST, "{rows} rows, {FEWEST} are needed");
    let of = |(i, row): (usize, &[f32])| {
        let others = set.chunks_exact(width).enumerate().filter(|(j, _)| *j != i);
        let mut distances: Vec<f64> = others.map(|(_, o)| squared_distance(row, o)).collect();
        let (nearer, wide, _) = distances.select_nth_unstable_by(NEIGHBOURS[1] - 1, f64::total_cmp);
        let wide = *wide;
        nearer.sort_unstable_by(f64::total_cmp);
        [nearer[NEIGHBOURS[0] - 1], wide]
    };
    set.par_chunks_exact(width).enumerate().map(of).collect()
}

/// By differences, not by products: equal rows are at distance zero exactly.
pub(super) fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let difference = |(a, b): (&f32, &f32)| f64::from(*a) - f64::from(*b);
    a.iter().zip(b).map(difference).map(|d| d * d).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox;

    fn cloud(n: usize, width: usize, scale: f32, step: u32) -> Vec<f32> {
        let mut noise = vec![0.0; n * width];
        philox::fill_normal(&mut noise, 5, 0, step, 0);
        noise.iter_mut().for_each(|v| *v *= scale);
        noise
    }

    #[test]
    fn a_copy_is_precise_and_recalls_and_covers_everything() {
        let set = cloud(50, 3, 1.0, 0);
        let f = fidelity(&set, &set, 3);
        assert_eq!((f.precision, f.recall, f.coverage), (1.0, 1.0, 1.0));
        // Each sphere holds its centre and the five rows that it reaches to: 50 times six, over five times 50.
        assert_eq!(f.density, 1.2);
    }

    #[test]
    fn sets_apart_have_nothing_in_common() {
        let set = cloud(50, 3, 1.0, 0);
        let far: Vec<f32> = set.iter().map(|v| v + 1000.0).collect();
        let nothing = Fidelity {
            precision: 0.0,
            recall: 0.0,
            density: 0.0,
            coverage: 0.0,
        };
        assert_eq!(fidelity(&set, &far, 3), nothing);
        assert_eq!(fidelity(&far, &set, 3), nothing);
    }

    #[test]
    fn a_line_of_points_is_worked_out_by_hand() {
        // Real images at 0, 1, ..., 9. Third neighbours: 3 at the ends, then 2; fifth: 5, 4, 3, 3, ... as the line ends.
        let real: Vec<f32> = (0..10).map(|i| i as f32).collect();
        // All samples at 20 but one at 12: of the real spheres (narrow) 9 reaches 12 exactly; (wide) 9 reaches 14, 8 reaches 12.
        let mut samples = vec![20.0; 10];
        samples[0] = 12.0;
        let f = fidelity(&real, &samples, 1);
        assert_eq!(f.precision, 0.1);
        assert_eq!(f.density, 2.0 / 50.0);
        assert_eq!(f.coverage, 0.2);
        // The samples' narrow spheres: that at 12 reaches 20, so back to 4; those at 20 have radius 0.
        assert_eq!(f.recall, 0.6);
    }

    #[test]
    fn narrow_samples_are_precise_and_recall_little() {
        let real = cloud(400, 2, 1.0, 0);
        let f = fidelity(&real, &cloud(400, 2, 0.1, 1), 2);
        assert!(f.precision > 0.98 && f.recall < 0.2, "{f:?}");
        assert!(f.coverage < 0.2, "{f:?}");
        let wide = fidelity(&real, &cloud(400, 2, 3.0, 1), 2);
        assert!(wide.precision < 0.6 && wide.recall > 0.8, "{wide:?}");
        assert!(wide.density < 0.7 && f.density > 0.9, "{f:?} {wide:?}");
    }
}
