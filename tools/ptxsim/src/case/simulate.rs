//! A case on the simulator.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::{Case, CaseError, CaseOptions, POISON, Prepared, invalid};
use crate::counters::{Counters, Roofline};
use crate::finding::Finding;
use crate::launch::{LaunchConfig, LaunchError, LaunchReport, Loaded, launch};
use crate::memory::Memory;
use crate::module::Kernel;

/// What a case found, as written to the JSON file.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// PTX file.
    pub ptx: String,
    /// What ran it: the simulator, and as which chip.
    pub device: String,
    /// Kernel.
    pub kernel: String,
    /// Grid.
    pub grid: [u32; 3],
    /// Block.
    pub block: [u32; 3],
    /// Why the launch stopped before its end, if it did.
    pub stopped: Option<String>,
    /// Findings.
    pub findings: Vec<Finding>,
    /// Counters.
    pub counters: Counters,
    /// Needed over touched sectors, 0 to 1.
    pub coalescing: f64,
    /// Registers per thread: as the case says (from ptxas), or estimated.
    pub registers: u32,
    /// Whether `registers` is an estimate.
    pub registers_estimated: bool,
    /// Resident warps over the most possible, 0 to 1.
    pub occupancy: f64,
    /// Lower bounds of the time on the chip.
    pub roofline: Roofline,
    /// Output buffers and the files they were written to.
    pub outputs: BTreeMap<String, PathBuf>,
}

impl Case {
    /// Runs the case on the simulator and writes outputs and the report (`STEM.report.json`).
    pub fn run(&self, options: &CaseOptions) -> Result<CaseReport, CaseError> {
        let prepared = self.prepare(options)?;
        let (mut report, contents) = self.simulate(options, &prepared)?;
        report.outputs = self.write_outputs(options, &prepared, &contents)?;
        self.write_report(options, &report)?;
        Ok(report)
    }

    /// Runs the case; yields the report, and the content of all buffers.
    pub(super) fn simulate(
        &self,
        options: &CaseOptions,
        prepared: &Prepared,
    ) -> Result<(CaseReport, Vec<Vec<u8>>), CaseError> {
        let kernel = self.kernel(&prepared.module)?;
        let config = self.config(options)?;
        let memory = Memory::new(config.chip.memory_bytes);
        let loaded = Loaded::new(Arc::clone(&prepared.module), &memory).map_err(invalid)?;
        let mut addresses = BTreeMap::new();
        for (buffer, start) in self.file.buffers.iter().zip(&prepared.buffers) {
            let address = memory.alloc(start.bytes, &buffer.name).map_err(invalid)?;
            match &start.content {
                Some(bytes) => memory.write(address, bytes).map_err(invalid)?,
                None => {
                    let poisoned = memory.fill(address, &[POISON], start.bytes);
                    poisoned.map_err(invalid)?;
                    memory
                        .forget_written(address, start.bytes)
                        .map_err(invalid)?;
                }
            }
            addresses.insert(buffer.name.as_str(), address);
        }
        let params = self.arguments(kernel, &|name| addresses.get(name).copied())?;
        let config = LaunchConfig { params, ..config };
        let (launched, stopped) = match launch(&loaded, &kernel.name, &config, &memory) {
            Ok(report) => (report, None),
            Err(LaunchError::Stopped { message, report }) => (*report, Some(message)),
            Err(error) => return Err(CaseError::Launch(error)),
        };
        let mut contents = Vec::new();
        for (buffer, start) in self.file.buffers.iter().zip(&prepared.buffers) {
            let mut content = vec![0; start.bytes as usize];
            memory
                .read(addresses[buffer.name.as_str()], &mut content)
                .map_err(invalid)?;
            contents.push(content);
        }
        Ok((self.report(kernel, &config, launched, stopped), contents))
    }

    fn report(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        launched: LaunchReport,
        stopped: Option<String>,
    ) -> CaseReport {
        let threads: u32 = config.block.iter().product();
        let registers = self.file.registers.unwrap_or(kernel.register_estimate);
        let shared = kernel.static_shared + config.dynamic_shared;
        let blocks = config.chip.blocks_per_sm_for(threads, registers, shared);
        let resident = blocks * threads.div_ceil(32);
        CaseReport {
            ptx: self.file.ptx.to_string_lossy().into_owned(),
            device: format!("ptxsim as {}", config.chip.name),
            kernel: kernel.name.clone(),
            grid: config.grid,
            block: config.block,
            stopped,
            coalescing: launched.counters.coalescing(),
            registers,
            registers_estimated: self.file.registers.is_none(),
            occupancy: f64::from(resident) / f64::from(config.chip.threads_per_sm / 32),
            roofline: launched.counters.roofline(&config.chip),
            findings: launched.findings,
            counters: launched.counters,
            outputs: BTreeMap::new(),
        }
    }
}
