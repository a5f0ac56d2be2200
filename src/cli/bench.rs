//! `vaebm bench`: how fast this machine is.

use super::overrides::{Overrides, Scope};
use super::source::Source;
use crate::bench;
use crate::checkpoint::Checkpoint;
use crate::config::schema::Section;
use crate::config::{Ebm, Run, Stage, Vae};
use crate::profile::measure::chrome_trace;
use crate::run::RunFolder;
use anyhow::Context;
use std::path::PathBuf;

#[derive(Debug)]
pub(super) struct Benched;

impl Scope for Benched {
    const SECTIONS: &'static [Section] = &[Vae::SECTION, Ebm::SECTION, Run::SECTION];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[
        ("run", "preset"),
        ("run", "out"),
        ("run", "keep_last"),
        ("run", "keep_every"),
    ];
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum What {
    /// One Langevin step of a batch of chains.
    Langevin,
    /// One training step of the VAE.
    Stage1,
}

impl From<What> for bench::What {
    fn from(what: What) -> Self {
        match what {
            What::Langevin => bench::What::Langevin,
            What::Stage1 => bench::What::Stage1,
        }
    }
}

/// Measure chain-steps/s of the Langevin step and steps/s of stage 1.
///
/// Examples:
///   vaebm bench toy
///   vaebm bench --config my.toml --batch 16 --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Images per step.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: u32,
    /// Print the figures as one JSON object.
    #[arg(long)]
    json: bool,
    /// What to time; several are separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["langevin", "stage1"], value_name = "WHAT")]
    what: Vec<What>,
    /// Seconds to spend on each.
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// Run folder or stage-2 checkpoint whose weights to use (default: random ones from the seed).
    #[arg(long, value_name = "RUN")]
    weights: Option<PathBuf>,
    /// Print where a step's time goes, by kernel.
    #[arg(long)]
    profile: bool,
    /// Write one step, node by node, to this file as a Chrome trace (chrome://tracing, Perfetto).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "interactive", "dump"])]
    trace: Option<PathBuf>,
    /// Measure on request: reads `langevin S` and `stage1 S` from standard input, answers with JSON lines.
    #[arg(long, conflicts_with = "json")]
    interactive: bool,
    /// Instead of measuring, write a short chain with all its inputs to this folder, for checking another implementation.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["json", "interactive"])]
    dump: Option<PathBuf>,
    /// Say how steps changed since this report of `--json`, and whether that is more than noise.
    #[arg(long, value_name = "OLD.json", conflicts_with_all = ["json", "interactive", "dump", "profile", "trace"])]
    compare: Option<PathBuf>,
    /// First step that an attached profiler records, counted from 0 with the warm-up: with `nsys profile -c cudaProfilerApi`.
    #[arg(long, value_name = "N", requires = "capture_steps", conflicts_with_all = ["interactive", "dump", "profile", "trace"])]
    capture_from: Option<u32>,
    /// How many steps it records.
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
    let config = args.source.resolve(&args.flags)?;
    if args.what.contains(&What::Langevin) || args.interactive || args.dump.is_some() {
        config.check_model(Stage::Ebm)?;
    }
    let weights = match &args.weights {
        Some(run) => Some(Checkpoint::open(&RunFolder::checkpoint_at(
            run,
            Stage::Ebm,
        )?)?),
        None => None,
    };
    let mut device = config.run.open_device()?;
    let batch = args.batch as usize;
    if let Some(folder) = &args.dump {
        let path = bench::dump(&config, &mut *device, batch, weights.as_ref(), folder)?;
        super::say(path.display())?;
        return Ok(());
    }
    let mut bench = bench::Bench::new(&config, &mut *device, batch, weights.as_ref())?;
    if args.interactive {
        return interactive(&mut bench);
    }
    if let (Some(from), Some(steps)) = (args.capture_from, args.capture_steps) {
        bench.capture(bench::Window { from, steps })?;
    }
    if args.profile || args.trace.is_some() {
        return profile(&mut bench, &args);
    }
    let identity = [
        ("device", bench.device_name().into()),
        ("threads", rayon::current_num_threads().into()),
        ("batch", batch.into()),
        ("preset", config.run.preset.as_str().into()),
        ("precision", config.run.gpu_precision().suffix().into()),
    ];
    let old = args.compare.as_deref().map(earlier).transpose()?;
    if let Some(old) = &old {
        bench::compare::same(old, &identity)?;
    }
    let mut report = serde_json::Map::new();
    for what in &args.what {
        let what = bench::What::from(*what);
        let figures = bench.figures(what, args.seconds)?;
        let name = serde_json::to_value(what)?;
        let name = name.as_str().unwrap_or_default();
        if args.json {
            report.insert(name.to_owned(), serde_json::to_value(&figures)?);
            continue;
        }
        super::say(line(what, &figures))?;
        if let Some(old) = &old {
            let change = bench::compare::change(old, name, &figures)?;
            let verdict = match change.beyond_noise {
                Some(true) => "more than noise",
                Some(false) => "within noise",
                None => "too few steps to tell (raise --seconds)",
            };
            super::say(format_args!(
                "{:<14} {:>9.3} times the earlier median, {verdict}",
                "", change.ratio
            ))?;
        }
    }
    if !bench.is_captured() {
        anyhow::bail!(
            "the bench ended before the window of --capture-from and --capture-steps did: raise --seconds or lower them"
        );
    }
    if args.json {
        let identity =
            identity.map(|(key, value): (&str, serde_json::Value)| (key.to_owned(), value));
        report.extend(identity);
        super::say(serde_json::Value::Object(report))?;
    }
    Ok(())
}

/// A report of `--json`.
fn earlier(path: &std::path::Path) -> anyhow::Result<serde_json::Value> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} could not be read", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is no report of `vaebm bench --json`", path.display()))
}

/// Prints and writes where the time of each step goes.
fn profile(bench: &mut bench::Bench<'_>, args: &Args) -> anyhow::Result<()> {
    for what in &args.what {
        let what = bench::What::from(*what);
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
            let title = format!("{what:?} on {}, batch {}", bench.device_name(), args.batch);
            let trace = chrome_trace(&title, &nodes);
            std::fs::write(path, trace.to_string())
                .with_context(|| format!("{} could not be written", path.display()))?;
        }
    }
    Ok(())
}

fn line(what: bench::What, f: &bench::Figures) -> String {
    let (name, unit) = match what {
        bench::What::Langevin => ("Langevin step", "chain-steps/s"),
        bench::What::Stage1 => ("stage-1 step", "images/s"),
    };
    format!(
        "{name:<14} {:>9.3} ms (10%: {:.3}, 90%: {:.3})  {:>9.1} {unit}  {:.1} GFLOP/s  {:.1} MiB planned",
        f.ms_median,
        f.ms_q10,
        f.ms_q90,
        f.items_per_s,
        f.gflop_per_s,
        f.plan_bytes as f64 / (1 << 20) as f64
    )
}

/// Measures when told to, so that a script can take turns with another implementation: reads `langevin S` or `stage1 S` (seconds) and
/// answers each with one JSON line; `quit` or the end of input ends it.
fn interactive(bench: &mut bench::Bench<'_>) -> anyhow::Result<()> {
    super::say(serde_json::json!({ "ready": true }))?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let what = match words.first() {
            None => continue,
            Some(&"quit") => break,
            Some(&"langevin") => bench::What::Langevin,
            Some(&"stage1") => bench::What::Stage1,
            Some(other) => anyhow::bail!("`{other}` is none of langevin, stage1, quit"),
        };
        let given = words.get(1).copied().unwrap_or("1");
        let seconds = seconds(given).map_err(|e| anyhow::anyhow!("`{given}` seconds: {e}"))?;
        super::say(serde_json::to_string(&bench.slot(what, seconds)?)?)?;
    }
    Ok(())
}
