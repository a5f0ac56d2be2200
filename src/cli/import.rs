//! `vaebm import`: published checkpoints in.

use super::say;
use crate::config::Stage;
use crate::official;
use std::path::PathBuf;

/// Bring a published PyTorch checkpoint over into a run folder.
///
/// Takes the official stage-1 checkpoint.pt, then, into the same folder, the energy network's EBM_N.pth. Both are read as
/// data: nothing in them is executed. Optimiser state comes along, so that training can go on with --resume.
///
/// Examples:
///   vaebm import checkpoint.pt --out runs/official
///   vaebm import EBM_12000.pth --out runs/official
///   vaebm sample runs/official
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// The published file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Run folder to write into.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let imported = official::import(&args.file, &args.out)?;
    let what = match imported.stage {
        Stage::Vae => "VAE",
        Stage::Ebm => "energy network",
    };
    let moments = if imported.optimizer {
        "with its optimiser's state"
    } else {
        "without optimiser state (it had taken no step)"
    };
    say(format_args!(
        "{what} after {} steps, {moments}: {}",
        imported.step,
        imported.path.display()
    ))?;
    if !imported.ignored.is_empty() {
        say(format_args!(
            "settings without a counterpart here: {}",
            imported.ignored.join(", ")
        ))?;
    }
    Ok(())
}
