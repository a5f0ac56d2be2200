//! Measuring the kernels that compute the same, on the GPU at hand: what `vaebm tune` writes into the table of
//! [`crate::device::cuda::table`].
//!
//! Every place of a plan where an op has a choice ([`crate::program::variants`]) is measured once: the whole op with each variant, all of
//! them by turns, the L2 cache flushed before each, medians over the rounds. The rule's variant stays unless another is faster by
//! [`GAIN`], so that noise does not fill the table with choices that mean nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::device::DeviceError;
use crate::device::cuda::Cuda;
use crate::device::cuda::kernels::{PlanKernels, Target, gpu_kernel};
use crate::device::cuda::table::Choice;
use crate::program::gpu::{GpuKernel, Narrow};
use crate::program::variants::{self, Chooser, Site};
use crate::program::{Launch, Plan};

/// Time of a variant relative to the rule's below which it takes its place.
pub const GAIN: f64 = 0.97;

/// Notes every site that is asked about, and answers as the rule.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<(Site, Vec<String>, usize)>>);

impl Chooser for Notes {
    fn choose(&self, site: &Site, names: &[String], rule: usize) -> Option<usize> {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.iter().all(|(known, _, _)| known != site) {
            notes.push((site.clone(), names.to_vec(), rule));
        }
        None
    }
}

/// Answers for one site, and as the rule elsewhere.
#[derive(Debug)]
struct Only(Site, usize);

impl Chooser for Only {
    fn choose(&self, site: &Site, _names: &[String], _rule: usize) -> Option<usize> {
        (*site == self.0).then_some(self.1)
    }
}

/// A place where an op has a choice, with a launch that meets it.
#[derive(Clone, Debug)]
pub struct Place<'p> {
    /// Which.
    pub site: Site,
    /// The variants' names.
    pub names: Vec<String>,
    /// The one of the rule.
    pub rule: usize,
    launch: &'p Launch,
    /// How the plan stores its tensors.
    narrow: Narrow,
}

/// Every place of the plans' steps where there is a choice on this GPU, each once. What is computed once per parameter version is left
/// alone.
///
/// # Errors
/// A tensor too large for the kernels.
pub fn places<'p>(
    gpu: &Cuda,
    plans: impl IntoIterator<Item = &'p Plan>,
) -> Result<Vec<Place<'p>>, DeviceError> {
    let (mut known, mut places) = (BTreeSet::new(), Vec::new());
    for plan in plans {
        let kernels = PlanKernels::new(plan, target(gpu))?;
        for (launch, planned) in plan.per_step.iter().zip(kernels.per_step) {
            let narrow = planned.narrow;
            let notes = Arc::new(Notes::default());
            kernel(gpu, launch, narrow, notes.clone())?;
            let mut noted = notes.0.lock().unwrap_or_else(PoisonError::into_inner);
            for (site, names, rule) in noted.drain(..) {
                if known.insert(site.clone()) {
                    places.push(Place {
                        site,
                        names,
                        rule,
                        launch,
                        narrow,
                    });
                }
            }
        }
    }
    Ok(places)
}

fn target(gpu: &Cuda) -> Target {
    Target::new(gpu.precision(), gpu.shared()).with_sm_90a(gpu.is_sm_90a())
}

fn kernel(
    gpu: &Cuda,
    launch: &Launch,
    narrow: Narrow,
    chooser: Arc<dyn Chooser>,
) -> Result<GpuKernel, DeviceError> {
    variants::with(Some(chooser), || {
        gpu_kernel(launch, target(gpu), true, narrow)
    })
}

/// What was measured at a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Microseconds of the op with each variant: medians over the rounds.
    pub microseconds: Vec<f64>,
    /// What goes into the table.
    pub choice: Choice,
}

/// Measures every variant at a place.
///
/// # Errors
/// A device that fails, or has too little memory for this op alone.
pub fn measure(gpu: &mut Cuda, place: &Place<'_>, rounds: usize) -> Result<Measured, DeviceError> {
    let variants = 0..place.names.len();
    let kernels = variants.map(|v| {
        let chooser = Arc::new(Only(place.site.clone(), v));
        kernel(gpu, place.launch, place.narrow, chooser)
    });
    let kernels: Vec<GpuKernel> = kernels.collect::<Result<_, _>>()?;
    let times = gpu.time_kernels(place.launch, place.narrow, kernels, rounds.max(1))?;
    let microseconds = times.into_iter().map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2] * 1e6
    });
    Ok(chosen(place, microseconds.collect()))
}

/// The fastest variant, or the rule's where none is much faster.
fn chosen(place: &Place<'_>, microseconds: Vec<f64>) -> Measured {
    let at_rule = microseconds[place.rule];
    let mut best = place.rule;
    for (variant, time) in microseconds.iter().enumerate() {
        if *time < GAIN * at_rule && *time < microseconds[best] {
            best = variant;
        }
    }
    let choice = Choice {
        op: place.site.op.into(),
        precision: place.site.precision.into(),
        shape: place.site.shape.clone(),
        variant: place.names[best].clone(),
        microseconds: microseconds[best],
        rule: place.names[place.rule].clone(),
        rule_microseconds: at_rule,
    };
    Measured {
        microseconds,
        choice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::profile::programs::Program;
    use crate::program::gpu::Precision;

    #[test]
    fn a_variant_takes_the_rules_place_when_it_is_clearly_faster() {
        let config = Config::preset("toy").unwrap();
        let plan = Program::Langevin.plan(&config, 1);
        let place = Place {
            site: Site::new("op", vec![1], Precision::F32),
            names: ["a", "b", "c"].map(String::from).into(),
            rule: 1,
            launch: &plan.per_step[0],
            narrow: Narrow::NONE,
        };
        let variant = |times: [f64; 3]| chosen(&place, times.into()).choice.variant;
        assert_eq!(variant([9.9, 10.0, 9.8]), "b", "noise");
        assert_eq!(variant([9.0, 10.0, 8.0]), "c");
        assert_eq!(variant([9.0, 10.0, 12.0]), "a");
        assert_eq!(variant([f64::NAN, 10.0, f64::NAN]), "b");
        let measured = chosen(&place, vec![9.0, 10.0, 8.0]);
        assert_eq!(measured.choice.rule_microseconds, 10.0);
    }

    #[test]
    fn a_step_has_places_of_several_ops() {
        let config = Config::preset("toy").unwrap();
        let plan = Program::Stage1.plan(&config, 2);
        let notes = Arc::new(Notes::default());
        let target = Target::new(Precision::Bf16, 227 << 10);
        for launch in &plan.per_step {
            variants::with(Some(notes.clone()), || {
                gpu_kernel(launch, target, true, Narrow::NONE).unwrap()
            });
        }
        let noted = notes.0.lock().unwrap();
        let ops: BTreeSet<&str> = noted.iter().map(|(site, _, _)| site.op).collect();
        for op in [
            "conv2d_fprop",
            "conv2d_dgrad",
            "conv2d_wgrad",
            "column_sums",
        ] {
            assert!(ops.contains(op), "{ops:?}");
        }
        assert!(
            noted
                .iter()
                .all(|(_, names, rule)| names.len() > 1 && *rule < names.len())
        );
    }
}
