//! `vaebm export`: our weights for the official code.

use super::say;
use crate::checkpoint::Checkpoint;
use crate::config::Stage;
use crate::official;
use crate::run::RunFolder;
use std::path::PathBuf;

/// Which network is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Network {
    /// The VAE.
    Vae,
    /// The energy network.
    Ebm,
}

/// Write a run's weights as safetensors under the official parameter names.
///
/// Shapes and layouts are the official ones (OIHW), so load_state_dict(load_file(F), strict=False) of the official code
/// takes them.
///
/// Examples:
///   vaebm export runs/mnist --network vae --out vae.safetensors
///   vaebm export runs/mnist --network ebm --out ebm.safetensors
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Run folder or checkpoint file.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Which network.
    #[arg(long, value_enum, value_name = "NET")]
    network: Network,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let stage = match args.network {
        Network::Vae => Stage::Vae,
        Network::Ebm => Stage::Ebm,
    };
    let checkpoint = Checkpoint::open(&RunFolder::checkpoint_at(&args.run, stage)?)?;
    let count = official::export(&checkpoint, stage, &args.out)?;
    say(format_args!("{count} tensors in {}", args.out.display()))
}
