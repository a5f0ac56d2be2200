//! `vaebm tune`: the fastest of the kernels that compute the same, measured on the GPU at hand.

use super::overrides::{Overrides, Scope};
use super::source::Source;
use crate::config::schema::Section;
use crate::config::{Config, Ebm, Run, Stage, Vae};
use crate::device::DeviceChoice;
use crate::device::cuda::table::{self, Found, Table};
use crate::device::cuda::{Cuda, driver};
use crate::profile::programs::Program;
use crate::tune;
use anyhow::Context;
use std::path::Path;

#[derive(Debug)]
pub(super) struct Tuned;

impl Scope for Tuned {
    const SECTIONS: &'static [Section] = &[Vae::SECTION, Ebm::SECTION, Run::SECTION];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[
        ("run", "preset"),
        ("run", "out"),
        ("run", "keep_last"),
        ("run", "keep_every"),
        ("run", "seed"),
    ];
}

/// Whose kernels are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum What {
    /// The Langevin step of a batch of chains.
    Langevin,
    /// The training step of the VAE.
    Stage1,
    /// The update of the energy network.
    Energy,
}

impl From<What> for Program {
    fn from(what: What) -> Self {
        match what {
            What::Langevin => Program::Langevin,
            What::Stage1 => Program::Stage1,
            What::Energy => Program::Energy,
        }
    }
}

/// Measure which of several kernels is the fastest for each shape, on the GPU at hand.
///
/// Where an op has several kernels that compute the same, a rule chooses one. This measures all of them for the shapes of PRESET's steps
/// and keeps what is faster in the user's cache ($VAEBM_CACHE/tune, or vaebm/tune in $XDG_CACHE_HOME or ~/.cache), in one file for each
/// GPU and driver. Every command that computes on that GPU then takes it from there; machine.json and `vaebm bench` say so.
///
/// Examples:
///   vaebm tune cifar10 --precision bf16 --batch 64,512
///   vaebm tune toy,medium --what langevin --json
///   vaebm tune --reset
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Chains or images per step.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "64", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: Vec<u32>,
    /// The steps whose kernels are measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["langevin", "stage1", "energy"], value_name = "WHAT")]
    what: Vec<What>,
    /// Times that each kernel is measured; the median counts.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Delete the table of this GPU and driver, and measure nothing.
    #[arg(long, conflicts_with_all = ["preset", "config"])]
    reset: bool,
    /// Print what was measured, every variant of every place, as one JSON array.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Overrides<Tuned>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let configs: Vec<Config> = match args.reset {
        true => vec![args.source.resolve_over(&Config::default(), &args.flags)?],
        false => (args.source.each().iter())
            .map(|source| source.resolve(&args.flags))
            .collect::<Result<_, _>>()?,
    };
    let Some(run) = configs.first().map(|config| &config.run) else {
        unreachable!("one configuration at least");
    };
    let ordinal = match run.device_choice().unwrap_or_default() {
        DeviceChoice::Cuda(ordinal) => ordinal.into(),
        DeviceChoice::Auto if driver::survey().is_ok() => 0,
        DeviceChoice::Auto | DeviceChoice::Cpu => {
            return super::say(
                "nothing to tune: the cpu device has one kernel for each op (--device cuda names a GPU)",
            );
        }
    };
    let mut gpu = Cuda::new(ordinal, run.gpu_precision())?;
    let (device, driver) = (crate::device::Device::name(&gpu), driver::name()?);
    let path = table::path(&device, &driver).with_context(|| {
        format!(
            "there is no place for a cache: set {}, or HOME",
            table::CACHE
        )
    })?;
    if args.reset {
        return reset(&path);
    }
    for config in configs.iter().filter(|_| args.what != [What::Stage1]) {
        config.check_model(Stage::Ebm)?;
    }
    let mut kept = match Table::read(&path, &device, &driver)? {
        Found::Table(table) => table,
        Found::Nothing | Found::Stale => Table::new(&device, &driver),
    };
    let mut plans = Vec::new();
    for config in &configs {
        for batch in &args.batch {
            let plan = |what: &What| Program::from(*what).plan(config, *batch as usize);
            plans.extend(args.what.iter().map(plan));
        }
    }
    let places = tune::places(&gpu, &plans)?;
    let (mut changed, mut report) = (0, Vec::new());
    for place in &places {
        let measured = tune::measure(&mut gpu, place, args.rounds as usize)?;
        let choice = &measured.choice;
        changed += usize::from(choice.variant != choice.rule);
        if args.json {
            report.push(serde_json::json!({
                "site": choice,
                "variants": place.names,
                "microseconds": measured.microseconds,
            }));
        } else {
            super::say(format_args!(
                "{:<14} {:<5} {:<14} {:>10.1} us{}  {:?}",
                choice.op,
                choice.precision,
                choice.variant,
                choice.microseconds,
                match choice.variant == choice.rule {
                    true => format!("{:<34}", " (the rule's)"),
                    false => format!(
                        "{:<34}",
                        format!(
                            " instead of {} {:.1}",
                            choice.rule, choice.rule_microseconds
                        )
                    ),
                },
                choice.shape
            ))?;
        }
        kept.put(measured.choice);
    }
    kept.write(&path)?;
    if args.json {
        return super::say(serde_json::to_string(&report)?);
    }
    super::say(format_args!(
        "{} places measured on {device}, {changed} of them with another kernel than the rule's; {} choices in {}",
        places.len(),
        kept.len(),
        path.display()
    ))
}

/// Deletes the table.
fn reset(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => super::say(format_args!("deleted {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            super::say(format_args!("there was no {}", path.display()))
        }
        Err(error) => {
            Err(error).with_context(|| format!("{} could not be deleted", path.display()))
        }
    }
}
