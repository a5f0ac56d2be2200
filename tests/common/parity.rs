//! A parity file with its tolerances, and the pass rule of `shared/parity/README.md`.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use safetensors::SafeTensors;
use serde::Deserialize;
use vaebm::shared::require_shared;

use super::layout::Array;

/// How far an expectation is known: the official code's own error in single precision and the largest number.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Tolerance {
    abs: f64,
    max: f64,
}

/// Which of the two rules applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// A build in single precision.
    Single,
    /// A build in double precision, limited only by the rounding of the files.
    Double,
}

/// One `<test>.safetensors` with its `.tol.json` and the ceilings.
pub struct Parity {
    test: String,
    tensors: HashMap<String, Array<f32>>,
    metadata: HashMap<String, String>,
    tolerances: HashMap<String, Tolerance>,
    /// Rows of `ceilings.json`: test pattern, tensor pattern, ceiling.
    ceilings: Vec<(String, String, Option<f64>)>,
}

fn json<T: for<'a> Deserialize<'a>>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(path: &Path) -> (HashMap<String, Array<f32>>, HashMap<String, String>) {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file =
        SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("read a moment ago");
    let metadata = header.metadata().clone().unwrap_or_default();
    let tensors = file
        .iter()
        .filter(|(_, t)| t.dtype() == safetensors::Dtype::F32);
    let arrays = tensors.map(|(name, t)| {
        let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let array = Array {
            shape: t.shape().to_vec(),
            data: t.data().chunks_exact(4).map(number).collect(),
        };
        (name.to_owned(), array)
    });
    (arrays.collect(), metadata)
}

impl Parity {
    /// Opens a test such as `unit/ops`; `None` where the files are missing (see [`require_shared`]).
    pub fn open(test: &str) -> Option<Self> {
        let folder = require_shared("parity")?;
        let (tensors, metadata) = floats(&folder.join(format!("{test}.safetensors")));
        Some(Parity {
            test: test.to_owned(),
            tensors,
            metadata,
            tolerances: json(&folder.join(format!("{test}.tol.json"))),
            ceilings: json(&folder.join("ceilings.json")),
        })
    }

    /// A setting of the test.
    pub fn setting(&self, name: &str) -> &str {
        self.metadata
            .get(name)
            .unwrap_or_else(|| panic!("{}: no setting `{name}`", self.test))
    }

    /// A tensor, input or expectation.
    pub fn tensor(&self, name: &str) -> &Array<f32> {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("{}: no tensor `{name}`", self.test))
    }

    /// A tensor that not every case has.
    pub fn find(&self, name: &str) -> Option<&Array<f32>> {
        self.tensors.get(name)
    }

    /// The names of all expectations, in order.
    pub fn expectations(&self) -> BTreeSet<String> {
        self.tolerances.keys().cloned().collect()
    }

    /// The variants of an op: the second parts of names `{op}.{variant}.{tensor}`.
    pub fn variants(&self, op: &str) -> BTreeSet<String> {
        let parts = self.tensors.keys().filter_map(|name| {
            let (head, rest) = name.split_once('.')?;
            let (variant, _) = rest.rsplit_once('.')?;
            (head == op).then(|| variant.to_owned())
        });
        parts.collect()
    }

    /// The largest difference that a value of an expectation may have.
    pub fn allowed(&self, name: &str, precision: Precision) -> f64 {
        let Tolerance { abs, max } = *self
            .tolerances
            .get(name)
            .unwrap_or_else(|| panic!("{}: `{name}` is no expectation", self.test));
        if precision == Precision::Double {
            return 2e-7 * max;
        }
        let own = match self.test.as_str() {
            // A kernel may sum in any order.
            "unit/ops" => f64::max(1e-5 * max, 10.0 * abs),
            _ => 10.0 * abs + 2e-6 * max,
        };
        let row = (self.ceilings.iter())
            .find(|(test, tensor, _)| matches(test, &self.test) && matches(tensor, name));
        let (_, _, ceiling) = row.unwrap_or_else(|| panic!("{}: no ceiling row", self.test));
        ceiling.map_or(own, |c| own.min(c * max))
    }

    /// Whether an own value, in the layout of the file, passes; else what is wrong with it.
    pub fn check(&self, name: &str, own: &Array<f64>, precision: Precision) -> Result<(), String> {
        let (want, allowed) = (self.tensor(name), self.allowed(name, precision));
        if own.shape != want.shape {
            return Err(format!("`{name}` is {:?}, not {:?}", own.shape, want.shape));
        }
        let strange = own.data.iter().filter(|v| !v.is_finite()).count();
        if strange > 0 {
            return Err(format!(
                "`{name}` has {strange} numbers that are not finite"
            ));
        }
        let difference = |i: usize| (own.data[i] - f64::from(want.data[i])).abs();
        let worst = (0..own.data.len())
            .max_by(|a, b| difference(*a).total_cmp(&difference(*b)))
            .expect("an expectation has numbers");
        let passes = difference(worst) <= allowed;
        if passes {
            return Ok(());
        }
        Err(format!(
            "`{name}` at {}: {:e} instead of {:e}, off by {:.2e}, allowed {allowed:.2e} ({precision:?})",
            vaebm::ops::testing::position(want.shape(), worst),
            own.data[worst],
            want.data[worst],
            difference(worst),
        ))
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

#[test]
fn patterns_match_whole_names() {
    assert!(matches("*/langevin_*", "A/langevin_8e-5"));
    assert!(matches("*", "anything"));
    assert!(matches("alpha_i", "alpha_i"));
    assert!(!matches("alpha_i", "alpha_ii"));
    assert!(!matches("*.eval.*", "a.train.b"));
}
