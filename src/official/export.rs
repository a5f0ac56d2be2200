//! From our checkpoint to the official names and layouts.

use std::collections::HashMap;
use std::path::Path;

use super::OfficialError;
use crate::checkpoint::{Checkpoint, NamedTensor, write_tensors};
use crate::config::{Config, Stage};
use crate::langevin::programs::{Chains, EBM};
use crate::nn::Mode;
use crate::nn::params::ParamSpec;
use crate::nvae::Nvae;
use crate::train::TrainError;
use crate::train::vae_programs::{NoiseSource, VAE, eval_pass, prior_samples};

/// Writes the weights of one network of a checkpoint as safetensors under the official parameter names, OIHW, so that
/// `load_state_dict(load_file(path), strict=False)` of the official code takes them. Returns how many tensors.
pub fn export(
    checkpoint: &Checkpoint,
    network: Stage,
    path: &Path,
) -> Result<usize, OfficialError> {
    let origin = checkpoint.path().display().to_string();
    let config = Config::from_toml(&checkpoint.header().config, &origin)?;
    let model = Nvae::new(config.vae.clone(), config.data.size, config.data.channels);
    let (prefix, params): (&str, Vec<ParamSpec>) = match network {
        Stage::Vae if checkpoint.header().stage == Stage::Vae.name() => (
            VAE,
            eval_pass(&model, config.data.num_x_bits, 1, NoiseSource::Streams(0)).params,
        ),
        // A stage-2 checkpoint holds what sampling needs: the decoder's half.
        Stage::Vae => (
            VAE,
            prior_samples(&model, 1, 1.0, Mode::Eval, NoiseSource::Streams(0)).params,
        ),
        Stage::Ebm => {
            let chains = Chains {
                model,
                ebm: config.ebm.clone(),
                n: 1,
                target: config.train_ebm.target,
                temperature: 1.0,
            };
            (EBM, chains.params().1)
        }
    };
    let mut tensors = Vec::with_capacity(params.len());
    for spec in &params {
        let (found, data) = checkpoint.tensor(&format!("{prefix}.{}", spec.name))?;
        if found != spec.shape.dims() {
            return Err(TrainError::Mismatch(format!(
                "{origin}: `{}` is {found:?} and the model wants {}",
                spec.name, spec.shape
            ))
            .into());
        }
        tensors.push((spec.official_shape(), spec.to_official(data)));
    }
    let named: Vec<NamedTensor<'_>> = (params.iter().zip(&tensors))
        .map(|(spec, (shape, data))| NamedTensor {
            name: &spec.name,
            shape,
            data,
        })
        .collect();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    write_tensors(path, &named, metadata)?;
    Ok(named.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::official::import;
    use crate::shared::require_shared;

    #[test]
    fn what_was_imported_is_exported_unchanged() {
        let Some(cases) = require_shared("parity") else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let vae = import(&cases.join("B/checkpoint_legacy.pt"), &out).unwrap();
        let ebm = import(&cases.join("B/EBM_0_legacy.pth"), &out).unwrap();
        for (path, network, original) in [
            (vae.path, Stage::Vae, "B/vae.safetensors"),
            (ebm.path, Stage::Ebm, "B/ebm.safetensors"),
        ] {
            let written = folder.path().join("official.safetensors");
            let count = export(&Checkpoint::open(&path).unwrap(), network, &written).unwrap();
            let ours = std::fs::read(&written).unwrap();
            let theirs = std::fs::read(cases.join(original)).unwrap();
            let (ours, theirs) = (
                safetensors::SafeTensors::deserialize(&ours).unwrap(),
                safetensors::SafeTensors::deserialize(&theirs).unwrap(),
            );
            assert_eq!(ours.len(), count);
            let redundant =
                |n: &str| n.ends_with("weight_normalized") || n.ends_with("num_batches_tracked");
            let kept: Vec<_> = theirs
                .names()
                .into_iter()
                .filter(|n| !redundant(n))
                .collect();
            assert_eq!(kept.len(), count);
            for name in kept {
                let (a, b) = (ours.tensor(name).unwrap(), theirs.tensor(name).unwrap());
                assert_eq!((a.shape(), a.data()), (b.shape(), b.data()), "{name}");
            }
        }
    }
}
