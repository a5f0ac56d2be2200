//! Checkpoints: this project's own format, the replay buffer's ring file, and published PyTorch files.
//!
//! A checkpoint is **one safetensors file**. Its tensors are f32 and named (parameters, optimiser moments, batch-norm
//! statistics, spectral vectors, sampler state); its `__metadata__` holds one entry, `vaebm`, a JSON [`Header`] with
//! the typed rest and a CRC-32 per tensor. One file rather than a folder, because a rename replaces one name at once:
//! a reader sees the whole checkpoint or none of it, and copying it cannot lose half.
//!
//! A file is written under a temporary name in the same folder, synced, renamed, and the folder synced. A process
//! killed at any point leaves the earlier checkpoints as they were; what it left unfinished is removed by the next
//! [`Store::open`]. The replay buffer, which can be gigabytes, stays outside: see [`ring`].

mod atomic;
mod error;
mod file;
mod map;
pub mod ring;
mod store;
pub mod torch;

pub use atomic::replace_file;
pub(crate) use atomic::{TEMPORARY, remove_unfinished};
pub use error::CheckpointError;
pub(crate) use error::way_out;
pub use file::{Checkpoint, FORMAT_VERSION, Header, NamedTensor, write, write_tensors};
pub use store::{Retention, Store};
