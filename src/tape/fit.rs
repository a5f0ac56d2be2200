//! Whether a program fits the memory at hand, told before anything runs.

use std::collections::HashMap;

use crate::program::Plan;

/// A program that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{program}` needs {needed} bytes at batch size {batch}, but {available} are available; {advice}"
)]
pub struct FitError {
    /// The program.
    pub program: String,
    /// Bytes that it needs, states included.
    pub needed: usize,
    /// The batch size asked for.
    pub batch: usize,
    /// Bytes at hand.
    pub available: usize,
    /// The largest batch size that fits, or that none does.
    pub advice: String,
}

/// Plans a step at a batch size and refuses it if it does not fit, naming the largest batch size that would.
///
/// `build` records and plans the step at a given batch size; it is called again, with smaller ones, only to find that size.
pub fn plan_within(
    build: impl Fn(usize) -> Plan,
    batch: usize,
    available: usize,
) -> Result<Plan, FitError> {
    let [plan] = plans_within(|n| [build(n)], batch, available)?;
    Ok(plan)
}

/// As [`plan_within`] for programs that are prepared at the same time and share their states.
pub fn plans_within<const N: usize>(
    build: impl Fn(usize) -> [Plan; N],
    batch: usize,
    available: usize,
) -> Result<[Plan; N], FitError> {
    let plans = build(batch);
    let needed = needs(&plans);
    if needed <= available {
        return Ok(plans);
    }
    let (mut fits, mut too_large) = (0, batch);
    while too_large - fits > 1 {
        let middle = fits + (too_large - fits) / 2;
        if needs(&build(middle)) <= available {
            fits = middle;
        } else {
            too_large = middle;
        }
    }
    let advice = match fits {
        0 => "not even one image at a time fits: choose a smaller model".to_owned(),
        n => format!("batch size {n} fits"),
    };
    let names: Vec<&str> = plans.iter().map(|p| p.name.as_str()).collect();
    Err(FitError {
        program: names.join(" + "),
        needed,
        batch,
        available,
        advice,
    })
}

/// Bytes of all programs' arenas and constants, and of each state once.
fn needs(plans: &[Plan]) -> usize {
    let states: HashMap<&str, usize> = (plans.iter().flat_map(|p| &p.states))
        .map(|s| (s.name.as_str(), s.shape.len() * size_of::<f32>()))
        .collect();
    plans.iter().map(Plan::bytes).sum::<usize>() + states.values().sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(batch: usize) -> Plan {
        Plan {
            name: "step".into(),
            arena: 100 * batch,
            ..Plan::default()
        }
    }

    #[test]
    fn a_batch_that_fits_is_planned() {
        assert_eq!(plan_within(plan_of, 10, 4000).unwrap().arena, 1000);
    }

    #[test]
    fn one_that_does_not_is_refused_with_the_largest_that_would() {
        let error = plan_within(plan_of, 100, 4000).unwrap_err();
        assert_eq!(error.advice, "batch size 10 fits");
        assert!(
            error
                .to_string()
                .contains("needs 40000 bytes at batch size 100")
        );
    }

    #[test]
    fn and_says_when_none_fits() {
        let error = plan_within(plan_of, 8, 399).unwrap_err();
        assert!(error.advice.starts_with("not even one"));
    }

    #[test]
    fn programs_together_count_their_shared_states_once() {
        let state = crate::program::StateRef {
            name: "w".into(),
            shape: crate::tensor::Shape::new(&[50]),
            written: false,
        };
        let both = |batch: usize| {
            let plan = Plan {
                states: vec![state.clone()],
                ..plan_of(batch)
            };
            [plan.clone(), plan]
        };
        assert!(plans_within(both, 2, 2 * 800 + 200).is_ok());
        let error = plans_within(both, 2, 2 * 800 + 199).unwrap_err();
        assert_eq!(
            (error.needed, error.program.as_str()),
            (1800, "step + step")
        );
        assert_eq!(error.advice, "batch size 1 fits");
    }
}
