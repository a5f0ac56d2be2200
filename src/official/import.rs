//! From a published checkpoint to a run folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::OfficialError;
use super::tensors::{matched, moments, of_state_dict};
use crate::checkpoint::torch::{self, Value};
use crate::checkpoint::{Checkpoint, Header};
use crate::config::{Config, Decoder, EnergyNet, Stage};
use crate::device::Device;
use crate::device::host::Cpu;
use crate::langevin::programs::{Chains, EBM};
use crate::nvae::Nvae;
use crate::run::{RunFolder, Start};
use crate::tensor::Shape;
use crate::train::states::{FRESH_POWER_VECTORS, StateList, save};
use crate::train::vae_programs::{NoiseSource, POWER_ITERATIONS, VAE, train_step};
use crate::train::{ebm_programs, restore};

/// Cells of a model that is described at once, whatever the file holds, so that missing tensors are named.
const SMALL_MODEL: usize = 64;

/// What was brought over.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Which stage it was.
    pub stage: Stage,
    /// The checkpoint written.
    pub path: PathBuf,
    /// Optimiser steps done.
    pub step: u64,
    /// Whether the optimiser's state came along.
    pub optimizer: bool,
    /// Settings that have no counterpart here.
    pub ignored: Vec<String>,
}

/// Reads a stage-1 checkpoint (`checkpoint.pt`) or an energy network (`EBM_<n>.pth`) as data, and writes it as a checkpoint of the run
/// folder `out`. An energy network needs the VAE under it: import that into the same folder first.
///
/// # Errors
/// A file that is neither, damaged, or whose tensors are not those of its model: each is named.
pub fn import(file: &Path, out: &Path) -> Result<Imported, OfficialError> {
    let value = torch::read(file)?;
    if let Some(state) = value.get("state_dict") {
        import_vae(file, out, &value, state)
    } else if let Some(model) = value.get("model") {
        import_ebm(file, out, &value, model)
    } else {
        Err(content(
            file,
            "it has neither `state_dict` (stage 1) nor `model` (the energy network): is it a checkpoint of VAEBM or NVAE?",
        ))
    }
}

fn content(path: &Path, problem: impl Into<String>) -> OfficialError {
    OfficialError::Content {
        path: path.into(),
        problem: problem.into(),
    }
}

fn import_vae(
    file: &Path,
    out: &Path,
    value: &Value,
    state: &Value,
) -> Result<Imported, OfficialError> {
    let args = value
        .get("args")
        .ok_or_else(|| content(file, "it has no `args`"))?;
    let published = torch::config_from_args(args)?;
    let mut config = published.config;
    config.run.out = out.into();
    config.validate()?;
    let (vae, weights) = (&config.vae, of_state_dict(state).map_or(0, |t| t.len()));
    let cells = vae.groups_per_scale().iter().sum::<usize>()
        * (vae.num_cell_per_cond_enc + vae.num_cell_per_cond_dec)
        + vae.num_preprocess_blocks * (vae.num_preprocess_cells + vae.num_postprocess_cells);
    // A cell has several tensors. Describing a model takes time, which a small file should not ask for.
    if cells > weights + SMALL_MODEL {
        return Err(content(
            file,
            format!(
                "weights are missing: it has {weights} tensors, and its `args` describe a model of {cells} cells"
            ),
        ));
    }
    let model = Nvae::new(config.vae.clone(), config.data.size, config.data.channels);
    let recorded = train_step(
        &model,
        &config.train_vae,
        config.data.num_x_bits,
        // Only its states count, but a batch norm over single pixels needs two images.
        2,
        POWER_ITERATIONS[1],
        NoiseSource::Streams(0),
    );
    let states = StateList::of(VAE, &recorded);
    let count = |name: &str| {
        value
            .get(name)
            .and_then(Value::as_int)
            .and_then(|n| u64::try_from(n).ok())
    };
    let step = count("global_step").unwrap_or(0);
    let brought = Brought {
        file,
        state,
        optimizer: value.get("optimizer"),
        moments: ["exp_avg", "exp_inf"],
    };
    let mut device = Cpu::new();
    let optimizer = brought.load(&mut device, VAE, &states, config.run.seed)?;
    let header = header(&config, Stage::Vae, step, count("epoch").unwrap_or(0))?;
    let folder = RunFolder::open(&config, Stage::Vae, Start::Fresh)?;
    let path = save(&mut device, folder.store(), &header, &states.all())?;
    Ok(Imported {
        stage: Stage::Vae,
        path,
        step,
        optimizer,
        ignored: published.ignored,
    })
}

fn import_ebm(
    file: &Path,
    out: &Path,
    value: &Value,
    model: &Value,
) -> Result<Imported, OfficialError> {
    let vae_path = RunFolder::checkpoint_at(out, Stage::Vae).map_err(|_| {
        content(
            file,
            format!(
                "an energy network stands on a VAE: import that one's checkpoint.pt into {} first",
                out.display()
            ),
        )
    })?;
    let vae = Checkpoint::open(&vae_path)?;
    let mut config = Config::from_toml(&vae.header().config, &vae_path.display().to_string())?;
    config.run.out = out.into();
    if config.vae.decoder != Decoder::Normal {
        return Err(content(
            file,
            "stage 2 needs a VAE with the Normal decoder, and the one in the folder has another (num_mixture_dec above 1)",
        ));
    }
    let (network, width) = network_of(model).ok_or_else(|| {
        content(file, "its `model` is none of the five energy networks: no `conv1.weight`, or another number of blocks")
    })?;
    config.ebm.network = network;
    config.ebm.n_channel = width;
    config.validate()?;
    let chains = Chains {
        model: Nvae::new(config.vae.clone(), config.data.size, config.data.channels),
        ebm: config.ebm.clone(),
        n: 1,
        target: config.train_ebm.target,
        temperature: 1.0,
    };
    let recorded = ebm_programs::train_step(
        &chains,
        &config.train_ebm,
        config.run.gpu_precision(),
        POWER_ITERATIONS[1],
        false,
    );
    let states = StateList::of(EBM, &recorded);
    let brought = Brought {
        file,
        state: model,
        optimizer: value.get("optimizer"),
        moments: ["exp_avg", "exp_avg_sq"],
    };
    let mut device = Cpu::new();
    let optimizer = brought.load(&mut device, EBM, &states, config.run.seed)?;
    let step = steps_done(value.get("optimizer"));
    let (vae_params, _) = chains.params();
    let vae_states: Vec<(String, Shape)> = vae_params
        .iter()
        .map(|p| (format!("{VAE}.{}", p.name), p.shape))
        .collect();
    restore(&mut device, &vae, &vae_states)?;
    let header = header(&config, Stage::Ebm, step, 0)?;
    let folder = RunFolder::open(&config, Stage::Ebm, Start::Fresh)?;
    let all: Vec<(String, Shape)> = states.all().into_iter().chain(vae_states).collect();
    let path = save(&mut device, folder.store(), &header, &all)?;
    Ok(Imported {
        stage: Stage::Ebm,
        path,
        step,
        optimizer,
        ignored: Vec::new(),
    })
}

/// Which energy network a state dictionary belongs to, and its width, told by the number of blocks and the first convolution.
fn network_of(model: &Value) -> Option<(EnergyNet, usize)> {
    let tensors = of_state_dict(model)?;
    let width = *tensors
        .iter()
        .find(|(name, _)| *name == "conv1.weight")?
        .1
        .shape
        .first()?;
    let block = |name: &str| {
        name.strip_prefix("blocks.")?
            .split('.')
            .next()?
            .parse::<usize>()
            .ok()
    };
    let blocks = tensors
        .iter()
        .filter_map(|(name, _)| block(name))
        .max()?
        .checked_add(1)?;
    let network = match blocks {
        4 => EnergyNet::Mnist,
        6 => EnergyNet::Cifar32,
        8 => EnergyNet::Celeba64,
        10 => EnergyNet::Lsun64,
        12 => EnergyNet::Celeba256,
        _ => return None,
    };
    Some((network, width))
}

/// Steps that the optimiser has taken: the count that its first parameter keeps.
fn steps_done(optimizer: Option<&Value>) -> u64 {
    let first = optimizer
        .and_then(|o| o.get("state"))
        .and_then(Value::entries)
        .and_then(|s| s.first());
    let step = first.and_then(|(_, v)| v.get("step"));
    let count = match step {
        Some(Value::Tensor(t)) => t.to_f32().and_then(|d| d.first().map(|s| f64::from(*s))),
        Some(other) => other.as_float(),
        None => None,
    };
    count.map_or(0, |c| c.max(0.0) as u64)
}

/// The run's state beyond tensors. The official code does not save the vectors of its power iterations: the next step starts them anew.
fn header(config: &Config, stage: Stage, step: u64, epoch: u64) -> Result<Header, OfficialError> {
    Ok(Header {
        stage: stage.name().into(),
        step,
        epoch,
        seed: config.run.seed,
        config: config.to_toml()?,
        ints: BTreeMap::from([(FRESH_POWER_VECTORS.to_owned(), 1)]),
        floats: BTreeMap::new(),
    })
}

/// The parts of a published checkpoint that become states.
struct Brought<'a> {
    file: &'a Path,
    state: &'a Value,
    optimizer: Option<&'a Value>,
    moments: [&'static str; 2],
}

impl Brought<'_> {
    /// Fills a device's states; tells whether there was optimiser state.
    fn load(
        &self,
        device: &mut dyn Device,
        prefix: &str,
        states: &StateList,
        seed: u64,
    ) -> Result<bool, OfficialError> {
        let wrong = |problem: String| content(self.file, problem);
        let tensors = of_state_dict(self.state)
            .ok_or_else(|| wrong("its weights are no dictionary of tensors".into()))?;
        let weights = matched(states.params(), &tensors).map_err(wrong)?;
        states.start(device, seed)?;
        for (spec, data) in states.params().iter().zip(&weights) {
            device.write_state(&format!("{prefix}.{}", spec.name), data)?;
        }
        let order: Vec<&str> = tensors.iter().map(|(name, _)| *name).collect();
        let mut any = false;
        for kind in self.moments {
            let Some(optimizer) = self.optimizer else {
                continue;
            };
            let Some(data) = moments(optimizer, kind, states.params(), &order).map_err(wrong)?
            else {
                continue;
            };
            any = true;
            let trainable = states.params().iter().filter(|p| p.role.is_trainable());
            for (spec, data) in trainable.zip(&data) {
                device.write_state(&format!("{prefix}.{kind}.{}", spec.name), data)?;
            }
        }
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::require_shared;

    #[test]
    fn both_stages_come_over_with_every_tensor() {
        let Some(cases) = require_shared("parity") else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let told = import(&cases.join("A/EBM_0.pth"), &out)
            .unwrap_err()
            .to_string();
        assert!(told.contains("import that one's checkpoint.pt"), "{told}");

        let vae = import(&cases.join("A/checkpoint.pt"), &out).unwrap();
        assert_eq!((vae.stage, vae.step, vae.optimizer), (Stage::Vae, 10, true));
        let ebm = import(&cases.join("A/EBM_0.pth"), &out).unwrap();
        assert_eq!((ebm.stage, ebm.optimizer), (Stage::Ebm, false));

        let ours = Checkpoint::open(&vae.path).unwrap();
        let bytes = std::fs::read(cases.join("A/vae.safetensors")).unwrap();
        let official = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let theirs: Vec<f32> = official
            .tensor("stem.weight")
            .unwrap()
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        // OIHW there, HWIO here: element [o, i, y, x].
        let (shape, weights) = ours.tensor("vae.stem.weight").unwrap();
        assert_eq!(shape, [3, 3, 3, 16]);
        let at = |o: usize, i: usize, y: usize, x: usize| weights[((y * 3 + x) * 3 + i) * 16 + o];
        assert_eq!(at(5, 2, 1, 0), theirs[((5 * 3 + 2) * 3 + 1) * 3]);
    }

    #[test]
    fn files_that_are_no_checkpoint_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.pt");
        std::fs::write(&file, b"not a pickle").unwrap();
        let told = import(&file, folder.path()).unwrap_err().to_string();
        assert!(told.contains("x.pt"), "{told}");
    }
}
