//! A case on a GPU.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::compare::{Difference, differences};
use super::{Case, CaseError, CaseOptions, CaseReport, POISON, Prepared};
use crate::device::{Device, DeviceLaunch};

/// What a run on a GPU was, as written to the JSON file.
#[derive(Debug, Clone, Serialize)]
pub struct GpuReport {
    /// PTX file.
    pub ptx: String,
    /// Kernel.
    pub kernel: String,
    /// Name of the GPU.
    pub device: String,
    /// The newest CUDA version that its driver knows.
    pub driver: String,
    /// Grid.
    pub grid: [u32; 3],
    /// Block.
    pub block: [u32; 3],
    /// Output buffers and the files they were written to.
    pub outputs: BTreeMap<String, PathBuf>,
    /// The simulator's report of the same case and how far its outputs are from the GPU's, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}

/// The same case on the simulator.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// What the simulator found.
    pub simulator: CaseReport,
    /// Per output buffer, how far the two are apart.
    pub differences: Vec<Difference>,
}

impl Case {
    /// Runs the case on the machine's first GPU instead of the simulator, and writes outputs and the report as
    /// [`Case::run`] does. With `compare` the simulator runs it too; the files have the GPU's outputs.
    pub fn run_on_gpu(&self, options: &CaseOptions, compare: bool) -> Result<GpuReport, CaseError> {
        let prepared = self.prepare(options)?;
        // The simulator first: it refuses what is wrong with better words, and nothing of it can be lost to the GPU.
        let simulated = if compare {
            Some(self.simulate(options, &prepared)?)
        } else {
            None
        };
        let (mut report, contents) = self.launch_on_gpu(options, &prepared)?;
        report.outputs = self.write_outputs(options, &prepared, &contents)?;
        report.comparison = simulated.map(|(simulator, theirs)| {
            let outputs = self.file.buffers.iter().zip(&prepared.buffers);
            let pairs = outputs.zip(theirs.iter().zip(&contents));
            let differences = pairs
                .filter(|((_, start), _)| start.output.is_some())
                .map(|((buffer, _), (simulator, gpu))| {
                    differences(&buffer.name, buffer.dtype, simulator, gpu)
                })
                .collect();
            Comparison {
                simulator,
                differences,
            }
        });
        self.write_report(options, &report)?;
        Ok(report)
    }

    fn launch_on_gpu(
        &self,
        options: &CaseOptions,
        prepared: &Prepared,
    ) -> Result<(GpuReport, Vec<Vec<u8>>), CaseError> {
        let kernel = self.kernel(&prepared.module)?;
        let config = self.config(options)?;
        let device = Device::open()?;
        let module = device.load(&prepared.ptx)?;
        let mut buffers = BTreeMap::new();
        for (buffer, start) in self.file.buffers.iter().zip(&prepared.buffers) {
            let poison;
            let content = match &start.content {
                Some(content) => content,
                None => {
                    poison = vec![POISON; start.bytes as usize];
                    &poison
                }
            };
            buffers.insert(buffer.name.as_str(), device.buffer(&buffer.name, content)?);
        }
        let params = self.arguments(kernel, &|name| Some(buffers.get(name)?.address()))?;
        let launch = DeviceLaunch {
            grid: config.grid,
            block: config.block,
            dynamic_shared: config.dynamic_shared,
            params,
        };
        device.launch(&module, &kernel.name, &launch)?;
        let mut contents = Vec::new();
        for buffer in &self.file.buffers {
            contents.push(buffers[buffer.name.as_str()].read()?);
        }
        let report = GpuReport {
            ptx: self.file.ptx.to_string_lossy().into_owned(),
            kernel: kernel.name.clone(),
            device: device.name()?,
            driver: format!("CUDA {}", device.driver_version()?),
            grid: config.grid,
            block: config.block,
            outputs: BTreeMap::new(),
            comparison: None,
        };
        Ok((report, contents))
    }
}
