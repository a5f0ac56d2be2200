//! The Fréchet distance between Gaussians fitted to two sets of features (Heusel et al., NeurIPS 2017).

use nalgebra::DMatrix;

/// Mean and covariance of a set of features.
#[derive(Clone, Debug)]
pub struct Gaussian {
    mean: Vec<f64>,
    covariance: DMatrix<f64>,
}

impl Gaussian {
    /// Fits to `[n, width]` features, row-major, with the unbiased covariance; all in `f64`.
    ///
    /// # Panics
    /// For fewer than two rows.
    pub fn fit(features: &[f32], width: usize) -> Self {
        let n = features.len() / width;
        assert!(n >= 2, "a covariance needs at least two rows");
        let mut mean = vec![0.0; width];
        for row in features.chunks_exact(width) {
            mean.iter_mut()
                .zip(row)
                .for_each(|(m, x)| *m += f64::from(*x));
        }
        mean.iter_mut().for_each(|m| *m /= n as f64);
        let centred = DMatrix::from_fn(n, width, |r, c| {
            f64::from(features[r * width + c]) - mean[c]
        });
        Gaussian {
            covariance: centred.tr_mul(&centred) / (n - 1) as f64,
            mean,
        }
    }

    /// `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`.
    ///
    /// The trace of the root is that of `(C1^(1/2) C2 C1^(1/2))^(1/2)`, whose matrix is symmetric, so that two symmetric
    /// eigenvalue problems suffice; eigenvalues below zero by rounding count as zero.
    pub fn distance(&self, other: &Gaussian) -> f64 {
        let means: f64 = self
            .mean
            .iter()
            .zip(&other.mean)
            .map(|(a, b)| (a - b).powi(2))
            .sum();
        let root = symmetric_root(&self.covariance);
        let inner = &root * &other.covariance * &root;
        let inner = (&inner + inner.transpose()) * 0.5;
        let trace_root: f64 = inner
            .symmetric_eigenvalues()
            .iter()
            .map(|v| v.max(0.0).sqrt())
            .sum();
        means + self.covariance.trace() + other.covariance.trace() - 2.0 * trace_root
    }
}

fn symmetric_root(matrix: &DMatrix<f64>) -> DMatrix<f64> {
    let eigen = matrix.clone().symmetric_eigen();
    let roots = eigen.eigenvalues.map(|v| v.max(0.0).sqrt());
    &eigen.eigenvectors * DMatrix::from_diagonal(&roots) * eigen.eigenvectors.transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox;

    fn cloud(n: usize, scale: [f32; 3], shift: f32, step: u32) -> Vec<f32> {
        let mut noise = vec![0.0; 3 * n];
        philox::fill_normal(&mut noise, 1, 0, step, 0);
        noise
            .chunks_exact(3)
            .flat_map(|r| [0, 1, 2].map(|i| r[i] * scale[i] + shift))
            .collect()
    }

    #[test]
    fn a_set_is_at_no_distance_from_itself() {
        let a = Gaussian::fit(&cloud(500, [1.0, 2.0, 0.5], 0.0, 0), 3);
        assert!(a.distance(&a).abs() < 1e-9);
    }

    #[test]
    fn independent_axes_have_the_known_distance() {
        // For diagonal covariances: sum of (mean difference)^2 + (deviation difference)^2.
        let a = Gaussian::fit(&cloud(200_000, [1.0, 2.0, 0.5], 0.0, 0), 3);
        let b = Gaussian::fit(&cloud(200_000, [1.5, 1.0, 0.5], 0.3, 1), 3);
        let want = 3.0 * 0.09 + 0.25 + 1.0;
        assert!((a.distance(&b) - want).abs() < 0.02, "{}", a.distance(&b));
        assert!((a.distance(&b) - b.distance(&a)).abs() < 1e-9);
    }

    #[test]
    fn constant_features_are_no_trouble() {
        let a = Gaussian::fit(&[1.0, 1.0, 1.0, 1.0], 2);
        let b = Gaussian::fit(&[2.0, 1.0, 2.0, 1.0], 2);
        assert!((a.distance(&b) - 1.0).abs() < 1e-12);
    }
}
