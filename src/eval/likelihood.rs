//! How likely images are under the VAE: the evidence bound and the importance-weighted bound (SPEC section 4, "Eval";
//! Burda, Grosse, Salakhutdinov, ICLR 2016), in nats and in bits per dimension.

/// Collects passes over the same images with fresh posterior noise each.
#[derive(Clone, Debug)]
pub struct Likelihood {
    dimensions: usize,
    passes: usize,
    /// Sum over passes and images of `-log p(x|z) + KL`.
    nelbo: f64,
    /// Per image, the largest log importance weight so far and the sum of `exp(weight - largest)`.
    weights: Vec<(f64, f64)>,
}

/// Likelihoods averaged over images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Negative evidence lower bound, nats per image, averaged over passes.
    pub nelbo: f64,
    /// Importance-weighted bound of `log p(x)`, nats per image: tighter with every pass.
    pub log_p: f64,
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
            nelbo: 0.0,
            weights: Vec::new(),
        }
    }

    /// Adds a pass: per image `-log p(x|z)`, the KL summed over groups, and the log importance weight
    /// `log p(x|z) + log p(z) - log q(z|x)`, all in nats.
    ///
    /// # Panics
    /// If passes are over different numbers of images.
    pub fn add_pass(&mut self, recon_loss: &[f64], kl: &[f64], log_iw: &[f64]) {
        if self.passes == 0 {
            self.weights = vec![(f64::NEG_INFINITY, 0.0); log_iw.len()];
        }
        assert_eq!(
            log_iw.len(),
            self.weights.len(),
            "the same images each pass"
        );
        self.passes += 1;
        self.nelbo += recon_loss.iter().chain(kl).sum::<f64>();
        for ((largest, sum), w) in self.weights.iter_mut().zip(log_iw) {
            let new = largest.max(*w);
            *sum = *sum * (*largest - new).exp() + (w - new).exp();
            *largest = new;
        }
    }

    /// What the passes so far say; NaN before the first.
    pub fn estimate(&self) -> Estimate {
        let (images, passes) = (self.weights.len() as f64, self.passes as f64);
        let nelbo = self.nelbo / (images * passes);
        let evidence = |(largest, sum): &(f64, f64)| largest + sum.ln() - passes.ln();
        let log_p = self.weights.iter().map(evidence).sum::<f64>() / images;
        let bits = 1.0 / (std::f64::consts::LN_2 * self.dimensions as f64);
        Estimate {
            nelbo,
            log_p,
            bpd_elbo: nelbo * bits,
            bpd_log_p: -log_p * bits,
        }
    }
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
}
