//! Stage 1's schedules (SPEC section 4): learning rate, KL coefficient, weight of the spectral and batch-norm terms.

use crate::config::TrainVae;

/// What a step is run with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// Learning rate of Adamax.
    pub learning_rate: f64,
    /// Weight of the KL.
    pub kl: f64,
    /// Weight of the spectral and batch-norm terms.
    pub norm: f64,
}

/// The schedules of one run.
#[derive(Clone, Debug)]
pub struct Schedule {
    config: TrainVae,
    steps_per_epoch: u64,
    total_steps: u64,
    /// The learning rate of each epoch after warm-up, from the last warm-up value on.
    after_warmup: Vec<f64>,
}

impl Schedule {
    /// Schedules for a training set that gives `steps_per_epoch` batches. With `config.steps` the run has that many steps, and the
    /// schedules that count in epochs are stretched to them: an epoch of the schedule is then that part of the steps.
    pub fn new(config: &TrainVae, steps_per_epoch: u64) -> Self {
        let epochs = config.epochs.max(1) as u64;
        let total_steps = config.steps.unwrap_or(epochs * steps_per_epoch.max(1));
        let schedule_epoch = match config.steps {
            Some(steps) => steps.div_ceil(epochs).max(1),
            None => steps_per_epoch.max(1),
        };
        Schedule {
            after_warmup: cosine(config, schedule_epoch, epochs),
            config: config.clone(),
            steps_per_epoch: schedule_epoch,
            total_steps,
        }
    }

    /// Steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// The schedule's epoch of a step, from 0.
    fn epoch(&self, step: u64) -> u64 {
        step / self.steps_per_epoch
    }

    /// What step `step`, from 0, is run with.
    pub fn at(&self, step: u64) -> Coefficients {
        let kl = self.kl(step);
        Coefficients {
            learning_rate: self.learning_rate(step),
            kl,
            norm: self.norm(kl),
        }
    }

    fn kl(&self, step: u64) -> f64 {
        let c = &self.config;
        let total = self.total_steps as f64;
        let rise = (step as f64 - c.kl_const_portion * total) / (c.kl_anneal_portion * total);
        rise.min(1.0).max(c.kl_const_coeff)
    }

    fn norm(&self, kl: f64) -> f64 {
        let c = &self.config;
        if !c.weight_decay_norm_anneal {
            return c.weight_decay_norm;
        }
        ((1.0 - kl) * c.weight_decay_norm_init.ln() + kl * c.weight_decay_norm.ln()).exp()
    }

    /// Linear warm-up set by step, then one cosine value per epoch. The rate at step 0 is exactly 0 (trap 19).
    fn learning_rate(&self, step: u64) -> f64 {
        let warmup_steps = self.config.warmup_epochs as u64 * self.steps_per_epoch;
        if step < warmup_steps {
            return self.config.learning_rate * step as f64 / warmup_steps as f64;
        }
        let epoch = (self.epoch(step) - self.config.warmup_epochs as u64) as usize;
        self.after_warmup[epoch.min(self.after_warmup.len() - 1)]
    }
}

/// The official recursion: each epoch scales the distance to the lowest rate, starting from the last warm-up value, not from
/// the base rate; the first epoch after warm-up keeps that value.
fn cosine(config: &TrainVae, steps_per_epoch: u64, epochs: u64) -> Vec<f64> {
    let warmup = config.warmup_epochs as u64;
    let warmup_steps = warmup * steps_per_epoch;
    let mut rate = match warmup_steps {
        0 => config.learning_rate,
        n => config.learning_rate * (n - 1) as f64 / n as f64,
    };
    let mut rates = vec![rate];
    let least = config.learning_rate_min;
    let period = epochs.saturating_sub(warmup + 1) as f64;
    let phase = |k: u64| 1.0 + (std::f64::consts::PI * k as f64 / period).cos();
    for k in 1..epochs.saturating_sub(warmup) {
        rate = least + (rate - least) * phase(k) / phase(k - 1);
        rates.push(rate);
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TrainVae {
        TrainVae {
            epochs: 10,
            warmup_epochs: 2,
            ..TrainVae::default()
        }
    }

    #[test]
    fn the_first_step_has_no_learning_rate() {
        assert_eq!(Schedule::new(&config(), 5).at(0).learning_rate, 0.0);
    }

    #[test]
    fn the_rate_ends_at_its_least_value() {
        let schedule = Schedule::new(&config(), 5);
        let last = schedule.at(schedule.total_steps() - 1).learning_rate;
        assert!((last - 1e-4).abs() < 1e-12, "{last}");
    }

    #[test]
    fn a_run_counted_in_steps_stretches_its_schedules_to_them() {
        let config = TrainVae {
            steps: Some(23),
            ..config()
        };
        let schedule = Schedule::new(&config, 5);
        assert_eq!(schedule.total_steps(), 23);
        assert_eq!(schedule.epoch(22), 7);
        assert_eq!(schedule.at(6).learning_rate, schedule.at(5).learning_rate);
        assert_eq!(schedule.at(22).kl, 1.0);
        assert!(schedule.at(22).learning_rate >= 1e-4);
    }

    #[test]
    fn without_warmup_the_rate_starts_at_its_base() {
        let config = TrainVae {
            warmup_epochs: 0,
            ..config()
        };
        assert_eq!(Schedule::new(&config, 5).at(0).learning_rate, 1e-2);
    }
}
