//! Whether a step became faster or slower than an earlier report says.
//!
//! A change counts where the 10% to 90% quantiles of the two do not overlap: where nine in ten steps of one took longer than nine in
//! ten of the other; with fewer than [`ENOUGH`] runs on either side there is no verdict. That errs towards saying nothing, and says nothing of what differs between processes, such as clocks.

use serde_json::Value;

use super::Figures;
use super::rows::Key;

/// How the median of one step changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// The new median over the old one.
    pub ratio: f64,
    /// Whether it is more than noise; `None` if too few runs were timed to tell.
    pub beyond_noise: Option<bool>,
}

/// Runs without which quantiles say nothing.
pub const ENOUGH: usize = 20;

/// A report that cannot be held against new figures.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the earlier report {0}")]
pub struct Incomparable(String);

/// The row of an earlier report that is of the same thing; `None` where it has others of the same device, but not this one.
///
/// # Errors
/// No report of rows; one whose rows all differ from this in the same way, which is named.
pub fn counterpart<'a>(old: &'a Value, key: &Key) -> Result<Option<&'a Value>, Incomparable> {
    let rows = old.as_array().filter(|rows| !rows.is_empty());
    let rows = rows.ok_or_else(|| Incomparable("has no rows: make it anew with --json".into()))?;
    let wanted = serde_json::to_value(key).unwrap_or_default();
    let wanted: Vec<(&String, &Value)> = wanted.as_object().into_iter().flatten().collect();
    let same = |row: &Value| wanted.iter().all(|(name, new)| row.get(name) == Some(new));
    if let Some(row) = rows.iter().find(|row| same(row)) {
        return Ok(Some(row));
    }
    for (name, new) in &wanted {
        if rows.iter().all(|row| row.get(name) != Some(new)) {
            let old = rows[0].get(name).unwrap_or(&Value::Null);
            return Err(Incomparable(format!("has {name} {old}, and this is {new}")));
        }
    }
    Ok(None)
}

/// Holds new figures against those of its row in an earlier report.
///
/// # Errors
/// A row that has no numbers above zero.
pub fn change(old: &Value, new: &Figures) -> Result<Change, Incomparable> {
    let number = |key: &str| {
        let found = old.get(key).and_then(Value::as_f64);
        found
            .filter(|ms| *ms > 0.0)
            .ok_or_else(|| Incomparable(format!("has a row without `{key}`")))
    };
    let (low, median, high) = (number("ms_q10")?, number("ms_median")?, number("ms_q90")?);
    Ok(Change {
        ratio: new.ms_median / median,
        beyond_noise: (new.runs.min(number("runs")? as usize) >= ENOUGH)
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
            runs: ENOUGH,
            gflop: 1.0,
            gflop_per_s: 1.0,
            gb: 1.0,
            gb_per_s: 1.0,
            planned_bytes: 1,
            state_bytes: 1,
        }
    }

    #[test]
    fn quantiles_that_overlap_are_noise() {
        let row =
            |runs: usize| json!({ "runs": runs, "ms_q10": 9.0, "ms_median": 10.0, "ms_q90": 12.0 });
        let told = |f| change(&row(ENOUGH), &f).unwrap();
        assert_eq!(told(figures(11.0, 13.0, 14.0)).beyond_noise, Some(false));
        assert_eq!(told(figures(12.5, 15.0, 16.0)).beyond_noise, Some(true));
        let faster = told(figures(4.0, 5.0, 8.9));
        assert_eq!((faster.ratio, faster.beyond_noise), (0.5, Some(true)));
        let few = change(&row(3), &figures(4.0, 5.0, 8.9)).unwrap();
        assert_eq!(few.beyond_noise, None);
        let damaged = json!({ "runs": 20, "ms_median": "x" });
        assert!(change(&damaged, &figures(1.0, 2.0, 3.0)).is_err());
    }

    #[test]
    fn a_report_of_something_else_is_refused_and_a_missing_row_is_told() {
        let key = |what, batch| Key {
            what,
            preset: "toy".into(),
            batch,
            precision: "f32",
            steps: 1,
            device: "cpu".into(),
            threads: 2,
        };
        let row = |what, batch| serde_json::to_value(key(what, batch)).unwrap();
        let old = json!([row("langevin", 16), row("stage1", 8)]);
        assert_eq!(counterpart(&old, &key("stage1", 8)), Ok(Some(&old[1])));
        assert_eq!(counterpart(&old, &key("stage1", 16)), Ok(None));
        let refused = counterpart(&old, &key("stage1", 4))
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("batch 16") && refused.contains("this is 4"),
            "{refused}"
        );
        let other = Key {
            device: "a GPU".into(),
            ..key("stage1", 8)
        };
        assert!(counterpart(&old, &other).is_err());
        for none in [json!({ "batch": 16 }), json!([]), json!(3)] {
            assert!(counterpart(&none, &key("stage1", 8)).is_err());
        }
    }
}
