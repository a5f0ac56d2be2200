//! `vaebm profile`: what a step costs, kernel by kernel.

use super::overrides::{Overrides, Scope};
use super::source::Source;
use crate::config::schema::Section;
use crate::config::{Config, Ebm, Run, Stage, Vae};
use crate::profile::count::{Roof, Sum};
use crate::profile::gpus::{GPUS, Gpu};
use crate::profile::{Counted, programs};
use crate::program::gpu::Precision;

#[derive(Debug)]
pub(super) struct Profiled;

impl Scope for Profiled {
    const SECTIONS: &'static [Section] = &[Vae::SECTION, Ebm::SECTION, Run::SECTION];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[
        ("run", "preset"),
        ("run", "out"),
        ("run", "keep_last"),
        ("run", "keep_every"),
    ];
}

/// Which step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum What {
    /// One Langevin step of a batch of chains.
    Langevin,
    /// One training step of the VAE.
    Stage1,
    /// One update of the energy network.
    Energy,
}

impl From<What> for programs::Program {
    fn from(what: What) -> Self {
        match what {
            What::Langevin => programs::Program::Langevin,
            What::Stage1 => programs::Program::Stage1,
            What::Energy => programs::Program::Energy,
        }
    }
}

/// What a row of the table sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum By {
    /// One kernel.
    Kernel,
    /// One kernel in one part of the network.
    Node,
}

/// Count what a step costs on a GPU, kernel by kernel, without one.
///
/// Launches, FLOPs and bytes come from the plan; times are predictions from the rates of the GPU named, not measurements.
///
/// Examples:
///   vaebm profile cifar10 --precision bf16 --batch 64
///   vaebm profile cifar10 --gpu a100 --precision bf16 --what stage1 --by node --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// GPU whose shared memory decides the kernels and whose rates make the predictions.
    #[arg(long, value_name = "NAME", default_value = "h200", value_parser = clap::builder::PossibleValuesParser::new(GPUS.map(|g| g.name)))]
    gpu: String,
    /// Chains or images per step.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: u32,
    /// Which step.
    #[arg(long, value_enum, default_value_t = What::Langevin, value_name = "WHAT")]
    what: What,
    /// What a row sums.
    #[arg(long, value_enum, default_value_t = By::Kernel, value_name = "WHAT")]
    by: By,
    /// Print everything, node by node, as one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Overrides<Profiled>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let config = args.source.resolve(&args.flags)?;
    config.check_model(match args.what {
        What::Stage1 => Stage::Vae,
        What::Langevin | What::Energy => Stage::Ebm,
    })?;
    let gpu = GPUS
        .iter()
        .find(|g| g.name == args.gpu)
        .expect("one of the values that the flag takes");
    let precision = config.run.gpu_precision();
    let counted = Counted::new(
        args.what.into(),
        &config,
        args.batch as usize,
        gpu,
        precision,
    )?;
    if args.json {
        return super::say(serde_json::json!({
            "gpu": gpu,
            "precision": precision.suffix(),
            "preset": config.run.preset,
            "counted": counted,
        }));
    }
    print(&counted, &config, gpu, precision, args.by)
}

fn print(
    counted: &Counted,
    config: &Config,
    gpu: &Gpu,
    precision: Precision,
    by: By,
) -> anyhow::Result<()> {
    let key = match by {
        By::Kernel => |n: &crate::profile::count::Node| n.kernel.to_owned(),
        By::Node => |n: &crate::profile::count::Node| format!("{} {}", n.label, n.kernel),
    };
    let rows = counted.by(gpu, precision, key);
    let wide = rows
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0)
        .max(10);
    super::say(format_args!(
        "{:?} of {}, batch {}, {} on {}: predicted from {}; nothing measured",
        counted.program,
        config.run.preset,
        counted.batch,
        precision.suffix(),
        gpu.name,
        gpu.source
    ))?;
    super::say(format_args!(
        "{:<wide$}{:>7}{:>10}{:>12}{:>12}{:>12}{:>12}  bound",
        "", "nodes", "launches", "GFLOP", "matrix", "MB", "floor us"
    ))?;
    for (name, sum) in rows.iter().map(|(n, s)| (n.as_str(), s)) {
        row(name, wide, sum)?;
    }
    row("all", wide, &counted.total)?;
    row("unfused", wide, &counted.unfused)?;
    if counted.single != counted.total {
        row("stored f32", wide, &counted.single)?;
    }
    let items = counted.batch as f64;
    let times = counted.total.roofs.map(|s| s * 1e6 / items);
    let roofs: Vec<String> = (Roof::ALL.iter().zip(times))
        .map(|(roof, us)| format!("{} {us:.1} us", roof.name()))
        .collect();
    super::say(format_args!(
        "per item: {:.3} GFLOP, {:.1} MB moved ({:.1} unfused: {:.0}%), {:.1} MB compulsory; roofs {}",
        counted.total.flops / items / 1e9,
        counted.total.bytes / items / 1e6,
        counted.unfused.bytes / items / 1e6,
        100.0 * counted.total.bytes / counted.unfused.bytes,
        counted.total.compulsory / items / 1e6,
        roofs.join(", ")
    ))?;
    if let Some(cells) = &counted.cells {
        super::say(format_args!(
            "{} residual cells: {:.1} launches each ({} to {})",
            cells.count,
            cells.launches as f64 / cells.count as f64,
            cells.range[0],
            cells.range[1]
        ))?;
    }
    super::say(format_args!(
        "activations: {:.1} MB, {:.2} MB for one more item",
        counted.activation_bytes as f64 / 1e6,
        counted.activation_bytes_per_item as f64 / 1e6
    ))
}

fn row(name: &str, wide: usize, sum: &Sum) -> anyhow::Result<()> {
    super::say(format_args!(
        "{name:<wide$}{:>7}{:>10}{:>12.3}{:>12.3}{:>12.2}{:>12.2}  {}",
        sum.nodes,
        sum.launches,
        sum.flops / 1e9,
        sum.matrix / 1e9,
        sum.bytes / 1e6,
        sum.floor * 1e6,
        sum.bound().name()
    ))
}
