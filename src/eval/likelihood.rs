//! How likely images are under the VAE: the evidence bound and the importance-weighted bound (SPEC section 4, "Eval";
//! Burda, Grosse, Salakhutdinov, ICLR 2016), in nats and in bits per dimension.

use serde::Serialize;

/// Collects passes over the same images with fresh posterior noise each.
#[derive(Clone, Debug)]
pub struct Likelihood {
    dimensions: usize,
    passes: usize,
    images: Vec<Image>,
}

/// What the passes over one image add up to.
#[derive(Clone, Copy, Debug)]
struct Image {
    /// Sum over passes of `-log p(x|z) + KL`.
    nelbo: f64,
    /// The largest log importance weight so far, and the sum of `exp(weight - largest)`.
    largest: f64,
    sum: f64,
}

/// Likelihoods averaged over images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Negative evidence lower bound, nats per image, averaged over passes.
    pub nelbo: f64,
    /// Standard error of `nelbo`, from the spread over images.
    pub nelbo_error: f64,
    /// Importance-weighted bound of `log p(x)`, nats per image: tighter with every pass.
    pub log_p: f64,
    /// Standard error of `log_p`, from the spread over images.
    pub log_p_error: f64,
    /// `nelbo` in bits per dimension.
    pub bpd_elbo: f64,
    /// `-log_p` in bits per dimension.
    pub bpd_log_p: f64,
}

impl Likelihood {
    /// For images of so many dimensions (channels times pixels that the loss counts).
    pub fn new(dimensions: usize) -> Self {
        Likelihood {
            dimensions,
            passes: 0,
            images: Vec::new(),
        }
    }

    /// Adds a pass: per image `-log p(x|z)`, the KL summed over groups, and the log importance weight
    /// `log p(x|z) + log p(z) - log q(z|x)`, all in nats.
    ///
    /// # Panics
    /// If passes are over different numbers of images.
    pub fn add_pass(&mut self, recon_loss: &[f64], kl: &[f64], log_iw: &[f64]) {
        if self.passes == 0 {
            let none = Image {
                nelbo: 0.0,
                largest: f64::NEG_INFINITY,
                sum: 0.0,
            };
            self.images = vec![none; log_iw.len()];
        }
        let count = self.images.len();
        assert_eq!(
            (recon_loss.len(), kl.len(), log_iw.len()),
            (count, count, count),
            "the same images each pass"
        );
        self.passes += 1;
        for (i, image) in self.images.iter_mut().enumerate() {
            image.nelbo += recon_loss[i] + kl[i];
            let largest = image.largest.max(log_iw[i]);
            image.sum = image.sum * (image.largest - largest).exp() + (log_iw[i] - largest).exp();
            image.largest = largest;
        }
    }

    /// Takes in other images that as many passes went over.
    ///
    /// # Panics
    /// If the passes are not as many.
    pub fn append(&mut self, other: Likelihood) {
        if self.images.is_empty() {
            self.passes = other.passes;
        }
        assert_eq!(self.passes, other.passes, "as many passes over all images");
        self.images.extend(other.images);
    }

    /// The number of images.
    pub fn images(&self) -> usize {
        self.images.len()
    }

    /// The negative ELBO and the importance-weighted bound of `log p(x)` of each image, nats.
    pub fn per_image(&self) -> impl ExactSizeIterator<Item = (f64, f64)> + Clone {
        let passes = self.passes as f64;
        let one = move |i: &Image| (i.nelbo / passes, i.largest + i.sum.ln() - passes.ln());
        self.images.iter().map(one)
    }

    /// What the passes so far say; NaN before the first.
    pub fn estimate(&self) -> Estimate {
        let (nelbo, nelbo_error) = mean_and_error(self.per_image().map(|(nelbo, _)| nelbo));
        let (log_p, log_p_error) = mean_and_error(self.per_image().map(|(_, log_p)| log_p));
        let bits = 1.0 / (std::f64::consts::LN_2 * self.dimensions as f64);
        Estimate {
            nelbo,
            nelbo_error,
            log_p,
            log_p_error,
            bpd_elbo: nelbo * bits,
            bpd_log_p: -log_p * bits,
        }
    }
}

/// Mean and its standard error; of a single value the error is 0.
fn mean_and_error(values: impl ExactSizeIterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let squares: f64 = values.map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0) / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_gives_the_weight_itself() {
        let mut one = Likelihood::new(2);
        one.add_pass(&[3.0, 5.0], &[1.0, 1.0], &[-4.0, -6.0]);
        let e = one.estimate();
        assert_eq!((e.nelbo, e.log_p), (5.0, -5.0));
        // Values 4 and 6: a deviation of sqrt(2) over two images.
        assert!((e.nelbo_error - 1.0).abs() < 1e-12 && (e.log_p_error - 1.0).abs() < 1e-12);
        assert!((e.bpd_elbo - 2.5 / std::f64::consts::LN_2).abs() < 1e-12);
        assert_eq!(e.bpd_elbo, e.bpd_log_p);
    }

    #[test]
    fn weights_average_before_the_logarithm_in_any_order() {
        for weights in [[-1000.0, -1001.0], [-1001.0, -1000.0]] {
            let mut two = Likelihood::new(1);
            for w in weights {
                two.add_pass(&[0.0], &[0.0], &[w]);
            }
            let want = -1000.0 + (1.0 + (-1.0f64).exp()).ln() - 2f64.ln();
            assert!((two.estimate().log_p - want).abs() < 1e-9);
        }
    }

    #[test]
    fn images_in_parts_give_what_they_give_together() {
        let passes = [
            ([3.0, 5.0, 4.0], [1.0, 1.5, 0.5], [-4.0, -6.0, -5.5]),
            ([2.0, 6.0, 3.5], [1.2, 1.0, 0.7], [-3.0, -7.5, -4.0]),
        ];
        let mut together = Likelihood::new(3);
        let (mut parts, mut rest) = (Likelihood::new(3), Likelihood::new(3));
        let mut first = Likelihood::new(3);
        for (recon, kl, weight) in &passes {
            together.add_pass(recon, kl, weight);
            first.add_pass(&recon[..2], &kl[..2], &weight[..2]);
            rest.add_pass(&recon[2..], &kl[2..], &weight[2..]);
        }
        parts.append(first);
        parts.append(rest);
        assert_eq!((parts.images(), parts.estimate()), (3, together.estimate()));
        let each: Vec<(f64, f64)> = together.per_image().collect();
        assert_eq!(each[0].0, (4.0 + 3.2) / 2.0);
        assert!((each[1].1 - (((-6f64).exp() + (-7.5f64).exp()) / 2.0).ln()).abs() < 1e-12);
    }
}
