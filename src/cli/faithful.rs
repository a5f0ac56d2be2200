//! `vaebm faithful`: whether chains in a lower precision are still the same chains.

use super::overrides::{Overrides, Scope};
use super::source::{Source, config_in};
use crate::checkpoint::Checkpoint;
use crate::config::schema::Section;
use crate::config::{Ebm, Run, Sample, Stage, Vae};
use crate::device::host::{Cpu, Host, Plain64};
use crate::device::{self, Device};
use crate::langevin::faithful::{Apart, Bounds, Look, Settings, compare, looks};
use crate::langevin::programs::Chains;
use crate::nvae::Nvae;
use crate::program::gpu::Precision;
use crate::run::RunFolder;
use std::path::PathBuf;

#[derive(Debug)]
pub(super) struct Compared;

impl Scope for Compared {
    const SECTIONS: &'static [Section] =
        &[Sample::SECTION, Vae::SECTION, Ebm::SECTION, Run::SECTION];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[
        ("run", "preset"),
        ("run", "out"),
        ("run", "keep_last"),
        ("run", "keep_every"),
        ("sample", "num_samples"),
        ("sample", "batch_size"),
        ("sample", "readjust_bn"),
        ("sample", "readjust_batch"),
        ("sample", "start"),
        ("sample", "image"),
        ("sample", "pixel_range"),
        ("sample", "energies"),
        ("sample", "trajectory"),
    ];
}

/// Compare chains in bf16 or tf32 with the same chains in f32.
///
/// Both start from the same noise and get the same noise in every step. Reported are, before the first step and after 1, 2, 4
/// and so on: how far the mean energy of where the chains are is off, and the worst image feature (mean and deviation of each
/// of 4x4 parts), in standard deviations over the chains; how far the value of the energy is off at one and the same state; and
/// how far the chains have drifted apart, as a share of how far they have moved.
/// Fails where a bound is exceeded. On a GPU in f32 the cpu is the reference, on the cpu its plain f64 reference.
///
/// Examples:
///   vaebm faithful cifar10 --precision bf16 --chains 64
///   vaebm faithful --weights runs/mnist --device cuda --precision bf16 --num-steps 40 --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Run folder or stage-2 checkpoint whose weights, and configuration where none is named, to use (default: random weights).
    #[arg(long, value_name = "RUN")]
    weights: Option<PathBuf>,
    /// Chains; spreads are over them.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    chains: u32,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Overrides<Compared>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let weights = match &args.weights {
        Some(run) => Some(Checkpoint::open(&RunFolder::checkpoint_at(
            run,
            Stage::Ebm,
        )?)?),
        None => None,
    };
    let config = match &weights {
        Some(checkpoint) if !args.source.is_given() => {
            (args.source).resolve_over(&config_in(checkpoint)?, &args.flags)?
        }
        _ => args.source.resolve(&args.flags)?,
    };
    config.check_model(Stage::Ebm)?;
    let chains = Chains {
        model: Nvae::new(config.vae.clone(), config.data.size, config.data.channels),
        ebm: config.ebm.clone(),
        n: args.chains as usize,
        target: config.sample.target,
        temperature: config.sample.temperature,
    };
    let settings = Settings {
        steps: u32::try_from(config.sample.num_steps)?,
        step_size: config.sample.step_size,
        seed: config.run.seed,
    };
    let run = |mut device: Box<dyn Device>, others: &mut [Look]| {
        let looks = looks(&mut *device, &chains, weights.as_ref(), settings, others)?;
        anyhow::Ok((device.name(), looks))
    };
    let (name, mut tested) = run(config.run.open_device()?, &mut [])?;
    let on_cpu = name == Cpu::new().name();
    // On the cpu everything is f32, whatever the run says.
    let precision = match on_cpu {
        true => Precision::F32,
        false => config.run.gpu_precision(),
    };
    let (against, reference) = match (on_cpu, precision) {
        (true, _) => run(Box::new(Host::<Plain64>::new()), &mut tested)?,
        (false, Precision::F32) => run(device::host::cpu(), &mut tested)?,
        (false, _) => {
            let choice = config.run.device_choice().unwrap_or_default();
            run(
                device::open(choice, config.run.threads, Precision::F32)?,
                &mut tested,
            )?
        }
    };
    let bounds = Bounds::of(precision);
    let steps = compare(&reference, &tested);
    let held = steps.iter().all(|apart| bounds.hold(apart));
    let against_in = if on_cpu { "f64" } else { "f32" };
    if args.json {
        super::say(serde_json::json!({
            "device": name,
            "precision": precision.suffix(),
            "reference": against,
            "reference_precision": against_in,
            "preset": config.run.preset,
            "chains": args.chains,
            "step_size": settings.step_size,
            "seed": settings.seed,
            "bounds": bounds,
            "faithful": held,
            "steps": steps,
        }))?;
    } else {
        let title = format!(
            "{} chains in {} on {name} against {against_in} on {against}",
            args.chains,
            precision.suffix()
        );
        print(&title, &steps, bounds, held)?;
    }
    if held {
        return Ok(());
    }
    anyhow::bail!(
        "chains in {} are not those in {against_in}: a bound is exceeded, see above; use a higher --precision",
        precision.suffix()
    )
}

fn print(title: &str, steps: &[Apart], bounds: Bounds, held: bool) -> anyhow::Result<()> {
    super::say(title)?;
    super::say(format_args!(
        "{:>6}{:>14}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}",
        "step", "energy", "spread", "mean off", "value off", "feature off", "moved", "drift"
    ))?;
    for a in steps {
        super::say(format_args!(
            "{:>6}{:>14.6}{:>12.3e}{:>12.2e}{:>12.2e}{:>12.2e}{:>12.3e}{:>12.2e}",
            a.step,
            a.energy,
            a.energy_spread,
            a.energy_bias,
            a.value,
            a.feature_bias,
            a.moved,
            a.drift
        ))?;
    }
    let outcome = if held { "hold" } else { "do not hold" };
    super::say(format_args!(
        "bounds {outcome}: mean and feature off by at most {} spreads, value by {:.1e} of itself, drift at most {} of the way moved",
        bounds.bias, bounds.value, bounds.drift
    ))
}
