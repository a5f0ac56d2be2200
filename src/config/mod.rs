//! The one typed configuration of a run, and where its values come from.
//!
//! A configuration is resolved in three layers: a preset, then a TOML file, then flags. Every layer is a partial
//! table; [`Resolver`] lays them over each other and names the layer that holds a wrong key or value. The resolved
//! configuration prints as TOML that reads back to the same value.

mod error;
mod layer;
mod presets;
pub mod schema;
mod sections;
mod validate;

pub use error::{ConfigError, nearest};
pub(crate) use layer::parse_value;
pub use layer::{Layer, Resolver};
pub use presets::PRESETS;
pub use sections::*;
pub use validate::Stage;

use schema::Section;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Everything that decides what a run computes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The run as a whole.
    pub run: Run,
    /// The images.
    pub data: Data,
    /// Architecture of the VAE.
    pub vae: Vae,
    /// Stage 1.
    pub train_vae: TrainVae,
    /// The energy network.
    pub ebm: Ebm,
    /// Stage 2.
    pub train_ebm: TrainEbm,
    /// Sampling.
    pub sample: Sample,
    /// Chains that are measured.
    pub chains: ChainsConfig,
    /// The divergence guard.
    pub guard: Guard,
}

impl Config {
    /// All sections, in the order in which they are printed.
    pub const SECTIONS: &'static [Section] = &[
        Run::SECTION,
        Data::SECTION,
        Vae::SECTION,
        TrainVae::SECTION,
        Ebm::SECTION,
        TrainEbm::SECTION,
        Sample::SECTION,
        ChainsConfig::SECTION,
        Guard::SECTION,
    ];

    /// The preset of that name.
    ///
    /// # Errors
    /// [`ConfigError::Preset`] with the nearest name there is.
    pub fn preset(name: &str) -> Result<Self, ConfigError> {
        presets::preset(name)
    }

    /// The configuration as TOML; reads back to the same value with [`Config::from_toml`].
    ///
    /// # Errors
    /// A whole number beyond 2^63 - 1, which TOML cannot hold.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let mut text = String::new();
        let table = layer::table_of(self)?;
        for section in Self::SECTIONS {
            text.push_str(&format!("[{}]\n", section.name));
            let values = table.get(section.name).and_then(toml::Value::as_table);
            for key in section.keys {
                // An absent value is an option that is not set: it is left out, as it was in the input.
                if let Some(value) = values.and_then(|values| values.get(key.name)) {
                    text.push_str(&format!("{} = {value}\n", key.name));
                }
            }
            text.push('\n');
        }
        text.truncate(text.trim_end().len() + 1);
        Ok(text)
    }

    /// Reads a complete or partial configuration; keys that are absent take their defaults. `origin` names the text
    /// in errors.
    ///
    /// # Errors
    /// Syntax, unknown keys, wrong types, values out of range.
    pub fn from_toml(text: &str, origin: &str) -> Result<Self, ConfigError> {
        Resolver::new(&Config::default())?
            .overlay(Layer::parse(text, origin)?)?
            .finish()
    }

    /// Reads the configuration that a run folder keeps.
    ///
    /// # Errors
    /// As [`Config::from_toml`], and an unreadable file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Resolver::new(&Config::default())?
            .overlay(Layer::load(path)?)?
            .finish()
    }
}

#[cfg(test)]
mod tests;
