//! `unit/schedules.json`: learning rate, KL coefficient and annealed regulariser weight at every step.

use std::path::Path;

use crate::config::{Config, TrainVae};
use crate::parity::array::Array;
use crate::parity::file::json;
use crate::parity::rule::{DOUBLE, row};
use crate::parity::{ParityError, Row};
use crate::train::schedule::Schedule;

/// Epochs, and steps of each, that a file can ask for: a schedule keeps a number per epoch.
const MOST_EPOCHS: usize = 100_000;
const MOST_STEPS: u64 = 1 << 32;

/// One setting with its schedules.
#[derive(serde::Deserialize)]
struct Setting {
    epochs: usize,
    warmup_epochs: usize,
    iters_per_epoch: u64,
    learning_rate: f64,
    learning_rate_min: f64,
    kl_anneal_portion: f64,
    kl_const_portion: f64,
    kl_const_coeff: f64,
    wdn_init: f64,
    wdn: f64,
    lr: Vec<f64>,
    kl_coeff: Vec<f64>,
    wdn_coeff_annealed: Vec<f64>,
}

/// Compares all schedules. They are computed in double precision on the host and must agree as such, whatever the device.
pub(in crate::parity) fn run(name: &str, path: &Path) -> Result<Vec<Row>, ParityError> {
    let settings: Vec<Setting> = json(path)?;
    let mut rows = Vec::new();
    for (i, s) in settings.into_iter().enumerate() {
        let config = TrainVae {
            epochs: s.epochs,
            warmup_epochs: s.warmup_epochs,
            learning_rate: s.learning_rate,
            learning_rate_min: s.learning_rate_min,
            kl_anneal_portion: s.kl_anneal_portion,
            kl_const_portion: s.kl_const_portion,
            kl_const_coeff: s.kl_const_coeff,
            weight_decay_norm_init: s.wdn_init,
            weight_decay_norm: s.wdn,
            weight_decay_norm_anneal: true,
            ..TrainVae::default()
        };
        let steps = s.iters_per_epoch;
        if s.epochs > MOST_EPOCHS || !(1..=MOST_STEPS).contains(&steps) {
            return Err(ParityError::malformed(
                path,
                format!(
                    "setting {i} has {} epochs of {steps} steps; 1 to {MOST_EPOCHS} of 1 to {MOST_STEPS} are read",
                    s.epochs
                ),
            ));
        }
        let whole = Config {
            train_vae: config.clone(),
            ..Config::default()
        };
        (whole.validate())
            .map_err(|e| ParityError::malformed(path, format!("setting {i}: {e}")))?;
        let schedule = Schedule::new(&config, s.iters_per_epoch);
        let at = |pick: fn(&crate::train::schedule::Coefficients) -> f64, steps: usize| {
            let values = (0..steps as u64).map(|step| pick(&schedule.at(step)));
            Array::vector(values.collect())
        };
        for (quantity, own, want) in [
            ("lr", at(|c| c.learning_rate, s.lr.len()), s.lr),
            ("kl_coeff", at(|c| c.kl, s.kl_coeff.len()), s.kl_coeff),
            (
                "wdn_coeff_annealed",
                at(|c| c.norm, s.wdn_coeff_annealed.len()),
                s.wdn_coeff_annealed,
            ),
        ] {
            let want = Array::vector(want);
            let max = want.data.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            let quantity = format!("{i}.{quantity}");
            rows.push(row(name, &quantity, &own, &want, max, DOUBLE * max));
        }
    }
    Ok(rows)
}
