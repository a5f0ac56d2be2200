//! Whether a step became faster or slower than an earlier report says.
//!
//! A change counts where the 10% to 90% quantiles of the two do not overlap: where nine in ten steps of one took longer than nine in
//! ten of the other; with fewer than [`ENOUGH`] steps on either side there is no verdict. That errs towards saying nothing, and says nothing of what differs between processes, such as clocks.

use serde_json::Value;

use super::Figures;

/// How the median of one step changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// The new median over the old one.
    pub ratio: f64,
    /// Whether it is more than noise; `None` if too few steps were timed to tell.
    pub beyond_noise: Option<bool>,
}

/// Steps without which quantiles say nothing.
pub const ENOUGH: usize = 20;

/// A report that cannot be held against new figures.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the earlier report {0}")]
pub struct Incomparable(String);

/// Checks that an earlier report is of the same thing: each key must have the same value.
///
/// # Errors
/// One that differs, or is not there.
pub fn same(old: &Value, keys: &[(&str, Value)]) -> Result<(), Incomparable> {
    for (key, new) in keys {
        if old.get(key) != Some(new) {
            let old = old.get(key).unwrap_or(&Value::Null);
            return Err(Incomparable(format!("has {key} {old}, and this is {new}")));
        }
    }
    Ok(())
}

/// Holds new figures against those of a step in an earlier report.
///
/// # Errors
/// A report that has no such step, or no numbers above zero for it.
pub fn change(old: &Value, step: &str, new: &Figures) -> Result<Change, Incomparable> {
    let number = |key: &str| {
        let found = old
            .get(step)
            .and_then(|s| s.get(key))
            .and_then(Value::as_f64);
        found
            .filter(|ms| *ms > 0.0)
            .ok_or_else(|| Incomparable(format!("has no `{key}` of `{step}`")))
    };
    let (low, median, high) = (number("ms_q10")?, number("ms_median")?, number("ms_q90")?);
    Ok(Change {
        ratio: new.ms_median / median,
        beyond_noise: (new.steps.min(number("steps")? as usize) >= ENOUGH)
            .then_some(new.ms_q10 > high || new.ms_q90 < low),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn figures(low: f64, median: f64, high: f64) -> Figures {
        Figures {
            steps_per_s: 1e3 / median,
            items_per_s: 1e3 / median,
            ms_median: median,
            ms_q10: low,
            ms_q90: high,
            steps: ENOUGH,
            gflop: 1.0,
            gflop_per_s: 1.0,
            plan_bytes: 1,
        }
    }

    #[test]
    fn quantiles_that_overlap_are_noise() {
        let report = |steps: usize| json!({ "langevin": { "steps": steps, "ms_q10": 9.0, "ms_median": 10.0, "ms_q90": 12.0 } });
        let told = |f| change(&report(ENOUGH), "langevin", &f).unwrap();
        assert_eq!(told(figures(11.0, 13.0, 14.0)).beyond_noise, Some(false));
        assert_eq!(told(figures(12.5, 15.0, 16.0)).beyond_noise, Some(true));
        let faster = told(figures(4.0, 5.0, 8.9));
        assert_eq!((faster.ratio, faster.beyond_noise), (0.5, Some(true)));
        let few = change(&report(3), "langevin", &figures(4.0, 5.0, 8.9)).unwrap();
        assert_eq!(few.beyond_noise, None);
    }

    #[test]
    fn a_report_of_something_else_is_refused() {
        let old = json!({ "batch": 16, "langevin": { "ms_median": "x" } });
        assert!(same(&old, &[("batch", json!(16))]).is_ok());
        assert!(same(&old, &[("batch", json!(8))]).is_err());
        assert!(same(&old, &[("device", json!("cpu"))]).is_err());
        assert!(change(&old, "langevin", &figures(1.0, 2.0, 3.0)).is_err());
        assert!(change(&old, "stage1", &figures(1.0, 2.0, 3.0)).is_err());
    }
}
