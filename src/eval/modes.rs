//! Mode coverage of sets with known modes, as for StackedMNIST (VAEBM section 5.3).

/// How samples spread over modes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coverage {
    /// Modes with at least one sample.
    pub modes: usize,
    /// `KL(samples || data)` over modes, in nats.
    pub kl: f64,
}

/// Coverage of samples' labels, against the data's probability of each mode.
///
/// A sample in a mode that the data never has would make the KL infinite; it is then reported as infinite.
pub fn coverage(labels: &[usize], data: &[f64]) -> Coverage {
    let mut counts = vec![0usize; data.len()];
    labels.iter().for_each(|&l| counts[l] += 1);
    let n = labels.len() as f64;
    let term = |(&count, &p): (&usize, &f64)| match count {
        0 => 0.0,
        _ => {
            let q = count as f64 / n;
            q * (q / p).ln()
        }
    };
    Coverage {
        modes: counts.iter().filter(|&&c| c > 0).count(),
        kl: counts.iter().zip(data).map(term).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_coverage_has_no_divergence() {
        let c = coverage(&[0, 1, 2, 3], &[0.25; 4]);
        assert_eq!(c.modes, 4);
        assert!(c.kl.abs() < 1e-12);
    }

    #[test]
    fn one_mode_of_four_costs_ln_4() {
        let c = coverage(&[2; 7], &[0.25; 4]);
        assert_eq!(c.modes, 1);
        assert!((c.kl - 4f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn a_mode_that_data_never_has_is_infinitely_wrong() {
        assert_eq!(coverage(&[0, 1], &[1.0, 0.0]).kl, f64::INFINITY);
    }
}
