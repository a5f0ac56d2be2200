//! `vaebm bench`: how fast this machine is.

use super::overrides::{Overrides, Scope};
use super::source::Source;
use crate::bench::rows::{self, Request, Row};
use crate::bench::{self, What, compare};
use crate::checkpoint::Checkpoint;
use crate::config::schema::Section;
use crate::config::{Config, Ebm, Precision, Run, Stage, Vae};
use crate::profile::measure::chrome_trace;
use crate::run::RunFolder;
use anyhow::Context;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Benched;

impl Scope for Benched {
    const SECTIONS: &'static [Section] = &[Vae::SECTION, Ebm::SECTION, Run::SECTION];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[
        ("run", "preset"),
        ("run", "out"),
        ("run", "keep_last"),
        ("run", "keep_every"),
        ("run", "precision"),
    ];
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Timed {
    /// One Langevin step of a batch of chains.
    Langevin,
    /// One training step of the VAE.
    Stage1,
    /// One update of the energy network, its negatives decoded.
    Energy,
    /// Sampling end to end: chains started, moved, decoded, and their images on the host.
    Sample,
}

impl From<Timed> for What {
    fn from(what: Timed) -> Self {
        match what {
            Timed::Langevin => What::Langevin,
            Timed::Stage1 => What::Stage1,
            Timed::Energy => What::Energy,
            Timed::Sample => What::Sample,
        }
    }
}

/// Precision of matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Products {
    /// IEEE single precision.
    F32,
    /// TF32 (CUDA).
    Tf32,
    /// bfloat16 (CUDA).
    Bf16,
}

impl From<Products> for Precision {
    fn from(products: Products) -> Self {
        match products {
            Products::F32 => Precision::F32,
            Products::Tf32 => Precision::Tf32,
            Products::Bf16 => Precision::Bf16,
        }
    }
}

/// Measure chain-steps/s of the Langevin step, steps/s of both stages, and sampling end to end.
///
/// PRESET, --batch, --precision, --steps and --what take lists separated by commas: every combination is measured, on a device opened
/// for it, and makes a row.
///
/// Examples:
///   vaebm bench toy
///   vaebm bench toy,medium --batch 16,64 --what langevin,stage1,energy --json > old.json
///   vaebm bench cifar10 --device cuda --precision f32,bf16 --batch 64,512 --steps 1,16
///   vaebm bench cifar10 --device cuda --precision bf16 --what sample --batch 50 --steps 16
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Images or chains per step.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "16", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: Vec<u32>,
    /// Langevin steps of one submission; of sampling, those of each image.
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    steps: Vec<u32>,
    /// Precision of matrix products on a GPU (default: the configuration's).
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    precision: Vec<Products>,
    /// Print the rows as one JSON array.
    #[arg(long)]
    json: bool,
    /// What to time.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["langevin", "stage1"], value_name = "WHAT")]
    what: Vec<Timed>,
    /// Seconds to spend on each row.
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// Run folder or stage-2 checkpoint whose weights to use (default: random ones from the seed).
    #[arg(long, value_name = "RUN")]
    weights: Option<PathBuf>,
    /// Print where a step's time goes, by kernel.
    #[arg(long, conflicts_with = "json")]
    profile: bool,
    /// Write one step, node by node, to this file as a Chrome trace (chrome://tracing, Perfetto).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "interactive", "dump"])]
    trace: Option<PathBuf>,
    /// Measure on request: reads `langevin S`, `stage1 S`, `energy S` and `sample S` from standard input, answers with JSON lines.
    #[arg(long, conflicts_with = "json")]
    interactive: bool,
    /// Instead of measuring, write a short chain with all its inputs to this folder, for checking another implementation.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["json", "interactive"])]
    dump: Option<PathBuf>,
    /// Say how each row changed since this report of `--json`, and whether that is more than noise.
    #[arg(long, value_name = "OLD.json", conflicts_with_all = ["json", "interactive", "dump", "profile", "trace"])]
    compare: Option<PathBuf>,
    /// Instead of measuring, submit this many runs and then those that an attached profiler records, as `nsys profile -c cudaProfilerApi`.
    #[arg(long, value_name = "N", requires = "capture_steps", conflicts_with_all = ["json", "interactive", "dump", "compare", "profile", "trace"])]
    capture_from: Option<u32>,
    /// How many runs it records.
    #[arg(long, value_name = "K", requires = "capture_from", value_parser = clap::value_parser!(u32).range(1..))]
    capture_steps: Option<u32>,
    #[command(flatten)]
    flags: Overrides<Benched>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86400.0 => Ok(seconds),
        _ => Err("it must be a number above 0 and at most 86400".into()),
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    if args.trace.is_some() && args.what.len() > 1 {
        anyhow::bail!("--trace is of one step: name it, as in --what langevin");
    }
    let configs = configurations(&args)?;
    let chains = args.what.iter().any(|w| *w != Timed::Stage1) || args.dump.is_some();
    for config in configs.iter().filter(|_| chains) {
        config.check_model(Stage::Ebm)?;
    }
    let weights = match &args.weights {
        Some(run) => Some(Checkpoint::open(&RunFolder::checkpoint_at(
            run,
            Stage::Ebm,
        )?)?),
        None => None,
    };
    let single = [
        (args.dump.is_some(), "--dump"),
        (args.interactive, "--interactive"),
        (args.profile, "--profile"),
        (args.trace.is_some(), "--trace"),
        (args.capture_from.is_some(), "--capture-from"),
    ];
    let Some((_, flag)) = single.into_iter().find(|(given, _)| *given) else {
        return table(&args, &configs, weights.as_ref());
    };
    match (&configs[..], &args.batch[..], &args.steps[..]) {
        ([config], &[batch], &[steps]) => {
            one(&args, config, batch as usize, steps, weights.as_ref())
        }
        _ => anyhow::bail!(
            "{flag} is of one model, precision, batch and number of steps: name one of each"
        ),
    }
}

/// A configuration for each preset and precision.
fn configurations(args: &Args) -> anyhow::Result<Vec<Config>> {
    let mut all = Vec::new();
    for source in args.source.each() {
        let config = source.resolve(&args.flags)?;
        if args.precision.is_empty() {
            all.push(config);
            continue;
        }
        for products in &args.precision {
            let mut config = config.clone();
            config.run.precision = (*products).into();
            config.validate()?;
            all.push(config);
        }
    }
    Ok(all)
}

/// What is done with one model and batch instead of a table of rows.
fn one(
    args: &Args,
    config: &Config,
    batch: usize,
    steps: u32,
    weights: Option<&Checkpoint>,
) -> anyhow::Result<()> {
    let mut device = config.run.open_device()?;
    if let Some(folder) = &args.dump {
        let path = bench::dump(config, &mut *device, batch, weights, folder)?;
        return super::say(path.display());
    }
    let what: Vec<What> = args.what.iter().map(|w| (*w).into()).collect();
    let mut bench = bench::Bench::new(config, &mut *device, batch, weights, &what)?;
    bench.set_steps(steps);
    if args.interactive {
        return interactive(&mut bench, &what);
    }
    for what in what {
        let window = args.capture_from.zip(args.capture_steps);
        let Some((before, within)) = window else {
            profile(&mut bench, what, batch, args)?;
            continue;
        };
        bench.capture(what, before, within)?;
        super::say(format_args!(
            "{}: {within} runs after {before}, in a window for profilers",
            what.name()
        ))?;
    }
    Ok(())
}

/// Measures every combination and prints a line for each as it comes, or all at the end.
fn table(args: &Args, configs: &[Config], weights: Option<&Checkpoint>) -> anyhow::Result<()> {
    let old = args.compare.as_deref().map(earlier).transpose()?;
    let mut rates = HashMap::new();
    let mut rows: Vec<Row> = Vec::new();
    for config in configs {
        for batch in &args.batch {
            for what in &args.what {
                let request = Request {
                    config,
                    weights,
                    what: (*what).into(),
                    batch: *batch as usize,
                    steps: &args.steps,
                    seconds: args.seconds,
                };
                let known = rates.entry(config.run.gpu_precision()).or_insert(None);
                let mut told = Ok(());
                rows::measure(request, known, |row| {
                    if told.is_ok() && !args.json {
                        told = print(&row, rows.last(), old.as_ref());
                    }
                    rows.push(row);
                })?;
                told?;
            }
        }
    }
    if args.json {
        super::say(serde_json::to_string(&rows)?)?;
    }
    Ok(())
}

/// A report of `--json`.
fn earlier(path: &Path) -> anyhow::Result<serde_json::Value> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} could not be read", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is no report of `vaebm bench --json`", path.display()))
}

/// Prints a row and how it changed since an earlier report; before it what it was measured on, unless the row before it says so.
fn print(row: &Row, last: Option<&Row>, old: Option<&serde_json::Value>) -> anyhow::Result<()> {
    if last.is_none_or(|last| last.key.precision != row.key.precision) {
        head(row)?;
    }
    let (key, f) = (&row.key, &row.figures);
    super::say(format_args!(
        "{:<9}{:<10}{:>6}{:>6}{:>6}{:>11.3}{:>11.3}{:>11.3}{:>12.1} {:<14}{:>9.1}{:>7.1}%{:>7.1}%{:>9}{:>10}",
        key.what,
        key.preset,
        key.batch,
        key.precision,
        key.steps,
        f.ms_median,
        f.ms_q10,
        f.ms_q90,
        f.items_per_s,
        What::ALL
            .into_iter()
            .find(|w| w.name() == key.what)
            .map_or("", What::unit),
        f.gflop_per_s,
        100.0 * row.share_of_matrix_peak,
        100.0 * row.share_of_copy_peak,
        mib(Some(f.planned_bytes)),
        mib(row.memory.device_bytes.or(row.memory.resident_peak_bytes)),
    ))?;
    if let Some(split) = &row.split {
        let parts: Vec<String> = (split.parts.iter())
            .map(|p| format!("{} {:.3}", p.part, p.ms))
            .collect();
        super::say(format_args!(
            "         ms: {} (nodes one by one: {:.3})",
            parts.join(", "),
            split.nodes_ms
        ))?;
    }
    if let Some(start) = &row.start_up {
        super::say(format_args!(
            "         ms until the first images: device {:.1}, programs {:.1}, images {:.1}",
            start.open_ms, start.prepare_ms, start.first_images_ms
        ))?;
    }
    let Some(old) = old else {
        return Ok(());
    };
    let Some(before) = compare::counterpart(old, key)? else {
        return super::say("         the earlier report has no such row");
    };
    let change = compare::change(before, f)?;
    let verdict = match change.beyond_noise {
        Some(true) => "more than noise",
        Some(false) => "within noise",
        None => "too few runs to tell (raise --seconds)",
    };
    super::say(format_args!(
        "         {:.3} times the earlier median, {verdict}",
        change.ratio
    ))
}

fn mib(bytes: Option<usize>) -> String {
    bytes.map_or("?".into(), |b| {
        format!("{:.1}", b as f64 / f64::from(1 << 20))
    })
}

/// What everything below was measured on, and the columns.
fn head(row: &Row) -> anyhow::Result<()> {
    let (machine, rates) = (&row.machine, &row.rates);
    let clocks = machine.device.clocks.map_or(String::new(), |c| {
        let kind = if c.nominal { " nominal" } else { "" };
        format!(", {} and {} MHz{kind}", c.multiprocessor, c.memory)
    });
    super::say(format_args!(
        "{} ({}{clocks}), {} threads of {}; commit {}, {}",
        machine.device.name,
        machine.device.driver.as_deref().unwrap_or("no driver"),
        row.key.threads,
        machine.processor,
        machine.commit,
        machine.date
    ))?;
    super::say(format_args!(
        "measured: {:.1} GFLOP/s of {} products, {:.1} of f32 multiply-adds, {:.1} GB/s of a copy; kernels chosen by {}",
        rates.matrix / 1e9,
        row.key.precision,
        rates.vector / 1e9,
        rates.copy / 1e9,
        machine.device.tuned.as_deref().unwrap_or("rule")
    ))?;
    let memory = match row.memory.device_bytes {
        Some(_) => "used MiB",
        None => "peak MiB",
    };
    super::say(format_args!(
        "{:<9}{:<10}{:>6}{:>6}{:>6}{:>11}{:>11}{:>11}{:>12} {:<14}{:>9}{:>8}{:>8}{:>9}{:>10}",
        "",
        "",
        "batch",
        "prec",
        "steps",
        "ms",
        "10%",
        "90%",
        "rate",
        "",
        "GFLOP/s",
        "matrix",
        "copy",
        "plan MiB",
        memory
    ))
}

/// Prints and writes where the time of a step goes.
fn profile(
    bench: &mut bench::Bench<'_>,
    what: What,
    batch: usize,
    args: &Args,
) -> anyhow::Result<()> {
    let nodes = bench.nodes(what)?;
    super::say(format_args!(
        "{:<28}{:>9}{:>11}{:>11}{:>11}{:>11}{:>11}",
        format!("{what:?}"),
        "nodes",
        "ms",
        "GFLOP",
        "GFLOP/s",
        "MB",
        "GB/s"
    ))?;
    for k in bench::by_kernel(&nodes) {
        let rate = k.gflop / k.ms * 1e3;
        let bandwidth = k.mb / k.ms;
        super::say(format_args!(
            "{:<28}{:>9}{:>11.3}{:>11.3}{rate:>11.1}{:>11.2}{bandwidth:>11.1}",
            k.kernel, k.launches, k.ms, k.gflop, k.mb
        ))?;
    }
    if let Some(path) = &args.trace {
        let title = format!("{what:?} on {}, batch {batch}", bench.device().name());
        let trace = chrome_trace(&title, &nodes);
        std::fs::write(path, trace.to_string())
            .with_context(|| format!("{} could not be written", path.display()))?;
    }
    Ok(())
}

/// Measures when told to, so that a script can take turns with another implementation: reads `langevin S` and the like (seconds), of
/// what was prepared, and answers each with one JSON line; `quit` or the end of input ends it.
fn interactive(bench: &mut bench::Bench<'_>, prepared: &[What]) -> anyhow::Result<()> {
    super::say(serde_json::json!({ "ready": true }))?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(&word) = words.first() else {
            continue;
        };
        if word == "quit" {
            break;
        }
        let Some(what) = prepared.iter().find(|w| w.name() == word) else {
            let known: Vec<&str> = prepared.iter().map(|w| w.name()).collect();
            anyhow::bail!("`{word}` is none of {}, quit", known.join(", "));
        };
        let given = words.get(1).copied().unwrap_or("1");
        let seconds = seconds(given).map_err(|e| anyhow::anyhow!("`{given}` seconds: {e}"))?;
        super::say(serde_json::to_string(&bench.slot(*what, seconds)?)?)?;
    }
    Ok(())
}
