//! A trainer's states: started from a seed, saved to and restored from checkpoints.

use super::TrainError;
use super::vae_programs::Recorded;
use crate::checkpoint::{Checkpoint, Header, NamedTensor, Store};
use crate::device::{Device, DeviceError};
use crate::nn::params::{ParamSpec, initialise};
use crate::philox::{self, streams};
use crate::tensor::Shape;

/// Header entry of a checkpoint whose power vectors are fresh noise: the next step iterates as often as the very first.
pub(crate) const FRESH_POWER_VECTORS: &str = "fresh_power_vectors";

/// The states of one network in training.
#[derive(Clone, Debug)]
pub struct StateList {
    prefix: String,
    params: Vec<ParamSpec>,
    power_vectors: Vec<(String, Shape)>,
    moments: Vec<(String, Shape)>,
}

impl StateList {
    /// What a recorded training step declared.
    pub fn of(prefix: &str, recorded: &Recorded) -> Self {
        StateList {
            prefix: prefix.to_owned(),
            params: recorded.params.clone(),
            power_vectors: recorded.power_vectors.clone(),
            moments: recorded.moments.clone(),
        }
    }

    /// The parameters and statistics, without prefix.
    pub fn params(&self) -> &[ParamSpec] {
        &self.params
    }

    /// The number of trained values.
    pub fn parameter_count(&self) -> usize {
        let trainable = self.params.iter().filter(|p| p.role.is_trainable());
        trainable.map(|p| p.shape.len()).sum()
    }

    /// Names and shapes of everything, parameters first.
    pub fn all(&self) -> Vec<(String, Shape)> {
        let params = self
            .params
            .iter()
            .map(|p| (format!("{}.{}", self.prefix, p.name), p.shape));
        let rest = self.power_vectors.iter().chain(&self.moments).cloned();
        params.chain(rest).collect()
    }

    /// Starts everything from a seed: parameters by their rules, power vectors as normalised noise, moments at zero.
    pub fn start(&self, device: &mut dyn Device, seed: u64) -> Result<(), DeviceError> {
        initialise(device, &self.prefix, &self.params, seed)?;
        for (i, (name, shape)) in self.power_vectors.iter().enumerate() {
            let mut u = vec![0.0; shape.len()];
            philox::fill_normal(&mut u, seed, streams::POWER_VECTORS, i as u32, 0);
            let norm = u
                .iter()
                .map(|v| f64::from(*v).powi(2))
                .sum::<f64>()
                .sqrt()
                .max(1e-3) as f32;
            u.iter_mut().for_each(|v| *v /= norm);
            device.declare_state(name, *shape)?;
            device.write_state(name, &u)?;
        }
        for (name, shape) in &self.moments {
            device.declare_state(name, *shape)?;
            device.write_state(name, &vec![0.0; shape.len()])?;
        }
        Ok(())
    }

    /// Restores everything from a checkpoint that must hold exactly these states under this prefix.
    pub fn restore(
        &self,
        device: &mut dyn Device,
        checkpoint: &Checkpoint,
    ) -> Result<(), TrainError> {
        let all = self.all();
        checkpoint.expect(
            &format!("{}.", self.prefix),
            all.iter()
                .map(|(name, shape)| (name.as_str(), shape.dims())),
        )?;
        restore(device, checkpoint, &all)
    }

    /// Restores the parameters and statistics alone, as sampling needs them.
    pub fn restore_params(
        device: &mut dyn Device,
        checkpoint: &Checkpoint,
        prefix: &str,
        params: &[ParamSpec],
    ) -> Result<(), TrainError> {
        let named: Vec<(String, Shape)> = params
            .iter()
            .map(|p| (format!("{prefix}.{}", p.name), p.shape))
            .collect();
        restore(device, checkpoint, &named)
    }
}

/// Restores these states from a checkpoint; others in it are left alone.
pub fn restore(
    device: &mut dyn Device,
    checkpoint: &Checkpoint,
    states: &[(String, Shape)],
) -> Result<(), TrainError> {
    for (name, shape) in states {
        let (found, data) = checkpoint.tensor(name)?;
        if found != shape.dims() {
            return Err(TrainError::Mismatch(format!(
                "{}: tensor `{name}` is {found:?} and the model wants {shape}: was the configuration changed?",
                checkpoint.path().display()
            )));
        }
        device.declare_state(name, *shape)?;
        device.write_state(name, data)?;
    }
    Ok(())
}

/// Saves states with a header; returns where.
pub(crate) fn save(
    device: &mut dyn Device,
    store: &Store,
    header: &Header,
    states: &[(String, Shape)],
) -> Result<std::path::PathBuf, TrainError> {
    let mut data = Vec::with_capacity(states.len());
    for (name, _) in states {
        data.push(device.read_state(name)?);
    }
    let tensors: Vec<NamedTensor<'_>> = states
        .iter()
        .zip(&data)
        .map(|((name, shape), data)| NamedTensor {
            name,
            shape: shape.dims(),
            data,
        })
        .collect();
    Ok(store.save(header, &tensors)?)
}
