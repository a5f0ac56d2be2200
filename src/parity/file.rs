//! Reading the files of a test: tensors, settings, tolerances, ceilings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;

use super::ParityError;
use super::array::Array;

/// How far an expectation is known.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
pub(super) struct Tolerance {
    /// The largest distance of the official single-precision run from the double-precision one.
    pub abs: f64,
    /// The largest absolute value.
    pub max: f64,
}

/// `<test>.safetensors` with its `<test>.tol.json`.
#[derive(Debug)]
pub(super) struct TestFile {
    /// Its name below the folder of cases, such as `A/stage1_eval`.
    pub name: String,
    path: PathBuf,
    tensors: BTreeMap<String, Array>,
    settings: BTreeMap<String, String>,
    expectations: BTreeMap<String, Tolerance>,
}

impl TestFile {
    /// Reads a test. Every tensor is either an input or has a tolerance.
    pub fn open(path: &Path, name: &str) -> Result<Self, ParityError> {
        let (tensors, settings) = tensors(path)?;
        let tolerances = path.with_extension("tol.json");
        let expectations: BTreeMap<String, Tolerance> = json(&tolerances)?;
        let inputs: BTreeSet<&str> = settings
            .get("inputs")
            .map(|list| list.split(',').collect())
            .unwrap_or_default();
        let malformed = |message: String| ParityError::malformed(path, message);
        for tensor in tensors.keys() {
            let (is_input, is_expected) = (
                inputs.contains(tensor.as_str()),
                expectations.contains_key(tensor),
            );
            if is_input == is_expected {
                return Err(malformed(format!(
                    "tensor `{tensor}` must be either listed in `inputs` or given a tolerance in {}",
                    tolerances.display()
                )));
            }
        }
        if let Some(tensor) = expectations.keys().find(|t| !tensors.contains_key(*t)) {
            return Err(malformed(format!(
                "{} names `{tensor}`, which is not there",
                tolerances.display()
            )));
        }
        Ok(TestFile {
            name: name.to_owned(),
            path: path.to_owned(),
            tensors,
            settings,
            expectations,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about this file.
    pub fn error(&self, message: impl Into<String>) -> ParityError {
        ParityError::malformed(&self.path, message)
    }

    /// A tensor, in the layout of the files.
    pub fn tensor(&self, name: &str) -> Result<&Array, ParityError> {
        self.find(name)
            .ok_or_else(|| self.error(format!("there is no tensor `{name}`")))
    }

    /// A tensor that not every case has.
    pub fn find(&self, name: &str) -> Option<&Array> {
        self.tensors.get(name)
    }

    /// A constant of the run. Stored in single precision, it stands for the decimal number that prints like it (trap 1).
    pub fn constant(&self, name: &str) -> Result<f64, ParityError> {
        match self.tensor(name)?.data[..] {
            [value] => Ok(decimal(value)),
            _ => Err(self.error(format!("`{name}` is not a single number"))),
        }
    }

    /// A setting.
    pub fn setting(&self, name: &str) -> Result<&str, ParityError> {
        self.settings
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| self.error(format!("its metadata has no `{name}`")))
    }

    /// A setting that is a number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T, ParityError> {
        let text = self.setting(name)?;
        text.parse()
            .map_err(|_| self.error(format!("its metadata has `{name}` = `{text}`")))
    }

    /// All expectations.
    pub fn expectations(&self) -> &BTreeMap<String, Tolerance> {
        &self.expectations
    }

    /// All tensors in order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.tensors
            .iter()
            .map(|(name, array)| (name.as_str(), array))
    }

    /// The tensors whose name starts with `prefix`, by the rest of their names.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Array)> {
        self.tensors()
            .filter_map(move |(name, array)| Some((name.strip_prefix(prefix)?, array)))
    }

    /// How many consecutive numbers from 0 on make a name of a tensor.
    pub fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..)
            .take_while(|i| self.tensors.contains_key(&name(*i)))
            .count()
    }
}

/// A weight file: a full state dict.
pub(super) fn state_dict(path: &Path) -> Result<BTreeMap<String, Array>, ParityError> {
    Ok(tensors(path)?.0)
}

type Contents = (BTreeMap<String, Array>, BTreeMap<String, String>);

fn tensors(path: &Path) -> Result<Contents, ParityError> {
    let bytes = std::fs::read(path).map_err(|source| ParityError::read(path, source))?;
    let malformed = |e: safetensors::SafeTensorError| ParityError::malformed(path, e.to_string());
    let file = SafeTensors::deserialize(&bytes).map_err(malformed)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(malformed)?;
    let mut arrays = BTreeMap::new();
    for (name, view) in file.iter() {
        let data = view.data();
        let numbers: Vec<f64> = match view.dtype() {
            Dtype::F32 => (data.as_chunks().0.iter())
                .map(|b| f64::from(f32::from_le_bytes(*b)))
                .collect(),
            // Counters alone are whole numbers, and small ones.
            Dtype::I64 => (data.as_chunks().0.iter())
                .map(|b| i64::from_le_bytes(*b) as f64)
                .collect(),
            other => {
                return Err(ParityError::malformed(
                    path,
                    format!("tensor `{name}` is {other:?}, not F32"),
                ));
            }
        };
        arrays.insert(name.to_owned(), Array::new(view.shape(), numbers));
    }
    let settings = header.metadata().clone().unwrap_or_default();
    Ok((arrays, settings.into_iter().collect()))
}

/// Reads a JSON file.
pub(super) fn json<T: DeserializeOwned>(path: &Path) -> Result<T, ParityError> {
    let text = std::fs::read_to_string(path).map_err(|source| ParityError::read(path, source))?;
    serde_json::from_str(&text).map_err(|e| ParityError::malformed(path, e.to_string()))
}

/// The decimal number that a number stored in single precision was written as: 0.7 for the `f32` nearest to 0.7.
fn decimal(stored: f64) -> f64 {
    (stored as f32).to_string().parse().unwrap_or(stored)
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn constants_are_the_decimal_numbers_they_were() {
        assert_eq!(decimal(f64::from(0.7f32)), 0.7);
        assert_eq!(decimal(1.0), 1.0);
        assert_eq!(decimal(f64::from(4e-5f32)), 4e-5);
    }
}
