//! How a step size or the factor of the noise changes along a chain.

use crate::config::Schedule;

/// From one number to another over so many steps, and there from then on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Annealing {
    /// The shape.
    pub schedule: Schedule,
    /// At the first step.
    pub first: f64,
    /// At the last step of the schedule and after it.
    pub last: f64,
    /// Steps of the schedule.
    pub steps: u64,
}

impl Annealing {
    /// The same number at every step.
    pub fn constant(value: f64) -> Self {
        Annealing {
            schedule: Schedule::Constant,
            first: value,
            last: value,
            steps: 1,
        }
    }

    /// The number at a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        let (first, last) = (self.first, self.last);
        let end = self.steps.saturating_sub(1);
        if self.schedule != Schedule::Constant && step >= end {
            // Without the rounding that the formulas would bring along.
            return last;
        }
        let share = step as f64 / end as f64;
        match self.schedule {
            Schedule::Constant => first,
            Schedule::Linear => first + (last - first) * share,
            Schedule::Geometric => first * (last / first).powf(share),
            Schedule::Cosine => {
                last + 0.5 * (first - last) * (1.0 + (std::f64::consts::PI * share).cos())
            }
        }
    }

    /// Whether it never changes.
    pub fn is_constant(&self) -> bool {
        self.schedule == Schedule::Constant || self.first == self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_go_from_first_to_last_and_stay_there() {
        for (schedule, middle) in [
            (Schedule::Linear, 5.05),
            (Schedule::Geometric, 1.0),
            (Schedule::Cosine, 5.05),
        ] {
            let a = Annealing {
                schedule,
                first: 0.1,
                last: 10.0,
                steps: 11,
            };
            for (step, want) in [(0, 0.1), (5, middle)] {
                let got = a.at(step);
                assert!((got - want).abs() < 1e-12, "{schedule} at {step}: {got}");
            }
            assert_eq!((a.at(10), a.at(1000)), (10.0, 10.0), "{schedule}");
            let rising = (0..10).all(|s| a.at(s) < a.at(s + 1));
            assert!(rising && !a.is_constant(), "{schedule}");
            // A schedule of one step is at its end.
            assert_eq!(Annealing { steps: 1, ..a }.at(0), 10.0);
        }
        let cosine = Annealing {
            schedule: Schedule::Cosine,
            first: 0.0,
            last: 1.0,
            steps: 5,
        };
        // A quarter of the way: (1 - cos(pi / 4)) / 2.
        assert!((cosine.at(1) - 0.5 * (1.0 - 0.5f64.sqrt())).abs() < 1e-12);
        assert_eq!(Annealing::constant(0.3).at(7), 0.3);
        assert!(Annealing::constant(0.3).is_constant());
    }
}
