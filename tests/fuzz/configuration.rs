//! Configuration files, the kept configuration of a checkpoint, and assignments from the command line.

use std::path::Path;

use vaebm::config::{Config, ConfigError, Layer, PRESETS, Resolver, Stage};

use super::BASE;
use super::harness::{Target, fuzz};

const ORIGIN: &str = "fuzz.toml";

/// What holds of every accepted configuration: it is valid, checking it for both stages does not fail otherwise than with a message,
/// and what is printed of it reads back to the same.
fn consistent(config: &Config) -> Result<bool, String> {
    let again = |error: ConfigError| format!("an accepted configuration is refused: {error}");
    config.validate().map_err(again)?;
    for stage in [Stage::Vae, Stage::Ebm] {
        let _ = config.check_stage(stage);
    }
    let text = config.to_toml().map_err(again)?;
    let read = Config::from_toml(&text, "what was printed").map_err(again)?;
    if read != *config {
        return Err(format!("printed and read again it differs:\n{text}"));
    }
    Ok(true)
}

/// An error must name the place it comes from or the key; both are in every message but those about presets.
fn refused(error: &ConfigError) -> Result<bool, String> {
    let told = error.to_string();
    let named = told.contains(ORIGIN) || told.contains('.') || told.contains("preset");
    named
        .then_some(false)
        .ok_or(format!("its error names nothing: {told:?}"))
}

fn presets() -> Vec<Vec<u8>> {
    let print = |name: &&str| {
        let config = Config::preset(name).expect("a preset");
        config.to_toml().expect("TOML").into_bytes()
    };
    let mut seeds: Vec<Vec<u8>> = PRESETS.iter().map(print).collect();
    seeds.push(b"[run]\npreset = \"toy\"\nout = 'runs/x'\n[train_ebm]\nlr = 4e-5 # comment\nnum_steps = 1_000\n".to_vec());
    seeds.push(b"data = { size = 32, channels = 3 }\nvae.num_nf = 0\n".to_vec());
    seeds
}

fn read_file(_: &Path, input: &[u8]) -> Result<bool, String> {
    // A file that is not UTF-8 is refused before it is parsed.
    let text = String::from_utf8_lossy(input);
    let whole = Config::from_toml(&text, ORIGIN);
    let layered = Layer::parse(&text, ORIGIN).and_then(|layer| {
        let base = match layer.preset() {
            Some(name) => Config::preset(name)?,
            None => Config::default(),
        };
        Resolver::new(&base)?.overlay(layer)?.finish()
    });
    for config in [&whole, &layered] {
        match config {
            Ok(config) => consistent(config)?,
            Err(error) => refused(error)?,
        };
    }
    Ok(layered.is_ok())
}

#[test]
fn configuration_files() {
    fuzz(&Target {
        name: "config",
        seeds: presets,
        text: true,
        allowed: |length| BASE + 2000 * length,
        read: read_file,
    });
}

/// Lines of `section.key=value`, each as behind `--set`.
fn read_assignments(_: &Path, input: &[u8]) -> Result<bool, String> {
    let text = String::from_utf8_lossy(input);
    let mut layer = Layer::new(ORIGIN);
    let mut all = true;
    for line in text.lines() {
        if let Err(error) = layer.assign(line) {
            refused(&error)?;
            all = false;
        }
    }
    let config =
        Config::preset("toy").and_then(|base| Resolver::new(&base)?.overlay(layer)?.finish());
    match config {
        Ok(config) => consistent(&config).map(|ok| ok && all),
        Err(error) => refused(&error),
    }
}

#[test]
fn assignments() {
    fuzz(&Target {
        name: "assignments",
        seeds: || {
            vec![
                b"train_ebm.lr=4e-5\ntrain_vae.batch-size=16\nrun.out=a b\n".to_vec(),
                b"sample.num_steps = 0\nvae.use_se=false\nebm.network=mnist\ndata.flip=true"
                    .to_vec(),
            ]
        },
        text: true,
        allowed: |length| BASE + 2000 * length,
        read: read_assignments,
    });
}
