//! `vaebm train`: which of the two stages.

use super::progress::ProgressKind;
use super::{train_ebm, train_vae};

/// Train a stage: first the VAE, then the energy network on top of it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    stage: StageCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StageCommand {
    Vae(train_vae::Args),
    Ebm(train_ebm::Args),
}

#[cfg(test)]
impl Args {
    pub(super) fn resolve_vae(
        &self,
    ) -> Result<(crate::config::Config, crate::run::Start), crate::config::ConfigError> {
        match &self.stage {
            StageCommand::Vae(args) => args.resolve(),
            StageCommand::Ebm(_) => unreachable!("asked for stage 1"),
        }
    }
}

pub(super) fn run(args: Args, progress: ProgressKind) -> anyhow::Result<()> {
    match args.stage {
        StageCommand::Vae(args) => train_vae::run(args, progress),
        StageCommand::Ebm(args) => train_ebm::run(args, progress),
    }
}
