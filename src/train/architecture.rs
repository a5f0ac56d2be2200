//! Whether a checkpoint is one of the model that a configuration describes, told in the configuration's own words: its tensors would
//! say so as well, by names and shapes that nobody has set.

use toml::Value;

use super::TrainError;
use crate::checkpoint::Checkpoint;
use crate::config::{Config, Data, Ebm, Stage, Vae, schema::Section};

/// Keys besides those of `[vae]` that decide which tensors there are.
const OF_IMAGES: &[&str] = &["size", "channels"];
const OF_ENERGY: &[&str] = &["network", "n_channel"];

/// Refuses a checkpoint whose configuration has another architecture. One whose configuration cannot be read is left to its tensors.
///
/// # Errors
/// The first key that differs, with both values.
pub(super) fn check(config: &Config, checkpoint: &Checkpoint) -> Result<(), TrainError> {
    let header = checkpoint.header();
    let Ok(kept) = Config::from_toml(&header.config, "checkpoint") else {
        return Ok(());
    };
    let all: Vec<&str> = Vae::SECTION.keys.iter().map(|k| k.name).collect();
    let mut parts: Vec<(Section, &[&str])> = vec![(Data::SECTION, OF_IMAGES), (Vae::SECTION, &all)];
    if header.stage == Stage::Ebm.name() {
        parts.push((Ebm::SECTION, OF_ENERGY));
    }
    let [was, is] = [&kept, config].map(Value::try_from);
    let (Ok(was), Ok(is)) = (was, is) else {
        return Ok(());
    };
    for (section, keys) in parts {
        for key in keys {
            let of = |whole: &Value| whole.get(section.name)?.get(key).cloned();
            let (was, is) = (of(&was), of(&is));
            if was != is {
                let told = |v: Option<Value>| v.map_or("nothing".into(), |v| v.to_string());
                return Err(TrainError::Mismatch(format!(
                    "{} is of another architecture: it was trained with {}.{key} = {}, and the configuration says {}; leave the key as it \
                     was, or train anew in another folder with --out",
                    checkpoint.path().display(),
                    section.name,
                    told(was),
                    told(is)
                )));
            }
        }
    }
    Ok(())
}
