//! A short chain with all its inputs in one file, so that another implementation can be checked for equal outputs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::checkpoint::{Checkpoint, NamedTensor, write_tensors};
use crate::config::Config;
use crate::device::Device;
use crate::langevin::programs::{Chains, EBM, StepNoise};
use crate::nn::params::{ParamSpec, initialise};
use crate::nvae::Nvae;
use crate::philox;
use crate::program::Noise;
use crate::tensor::Shape;
use crate::train::vae_programs::VAE;
use crate::train::{StateList, TrainError};

/// Langevin steps of the chain.
const STEPS: usize = 3;

/// A tensor of the file.
struct Entry {
    name: String,
    shape: Vec<usize>,
    data: Vec<f32>,
}

/// Runs three steps from fixed noise and writes `case.safetensors`: weights under their official names and layouts (prefixes `vae.` and
/// `ebm.`), `init.eps_z.<g>`, `init.eps_x`, `noise_z.<k>.<g>`, `noise_x.<k>` (NCHW), and the results `step<k>.energy`,
/// `step<k>.eps_z.<g>`, `step<k>.eps_x`. Returns its path.
pub fn dump(
    config: &Config,
    device: &mut dyn Device,
    batch: usize,
    weights: Option<&Checkpoint>,
    folder: &Path,
) -> Result<PathBuf, TrainError> {
    let chains = Chains {
        model: Nvae::new(config.vae.clone(), config.data.size, config.data.channels),
        ebm: config.ebm.clone(),
        n: batch,
        target: config.sample.target,
        temperature: 1.0,
    };
    let (vae, ebm) = chains.params();
    let program = device.prepare(chains.step(StepNoise::Fed, false).plan("dump/langevin"))?;
    let mut entries = Vec::new();
    for (prefix, params) in [(VAE, &vae), (EBM, &ebm)] {
        match weights {
            Some(checkpoint) => StateList::restore_params(device, checkpoint, prefix, params)?,
            None => initialise(device, prefix, params, config.run.seed)?,
        }
        for spec in params {
            entries.push(official(device, prefix, spec)?);
        }
    }
    let seed = config.run.seed;
    let states = chains.states();
    let label = |i: usize, what: &str| match i + 1 == states.len() {
        true => format!("{what}_x"),
        false => format!("{what}_z.{i}"),
    };
    for (i, (name, shape)) in states.iter().enumerate() {
        let mut eps = vec![0.0; shape.len()];
        philox::fill_normal(&mut eps, seed, i as u32, 0, 0);
        device.write_state(name, &eps)?;
        entries.push(nchw(format!("init.{}", label(i, "eps")), *shape, &eps));
    }
    device.feed(program, "step_size", &[config.sample.step_size as f32])?;
    for k in 0..STEPS {
        for (i, (_, shape)) in states.iter().enumerate() {
            let mut noise = vec![0.0; shape.len()];
            philox::fill_normal(&mut noise, seed, i as u32, 1 + k as u32, 0);
            device.feed(program, &label(i, "noise"), &noise)?;
            let name = match i + 1 == states.len() {
                true => format!("noise_x.{k}"),
                false => format!("noise_z.{k}.{i}"),
            };
            entries.push(nchw(name, *shape, &noise));
        }
        device.run(program, Noise::default())?;
        entries.push(Entry {
            name: format!("step{k}.energy"),
            shape: vec![batch],
            data: device.fetch(program, "energy")?,
        });
        for (i, (name, shape)) in states.iter().enumerate() {
            let eps = device.read_state(name)?;
            entries.push(nchw(format!("step{k}.{}", label(i, "eps")), *shape, &eps));
        }
    }
    device.release(program);
    std::fs::create_dir_all(folder).map_err(|source| TrainError::Write {
        path: folder.into(),
        source,
    })?;
    let path = folder.join("case.safetensors");
    let tensors: Vec<NamedTensor<'_>> = entries
        .iter()
        .map(|e| NamedTensor {
            name: &e.name,
            shape: &e.shape,
            data: &e.data,
        })
        .collect();
    let metadata = HashMap::from([("step_size".to_owned(), config.sample.step_size.to_string())]);
    write_tensors(&path, &tensors, metadata)?;
    Ok(path)
}

fn official(device: &mut dyn Device, prefix: &str, spec: &ParamSpec) -> Result<Entry, TrainError> {
    let name = format!("{prefix}.{}", spec.name);
    Ok(Entry {
        shape: spec.official_shape(),
        data: spec.to_official(&device.read_state(&name)?),
        name,
    })
}

/// `[n, h, w, c]` as `[n, c, h, w]`.
fn nchw(name: String, shape: Shape, data: &[f32]) -> Entry {
    let [n, h, w, c] = [shape[0], shape[1], shape[2], shape[3]];
    let mut turned = Vec::with_capacity(data.len());
    for image in data.chunks_exact(h * w * c) {
        for channel in 0..c {
            turned.extend(image.iter().skip(channel).step_by(c));
        }
    }
    Entry {
        name,
        shape: vec![n, c, h, w],
        data: turned,
    }
}
