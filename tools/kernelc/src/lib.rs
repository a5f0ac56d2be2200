//! Compiles `<dir>/*.cu` to `<dir>/ptx/*.ptx` with a pinned NVRTC, byte-reproducibly, and holds every
//! file against a pinned ptxas.
//!
//! The PTX is committed, so nothing but a change to a kernel needs this program: building and testing the
//! rest of the workspace does not. The compiler and the assembler are taken from the Python package index
//! into a virtual environment of their own under `target/kernelc`; no CUDA installation is looked at.
//!
//! * [`source`] reads a `.cu` file with the headers it includes and fingerprints them.
//! * [`toolchain`] finds or installs NVRTC and ptxas.
//! * [`nvrtc`] is the compiler, loaded by absolute path.
//! * [`assemble`] runs ptxas and reads its resource report.
//! * [`resources`] is the snapshot of registers, spills and shared memory kept beside the PTX.
//! * [`sass`] counts the machine code's telling instructions, kept beside the PTX too.
//! * [`build`] puts them together: what is stale, what drifted.

pub mod assemble;
pub mod build;
pub mod error;
pub mod header;
pub mod nvrtc;
pub mod resources;
pub mod sass;
pub mod source;
pub mod toolchain;

pub use error::Error;
