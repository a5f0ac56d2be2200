//! The programs that can be profiled.

use serde::Serialize;

use crate::config::Config;
use crate::langevin::programs::{Chains, StepNoise};
use crate::nvae::Nvae;
use crate::program::Plan;
use crate::train::vae_programs::{NoiseSource, POWER_ITERATIONS};
use crate::train::{ebm_programs, vae_programs};

/// One of the steps that both stages consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// One Langevin step of a batch of chains.
    Langevin,
    /// One training step of the VAE.
    Stage1,
    /// One update of the energy network. Its negatives depend on states that it does not change, the chains', so the plan decodes them
    /// among what is computed per version, and they are not part of the step.
    Energy,
}

/// Chains of a configuration.
pub fn chains(config: &Config, batch: usize) -> Chains {
    Chains {
        model: Nvae::new(config.vae.clone(), config.data.size, config.data.channels),
        ebm: config.ebm.clone(),
        n: batch,
        target: config.sample.target,
        temperature: 1.0,
    }
}

impl Program {
    /// Records the step for a batch and lays it out.
    pub fn plan(self, config: &Config, batch: usize) -> Plan {
        match self {
            Program::Langevin => {
                let tape = chains(config, batch).step(StepNoise::Generated, false);
                tape.plan("sample/langevin")
            }
            Program::Stage1 => {
                let model = chains(config, batch).model;
                let recorded = vae_programs::train_step(
                    &model,
                    &config.train_vae,
                    config.data.num_x_bits,
                    batch,
                    POWER_ITERATIONS[1],
                    NoiseSource::Streams(0),
                );
                recorded.tape.plan("stage1/train")
            }
            Program::Energy => {
                let chains = chains(config, batch);
                let iterations = POWER_ITERATIONS[1];
                let precision = config.run.gpu_precision();
                let train = &config.train_ebm;
                let recorded =
                    ebm_programs::train_step(&chains, train, precision, iterations, false);
                recorded.tape.plan("stage2/update")
            }
        }
    }

    /// The names of the residual cells that this model's steps run through, from the names of their parameters.
    pub fn cells(self, config: &Config) -> Vec<String> {
        let chains = chains(config, 1);
        let specs = match self {
            Program::Langevin | Program::Energy => chains.params().0,
            Program::Stage1 => {
                let (train, bits) = (&config.train_vae, config.data.num_x_bits);
                let source = NoiseSource::Streams(0);
                vae_programs::train_step(&chains.model, train, bits, 1, 1, source).params
            }
        };
        let mut cells: Vec<String> = (specs.iter())
            .filter_map(|s| Some(s.name.split_once("._ops.")?.0.to_owned()))
            .collect();
        cells.dedup();
        cells.sort();
        cells.dedup();
        cells
    }
}
