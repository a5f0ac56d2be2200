//! Figures of one kind of step.

use serde::Serialize;

use super::{Bench, What};
use crate::program::Cost;
use crate::train::TrainError;

/// Runs before anything is timed, by time: caches, page faults, thread wake-ups, clocks.
const WARM_UP_SECONDS: f64 = 0.5;

/// Figures of one kind of step, or of sampling as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Steps (of sampling, batches) per second, from the median.
    pub steps_per_s: f64,
    /// Chains or images that these move per second.
    pub items_per_s: f64,
    /// Median milliseconds of a step.
    pub ms_median: f64,
    /// The 10% quantile.
    pub ms_q10: f64,
    /// The 90% quantile.
    pub ms_q90: f64,
    /// Times that the quantiles are of.
    pub runs: usize,
    /// FLOPs of a step by the ops' cost rules, in billions.
    pub gflop: f64,
    /// FLOPs per second, from the median, in billions.
    pub gflop_per_s: f64,
    /// Bytes that a step must move by the cost rules, in billions: every argument of a node once.
    pub gb: f64,
    /// Those bytes per second, from the median, in billions.
    pub gb_per_s: f64,
    /// Bytes that the programs take on the device, states apart.
    pub planned_bytes: usize,
    /// Bytes of their states.
    pub state_bytes: usize,
}

/// The value below which a share `q` of sorted values lies.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

impl Bench<'_> {
    /// Warms up, then times runs for so many seconds.
    ///
    /// # Errors
    /// What was not prepared; a device that fails.
    pub fn figures(&mut self, what: What, seconds: f64) -> Result<Figures, TrainError> {
        self.slot(what, WARM_UP_SECONDS.min(seconds))?;
        let mut ms = self.slot(what, seconds)?.ms;
        ms.sort_by(f64::total_cmp);
        let Cost { flops, bytes } = self.cost(what)?;
        let median = quantile(&ms, 0.5);
        let per_second = 1e3 / median;
        let programs = self.programs();
        let states = self.device().states();
        Ok(Figures {
            steps_per_s: per_second,
            items_per_s: per_second * self.batch as f64,
            ms_median: median,
            ms_q10: quantile(&ms, 0.1),
            ms_q90: quantile(&ms, 0.9),
            runs: ms.len(),
            gflop: flops / 1e9,
            gflop_per_s: flops / 1e9 * per_second,
            gb: bytes / 1e9,
            gb_per_s: bytes / 1e9 * per_second,
            planned_bytes: (programs.into_iter())
                .map(|program| self.device().program_bytes(program))
                .sum(),
            state_bytes: states.iter().map(|(_, s)| s.len() * size_of::<f32>()).sum(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_members() {
        let sorted: Vec<f64> = (0..=10).map(f64::from).collect();
        assert_eq!(
            [0.0, 0.1, 0.5, 0.9, 1.0].map(|q| quantile(&sorted, q)),
            [0.0, 1.0, 5.0, 9.0, 10.0]
        );
        assert_eq!(quantile(&[3.0], 0.9), 3.0);
    }
}
