//! Every op's table of cases on the GPU against the plain reference in `f64`, values and gradients.

use std::collections::BTreeSet;

use vaebm::ops::registry::entries;
use vaebm::ops::testing::Case;
use vaebm::program::gpu::Precision;
use vaebm::tape::Tape;

use crate::{Check, Outcome, Planned};

/// The kernels that multiply matrices, which are what a precision is about.
fn multiplies(tape: &Tape) -> bool {
    let products = ["conv2d_", "linear_", "mbconv_"];
    (tape.op_names().iter()).any(|name| products.iter().any(|p| name.starts_with(p)))
}

/// The largest allowed difference relative to the largest number of a tensor.
///
/// A product of two rounded factors is off by two roundings, 2^-10 in tf32 (11 bits) and 2^-7 in bf16 (8 bits) at worst; the sum's largest
/// number is about as large as a sum of random signs, so a few of them add up to several times that. Factors of chained ops round again.
fn tolerance(case: &Case, tape: &Tape, precision: Precision) -> f64 {
    let rounding: f64 = match precision {
        Precision::F32 => 0.0,
        Precision::Tf32 => 4.0 * 2f64.powi(-10),
        Precision::Bf16 => 4.0 * 2f64.powi(-7),
    };
    match multiplies(tape) {
        true => case.tolerance.max(rounding),
        false => case.tolerance,
    }
}

/// One check for each folder and precision; folders without products run in f32 alone.
pub fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for entry in entries() {
        let all = (entry.cases)();
        let products = all.iter().any(|c| multiplies(&c.gradient_tape()));
        let precisions = if products {
            &Precision::ALL[..]
        } else {
            &Precision::ALL[..1]
        };
        for &precision in precisions {
            let cases = entry.cases;
            let name = format!("cases/{}/{}", entry.folder, precision.suffix());
            checks.push(Check::new(name, move |planned| {
                run(&cases(), precision, planned)
            }));
        }
    }
    checks
}

fn run(cases: &[Case], precision: Precision, planned: &mut Planned) -> Outcome {
    let mut failures = Vec::new();
    for case in cases {
        for tape in [case.value_tape(), case.gradient_tape()] {
            // A device of its own: cases share names of states.
            let tolerance = tolerance(case, &tape, precision);
            let checked = planned.on_gpu(precision, |device| {
                case.check_within(&tape, device, tolerance)
            });
            failures.extend(checked.err());
        }
    }
    let failures: BTreeSet<String> = failures.into_iter().collect();
    match failures.is_empty() {
        true => Ok(()),
        false => Err(failures.into_iter().collect::<Vec<_>>().join("\n")),
    }
}
