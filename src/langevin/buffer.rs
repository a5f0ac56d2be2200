//! The replay buffer: where chains of later iterations start (SPEC section 6, "Replay buffer").

use std::path::Path;

use crate::checkpoint::ring::{Ring, RingSpec};
use crate::device::Device;
use crate::philox::{self, streams};
use crate::tensor::Shape;
use crate::train::TrainError;

/// Latent noise of finished chains, first in, first out. Pixel noise is not kept: it is always drawn anew.
pub struct ReplayBuffer {
    ring: Ring,
}

impl ReplayBuffer {
    /// An empty buffer.
    pub fn create(path: &Path, spec: RingSpec) -> Result<Self, TrainError> {
        Ok(ReplayBuffer {
            ring: Ring::create(path, spec)?,
        })
    }

    /// The buffer as it was at a mark, with an earlier one, or the same, that can still be returned to.
    pub fn open(path: &Path, spec: RingSpec, mark: u64, kept: u64) -> Result<Self, TrainError> {
        Ok(ReplayBuffer {
            ring: Ring::open_beside(path, spec, mark, kept)?,
        })
    }

    /// The buffer as it was at a mark, for reading beside a process that may be writing. Nothing can be stored in it.
    pub fn view(path: &Path, spec: RingSpec, mark: u64) -> Result<Self, TrainError> {
        Ok(ReplayBuffer {
            ring: Ring::view(path, spec, mark)?,
        })
    }

    /// The number of chains kept.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether no chain is kept.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Replaces the first rows of the chains' latents, groups top-down in `latents`, by distinct entries chosen at random: as many
    /// as there are chains whose draw falls below `p`. Returns how many.
    pub fn refill(
        &mut self,
        device: &mut dyn Device,
        latents: &[(String, Shape)],
        seed: u64,
        iteration: u64,
        p: f64,
    ) -> Result<usize, TrainError> {
        let chains = latents[0].1[0];
        let step = iteration as u32;
        let below = |row: usize| {
            f64::from(philox::uniform(
                seed,
                streams::BUFFER_CHOICE,
                step,
                row as u64,
            )) < p
        };
        let wanted = (0..chains)
            .filter(|&row| below(row))
            .count()
            .min(self.len());
        if wanted == 0 {
            return Ok(0);
        }
        let chosen = distinct(self.len(), wanted, seed, step);
        let widths: Vec<usize> = latents.iter().map(|(_, s)| s.len() / chains).collect();
        let mut states = read_all(device, latents)?;
        let mut record = vec![0.0; widths.iter().sum()];
        for (row, entry) in chosen.into_iter().enumerate() {
            self.ring.read(entry, &mut record)?;
            let mut rest = record.as_slice();
            for (state, width) in states.iter_mut().zip(&widths) {
                let (head, tail) = rest.split_at(*width);
                state[row * width..(row + 1) * width].copy_from_slice(head);
                rest = tail;
            }
        }
        for ((name, _), data) in latents.iter().zip(&states) {
            device.write_state(name, data)?;
        }
        Ok(wanted)
    }

    /// Appends all chains' latents.
    pub fn store(
        &mut self,
        device: &mut dyn Device,
        latents: &[(String, Shape)],
    ) -> Result<(), TrainError> {
        let chains = latents[0].1[0];
        let states = read_all(device, latents)?;
        let mut record = Vec::new();
        for row in 0..chains {
            record.clear();
            for state in &states {
                let width = state.len() / chains;
                record.extend_from_slice(&state[row * width..(row + 1) * width]);
            }
            self.ring.append(&record)?;
        }
        Ok(())
    }

    /// Makes the present content durable under a mark that [`ReplayBuffer::open`] takes.
    pub fn mark(&mut self) -> Result<u64, TrainError> {
        Ok(self.ring.mark()?)
    }

    /// Forgets all other marks: no checkpoint that counts refers to them any more.
    pub fn keep_marks(&mut self, kept: &[u64]) -> Result<(), TrainError> {
        Ok(self.ring.keep_marks(kept)?)
    }

    /// Goes back to a mark.
    pub fn roll_back(&mut self, mark: u64) -> Result<(), TrainError> {
        Ok(self.ring.roll_back(mark)?)
    }
}

fn read_all(
    device: &mut dyn Device,
    states: &[(String, Shape)],
) -> Result<Vec<Vec<f32>>, TrainError> {
    let read = |(name, _): &(String, Shape)| Ok(device.read_state(name)?);
    states.iter().map(read).collect()
}

/// `wanted` distinct numbers below `len`: the head of a Fisher-Yates shuffle, kept sparse.
fn distinct(len: usize, wanted: usize, seed: u64, step: u32) -> Vec<usize> {
    let mut moved = std::collections::HashMap::new();
    (0..wanted)
        .map(|i| {
            let words = philox::words(seed, streams::BUFFER_ENTRY, step, i as u64);
            let draw = u128::from(words[0]) << 32 | u128::from(words[1]);
            let at = i + ((draw * (len - i) as u128) >> 64) as usize;
            let chosen = moved.get(&at).copied().unwrap_or(at);
            let displaced = moved.get(&i).copied().unwrap_or(i);
            moved.insert(at, displaced);
            chosen
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn choices_are_distinct_in_range_and_uniform() {
        let mut counts = [0; 10];
        for step in 0..3000 {
            let chosen = distinct(10, 4, 7, step);
            assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), 4);
            chosen.iter().for_each(|&c| counts[c] += 1);
        }
        assert!(
            counts.iter().all(|&c| (1100..1300).contains(&c)),
            "{counts:?}"
        );
        assert_eq!(distinct(3, 3, 1, 0).iter().sum::<usize>(), 3);
    }
}
