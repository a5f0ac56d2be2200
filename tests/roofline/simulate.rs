//! One node of a plan on the simulator: its launches at their true shapes, on buffers of their size.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ptxsim::{Chip, LaunchConfig, Loaded, Memory, Module, launch};
use vaebm::device::cuda::kernels::Planned;
use vaebm::device::cuda::modules;
use vaebm::profile::counters::Counters;
use vaebm::program::gpu::{Arg, GpuLaunch, NoiseCounter, Tensor, Word};
use vaebm::program::{Launch, Place, Slot};

/// What `ptxas` found of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub registers: u32,
    pub stack: u32,
    pub shared: u32,
}

/// Launches that count alike: kernel, geometry and numbers by value.
type Key = (String, [u32; 3], [u32; 3], u32, Vec<Vec<u8>>);

fn key(launch: &GpuLaunch) -> Key {
    let values = launch.args.iter().filter_map(|arg| match arg {
        Arg::Value(bytes) => Some(bytes.clone()),
        // Whether an optional tensor is there decides what a kernel does.
        Arg::Null => Some(Vec::new()),
        Arg::Table(words) => Some(words.len().to_le_bytes().into()),
        Arg::Address(..) | Arg::Noise => None,
    });
    (
        launch.function.clone(),
        launch.grid,
        launch.block,
        launch.shared,
        values.collect(),
    )
}

/// What `ptxas` found of each kernel for an architecture.
pub struct Usages(HashMap<&'static str, Usage>);

impl Usages {
    pub fn of(chip: &Chip) -> Self {
        let (major, minor) = chip.compute_capability;
        let arch = format!("sm_{major}{minor}");
        let mut usage = HashMap::new();
        for line in modules::PTX.iter().flat_map(|(_, text)| text.lines()) {
            let Some(rest) = line.strip_prefix("// kernelc: usage ") else {
                continue;
            };
            let mut words = rest.split_whitespace();
            let (Some(kernel), Some(of)) = (words.next(), words.next()) else {
                continue;
            };
            let numbers: BTreeMap<&str, u32> = (words.filter_map(|w| w.split_once('=')))
                .filter_map(|(name, n)| Some((name, n.parse().ok()?)))
                .collect();
            if of.trim_end_matches('a') == arch {
                usage.insert(
                    kernel,
                    Usage {
                        registers: numbers["registers"],
                        stack: numbers["stack"],
                        shared: numbers["shared"],
                    },
                );
            }
        }
        Usages(usage)
    }

    pub fn kernel(&self, name: &str) -> Usage {
        self.0[name]
    }

    /// Blocks of a launch that all multiprocessors hold at once.
    pub fn resident(&self, chip: &Chip, l: &GpuLaunch) -> f64 {
        let usage = self.kernel(&l.function);
        let shared = usage.shared + l.shared;
        let threads = l.block.iter().product();
        let per_sm = chip.blocks_per_sm_for(threads, usage.registers, shared);
        f64::from(per_sm * chip.sms)
    }
}

/// Parsed kernels, and the launches counted so far. What a launch does depends on no chip.
#[derive(Default)]
pub struct Simulator {
    modules: HashMap<&'static str, Arc<Module>>,
    known: HashMap<Key, Counters>,
}

impl Simulator {
    /// Counts the launches of a node, in order.
    pub fn count(&mut self, node: &Launch, planned: &Planned) -> Vec<Counters> {
        let runs = || {
            planned
                .kernel
                .launches
                .iter()
                .filter(|l| !l.grid.contains(&0))
        };
        if !runs().all(|l| self.known.contains_key(&key(l))) {
            let memory = Memory::new(16 << 30);
            let buffers = Buffers::new(node, planned, &memory);
            for launch in runs() {
                if !self.known.contains_key(&key(launch)) {
                    let counted = self.run(launch, &buffers, &memory);
                    self.known.insert(key(launch), counted);
                }
            }
        }
        runs().map(|l| self.known[&key(l)].clone()).collect()
    }

    fn run(&mut self, l: &GpuLaunch, buffers: &Buffers, memory: &Memory) -> Counters {
        let module = self.modules.entry(l.module).or_insert_with(|| {
            let text = modules::ptx(l.module).expect("a module of the binary");
            Arc::new(Module::parse(l.module, text).expect("PTX that the simulator takes"))
        });
        let loaded = Loaded::new(Arc::clone(module), memory).expect("memory");
        let mut config = LaunchConfig::new(l.grid, l.block);
        config.dynamic_shared = l.shared;
        config.check = false;
        let kernel = module.kernel(&l.function).expect("a kernel of the module");
        config.params = vec![0; kernel.param_bytes as usize];
        for (param, arg) in kernel.params.iter().zip(&l.args) {
            let bytes: Vec<u8> = match arg {
                Arg::Address(tensor, element) => buffers.at(*tensor, *element).to_le_bytes().into(),
                Arg::Value(bytes) => bytes.clone(),
                Arg::Noise => buffers.noise.to_le_bytes().into(),
                Arg::Null => vec![0; 8],
                Arg::Table(words) => {
                    let words: Vec<u8> = (words.iter())
                        .flat_map(|word| match word {
                            Word::Address(tensor, element) => {
                                buffers.at(*tensor, *element).to_le_bytes()
                            }
                            Word::Number(number) => number.to_le_bytes(),
                        })
                        .collect();
                    filled(memory, &words).to_le_bytes().into()
                }
            };
            config.params[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        let report = launch(&loaded, &l.function, &config, memory)
            .unwrap_or_else(|e| panic!("{} on the simulator: {e}", l.function));
        let json = serde_json::to_value(&report.counters).expect("counters are plain numbers");
        serde_json::from_value(json).expect("the simulator's names")
    }
}

fn filled(memory: &Memory, bytes: &[u8]) -> u64 {
    let address = memory.alloc(bytes.len() as u64, "buffer").expect("memory");
    memory.write(address, bytes).expect("just allocated");
    address
}

/// Where the tensors of a node stand. Inputs that are one tensor are one buffer.
struct Buffers<'a> {
    node: &'a Launch,
    planned: &'a Planned,
    inputs: HashMap<Place, u64>,
    outputs: Vec<u64>,
    updates: Vec<u64>,
    workspace: u64,
    kept: u64,
    noise: u64,
}

impl<'a> Buffers<'a> {
    fn new(node: &'a Launch, planned: &'a Planned, memory: &Memory) -> Self {
        // Enough for any storage.
        let tensor = |len: usize| filled(memory, bytemuck::cast_slice(&numbers(len.max(1))));
        let slots = |slots: &[Slot]| slots.iter().map(|s| tensor(s.shape.len())).collect();
        let mut inputs = HashMap::new();
        for slot in &node.inputs {
            let place = inputs.entry(slot.place);
            place.or_insert_with(|| tensor(slot.shape.len()));
        }
        let counter = NoiseCounter {
            seed: 1,
            ..NoiseCounter::default()
        };
        Buffers {
            node,
            planned,
            inputs,
            outputs: slots(&node.outputs),
            updates: slots(&node.updates),
            workspace: tensor(planned.kernel.workspace),
            kept: tensor(planned.kernel.kept.map_or(0, |k| k.len)),
            noise: filled(memory, bytemuck::bytes_of(&counter)),
        }
    }

    fn at(&self, tensor: Tensor, element: usize) -> u64 {
        let start = match tensor {
            Tensor::Input(i) => self.inputs[&self.node.inputs[i].place],
            Tensor::Output(i) => self.outputs[i],
            Tensor::Update(i) => self.updates[i],
            Tensor::Workspace => self.workspace,
            Tensor::Kept => self.kept,
        };
        start + (element * self.planned.narrow.stored(tensor).bytes()) as u64
    }
}

/// Numbers between -1/2 and 1/2 whose halves are such numbers in bf16 too: packed weights are pairs of those.
fn numbers(len: usize) -> Vec<u32> {
    let mut state = 0x9e37_79b9_u32;
    let mut half = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let number = (state >> 8) as f32 / (1 << 24) as f32 - 0.5;
        number.to_bits() >> 16
    };
    (0..len).map(|_| half() << 16 | half()).collect()
}
