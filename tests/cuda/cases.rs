//! Every op's table of cases on the GPU against the plain reference in `f64`, values and gradients.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use vaebm::device::cuda::kernels::{PlanKernels, Target, gpu_kernel};
use vaebm::ops::registry::entries;
use vaebm::ops::testing::Case;
use vaebm::program::gpu::{Narrow, Precision};
use vaebm::program::variants::{self, Chooser, Site};
use vaebm::tape::Tape;

use crate::{Check, Outcome, Planned};

/// The kernels that multiply matrices, which are what a precision is about.
fn multiplies(tape: &Tape) -> bool {
    let products = ["conv2d_", "linear_", "mbconv_"];
    (tape.op_names().iter()).any(|name| products.iter().any(|p| name.starts_with(p)))
}

/// The most shared memory that a block can have on a GPU that is shipped for.
const SHARED: usize = 227 << 10;

/// Whether anything is stored as bf16 where products are made of such factors.
fn stores_bf16(tape: &Tape) -> bool {
    let kernels = PlanKernels::new(&tape.plan("case"), Target::new(Precision::Bf16, SHARED));
    let kernels = kernels.expect("a case is small").per_step;
    kernels.iter().any(|planned| planned.narrow != Narrow::NONE)
}

/// The largest allowed difference relative to the largest number of a tensor.
///
/// A number stored in bf16 is off by 2^-9 of itself at worst, and so is all that is computed from it where slopes are about one: a few such
/// numbers make up a result. A product of two rounded factors is off by two roundings, 2^-10 in tf32 (11 bits) and 2^-7 in bf16 (8 bits) at
/// worst; the sum's largest number is about as large as a sum of random signs, so a few of them add up to several times that. Factors of
/// chained ops round again.
fn tolerance(case: &Case, tape: &Tape, precision: Precision) -> f64 {
    let rounding: f64 = match precision {
        Precision::F32 => 0.0,
        Precision::Tf32 => 4.0 * 2f64.powi(-10),
        Precision::Bf16 => 4.0 * 2f64.powi(-7),
    };
    match multiplies(tape) {
        true => case.tolerance.max(rounding),
        false if precision == Precision::Bf16 => case.tolerance.max(4.0 * 2f64.powi(-8)),
        false => case.tolerance,
    }
}

/// The cases of which something is stored as bf16, if it is not what the host writes and reads.
fn stored(cases: &[Case]) -> Vec<Case> {
    let between = cases.iter().map(Case::between);
    let stores =
        |case: &Case| stores_bf16(&case.value_tape()) || stores_bf16(&case.gradient_tape());
    between.filter(stores).collect()
}

/// One check for each folder and precision; folders without products run in f32 alone, and in bf16 those cases that store it.
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
            if all.iter().flat_map(tapes).any(|t| most(&t, precision) > 1) {
                let name = format!("variants/{}/{}", entry.folder, precision.suffix());
                checks.push(Check::new(name, move |planned| {
                    run_variants(&cases(), precision, planned)
                }));
            }
        }
        if !stored(&all).is_empty() {
            let cases = entry.cases;
            let name = format!("cases/{}/stored", entry.folder);
            checks.push(Check::new(name, move |planned| {
                run(&stored(&cases()), Precision::Bf16, planned)
            }));
        }
    }
    checks
}

fn tapes(case: &Case) -> [Tape; 2] {
    [case.value_tape(), case.gradient_tape()]
}

/// Takes the variant of this number wherever there are so many, and notes how many there are at most.
#[derive(Debug, Default)]
struct Nth {
    index: usize,
    most: AtomicUsize,
}

impl Chooser for Nth {
    fn choose(&self, _site: &Site, names: &[String], rule: usize) -> Option<usize> {
        self.most.fetch_max(names.len(), Ordering::Relaxed);
        // The rule's is number 0, so that number 0 is what runs without a chooser.
        let mut order: Vec<usize> = (0..names.len()).filter(|i| *i != rule).collect();
        order.insert(0, rule);
        order.get(self.index).copied()
    }
}

/// The most variants that any op of a program has, as far as can be told without the GPU: with as much shared memory as any has.
fn most(tape: &Tape, precision: Precision) -> usize {
    let nth = Arc::new(Nth::default());
    let plan = tape.plan("variants");
    variants::with(Some(nth.clone()), || {
        for launch in plan.per_version.iter().chain(&plan.per_step) {
            let target = Target::new(precision, SHARED);
            let planned = gpu_kernel(launch, target, true, Narrow::NONE);
            assert!(planned.is_ok(), "a case is small");
        }
    });
    nth.most.load(Ordering::Relaxed)
}

/// As [`run`] with every variant but the rule's.
fn run_variants(cases: &[Case], precision: Precision, planned: &mut Planned) -> Outcome {
    let mut failures = BTreeSet::new();
    for case in cases {
        for tape in tapes(case) {
            let tolerance = tolerance(case, &tape, precision);
            for index in 1..most(&tape, precision) {
                let checked = planned.on_gpu(precision, |device| {
                    device.choose_by(Arc::new(Nth {
                        index,
                        ..Nth::default()
                    }));
                    case.check_within(&tape, device, tolerance)
                });
                failures.extend(checked.err().map(|e| format!("variant {index}: {e}")));
            }
        }
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(failures.into_iter().collect::<Vec<_>>().join("\n")),
    }
}

fn run(cases: &[Case], precision: Precision, planned: &mut Planned) -> Outcome {
    let mut failures = Vec::new();
    for case in cases {
        for tape in tapes(case) {
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
