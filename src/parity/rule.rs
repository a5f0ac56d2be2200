//! The pass rule of the parity files.

use std::collections::BTreeSet;
use std::path::Path;

use super::array::Array;
use super::file::{TestFile, Tolerance, json};
use super::{Arithmetic, ParityError, Row};

/// Agreement that is asked of double precision, relative to the largest value: the files are rounded to single precision.
pub(super) const DOUBLE: f64 = 2e-7;
/// Gradients up to this size are rounding noise even in double precision: their true value is 0.
const NOISE: f64 = 1e-9;

/// `ceilings.json`: test pattern, tensor pattern, ceiling.
#[derive(Debug)]
pub(super) struct Ceilings(Vec<(String, String, Option<f64>)>);

impl Ceilings {
    pub fn open(path: &Path) -> Result<Self, ParityError> {
        json(path).map(Ceilings)
    }

    /// The largest distance that an expectation allows.
    pub fn allowed(
        &self,
        test: &str,
        tensor: &str,
        tolerance: Tolerance,
        arithmetic: Arithmetic,
    ) -> Result<f64, ParityError> {
        let Tolerance { abs, max } = tolerance;
        // A largest value of 0 means exactly 0.
        if max == 0.0 {
            return Ok(0.0);
        }
        if arithmetic == Arithmetic::Double {
            return Ok(if max > NOISE { DOUBLE * max } else { NOISE });
        }
        let own = match test {
            "unit/ops" => f64::max(1e-5 * max, 10.0 * abs),
            _ => 10.0 * abs + 2e-6 * max,
        };
        let row = (self.0.iter()).find(|(t, name, _)| matches(t, test) && matches(name, tensor));
        let (_, _, ceiling) = row.ok_or_else(|| ParityError::NoCeiling {
            test: test.to_owned(),
            tensor: tensor.to_owned(),
        })?;
        Ok(ceiling.map_or(own, |c| own.min(c * max)))
    }
}

/// Whether a pattern with `*` for any run of characters matches all of a text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|i| rest.is_char_boundary(i) && matches(tail, &rest[i..]))
        }),
    }
}

/// Compares a test's results with its expectations as they come in.
pub(super) struct Checks<'a> {
    /// The test.
    pub file: &'a TestFile,
    ceilings: &'a Ceilings,
    arithmetic: Arithmetic,
    rows: Vec<Row>,
    seen: BTreeSet<String>,
}

impl<'a> Checks<'a> {
    pub fn new(file: &'a TestFile, ceilings: &'a Ceilings, arithmetic: Arithmetic) -> Self {
        Checks {
            file,
            ceilings,
            arithmetic,
            rows: Vec::new(),
            seen: BTreeSet::new(),
        }
    }

    /// Whether the test expects this quantity and has not seen it yet.
    pub fn wants(&self, name: &str) -> bool {
        self.file.expectations().contains_key(name) && !self.seen.contains(name)
    }

    /// Compares a result, in the layout of the files. One that the test does not expect is let go: not every case stores
    /// every quantity, and an expectation that nothing is compared with fails in [`Checks::finish`].
    pub fn compare(&mut self, name: &str, own: &Array) -> Result<(), ParityError> {
        let Some(tolerance) = self.file.expectations().get(name) else {
            return Ok(());
        };
        self.seen.insert(name.to_owned());
        let allowed =
            (self.ceilings).allowed(&self.file.name, name, *tolerance, self.arithmetic)?;
        let want = self.file.tensor(name)?;
        self.rows.push(row(
            &self.file.name,
            name,
            own,
            want,
            tolerance.max,
            allowed,
        ));
        Ok(())
    }

    /// The rows, with one more for each expectation that nothing was compared with.
    pub fn finish(mut self) -> Vec<Row> {
        for (name, tolerance) in self.file.expectations() {
            // A build that does not form the flow's log-determinant, which is 0, may leave it out.
            let optional = name.starts_with("log_det.") && tolerance.max == 0.0;
            if !self.seen.contains(name) && !optional {
                self.rows.push(Row::failed(
                    &self.file.name,
                    name,
                    "this build did not compute it".into(),
                ));
            }
        }
        self.rows
    }
}

pub(super) fn row(
    test: &str,
    name: &str,
    own: &Array,
    want: &Array,
    max: f64,
    allowed: f64,
) -> Row {
    if own.shape != want.shape {
        let reason = format!("has shape {:?} instead of {:?}", own.shape, want.shape);
        return Row::failed(test, name, reason);
    }
    let strange = own.data.iter().filter(|v| !v.is_finite()).count();
    if strange > 0 {
        let reason = format!("has {strange} values that are not finite");
        return Row::failed(test, name, reason);
    }
    let scale = if max > 0.0 { max } else { 1.0 };
    let (mut largest, mut worst, mut squares) = (0.0, 0, 0.0);
    for (i, (own, want)) in own.data.iter().zip(&want.data).enumerate() {
        let difference = (own - want).abs();
        squares += (difference / scale).powi(2);
        if difference > largest {
            (largest, worst) = (difference, i);
        }
    }
    let failure = (largest > allowed).then(|| {
        format!(
            "{:e} instead of {:e} at element {}",
            own.data[worst],
            want.data[worst],
            position(&want.shape, worst)
        )
    });
    Row {
        test: test.to_owned(),
        quantity: name.to_owned(),
        max_error: largest / scale,
        rms_error: (squares / own.data.len().max(1) as f64).sqrt(),
        tolerance: allowed / scale,
        failure,
    }
}

/// The indices of an element, `[n, c, h, w]`.
fn position(shape: &[usize], element: usize) -> String {
    let (mut rest, mut indices) = (element, Vec::new());
    for extent in shape.iter().rev() {
        indices.push((rest % extent).to_string());
        rest /= extent;
    }
    indices.reverse();
    format!("[{}]", indices.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ceilings() -> Ceilings {
        let row = |test: &str, tensor: &str, ceiling| (test.into(), tensor.into(), ceiling);
        Ceilings(vec![
            row("*/train", "grad.*", None),
            row("*/train", "*", Some(2e-5)),
            row("unit/ops", "*", Some(2e-5)),
        ])
    }

    fn allowed(test: &str, tensor: &str, abs: f64, max: f64) -> f64 {
        let tolerance = Tolerance { abs, max };
        (ceilings().allowed(test, tensor, tolerance, Arithmetic::Single)).expect("a row")
    }

    #[test]
    fn the_smaller_of_own_distance_and_ceiling_is_allowed() {
        assert!((allowed("A/train", "loss", 1e-7, 1.0) - 3e-6).abs() < 1e-15);
        assert_eq!(allowed("A/train", "loss", 1.0, 1.0), 2e-5);
        assert!((allowed("A/train", "grad.w", 1.0, 1.0) - 10.000002).abs() < 1e-12);
        assert_eq!(allowed("unit/ops", "y", 0.0, 1.0), 1e-5);
        assert_eq!(allowed("A/train", "grad.w", 1.0, 0.0), 0.0);
    }

    #[test]
    fn a_test_without_a_ceiling_row_is_an_error() {
        let tolerance = Tolerance { abs: 0.0, max: 1.0 };
        let error = ceilings().allowed("A/else", "x", tolerance, Arithmetic::Single);
        assert!(error.is_err());
    }

    #[test]
    fn patterns_match_whole_names() {
        assert!(matches("*/langevin_*", "A/langevin_8e-5"));
        assert!(matches("alpha_i", "alpha_i") && !matches("alpha_i", "alpha_ii"));
        assert!(!matches("*.eval.*", "a.train.b"));
    }

    #[test]
    fn shapes_and_numbers_that_are_none_fail() {
        let want = Array::vector(vec![1.0, 2.0]);
        let failed = |own: &Array| row("t", "q", own, &want, 2.0, 0.1).failure.is_some();
        assert!(!failed(&Array::vector(vec![1.05, 2.0])));
        assert!(failed(&Array::vector(vec![1.2, 2.0])));
        assert!(failed(&Array::vector(vec![f64::NAN, 2.0])));
        assert!(failed(&Array::new([2, 1], vec![1.0, 2.0])));
    }
}
