//! `vaebm profile`: what a step costs, kernel by kernel.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::overrides::{Overrides, Scope};
use super::source::Source;
use crate::bench;
use crate::config::schema::Section;
use crate::config::{Config, Ebm, Run, Stage, Vae};
use crate::device::cuda::kernels::Target;
use crate::profile::count::{Node, Roof, Sum, count};
use crate::profile::counters::{Unit, largest};
use crate::profile::gpus::{GPUS, Gpu};
use crate::profile::measure::{by, chrome_trace};
use crate::profile::plot::{Dot, roofline};
use crate::profile::{Counted, programs, report};
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

/// Tell what a step costs on a GPU, kernel by kernel: counted without one, or measured.
///
/// Counted: launches, FLOPs and bytes come from the plan; times are predictions from the rates of the GPU named. With --counters they come
/// from a report of `ptxsim exec`, in which each unit of the GPU has its own roof. With --measure the step runs on the device at hand.
///
/// Examples:
///   vaebm profile cifar10 --precision bf16 --batch 64 --roofline step.svg
///   vaebm profile cifar10 --gpu a100 --precision bf16 --what stage1 --by node --json
///   ptxsim exec --report counts.json -- vaebm bench toy --device cuda --what langevin --seconds 0.1
///   vaebm profile toy --counters counts.json
///   vaebm profile cifar10 --measure --device cuda --precision bf16 --trace step.json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// GPU whose shared memory decides the kernels and whose rates make the predictions (default: h200; with --measure the device's own).
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(GPUS.each_ref().map(|g| g.name)))]
    gpu: Option<String>,
    /// Chains or images per step.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: u32,
    /// Which step.
    #[arg(long, value_enum, default_value_t = What::Langevin, value_name = "WHAT")]
    what: What,
    /// What a row sums.
    #[arg(long, value_enum, default_value_t = By::Kernel, value_name = "WHAT")]
    by: By,
    /// Tell what this report of `ptxsim exec --report` counted.
    #[arg(long, value_name = "FILE.json", conflicts_with = "measure")]
    counters: Option<PathBuf>,
    /// Run the step on the device and time each of its nodes.
    #[arg(long)]
    measure: bool,
    /// Draw a roofline plot into this file, a dot for each row.
    #[arg(long, value_name = "FILE.svg")]
    roofline: Option<PathBuf>,
    /// Write the measured step, node by node, to this file as a Chrome trace (chrome://tracing, Perfetto).
    #[arg(long, value_name = "FILE.json", requires = "measure")]
    trace: Option<PathBuf>,
    /// Print everything, node by node, as one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Overrides<Profiled>,
}

impl Args {
    /// The GPU named.
    fn gpu(&self) -> Option<&'static Gpu> {
        let named = self.gpu.as_deref()?;
        GPUS.iter().find(|g| g.name == named)
    }

    /// Draws the plot if it is asked for.
    fn draw(
        &self,
        title: &str,
        gpu: &Gpu,
        precision: Precision,
        dots: impl Iterator<Item = Dot>,
    ) -> anyhow::Result<()> {
        let Some(path) = &self.roofline else {
            return Ok(());
        };
        let dots: Vec<Dot> = dots.collect();
        written(path, &roofline(title, gpu, precision, &dots))
    }
}

fn written(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("{} could not be written", path.display()))
}

/// What a row is called.
fn key(by: By) -> fn(&Node) -> String {
    match by {
        By::Kernel => |n| n.kernel.to_owned(),
        By::Node => |n| format!("{} {}", n.label, n.kernel),
    }
}

/// The width of a table's first column.
fn width<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(str::len).max().unwrap_or(0).max(10)
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let config = args.source.resolve(&args.flags)?;
    config.check_model(match args.what {
        What::Stage1 => Stage::Vae,
        What::Langevin | What::Energy => Stage::Ebm,
    })?;
    if let Some(path) = &args.counters {
        return counters(&args, &config, path);
    }
    if args.measure {
        return measured(&args, &config);
    }
    let gpu = args.gpu().unwrap_or(&GPUS[0]);
    let precision = config.run.gpu_precision();
    let counted = Counted::new(
        args.what.into(),
        &config,
        args.batch as usize,
        gpu,
        precision,
    )?;
    let title = format!(
        "{:?} of {}, batch {}, {} on {}: predicted, nothing measured",
        counted.program,
        config.run.preset,
        counted.batch,
        precision.suffix(),
        gpu.name
    );
    let rows = counted.by(gpu, precision, key(args.by));
    let dots = rows.iter().map(|(name, sum)| Dot {
        label: name.clone(),
        flops: sum.flops,
        bytes: sum.bytes,
        seconds: sum.floor,
    });
    args.draw(&title, gpu, precision, dots)?;
    if args.json {
        return super::say(serde_json::json!({
            "gpu": gpu,
            "precision": precision.suffix(),
            "preset": config.run.preset,
            "counted": counted,
        }));
    }
    print(&counted, &config, (gpu, precision), &rows)
}

/// A report of the simulator, kernel by kernel.
fn counters(args: &Args, config: &Config, path: &Path) -> anyhow::Result<()> {
    let gpu = args.gpu().unwrap_or(&GPUS[0]);
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} could not be read", path.display()))?;
    let kernels = report::read(&text, gpu).with_context(|| {
        format!(
            "{} is no report: `ptxsim exec --report FILE.json -- COMMAND` writes one",
            path.display()
        )
    })?;
    let title = format!(
        "{}, counted by ptxsim, each kernel at its largest roof on {}; nothing measured",
        path.display(),
        gpu.name
    );
    let dots = kernels.iter().map(|k| Dot {
        label: k.kernel.clone(),
        flops: k.counters.all_flops(),
        bytes: k.dram_bytes(),
        seconds: k.seconds,
    });
    args.draw(&title, gpu, config.run.gpu_precision(), dots)?;
    if args.json {
        return super::say(serde_json::json!({ "gpu": gpu, "kernels": kernels }));
    }
    super::say(title)?;
    let wide = width(kernels.iter().map(|k| k.kernel.as_str()));
    let units: String = Unit::ALL
        .iter()
        .map(|u| format!("{:>9}", u.name()))
        .collect();
    super::say(format_args!(
        "{:<wide$}{:>9}{:>10}{:>9}{:>9}{:>9}{units}{:>7}{:>6}{:>7}  bound",
        "us", "launches", "GFLOP", "MB", "MB L2", "us", "coal", "16 B", "banks"
    ))?;
    for k in &kernels {
        let each: String = k
            .units
            .iter()
            .map(|s| format!("{:>9.2}", s * 1e6))
            .collect();
        super::say(format_args!(
            "{:<wide$}{:>9}{:>10.4}{:>9.2}{:>9.2}{:>9.2}{each}{:>6.0}%{:>5.0}%{:>6.1}%  {}",
            k.kernel,
            k.launches,
            k.counters.all_flops() / 1e9,
            k.dram_bytes() / 1e6,
            k.l2_bytes() / 1e6,
            k.seconds * 1e6,
            100.0 * k.counters.coalescing(),
            100.0 * k.counters.wide_share(),
            100.0 * k.counters.conflict_share(),
            largest(&k.units).0.name()
        ))?;
    }
    Ok(())
}

/// The step on the device at hand, node by node.
fn measured(args: &Args, config: &Config) -> anyhow::Result<()> {
    let what = match args.what {
        What::Langevin => bench::What::Langevin,
        What::Stage1 => bench::What::Stage1,
        What::Energy => bench::What::Energy,
    };
    let batch = args.batch as usize;
    let mut device = config.run.open_device()?;
    let name = device.name();
    let gpu = args.gpu().or_else(|| Gpu::of_device(&name)).with_context(|| {
        format!(
            "the rates of {name} are not known: name a GPU to hold it against with --gpu, or take `vaebm bench --profile`, which tells \
             times alone"
        )
    })?;
    let precision = config.run.gpu_precision();
    let timed = bench::Bench::new(config, &mut *device, batch, None, &[what])?.nodes(what)?;
    let plan = programs::Program::from(args.what).plan(config, batch);
    let target = Target::new(precision, gpu.shared).with_sm_90a(gpu.sm_90a);
    let counted = count(&plan, target)?;
    let title = format!(
        "{what:?} of {}, batch {batch}, {} on {name}: measured node by node, outside of any graph",
        config.run.preset,
        precision.suffix()
    );
    let rows = by(&timed, &counted, (gpu, precision), key(args.by));
    let dots = rows.iter().map(|(label, row)| Dot {
        label: label.clone(),
        flops: row.counted.flops,
        bytes: row.counted.bytes,
        seconds: row.seconds,
    });
    args.draw(&title, gpu, precision, dots)?;
    if let Some(path) = &args.trace {
        written(path, &chrome_trace(&title, &timed).to_string())?;
    }
    if args.json {
        let rows: serde_json::Map<_, _> = (rows.iter())
            .map(|(label, row)| Ok((label.clone(), serde_json::to_value(row)?)))
            .collect::<serde_json::Result<_>>()?;
        return super::say(serde_json::json!({
            "device": name,
            "gpu": gpu,
            "precision": precision.suffix(),
            "preset": config.run.preset,
            "batch": batch,
            "measured": rows,
            "nodes": timed,
        }));
    }
    super::say(title)?;
    let wide = width(rows.iter().map(|(label, _)| label.as_str()));
    let shares: String = (Roof::ALL.iter())
        .map(|r| format!("{:>9}", r.name()))
        .collect();
    super::say(format_args!(
        "{:<wide$}{:>7}{:>10}{:>11}{:>11}{:>11}{shares}  share of {}'s roofs",
        "", "nodes", "launches", "us", "GFLOP/s", "GB/s", gpu.name
    ))?;
    for (label, row) in &rows {
        let shares: String = (row.shares().iter())
            .map(|s| format!("{:>8.1}%", 100.0 * s))
            .collect();
        let per_second = |count: f64| count / row.seconds.max(1e-12) / 1e9;
        super::say(format_args!(
            "{label:<wide$}{:>7}{:>10}{:>11.1}{:>11.1}{:>11.1}{shares}",
            row.counted.nodes,
            row.counted.launches,
            row.seconds * 1e6,
            per_second(row.counted.flops),
            per_second(row.counted.bytes)
        ))?;
    }
    Ok(())
}

fn print(
    counted: &Counted,
    config: &Config,
    (gpu, precision): (&Gpu, Precision),
    rows: &[(String, Sum)],
) -> anyhow::Result<()> {
    let wide = width(rows.iter().map(|(name, _)| name.as_str()));
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
