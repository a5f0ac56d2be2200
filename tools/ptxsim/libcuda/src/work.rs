//! What a stream can be given to do, and doing it.

use ptxsim::{
    LaunchConfig, LaunchError, LaunchReport, MemoryError,
    exec::{
        fail::{Fail, Nth},
        report::LaunchFacts,
    },
    launch,
};

use crate::{
    driver::Driver,
    ffi::{HostAddress, HostCall},
    handles::Handle,
    status::Status,
};

/// One piece of work. Graph nodes are the same.
#[derive(Debug, Clone)]
pub enum Work {
    /// A kernel launch.
    Kernel(KernelLaunch),
    /// Host to device.
    CopyIn {
        /// Device address.
        to: u64,
        /// Host address, read when the work is done.
        from: HostAddress,
        /// Length.
        bytes: usize,
    },
    /// Host to device, the bytes read already.
    CopyStaged {
        /// Device address.
        to: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Device to host.
    CopyOut {
        /// Host address.
        to: HostAddress,
        /// Device address.
        from: u64,
        /// Length.
        bytes: usize,
    },
    /// Within the device.
    Copy {
        /// Destination.
        to: u64,
        /// Source.
        from: u64,
        /// Length.
        bytes: usize,
    },
    /// A repeated pattern of 1, 2 or 4 bytes.
    Fill {
        /// Destination.
        to: u64,
        /// The pattern.
        pattern: Vec<u8>,
        /// How often.
        count: usize,
    },
    /// A function on the host.
    Host(HostCall),
}

/// A kernel with its geometry and arguments.
#[derive(Debug, Clone)]
pub struct KernelLaunch {
    /// The function.
    pub function: Handle,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads per block.
    pub block: [u32; 3],
    /// Bytes.
    pub dynamic_shared: u32,
    /// The parameter buffer.
    pub params: Vec<u8>,
    /// Which launch of the kernel this is, from 1; 0 before it is admitted.
    pub nth: u64,
}

impl Work {
    /// `CUgraphNodeType`.
    pub fn node_type(&self) -> u32 {
        match self {
            Self::Kernel(_) => 0,
            Self::CopyIn { .. }
            | Self::CopyStaged { .. }
            | Self::CopyOut { .. }
            | Self::Copy { .. } => 1,
            Self::Fill { .. } => 2,
            Self::Host(_) => 3,
        }
    }

    /// Reads the source of a copy from pageable memory, which a driver stages before the call returns.
    pub fn staged(self, driver: &Driver) -> Result<Self, Status> {
        match self {
            Self::CopyIn { to, from, bytes } if !driver.is_pinned(from) => Ok(Self::CopyStaged {
                to,
                bytes: from.read(bytes)?,
            }),
            other => Ok(other),
        }
    }

    /// The device ranges it touches.
    fn ranges(&self) -> Vec<(u64, usize)> {
        match self {
            Self::Kernel(_) | Self::Host(_) => Vec::new(),
            Self::CopyIn { to, bytes, .. } => vec![(*to, *bytes)],
            Self::CopyStaged { to, bytes } => vec![(*to, bytes.len())],
            Self::CopyOut { from, bytes, .. } => vec![(*from, *bytes)],
            Self::Copy { to, from, bytes } => vec![(*to, *bytes), (*from, *bytes)],
            Self::Fill { to, pattern, count } => vec![(*to, pattern.len() * count)],
        }
    }
}

impl Driver {
    /// Whether a host address lies in pinned memory.
    pub fn is_pinned(&self, address: HostAddress) -> bool {
        let below = self.pinned.range(..=address.number()).next_back();
        below.is_some_and(|(start, pinned)| address.number() - start < pinned.bytes)
    }

    /// Checks what a driver checks when work is submitted, and counts launches.
    pub fn admit(&mut self, mut work: Work) -> Result<Work, Status> {
        for (address, bytes) in work.ranges().into_iter().filter(|(_, bytes)| *bytes > 0) {
            let allocation = self.memory.allocation_of(address);
            let inside = allocation.is_some_and(|a| bytes as u64 <= a.base + a.bytes - address);
            if !inside {
                let why = format!(
                    "{bytes} bytes from device address {address:#x} are not all in one allocation"
                );
                return Err(self.refuse("copy or fill", why, Status::InvalidValue));
            }
        }
        if let Work::Kernel(launch) = &mut work {
            let name = self.functions.get(launch.function)?.name.clone();
            let count = self.launches.entry(name.clone()).or_default();
            *count += 1;
            launch.nth = *count;
            let asked = Fail::LaunchFails(Nth {
                kernel: name.clone(),
                nth: launch.nth,
            });
            if self.settings.fail.contains(&asked) {
                let call = format!("launch {} of {name}", launch.nth);
                return Err(self.refuse(
                    &call,
                    "asked for by --fail",
                    Status::LaunchOutOfResources,
                ));
            }
        }
        Ok(work)
    }

    /// Does a piece of work. A host function is given back, to be called when the driver is not locked.
    pub fn execute(&mut self, work: &Work, from_graph: bool) -> Result<Option<HostCall>, Status> {
        if self.pending_error.is_some() {
            // The device has failed; the host does not know yet, and nothing runs any more.
            return Ok(None);
        }
        match work {
            Work::Kernel(kernel) => self.run_kernel(kernel, from_graph)?,
            Work::CopyIn { to, from, bytes } => {
                let done = self.memory.write(*to, &from.read(*bytes)?);
                self.check("copy to the device", done)?;
            }
            Work::CopyStaged { to, bytes } => {
                let done = self.memory.write(*to, bytes);
                self.check("copy to the device", done)?;
            }
            Work::CopyOut { to, from, bytes } => {
                let mut buffer = vec![0; *bytes];
                let done = self.memory.read(*from, &mut buffer);
                self.check("copy to the host", done)?;
                to.write(&buffer)?;
            }
            Work::Copy { to, from, bytes } => {
                let done = self.memory.copy(*to, *from, *bytes as u64);
                self.check("copy on the device", done)?;
            }
            Work::Fill { to, pattern, count } => {
                let done = self.memory.fill(*to, pattern, *count as u64);
                self.check("fill", done)?;
            }
            Work::Host(call) => return Ok(Some(*call)),
        }
        Ok(None)
    }

    /// A range that was freed since it was submitted.
    fn check(&mut self, what: &str, done: Result<(), MemoryError>) -> Result<(), Status> {
        done.map_err(|error| self.refuse(what, error, Status::IllegalAddress))
    }

    fn run_kernel(&mut self, work: &KernelLaunch, from_graph: bool) -> Result<(), Status> {
        let function = self.functions.get(work.function)?;
        let module = self.modules.get(function.module)?;
        let kernel = module
            .loaded
            .module()
            .kernel(&function.name)
            .ok_or(Status::InvalidHandle)?;

        let asked = Fail::AsyncError(Nth {
            kernel: function.name.clone(),
            nth: work.nth,
        });
        if self.settings.fail.contains(&asked) {
            let call = format!("launch {} of {}", work.nth, function.name);
            return Err(self.refuse(&call, "asked for by --fail", Status::IllegalAddress));
        }

        let config = LaunchConfig {
            dynamic_shared: work.dynamic_shared,
            params: work.params.clone(),
            shuffle: self.settings.shuffle,
            instruction_limit: self.settings.instruction_limit,
            chip: self.settings.chip.clone(),
            ..LaunchConfig::new(work.grid, work.block)
        };
        let (report, stopped): (LaunchReport, _) =
            match launch(&module.loaded, &function.name, &config, &self.memory) {
                Ok(report) => (report, None),
                Err(LaunchError::Stopped { message, report }) => (*report, Some(message)),
                Err(error) => {
                    let call = format!("launch of {}", function.name);
                    return Err(self.refuse(&call, error, Status::LaunchFailed));
                }
            };
        let facts = LaunchFacts {
            kernel,
            registers: function.registers,
            grid: work.grid,
            block: work.block,
            dynamic_shared: work.dynamic_shared,
            from_graph,
        };
        self.report.profiled_launches += u64::from(self.profiling);
        let news = self.report.add_launch(facts, &report);
        if let Some(message) = stopped {
            let call = format!("launch of {}", function.name);
            return Err(self.refuse(&call, message, Status::LaunchFailed));
        } else if news {
            self.write_report();
        }
        Ok(())
    }
}
