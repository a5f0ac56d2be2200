//! Several runs that differ in their seed: means, and whether the energy network improved a measure beyond chance.

use super::quality::Quality;
use super::report::{MEASURES, Report};

/// Mean and half the width of the 95% interval of the mean (Student's t).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// The interval is `mean - half_width` to `mean + half_width`.
    pub half_width: f64,
}

impl Interval {
    /// Of independent values.
    ///
    /// # Panics
    /// For fewer than two values.
    pub fn of(values: &[f64]) -> Self {
        assert!(values.len() >= 2, "an interval needs at least two values");
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
        Interval {
            mean,
            half_width: t_quantile(values.len() - 1) * (variance / n).sqrt(),
        }
    }

    /// Whether zero lies outside.
    pub fn excludes_zero(&self) -> bool {
        self.mean.abs() > self.half_width
    }
}

/// The 97.5% quantile of Student's t: from tables up to 10 degrees of freedom, beyond by the expansion about the normal
/// quantile (Abramowitz and Stegun 26.7.5), right to 2e-4 there.
pub(super) fn t_quantile(degrees: usize) -> f64 {
    const TABLE: [f64; 10] = [
        12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    ];
    if let Some(t) = degrees.checked_sub(1).and_then(|i| TABLE.get(i)) {
        return *t;
    }
    let (z, d) = (1.959_964_f64, degrees as f64);
    let first = (z.powi(3) + z) / 4.0;
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    z + first / d + second / d.powi(2) + third / d.powi(3)
}

/// The table over runs: every measure's mean for data, VAE and VAEBM, and the interval of the runs' own differences.
///
/// # Panics
/// For fewer than two reports.
pub fn summary(reports: &[Report]) -> String {
    let mut text = format!(
        "{} runs (mean; difference of the same run's VAEBM and VAE with its 95% interval)\n{:<18}{:>12}{:>12}{:>12}{:>26}\n",
        reports.len(),
        "",
        "held-out",
        "VAE",
        "VAEBM",
        "VAEBM - VAE"
    );
    for (name, higher_is_better, value) in MEASURES {
        let mean = |row: fn(&Report) -> &Quality| {
            reports.iter().map(|r| value(row(r))).sum::<f64>() / reports.len() as f64
        };
        let differences: Vec<f64> = reports
            .iter()
            .map(|r| value(&r.vaebm) - value(&r.vae))
            .collect();
        let interval = Interval::of(&differences);
        let verdict = match (
            interval.excludes_zero(),
            (interval.mean > 0.0) == higher_is_better,
        ) {
            (false, _) => "not beyond chance",
            (true, true) => "better",
            (true, false) => "worse",
        };
        let difference = format!("{:+.4} +- {:.4}", interval.mean, interval.half_width);
        text += &format!(
            "{name:<18}{:>12.4}{:>12.4}{:>12.4}{difference:>26}  {verdict}\n",
            mean(|r| &r.data),
            mean(|r| &r.vae),
            mean(|r| &r.vaebm),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PixelRange;
    use crate::eval::report::Seconds;

    #[test]
    fn three_values_have_the_textbook_interval() {
        let interval = Interval::of(&[1.0, 2.0, 3.0]);
        assert_eq!(interval.mean, 2.0);
        assert!((interval.half_width - 4.3027 / 3f64.sqrt()).abs() < 1e-12);
        assert!(!interval.excludes_zero());
        assert!(Interval::of(&[-1.0, -1.1, -0.9]).excludes_zero());
    }

    #[test]
    fn quantiles_go_on_where_the_table_ends() {
        for (degrees, t) in [
            (1, 12.7062),
            (10, 2.2281),
            (11, 2.2010),
            (30, 2.0423),
            (1000, 1.9623),
        ] {
            assert!((t_quantile(degrees) - t).abs() < 2e-4, "{degrees}");
        }
    }

    #[test]
    fn the_table_pairs_differences_by_run() {
        let quality = |frechet: f64, confidence: f64| Quality {
            modes: 10,
            kl: 0.1,
            confidence,
            frechet,
            kernel: 0.25,
            kernel_half_width: 0.0625,
            precision: 0.75,
            recall: 0.5,
            density: 1.25,
            coverage: 0.875,
            novelty: 0.625,
        };
        // The runs differ by far more than the two models do, and yet the Frechet distance is better in each.
        let report = |level: f64, gain: f64, confidence: f64| Report {
            data: quality(0.1, 0.9),
            vae: quality(level, 0.8),
            vaebm: quality(level - gain, confidence),
            samples: 3000,
            step: 400,
            held_out: 3000,
            compared: 3000,
            classifier_accuracy: 0.99,
            pixel_range: PixelRange::Fixed,
            readjust_bn: 0,
            seed: 1,
            seconds: Seconds::default(),
        };
        let text = summary(&[
            report(10.0, 1.0, 0.7),
            report(20.0, 1.1, 0.71),
            report(30.0, 0.9, 0.95),
        ]);
        let line = |name: &str| text.lines().find(|l| l.starts_with(name)).expect(name);
        assert!(
            line("Frechet").contains("-1.0000 +- 0.2484  better"),
            "{text}"
        );
        assert!(line("confidence").ends_with("not beyond chance"), "{text}");
        assert!(line("modes").ends_with("not beyond chance"), "{text}");
    }
}
