//! What a planned step costs on a GPU, counted launch by launch without one.
//!
//! **Bytes moved.** Every address that a launch is given is one pass over what stands there, and a state changed in place is two; so many
//! bytes travel between the device memory and a launch whose re-reads stay in the L2 cache. A tensor that holds several parts, such as
//! packed weights or the scratch of an op, is cut where any launch is given an address inside it. A number counts as many bytes as it is
//! stored in: two for an intermediate in bf16, else four. What is re-read by several blocks is
//! weights, and rows that blocks in flight share: [`Node::weights`] says how much the former is, to be held against the L2.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Serialize;

use super::gpus::Gpu;
use crate::device::DeviceError;
use crate::device::cuda::kernels::{PlanKernels, Planned, Target, gpu_kernel, narrow};
use crate::program::gpu::{Arg, GpuKernel, GpuLaunch, Narrow, Precision, Stored, Tensor, Word};
use crate::program::{Launch, Place, Plan, Slot};

/// What a node of the plan costs.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// The op's name.
    pub kernel: &'static str,
    /// The part of the network that it belongs to.
    pub label: String,
    /// The kernels that it launches, in order.
    pub functions: Vec<String>,
    /// FLOPs by the cost rule.
    pub flops: f64,
    /// Those of them that are products of matrices.
    pub matrix: f64,
    /// Bytes that its launches move.
    pub bytes: f64,
    /// Bytes that it must move by the cost rule: each argument once, as it is stored.
    pub compulsory: f64,
    /// Bytes of parameters, and of what is made from them, that one of its launches reads at most.
    pub weights: f64,
}

/// What bounds a time from below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Roof {
    /// Products of matrices, on tensor cores unless the precision is f32.
    Matrix,
    /// All other arithmetic.
    Vector,
    /// Device memory.
    Dram,
}

impl Roof {
    /// All of them.
    pub const ALL: [Roof; 3] = [Roof::Matrix, Roof::Vector, Roof::Dram];

    /// As tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Roof::Matrix => "matrix",
            Roof::Vector => "vector",
            Roof::Dram => "DRAM",
        }
    }
}

/// Several nodes together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sum {
    /// Nodes of the plan.
    pub nodes: usize,
    /// Launches.
    pub launches: usize,
    /// See [`Node::flops`].
    pub flops: f64,
    /// See [`Node::matrix`].
    pub matrix: f64,
    /// See [`Node::bytes`].
    pub bytes: f64,
    /// See [`Node::compulsory`].
    pub compulsory: f64,
    /// Predicted seconds on each roof alone, in the order of [`Roof::ALL`].
    pub roofs: [f64; 3],
    /// Predicted seconds: every node at its largest roof, one after the other.
    pub floor: f64,
}

impl Node {
    /// Seconds that no kernel for this op can go below: the largest roof of its necessary work by the cost rule, which is its products of
    /// matrices, its other arithmetic, or each of its arguments through the device memory once.
    pub fn floor(&self, gpu: &Gpu, precision: Precision) -> f64 {
        let [matrix, vector, _] = self.roofs(gpu, precision);
        matrix.max(vector).max(self.compulsory / gpu.dram)
    }

    /// Seconds that each roof asks for at least, in the order of [`Roof::ALL`].
    pub fn roofs(&self, gpu: &Gpu, precision: Precision) -> [f64; 3] {
        [
            self.matrix / gpu.matrix(precision),
            (self.flops - self.matrix) / gpu.f32,
            self.bytes / gpu.dram,
        ]
    }
}

impl Sum {
    /// Adds a node.
    pub fn add(&mut self, node: &Node, gpu: &Gpu, precision: Precision) {
        let roofs = node.roofs(gpu, precision);
        self.nodes += 1;
        self.launches += node.functions.len();
        self.flops += node.flops;
        self.matrix += node.matrix;
        self.bytes += node.bytes;
        self.compulsory += node.compulsory;
        for (sum, seconds) in self.roofs.iter_mut().zip(roofs) {
            *sum += seconds;
        }
        self.floor += roofs.into_iter().fold(0.0, f64::max);
    }

    /// The roof that asks for the most time.
    pub fn bound(&self) -> Roof {
        let mut largest = 0;
        for roof in 1..self.roofs.len() {
            if self.roofs[roof] > self.roofs[largest] {
                largest = roof;
            }
        }
        Roof::ALL[largest]
    }

    /// The sum of many.
    pub fn of<'a>(
        nodes: impl IntoIterator<Item = &'a Node>,
        gpu: &Gpu,
        precision: Precision,
    ) -> Self {
        let mut sum = Sum::default();
        nodes
            .into_iter()
            .for_each(|node| sum.add(node, gpu, precision));
        sum
    }
}

/// A tensor of the plan: two that share a place at different times differ in length or are written whole.
type Region = (Place, usize);

fn region(slot: &Slot) -> Region {
    (slot.place, slot.shape.len())
}

fn slot(launch: &Launch, tensor: Tensor) -> Option<&Slot> {
    match tensor {
        Tensor::Input(i) => Some(&launch.inputs[i]),
        Tensor::Output(i) => Some(&launch.outputs[i]),
        Tensor::Update(i) => Some(&launch.updates[i]),
        Tensor::Workspace | Tensor::Kept => None,
    }
}

/// The addresses that a launch is given, those of a table once.
fn addresses(launch: &GpuLaunch) -> impl Iterator<Item = (Tensor, usize)> {
    launch.args.iter().flat_map(|arg| match arg {
        Arg::Address(tensor, element) => vec![(*tensor, *element)],
        Arg::Table(words) => {
            let mut all = Vec::new();
            let mut seen = HashSet::new();
            for word in words {
                // A table names a tensor for each block that works on a piece of it.
                if let Word::Address(tensor, element) = word
                    && seen.insert((*tensor, *element))
                {
                    all.push((*tensor, *element));
                }
            }
            all
        }
        Arg::Value(_) | Arg::Noise | Arg::Null => Vec::new(),
    })
}

/// The kernels of a node in each precision, with much shared memory and with none, for compute capability 9.0 and for all, with tensors
/// in f32 and in bf16: together they name every part of a packed tensor.
fn variants(launch: &Launch, shared: usize) -> Result<Vec<GpuKernel>, DeviceError> {
    let mut all = Vec::new();
    for precision in Precision::ALL {
        for (shared, sm_90a) in [(shared, true), (shared, false), (0, false)] {
            let target = Target::new(precision, shared).with_sm_90a(sm_90a);
            all.push(gpu_kernel(launch, target, true, Narrow::NONE)?);
            let stored = narrow(launch, target, true, Narrow::ALL)?;
            if target.stored == Stored::Bf16 && stored != Narrow::NONE {
                all.push(gpu_kernel(launch, target, true, stored)?);
            }
        }
    }
    Ok(all)
}

/// Elements from `element` to the next cut, or to the end.
fn extent(cuts: Option<&BTreeSet<usize>>, element: usize, len: usize) -> usize {
    let next = cuts.and_then(|cuts| cuts.range(element + 1..).next());
    next.copied().unwrap_or(len).min(len) - element.min(len)
}

/// Where launches of a step cut what was made per parameter version.
struct Packed(HashMap<Region, BTreeSet<usize>>);

impl Packed {
    fn new(plan: &Plan, shared: usize) -> Result<Self, DeviceError> {
        let made = plan.per_version.iter().flat_map(|l| &l.outputs);
        let mut cuts: HashMap<Region, BTreeSet<usize>> =
            made.map(|slot| (region(slot), BTreeSet::new())).collect();
        for launch in &plan.per_step {
            if !launch
                .inputs
                .iter()
                .any(|slot| cuts.contains_key(&region(slot)))
            {
                continue;
            }
            for kernel in variants(launch, shared)? {
                for (tensor, element) in kernel.launches.iter().flat_map(addresses) {
                    let Some(slot) = slot(launch, tensor) else {
                        continue;
                    };
                    if let Some(cuts) = cuts.get_mut(&region(slot)) {
                        cuts.insert(element);
                    }
                }
            }
        }
        Ok(Packed(cuts))
    }

    fn is_weight(&self, slot: &Slot) -> bool {
        matches!(slot.place, Place::State(_)) || self.0.contains_key(&region(slot))
    }
}

/// What each node of a step costs on a GPU; one whose blocks have no shared memory to ask for leaves the fused kernels out.
///
/// # Errors
/// A tensor too large for the kernels.
pub fn count(plan: &Plan, target: Target) -> Result<Vec<Node>, DeviceError> {
    let packed = Packed::new(plan, target.shared.max(MOST_SHARED))?;
    let kernels = PlanKernels::new(plan, target)?;
    let nodes = plan.per_step.iter().zip(&kernels.per_step);
    Ok(nodes
        .map(|(launch, planned)| node(launch, planned, target.precision, &packed))
        .collect())
}

/// The most shared memory that a block can have on any GPU that is shipped for.
const MOST_SHARED: usize = 227 << 10;

fn node(launch: &Launch, planned: &Planned, precision: Precision, packed: &Packed) -> Node {
    let (kernel, width) = (&planned.kernel, |tensor| {
        planned.narrow.stored(tensor).bytes()
    });
    let mut own: BTreeMap<(usize, usize), BTreeSet<usize>> = BTreeMap::new();
    let key = |tensor| match tensor {
        Tensor::Input(i) => (0, i),
        Tensor::Output(i) => (1, i),
        Tensor::Update(i) => (2, i),
        Tensor::Workspace => (3, 0),
        Tensor::Kept => (4, 0),
    };
    let runs = || kernel.launches.iter().filter(|l| !l.grid.contains(&0));
    for (tensor, element) in runs().flat_map(addresses) {
        own.entry(key(tensor)).or_default().insert(element);
    }
    let (mut bytes, mut weights) = (0, 0);
    for l in runs() {
        let mut weights_here = 0;
        for (tensor, element) in addresses(l) {
            let (len, cuts, weight) = match slot(launch, tensor) {
                None if tensor == Tensor::Kept => {
                    let len = kernel.kept.map_or(0, |k| k.len);
                    (len, own.get(&key(tensor)), false)
                }
                None => (kernel.workspace, own.get(&key(tensor)), false),
                Some(slot) => {
                    let cuts = packed.0.get(&region(slot)).or(own.get(&key(tensor)));
                    (slot.shape.len(), cuts, packed.is_weight(slot))
                }
            };
            let mut len = extent(cuts, element, len);
            if l.function.starts_with("slice_f32") {
                // It reads what it writes, and not the rest of its input.
                len = launch.outputs[0].shape.len();
            }
            let passes = if matches!(tensor, Tensor::Update(_)) {
                2
            } else {
                1
            };
            bytes += passes * len * width(tensor);
            if weight && matches!(tensor, Tensor::Input(_)) {
                weights_here += len * width(tensor);
            }
        }
        weights = weights.max(weights_here);
    }
    // Cost rules count four bytes a number.
    let inputs = (launch.inputs.iter().enumerate()).map(|(i, slot)| (Tensor::Input(i), slot));
    let outputs = (launch.outputs.iter().enumerate()).map(|(i, slot)| (Tensor::Output(i), slot));
    let spared = inputs.chain(outputs);
    let spared: usize = spared
        .map(|(t, slot)| (size_of::<f32>() - width(t)) * slot.shape.len())
        .sum();
    Node {
        kernel: launch.kernel.name(),
        label: launch.label.clone(),
        functions: runs().map(|l| l.function.clone()).collect(),
        flops: launch.cost.flops,
        matrix: matrix_flops(launch, kernel, precision),
        bytes: bytes as f64,
        compulsory: launch.cost.bytes - spared as f64,
        weights: weights as f64,
    }
}

/// FLOPs that are products of matrices. By the naming rule the kernels of tensor cores end in their precision or in `_sm90a`; in f32 they are those of
/// convolutions and matrices. Of the bottleneck, whose cost has a depthwise window and two activations in it, the two 1x1 convolutions.
fn matrix_flops(launch: &Launch, kernel: &GpuKernel, precision: Precision) -> f64 {
    let name = launch.kernel.name();
    let multiplies = match precision {
        Precision::F32 => ["conv2d_", "linear_", "mbconv_", "residual_"]
            .iter()
            .any(|p| name.starts_with(p)),
        _ => (kernel.launches.iter())
            .any(|l| l.module.ends_with(precision.suffix()) || l.module.ends_with("_sm90a")),
    };
    if !multiplies {
        return 0.0;
    }
    let of = |x: usize| launch.inputs[x].shape;
    // x, y, and the first layer of the squeeze-and-excite that counts in the cost of a cell, with its skip.
    let (x, y, gate) = match name {
        "mbconv_fprop" => (of(0), launch.outputs[0].shape, None),
        "mbconv_dgrad" => (of(1), of(0), None),
        "residual_cell_fprop" => (of(0), launch.outputs[0].shape, Some(of(2))),
        "residual_cell_dgrad" => (of(1), of(0), Some(of(4))),
        _ => return launch.cost.flops,
    };
    let [skip, interpolation] = match gate {
        Some(_) => crate::ops::residual_cell::skip_flops(x, y),
        None => [0.0; 2],
    };
    let gate = gate.map_or(0.0, |w0| crate::ops::squeeze_excite::flops(y, w0));
    let besides = gate + skip + interpolation;
    // The hidden channels follow from the cost, which is linear in them: see `ops::mbconv`.
    let activation = crate::ops::ACTIVATION_FLOPS;
    let (inner, outer) = (x.rows() as f64, y.rows() as f64);
    let products = 2.0 * (inner * x.last() as f64 + outer * y.last() as f64);
    let others = inner * activation + outer * (2.0 * 25.0 + activation);
    skip + (launch.cost.flops - besides) * products / (products + others)
}

/// Whether a node belongs to a residual cell, forward or backward.
pub fn belongs(node: &Node, cell: &str) -> bool {
    let label = node.label.strip_prefix("grad:").unwrap_or(&node.label);
    (label.strip_prefix(cell)).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Bytes of activations that a step takes on a GPU: its arena, the scratch that its launches share, and what ops keep for their gradients.
///
/// # Errors
/// A tensor too large for the kernels.
pub fn activation_bytes(plan: &Plan, target: Target) -> Result<usize, DeviceError> {
    Ok(PlanKernels::new(plan, target)?.bytes())
}
