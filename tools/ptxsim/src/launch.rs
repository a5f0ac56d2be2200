//! Loading a module into a memory and launching its kernels.

use std::sync::Arc;

use serde::Serialize;
use thiserror::Error;

use crate::chip::Chip;
use crate::counters::Counters;
use crate::finding::Finding;
use crate::memory::{Memory, MemoryError};
use crate::module::Module;
use crate::schedule;

/// Geometry, arguments and options of a launch.
#[derive(Debug, Clone)]
pub struct LaunchConfig {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads per block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// Arguments, packed at the offsets of [`crate::Kernel::params`].
    pub params: Vec<u8>,
    /// Seed that shuffles the order in which blocks and warps run; `None` for the natural order.
    pub shuffle: Option<u64>,
    /// Most instructions that one warp may execute before the launch is stopped; 0 for no limit.
    pub instruction_limit: u64,
    /// Most instructions that all warps may execute together, blocks counted as 64 more; 0 for no limit.
    pub launch_limit: u64,
    /// Host threads that run blocks; 0 for one per core.
    pub threads: usize,
    /// Whether the checker runs.
    pub check: bool,
    /// The chip posed as: limits of the launch, `%smid`, `%nsmid`.
    pub chip: Chip,
}

impl LaunchConfig {
    /// A launch of `grid` blocks of `block` threads on an H200 with the checker on, no shared memory, no
    /// arguments and a limit of 2^32 instructions per warp.
    pub fn new(grid: [u32; 3], block: [u32; 3]) -> LaunchConfig {
        LaunchConfig {
            grid,
            block,
            dynamic_shared: 0,
            params: Vec::new(),
            shuffle: None,
            instruction_limit: 1 << 32,
            launch_limit: 0,
            threads: 0,
            check: true,
            chip: Chip::H200,
        }
    }
}

/// What a launch found and counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LaunchReport {
    /// Kernel name.
    pub kernel: String,
    /// Findings, by PTX line.
    pub findings: Vec<Finding>,
    /// Counters.
    pub counters: Counters,
}

/// Why a launch was refused or stopped.
#[derive(Debug, Clone, Error)]
pub enum LaunchError {
    /// The module has no such kernel.
    #[error("no kernel {kernel:?} in {file}")]
    NoKernel {
        /// Asked for.
        kernel: String,
        /// PTX file.
        file: String,
    },
    /// Geometry, shared memory or arguments do not fit the kernel or the chip.
    #[error("{kernel}: {message}")]
    BadConfig {
        /// Kernel.
        kernel: String,
        /// What does not fit.
        message: String,
    },
    /// The launch cannot go on; the report holds what was found until then.
    #[error("{message}")]
    Stopped {
        /// Where and why.
        message: String,
        /// Findings and counters so far.
        report: Box<LaunchReport>,
    },
}

/// A module in a memory: owns the storage of its `.global` and `.const` variables until dropped.
#[derive(Debug)]
pub struct Loaded {
    module: Arc<Module>,
    pub(crate) addresses: Vec<u64>,
}

impl Loaded {
    /// Allocates and initialises the module's variables.
    pub fn new(module: Arc<Module>, memory: &Memory) -> Result<Loaded, MemoryError> {
        let mut addresses = Vec::new();
        for global in &module.globals {
            let address = memory.alloc(global.size, &global.name)?;
            memory.write(address, &global.initial)?;
            addresses.push(address);
        }
        Ok(Loaded { module, addresses })
    }

    /// The module.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// Address of a `.global` or `.const` variable.
    pub fn global_address(&self, name: &str) -> Option<u64> {
        let index = self
            .module
            .globals
            .iter()
            .position(|global| global.name == name)?;
        self.addresses.get(index).copied()
    }

    /// Frees the variables' storage.
    pub fn unload(self, memory: &Memory) -> Result<(), MemoryError> {
        self.addresses
            .iter()
            .try_for_each(|address| memory.free(*address))
    }
}

/// Runs a kernel to its end. Findings do not stop it unless going on is impossible.
///
/// Blocks run on several host threads when their order cannot matter; a checked launch in which it turns out to
/// matter after all (blocks that touch each other's data) is undone and run again block after block, so that results
/// and findings never depend on the host's timing.
pub fn launch(
    loaded: &Loaded,
    kernel: &str,
    config: &LaunchConfig,
    memory: &Memory,
) -> Result<LaunchReport, LaunchError> {
    let module = loaded.module();
    let Some(kernel) = module.kernel(kernel) else {
        return Err(LaunchError::NoKernel {
            kernel: kernel.to_owned(),
            file: module.file.clone(),
        });
    };
    schedule::run(loaded, kernel, config, memory)
}
