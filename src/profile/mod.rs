//! What a step costs, by kernel and by part of the network: counted from its plan or by the simulator without a GPU, or measured.

pub mod count;
pub mod counters;
pub mod gpus;
pub mod measure;
pub mod plot;
pub mod programs;
pub mod report;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::config::Config;
use crate::device::DeviceError;
use crate::device::cuda::kernels::Target;
use crate::program::Plan;
use crate::program::gpu::{Precision, Stored};
use count::{Node, Sum, activation_bytes, belongs, count};
use gpus::Gpu;
use programs::Program;

/// Launches of residual cells.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cells {
    /// How many cells a step runs through.
    pub count: usize,
    /// Launches of all of them, forward and backward.
    pub launches: usize,
    /// Of the cell that has the fewest, and of the one that has the most.
    pub range: [usize; 2],
}

/// A planned step, counted.
#[derive(Clone, Debug, Serialize)]
pub struct Counted {
    /// Which step.
    pub program: Program,
    /// Images or chains.
    pub batch: usize,
    /// Every node.
    pub nodes: Vec<Node>,
    /// Their sum.
    pub total: Sum,
    /// The same program with the fused kernels left out, in the same precision, its intermediates stored as its kernels can.
    pub unfused: Sum,
    /// The same program with the same kernels, all intermediates in f32; equal to the total where none is in bf16.
    pub single: Sum,
    /// Residual cells; `None` for a model without.
    pub cells: Option<Cells>,
    /// Bytes of activations: arena, scratch and what ops keep for their gradients.
    pub activation_bytes: usize,
    /// What one more image or chain adds to them.
    pub activation_bytes_per_item: usize,
}

impl Counted {
    /// Counts a step. The batch is also planned at twice its size, for the memory that one item takes.
    ///
    /// # Errors
    /// A batch too large for the kernels.
    pub fn new(
        program: Program,
        config: &Config,
        batch: usize,
        gpu: &Gpu,
        precision: Precision,
    ) -> Result<Self, DeviceError> {
        let plan = program.plan(config, batch);
        let target = Target::new(precision, gpu.shared).with_sm_90a(gpu.sm_90a);
        let sum = |target| -> Result<Sum, DeviceError> {
            Ok(Sum::of(&count(&plan, target)?, gpu, precision))
        };
        let nodes = count(&plan, target)?;
        let memory = |plan: &Plan| activation_bytes(plan, target);
        let bytes = memory(&plan)?;
        let twice = memory(&program.plan(config, 2 * batch))?;
        Ok(Counted {
            program,
            batch,
            total: Sum::of(&nodes, gpu, precision),
            unfused: sum(Target::new(precision, 0))?,
            single: sum(Target {
                stored: Stored::F32,
                ..target
            })?,
            cells: cells(&nodes, &program.cells(config)),
            nodes,
            activation_bytes: bytes,
            activation_bytes_per_item: (twice - bytes) / batch,
        })
    }

    /// Sums by what a key says, the largest floor first.
    pub fn by(
        &self,
        gpu: &Gpu,
        precision: Precision,
        key: impl Fn(&Node) -> String,
    ) -> Vec<(String, Sum)> {
        let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
        for node in &self.nodes {
            sums.entry(key(node)).or_default().add(node, gpu, precision);
        }
        let mut rows: Vec<_> = sums.into_iter().collect();
        rows.sort_by(|a, b| b.1.floor.total_cmp(&a.1.floor));
        rows
    }
}

fn cells(nodes: &[Node], names: &[String]) -> Option<Cells> {
    let launches = |cell: &String| -> usize {
        let own = nodes.iter().filter(|n| belongs(n, cell));
        own.map(|n| n.functions.len()).sum()
    };
    let each: Vec<usize> = names.iter().map(launches).filter(|n| *n > 0).collect();
    Some(Cells {
        count: each.len(),
        launches: each.iter().sum(),
        range: [*each.iter().min()?, *each.iter().max()?],
    })
}
