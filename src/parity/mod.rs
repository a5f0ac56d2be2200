//! Agreement with the numbers of the official implementation: runs the cases of a folder and compares every quantity.
//!
//! The folder's format is that of `shared/parity/README.md`: `<case>/<test>.safetensors` with tolerances beside it and
//! ceilings above. A case holds weights and settings of its own, so a folder of other cases, with other shapes and cell kinds,
//! runs just as well. `docs/parity.md` tells the pass rule and the traps.

mod array;
mod energies;
mod file;
mod flows;
mod machine;
mod model;
mod rule;
mod samples;
mod stage1;
mod stage2;
pub mod table;
mod unit;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use file::TestFile;
use machine::Machine;
use rule::{Ceilings, Checks};

use crate::device::{Device, DeviceError};
use crate::tensor::Shape;

/// What a comparison cannot do.
#[derive(Debug, thiserror::Error)]
pub enum ParityError {
    /// A file that cannot be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is not what the format asks for.
    #[error("{}: {message}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A folder without cases.
    #[error("{}: there is no case here: a case is a folder with `<test>.safetensors` and `<test>.tol.json`", .0.display())]
    NoCases(PathBuf),
    /// A test for which `ceilings.json` has no row.
    #[error("ceilings.json has no row for `{tensor}` of `{test}`")]
    NoCeiling {
        /// The test.
        test: String,
        /// The quantity.
        tensor: String,
    },
    /// A parameter that the weights lack.
    #[error("the weights hold no `{0}`")]
    NoWeight(String),
    /// A parameter of another shape.
    #[error("weight `{name}` has shape {found:?}, and this build's network wants {want:?}")]
    Weight {
        /// The parameter.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// Its shape here, in the official layout.
        want: Vec<usize>,
    },
    /// An input of another shape.
    #[error(
        "input `{name}` has shape {found:?} (NCHW), and this build's program wants {want} (NHWC)"
    )]
    Shape {
        /// The feed.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// Its shape here.
        want: Shape,
    },
    /// A test that this build does not know.
    #[error("this build knows no test called `{0}`")]
    UnknownTest(String),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl ParityError {
    fn read(path: &Path, source: io::Error) -> Self {
        ParityError::Read {
            path: path.to_owned(),
            source,
        }
    }

    fn malformed(path: &Path, message: impl Into<String>) -> Self {
        ParityError::Malformed {
            path: path.to_owned(),
            message: message.into(),
        }
    }
}

/// What the tests compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// The device's own kernels in single precision, against the tolerances of the files.
    Single,
    /// The plain references in double precision, against the rounding of the files.
    Double,
}

/// Makes a fresh device for each test.
pub type NewDevice<'a> = dyn Fn() -> Result<Box<dyn Device>, DeviceError> + 'a;

/// How to run.
pub struct Options<'a> {
    /// What to compute in.
    pub arithmetic: Arithmetic,
    /// Where to compute in single precision.
    pub device: &'a NewDevice<'a>,
    /// Runs only tests whose name (`A/stage1_eval`) contains this.
    pub only: Option<String>,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The test, such as `A/stage1_eval`.
    pub test: String,
    /// The quantity.
    pub quantity: String,
    /// The largest difference, over the largest expected value.
    pub max_error: f64,
    /// The root mean square of the differences, over the largest expected value.
    pub rms_error: f64,
    /// The largest difference allowed, over the largest expected value.
    pub tolerance: f64,
    /// What is wrong; `None` where it passes.
    pub failure: Option<String>,
}

impl Row {
    /// A quantity that could not be compared.
    fn failed(test: &str, quantity: &str, reason: String) -> Self {
        Row {
            test: test.to_owned(),
            quantity: quantity.to_owned(),
            max_error: f64::NAN,
            rms_error: f64::NAN,
            tolerance: f64::NAN,
            failure: Some(reason),
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Tests run.
    pub tests: usize,
    /// Quantities compared.
    pub compared: usize,
    /// The rows that failed.
    pub failures: Vec<Row>,
}

impl Summary {
    /// Whether everything passed.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Runs every test of every case under `dir`; `report` gets the rows of each test as it ends, with the time it took.
///
/// # Errors
/// A folder without cases or without readable ceilings. What is wrong with a single test is a failed row of that test.
pub fn run(
    dir: &Path,
    options: &Options<'_>,
    report: &mut dyn FnMut(&str, &[Row], Duration),
) -> Result<Summary, ParityError> {
    let ceilings = Ceilings::open(&dir.join("ceilings.json"))?;
    let mut summary = Summary::default();
    let tests = find_tests(dir)?;
    for (name, path) in &tests {
        if (options.only.as_ref()).is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let start = Instant::now();
        let rows = run_test(name, path, &ceilings, options)
            .unwrap_or_else(|e| vec![Row::failed(name, "(test)", e.to_string())]);
        report(name, &rows, start.elapsed());
        summary.tests += 1;
        summary.compared += rows.len();
        summary
            .failures
            .extend(rows.into_iter().filter(|r| r.failure.is_some()));
    }
    Ok(summary)
}

/// All tests, by name and path, in order.
fn find_tests(dir: &Path) -> Result<Vec<(String, PathBuf)>, ParityError> {
    let mut tests = Vec::new();
    for case in entries(dir)?.into_iter().filter(|p| p.is_dir()) {
        for path in entries(&case)? {
            let tensors = path.extension().is_some_and(|e| e == "safetensors");
            let tested = tensors && path.with_extension("tol.json").is_file();
            if tested || path.file_name().is_some_and(|f| f == "schedules.json") {
                let part = |p: &Path| {
                    let stem = p.file_stem().unwrap_or_default();
                    stem.to_string_lossy().into_owned()
                };
                let case = case.file_name().unwrap_or_default().to_string_lossy();
                tests.push((format!("{case}/{}", part(&path)), path));
            }
        }
    }
    match tests.is_empty() {
        true => Err(ParityError::NoCases(dir.to_owned())),
        false => Ok(tests),
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, ParityError> {
    let read = std::fs::read_dir(dir).map_err(|source| ParityError::read(dir, source))?;
    let paths = read.map(|entry| entry.map(|e| e.path()));
    let mut paths = paths
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| ParityError::read(dir, source))?;
    paths.sort();
    Ok(paths)
}

fn run_test(
    name: &str,
    path: &Path,
    ceilings: &Ceilings,
    options: &Options<'_>,
) -> Result<Vec<Row>, ParityError> {
    if path.extension().is_some_and(|e| e == "json") {
        return unit::schedules::run(name, path);
    }
    let file = TestFile::open(path, name)?;
    let mut checks = Checks::new(&file, ceilings, options.arithmetic);
    let mut machine = Machine::new(options.arithmetic, options.device)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let test = name.split_once('/').map_or(name, |(_, test)| test);
    let cx = &mut checks;
    let m = &mut machine;
    match test {
        "stage1_eval" => stage1::eval(folder, cx, m)?,
        "stage1_train" => stage1::train(folder, cx, m)?,
        "stage1_trace" => stage1::trace(folder, cx, m)?,
        "stage1_prior" => samples::prior(folder, cx, m)?,
        "stage1_bn_readjust" => samples::readjust(folder, cx, m)?,
        "vae_sample" => samples::vae_sample(folder, cx, m)?,
        "nf_cells" => flows::cells(folder, cx, m)?,
        "ebm_data_init" => energies::data_init(cx, m)?,
        "ebm_forward" => energies::forward(folder, cx, m)?,
        _ if test.starts_with("langevin_") => stage2::langevin(folder, cx, m)?,
        _ if test.starts_with("ebm_train_") => stage2::train(folder, cx, m)?,
        "ops" => unit::ops::run(cx, m)?,
        "cells" => unit::cells::run(cx, m)?,
        "distributions" => unit::distributions::run(cx, m)?,
        "adamax" | "clip_adam" => unit::optimisers::run(test, cx, m)?,
        _ if test.starts_with("ebm_") => energies::unit(cx, m)?,
        _ => return Err(ParityError::UnknownTest(name.to_owned())),
    }
    Ok(checks.finish())
}
