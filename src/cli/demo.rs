//! `vaebm demo`: both stages on built-in images, with a report.

use super::console::Console;
use super::overrides::{Overrides, Scope};
use super::progress::ProgressKind;
use super::say;
use crate::config::schema::Section;
use crate::config::{Config, Resolver, Run};
use crate::demo;

#[derive(Debug)]
pub(super) struct Demonstrated;

impl Scope for Demonstrated {
    const SECTIONS: &'static [Section] = &[Run::SECTION];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[
        ("run", "preset"),
        ("run", "keep_last"),
        ("run", "keep_every"),
    ];
}

/// Train both stages on built-in images and report what came of it.
///
/// The images are stacked glyphs: three glyphs of ten classes, one in each colour channel, 1,000 modes known by
/// construction. The folder (default runs/demo) gets pictures of data, VAE samples, VAEBM samples and one chain's path,
/// and a report with the figures of all three.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    flags: Overrides<Demonstrated>,
}

pub(super) fn run(args: Args, progress: ProgressKind) -> anyhow::Result<()> {
    let mut base = Config::preset("glyphs")?;
    base.run.out = "runs/demo".into();
    let config = Resolver::new(&base)?
        .overlay(args.flags.layer()?)?
        .finish()?;
    demonstrate(&config, Console::new(progress)?)
}

fn demonstrate(config: &Config, mut with: Console) -> anyhow::Result<()> {
    let mut device = config.run.open_device()?;
    match demo::run(config, &mut *device, &mut *with.progress, &with.stop)? {
        Some(outcome) => tell(&outcome),
        None => say(format_args!(
            "stopped; what was trained is in {}",
            config.run.out.display()
        )),
    }
}

/// Prints the figures and where everything lies.
pub(super) fn tell(outcome: &demo::Outcome) -> anyhow::Result<()> {
    say(outcome.report.text())?;
    say(format_args!("picture: {}", outcome.picture_path.display()))?;
    say(format_args!("report:  {}", outcome.report_path.display()))
}
