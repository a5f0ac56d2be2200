//! `vaebm config`: prints a resolved configuration.

use super::overrides::{Overrides, Scope};
use super::source::Source;
use crate::config::Stage;
use crate::config::schema::Section;
use std::io::Write;

/// Every section; of the keys that stand in several, none is a flag here: `--set` tells them apart.
#[derive(Debug)]
pub(super) struct Everything;

impl Scope for Everything {
    const SECTIONS: &'static [Section] = crate::config::Config::SECTIONS;
    const WITHOUT: &'static [(&'static str, &'static str)] = &[
        ("train_vae", "batch_size"),
        ("train_vae", "save_every"),
        ("train_vae", "sample_every"),
        ("train_vae", "log_every"),
        ("train_ebm", "batch_size"),
        ("train_ebm", "save_every"),
        ("train_ebm", "sample_every"),
        ("train_ebm", "log_every"),
        ("train_ebm", "num_steps"),
        ("train_ebm", "step_size"),
        ("train_ebm", "target"),
        ("train_ebm", "readjust_bn"),
        ("sample", "batch_size"),
        ("sample", "num_steps"),
        ("sample", "step_size"),
        ("sample", "target"),
        ("sample", "readjust_bn"),
    ];
}

/// Print the configuration that a preset, a file and flags resolve to.
///
/// The output is TOML, complete, and can be given back with --config. Keys that stand in several sections (batch_size,
/// num_steps, ...) are set with --set section.key=value here. A note on standard error tells if a stage cannot be trained
/// from this.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    flags: Overrides<Everything>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let config = args.source.resolve(&args.flags)?;
    std::io::stdout().write_all(config.to_toml()?.as_bytes())?;
    let reasons = [Stage::Vae, Stage::Ebm].map(|stage| config.check_stage(stage).err());
    match reasons {
        [None, None] => {}
        [None, Some(reason)] => {
            eprintln!("note: stage 2 cannot be trained from this: {reason}")
        }
        // What stops stage 1 stops stage 2 as well.
        [Some(reason), _] => eprintln!("note: this cannot be trained as it is: {reason}"),
    }
    Ok(())
}
