//! Devices run planned programs over memory that they own.

use crate::program::gpu::Precision;
use crate::program::{Named, Noise, Plan, Slot};
use crate::tensor::Shape;
use facts::{Facts, Rates};

pub mod cpu;
pub mod cuda;
pub mod facts;
pub mod host;
pub mod memory;

/// A program that a device has prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProgramId(pub(crate) usize);

/// What a device refuses.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A name that the program or the state does not have.
    #[error("{what} `{name}` does not exist{}", .known.as_ref().map(|k| format!("; there are: {k}")).unwrap_or_default())]
    Unknown {
        /// Feed, output or state.
        what: &'static str,
        /// The name asked for.
        name: String,
        /// The names that exist, if they are few.
        known: Option<String>,
    },
    /// Data of another length than the tensor.
    #[error("{what} `{name}` of shape {shape} takes {} numbers, not {got}", .shape.len())]
    Length {
        /// Feed, output or state.
        what: &'static str,
        /// Its name.
        name: String,
        /// Its shape.
        shape: Shape,
        /// How many were given.
        got: usize,
    },
    /// Two programs disagree about a state.
    #[error("state `{name}` has shape {have}, and a program wants it with shape {want}")]
    StateShape {
        /// The state.
        name: String,
        /// As created first.
        have: Shape,
        /// As a later program declares it.
        want: Shape,
    },
    /// The device itself failed.
    #[error("{0}")]
    Failed(String),
}

/// Runs programs. Programs of one device share its states by name; states start as zeros.
pub trait Device {
    /// What it is, for reports: `cpu`, or the name of the GPU.
    fn name(&self) -> String;
    /// Bytes of memory that programs may still take.
    fn available_bytes(&self) -> usize;
    /// Allocates a program's arena and any state that is new, and resolves its kernels.
    fn prepare(&mut self, plan: Plan) -> Result<ProgramId, DeviceError>;
    /// The plan of a prepared program.
    fn plan(&self, program: ProgramId) -> &Plan;
    /// Frees a prepared program's arena. Its id must not be used again.
    fn release(&mut self, program: ProgramId);
    /// Writes a feed. It keeps its value until it is written again.
    fn feed(&mut self, program: ProgramId, name: &str, data: &[f32]) -> Result<(), DeviceError>;
    /// Runs a program once for each of `steps` consecutive noise steps, starting at `noise.step`.
    fn run_steps(
        &mut self,
        program: ProgramId,
        noise: Noise,
        steps: u32,
    ) -> Result<(), DeviceError>;
    /// Runs a program once and tells the seconds that each launch of a step took, in the order of `plan.per_step`.
    fn time_launches(&mut self, program: ProgramId, noise: Noise) -> Result<Vec<f64>, DeviceError>;
    /// Opens or closes the window that an attached profiler records, such as `nsys profile -c cudaProfilerApi`, after all work before it.
    ///
    /// # Errors
    /// A device that no such profiler looks at.
    fn profiler_window(&mut self, open: bool) -> Result<(), DeviceError> {
        let _ = open;
        Err(DeviceError::Failed(format!(
            "a profiler's capture window is of a GPU, and this is {}: take --device cuda",
            self.name()
        )))
    }
    /// Reads an output of the last run.
    fn fetch(&mut self, program: ProgramId, name: &str) -> Result<Vec<f32>, DeviceError>;
    /// The names and shapes of all states, in order of creation.
    fn states(&self) -> Vec<(String, Shape)>;
    /// Makes sure a state exists.
    fn declare_state(&mut self, name: &str, shape: Shape) -> Result<(), DeviceError>;
    /// Reads a state.
    fn read_state(&mut self, name: &str) -> Result<Vec<f32>, DeviceError>;
    /// Writes a state.
    fn write_state(&mut self, name: &str, data: &[f32]) -> Result<(), DeviceError>;

    /// Waits until everything that was submitted has run; needed only to time it, as reads wait by themselves.
    ///
    /// # Errors
    /// What went wrong since the last read.
    fn synchronize(&mut self) -> Result<(), DeviceError> {
        // The host has computed a run when it returns.
        Ok(())
    }
    /// Bytes that a prepared program takes, states apart.
    fn program_bytes(&self, program: ProgramId) -> usize {
        self.plan(program).bytes()
    }
    /// What it tells about itself.
    fn facts(&self) -> Facts {
        Facts {
            name: self.name(),
            ..Facts::default()
        }
    }
    /// Measures what it can do at most; takes a second.
    ///
    /// # Errors
    /// A device that fails.
    fn measure_rates(&mut self) -> Result<Rates, DeviceError> {
        Ok(cpu::peaks::rates())
    }

    /// Runs a program once.
    fn run(&mut self, program: ProgramId, noise: Noise) -> Result<(), DeviceError> {
        self.run_steps(program, noise, 1)
    }
}

fn named(list: &[Named], what: &'static str, name: &str) -> Result<Slot, DeviceError> {
    list.iter()
        .find(|n| n.name == name)
        .map(|n| n.slot)
        .ok_or_else(|| DeviceError::Unknown {
            what,
            name: name.to_owned(),
            known: Some(
                list.iter()
                    .map(|n| n.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
        })
}

fn expect_len(what: &'static str, name: &str, shape: Shape, got: usize) -> Result<(), DeviceError> {
    if shape.len() == got {
        return Ok(());
    }
    Err(DeviceError::Length {
        what,
        name: name.to_owned(),
        shape,
        got,
    })
}

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if it can be used, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of that index.
    Cuda(u16),
}

impl DeviceChoice {
    /// The device that `auto`, `cpu`, `cuda` or `cuda:N` names.
    pub fn named(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(DeviceChoice::Auto),
            "cpu" => Some(DeviceChoice::Cpu),
            "cuda" => Some(DeviceChoice::Cuda(0)),
            other => other
                .strip_prefix("cuda:")?
                .parse()
                .ok()
                .map(DeviceChoice::Cuda),
        }
    }
}

/// Opens a device. `threads` is for the host, 0 takes all cores; `precision` is for the GPU: the CPU computes in `f32`. A GPU takes its
/// table of kernel choices out of the user's cache ([`cuda::table`]).
///
/// # Errors
/// A device that is not there or cannot be used; a table that cannot be understood.
pub fn open(
    choice: DeviceChoice,
    threads: usize,
    precision: Precision,
) -> Result<Box<dyn Device>, DeviceError> {
    if threads > 0 {
        // A second command in one process keeps the pool of the first: the number of threads changes no result.
        let _ = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global();
    }
    match choice {
        DeviceChoice::Auto => match cuda::Cuda::new(0, precision) {
            Ok(gpu) => tuned(gpu),
            Err(_) => Ok(host::cpu()),
        },
        DeviceChoice::Cpu => Ok(host::cpu()),
        DeviceChoice::Cuda(ordinal) => tuned(cuda::Cuda::new(ordinal.into(), precision)?),
    }
}

fn tuned(mut gpu: cuda::Cuda) -> Result<Box<dyn Device>, DeviceError> {
    gpu.use_table()?;
    Ok(Box::new(gpu))
}
