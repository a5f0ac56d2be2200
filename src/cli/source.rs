//! Where a command's configuration starts: a preset, a file, or what a run folder or checkpoint keeps.

use super::overrides::Overrides;
use crate::checkpoint::Checkpoint;
use crate::config::{Config, ConfigError, Layer, PRESETS, Resolver};
use std::path::{Path, PathBuf};

/// Preset and file.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    #[arg(value_name = "PRESET", help = format!("Preset to start from: {}", PRESETS.join(", ")))]
    preset: Option<String>,
    /// TOML file laid over the preset; `run.preset` in it names the preset where the command line does not.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Source {
    /// A file alone.
    pub(super) fn file(config: Option<PathBuf>) -> Self {
        Self {
            preset: None,
            config,
        }
    }

    /// One source for each of the presets that stand in this one's place, separated by commas.
    pub(super) fn each(&self) -> Vec<Self> {
        let one = |preset: Option<&str>| Self {
            preset: preset.map(|name| name.trim().to_owned()),
            config: self.config.clone(),
        };
        match &self.preset {
            Some(names) => names.split(',').map(|name| one(Some(name))).collect(),
            None => vec![one(None)],
        }
    }

    /// Whether anything was named.
    pub(super) fn is_given(&self) -> bool {
        self.preset.is_some() || self.config.is_some()
    }

    /// Preset, then file, then flags.
    pub(super) fn resolve<S>(&self, flags: &Overrides<S>) -> Result<Config, ConfigError> {
        let file = self.config.as_deref().map(Layer::load).transpose()?;
        let flags = flags.layer()?;
        let named = self
            .preset
            .as_deref()
            .or_else(|| file.as_ref().and_then(Layer::preset))
            .map(str::to_owned);
        let mut base = match (&named, &self.config) {
            (Some(name), _) => Config::preset(name)?,
            (None, Some(_)) => Config::default(),
            (None, None) => {
                return Err(ConfigError::Missing(format!(
                    "name a preset ({}) or a file with --config",
                    PRESETS.join(", ")
                )));
            }
        };
        if let (None, Some(stem)) = (&named, self.config.as_deref().and_then(Path::file_stem)) {
            base.run.out = Path::new("runs").join(stem);
        }
        let mut resolver = Resolver::new(&base)?;
        if let Some(file) = file {
            resolver = resolver.overlay(file)?;
        }
        let mut config = resolver.overlay(flags)?.finish()?;
        // Of two presets the one on the command line was the base.
        config.run.preset = named.unwrap_or_default();
        Ok(config)
    }

    /// A kept configuration in the preset's place, then file, then flags.
    pub(super) fn resolve_over<S>(
        &self,
        kept: &Config,
        flags: &Overrides<S>,
    ) -> Result<Config, ConfigError> {
        let mut resolver = Resolver::new(kept)?;
        if let Some(path) = &self.config {
            resolver = resolver.overlay(Layer::load(path)?)?;
        }
        resolver.overlay(flags.layer()?)?.finish()
    }
}

/// The configuration that a checkpoint keeps.
pub(super) fn config_in(checkpoint: &Checkpoint) -> Result<Config, ConfigError> {
    Config::from_toml(
        &checkpoint.header().config,
        &format!("{} (its configuration)", checkpoint.path().display()),
    )
}
