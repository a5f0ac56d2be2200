//! A program on the GPU: everything that its steps need, decided before the first one.

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaGraph, CudaStream, result, sys};

use super::driver::Doing;
use super::kernels::{PlanKernels, Planned, Target};
use super::memory::{ALIGN, Block, Staging};
use super::modules::Modules;
use super::nvtx;
use crate::device::DeviceError;
use crate::program::gpu::{Arg, GpuLaunch, NoiseCounter, Tensor, Word};
use crate::program::{Launch, Noise, Place, Plan};

/// A kernel with its arguments in the form that the driver takes.
pub(super) struct Call {
    function: sys::CUfunction,
    /// The planned launch: name and geometry.
    launch: GpuLaunch,
    /// One argument each: 8-byte words, so that anything a kernel takes is aligned.
    arguments: Vec<Vec<u64>>,
}

impl Call {
    pub fn run(&self, stream: &CudaStream) -> Result<(), DeviceError> {
        let mut pointers: Vec<*mut c_void> = (self.arguments.iter())
            .map(|a| a.as_ptr().cast_mut().cast())
            .collect();
        let GpuLaunch { grid, block, .. } = self.launch;
        // SAFETY: the kernel's parameters are as many and as large as its arguments (held against the PTX in a test); the driver copies
        // them before it returns; the addresses among them lie in blocks that outlive the program's work.
        unsafe {
            result::launch_kernel(
                self.function,
                grid.into(),
                block.into(),
                self.launch.shared,
                stream.cu_stream(),
                &mut pointers,
            )
        }
        .doing(&format!(
            "kernel `{}` with {grid:?} blocks of {block:?} threads could not be launched",
            self.launch.function
        ))
    }
}

/// The calls of one planned launch.
type Calls = Vec<Call>;

/// What was laid out where within a program's one allocation.
struct Layout {
    arena: usize,
    workspace: usize,
    /// Where rooms that ops share begin.
    kept: usize,
    noise: usize,
    constants: Vec<usize>,
    feeds: Vec<usize>,
    /// Of each named output; of a state none that is looked at.
    named: Vec<usize>,
    tables: usize,
    bytes: usize,
}

/// A prepared program.
pub(super) struct Prepared {
    pub plan: Plan,
    /// Indices into the device's states, in the order of the plan's.
    pub states: Vec<usize>,
    /// The versions that the plan's `per_version` was last run for.
    pub fresh_for: Option<Vec<u64>>,
    // Graphs stand before the memory that their nodes name: fields are dropped in this order.
    version_graph: Option<CudaGraph>,
    step_graphs: HashMap<u32, CudaGraph>,
    per_version: Vec<Calls>,
    per_step: Vec<Calls>,
    /// Moves the noise counter to the next step.
    advance: Call,
    staging: [Staging; 2],
    /// Which of the two is being filled.
    filling: usize,
    /// Offset of each feed in the staging memory; the noise counter stands at 0.
    feed_offsets: Vec<usize>,
    /// Feeds written since the last run.
    dirty: Vec<bool>,
    memory: Block,
    layout: Layout,
    /// How often the launches of a parameter version, those of a step, and the counter's advance were submitted.
    version_runs: u64,
    steps_run: u64,
    advances: u64,
}

/// Where states are on the device.
pub(super) struct StateBlock<'a> {
    pub memory: &'a Block,
}

fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

/// Tables as the device reads them, one after the other, and where each begins.
#[derive(Default)]
pub(super) struct Tables(pub Vec<u64>);

/// What every call of a program shares: where its noise counter and its tables stand.
#[derive(Clone, Copy)]
pub(super) struct Common {
    pub noise: sys::CUdeviceptr,
    pub tables: sys::CUdeviceptr,
}

impl Prepared {
    pub fn new(
        context: &Arc<CudaContext>,
        stream: &Arc<CudaStream>,
        modules: &mut Modules,
        target: Target,
        plan: Plan,
        states: Vec<usize>,
        blocks: &[StateBlock<'_>],
    ) -> Result<Self, DeviceError> {
        let kernels = PlanKernels::new(&plan, target)?;
        let layout = Layout::new(&plan, &kernels);
        let memory = Block::new(context, layout.bytes, &format!("program `{}`", plan.name))?;

        let mut tables = Tables::default();
        let common = Common {
            noise: memory.at(layout.noise),
            tables: memory.at(layout.tables),
        };
        let mut resolve =
            |launches: &[Launch], kernels: Vec<Planned>| -> Result<Vec<Calls>, DeviceError> {
                let mut all = Vec::with_capacity(launches.len());
                for (launch, kernel) in launches.iter().zip(kernels) {
                    let place = |tensor, element| {
                        layout.address(&memory, blocks, &states, (launch, &kernel), tensor, element)
                    };
                    let planned = kernel.kernel.launches.iter();
                    let planned = planned.filter(|l| !l.grid.contains(&0)).cloned();
                    all.push(
                        planned
                            .map(|l| call(modules, l, &place, common, &mut tables))
                            .collect::<Result<Calls, _>>()?,
                    );
                }
                Ok(all)
            };
        let per_version = resolve(&plan.per_version, kernels.per_version)?;
        let per_step = resolve(&plan.per_step, kernels.per_step)?;
        let advance = GpuLaunch::new("noise", "noise_advance").block(1).noise();
        let nowhere = |_, _| unreachable!("the counter is the only argument");
        let advance = call(modules, advance, &nowhere, common, &mut tables)?;

        memory.write(stream, layout.tables, &tables.0)?;
        for ((_, data), offset) in plan.constants.iter().zip(&layout.constants) {
            let data: Vec<f32> = data.iter().map(|v| *v as f32).collect();
            memory.write(stream, *offset, &data)?;
        }
        let mut staged = aligned(size_of::<NoiseCounter>());
        let mut feed_offsets = Vec::new();
        for (feed, at) in plan.feeds.iter().zip(&layout.feeds) {
            let bytes = feed.slot.shape.len() * size_of::<f32>();
            memory.clear(stream, *at, bytes)?;
            feed_offsets.push(staged);
            staged += aligned(bytes);
        }
        Ok(Prepared {
            dirty: vec![false; plan.feeds.len()],
            plan,
            states,
            fresh_for: None,
            version_graph: None,
            step_graphs: HashMap::new(),
            per_version,
            per_step,
            advance,
            staging: [
                Staging::new(context, staged)?,
                Staging::new(context, staged)?,
            ],
            filling: 0,
            feed_offsets,
            memory,
            layout,
            version_runs: 0,
            steps_run: 0,
            advances: 0,
        })
    }

    /// Bytes of the program's allocation.
    pub fn bytes(&self) -> usize {
        self.layout.bytes
    }

    /// Takes a feed's numbers; they go to the device with the next run.
    pub fn feed(&mut self, index: usize, data: &[f32]) -> Result<(), DeviceError> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let staging = self.staging[self.filling].bytes()?;
        staging[self.feed_offsets[index]..][..bytes.len()].copy_from_slice(bytes);
        self.dirty[index] = true;
        Ok(())
    }

    /// The allocation and the byte in it where the plan's named output of this index stands, which is no state.
    pub fn location(&self, output: usize) -> (&Block, usize) {
        (&self.memory, self.layout.named[output])
    }

    /// Sends what was fed and the noise counter.
    fn send(&mut self, stream: &CudaStream, noise: Noise) -> Result<(), DeviceError> {
        let counter = NoiseCounter {
            seed: noise.seed,
            first_sample: noise.first_sample,
            step: noise.step,
            reserved: 0,
        };
        let staging = &mut self.staging[self.filling];
        staging.bytes()?[..size_of::<NoiseCounter>()].copy_from_slice(bytemuck::bytes_of(&counter));
        let to = self.memory.at(self.layout.noise);
        staging.send(stream, 0, size_of::<NoiseCounter>(), to)?;
        for (index, feed) in self.plan.feeds.iter().enumerate() {
            let bytes = feed.slot.shape.len() * size_of::<f32>();
            if std::mem::take(&mut self.dirty[index]) && bytes > 0 {
                let to = self.memory.at(self.layout.feeds[index]);
                staging.send(stream, self.feed_offsets[index], bytes, to)?;
            }
        }
        staging.sent(stream)?;
        self.filling = 1 - self.filling;
        Ok(())
    }

    /// Submits the launches of a parameter version if they are stale, then `steps` steps, as one graph each.
    pub fn run(
        &mut self,
        stream: &Arc<CudaStream>,
        noise: Noise,
        steps: u32,
        stale: bool,
    ) -> Result<(), DeviceError> {
        let _range = nvtx::range(&self.plan.name);
        self.send(stream, noise)?;
        if stale && !self.per_version.is_empty() {
            if self.version_graph.is_none() {
                let calls = &self.per_version;
                self.version_graph = capture(stream, || run_all(calls, stream))?;
            }
            launch(self.version_graph.as_ref())?;
            self.version_runs += 1;
        }
        if steps == 0 {
            return Ok(());
        }
        if !self.step_graphs.contains_key(&steps) {
            let graph = capture(stream, || {
                for _ in 0..steps {
                    run_all(&self.per_step, stream)?;
                    self.advance.run(stream)?;
                }
                Ok(())
            })?;
            self.step_graphs.extend(graph.map(|g| (steps, g)));
        }
        launch(self.step_graphs.get(&steps))?;
        self.steps_run += u64::from(steps);
        self.advances += u64::from(steps);
        Ok(())
    }

    /// As a run of one step, without a graph; the seconds of each planned launch of the step.
    pub fn time(
        &mut self,
        context: &Arc<CudaContext>,
        stream: &CudaStream,
        noise: Noise,
        stale: bool,
    ) -> Result<Vec<f64>, DeviceError> {
        let _range = nvtx::range(&self.plan.name);
        self.send(stream, noise)?;
        if stale {
            run_all(&self.per_version, stream)?;
            self.version_runs += 1;
        }
        self.steps_run += 1;
        let event = || -> Result<CudaEvent, DeviceError> {
            let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
            let event = context.new_event(flags).doing("the GPU makes no event")?;
            event.record(stream).doing("the GPU records no event")?;
            Ok(event)
        };
        let mut events = vec![event()?];
        for (launch, calls) in self.plan.per_step.iter().zip(&self.per_step) {
            let _node = nvtx::range(&format!("{} {}", launch.label, launch.kernel.name()));
            calls.iter().try_for_each(|call| call.run(stream))?;
            events.push(event()?);
        }
        stream.synchronize().doing("the GPU failed")?;
        let seconds = |pair: &[CudaEvent]| {
            let ms = pair[0]
                .elapsed_ms(&pair[1])
                .doing("the GPU does not time")?;
            Ok(f64::from(ms) * 1e-3)
        };
        events.windows(2).map(seconds).collect()
    }

    /// Adds how often each kernel has been submitted so far.
    pub fn count_launches(&self, total: &mut BTreeMap<String, u64>) {
        let mut add = |call: &Call, times: u64| {
            if times > 0 {
                *total.entry(call.launch.function.clone()).or_default() += times;
            }
        };
        let calls = self.per_version.iter().flatten();
        calls.for_each(|call| add(call, self.version_runs));
        let calls = self.per_step.iter().flatten();
        calls.for_each(|call| add(call, self.steps_run));
        add(&self.advance, self.advances);
    }
}

fn run_all(calls: &[Calls], stream: &CudaStream) -> Result<(), DeviceError> {
    calls.iter().flatten().try_for_each(|call| call.run(stream))
}

/// Records what `submit` does on the stream; `None` if it does nothing.
fn capture(
    stream: &Arc<CudaStream>,
    submit: impl FnOnce() -> Result<(), DeviceError>,
) -> Result<Option<CudaGraph>, DeviceError> {
    let doing = "the step could not be captured as a graph";
    stream
        .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .doing(doing)?;
    let submitted = submit();
    // Ended in any case: a stream that stays in capture takes no other work.
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags);
    submitted?;
    let graph = graph.doing(doing)?;
    if let Some(graph) = &graph {
        graph.upload().doing(doing)?;
    }
    Ok(graph)
}

fn launch(graph: Option<&CudaGraph>) -> Result<(), DeviceError> {
    graph.map_or(Ok(()), |g| {
        g.launch().doing("the step could not be submitted")
    })
}

impl Layout {
    fn new(plan: &Plan, kernels: &PlanKernels) -> Self {
        let mut words = 0;
        for Planned { kernel, .. } in kernels.per_version.iter().chain(&kernels.per_step) {
            let tables = kernel
                .launches
                .iter()
                .flat_map(|l| &l.args)
                .map(|arg| match arg {
                    Arg::Table(table) => table.len(),
                    _ => 0,
                });
            words += tables.sum::<usize>();
        }
        let mut bytes = 0;
        let mut take = |count: usize, size: usize| {
            let at = bytes;
            bytes += aligned(count * size);
            at
        };
        let arena = take(kernels.arena.bytes, 1);
        let workspace = take(kernels.workspace, size_of::<f32>());
        let kept = take(kernels.kept, size_of::<f32>());
        let noise = take(1, size_of::<NoiseCounter>());
        let constants: Vec<usize> = (plan.constants.iter())
            .map(|(shape, _)| take(shape.len(), size_of::<f32>()))
            .collect();
        let tables = take(words, size_of::<u64>());
        let named = plan.outputs.iter().zip(&kernels.arena.named);
        let named = named.map(|(output, at)| match output.slot.place {
            Place::Constant(index) => constants[index],
            Place::Arena(_) | Place::State(_) => arena + at,
        });
        Layout {
            named: named.collect(),
            feeds: kernels.arena.feeds.iter().map(|at| arena + at).collect(),
            arena,
            workspace,
            kept,
            noise,
            constants,
            tables,
            bytes,
        }
    }

    fn address(
        &self,
        memory: &Block,
        blocks: &[StateBlock<'_>],
        states: &[usize],
        (launch, planned): (&Launch, &Planned),
        tensor: Tensor,
        element: usize,
    ) -> sys::CUdeviceptr {
        let offset = element * planned.narrow.stored(tensor).bytes();
        let (slot, at) = match tensor {
            Tensor::Input(i) => (&launch.inputs[i], planned.places.inputs[i]),
            Tensor::Output(i) => (&launch.outputs[i], planned.places.outputs[i]),
            Tensor::Update(i) => (&launch.updates[i], 0),
            Tensor::Workspace => return memory.at(self.workspace + offset),
            Tensor::Kept => {
                return memory.at(self.kept + planned.kept_at * size_of::<f32>() + offset);
            }
        };
        match slot.place {
            Place::Arena(_) => memory.at(self.arena + at + offset),
            Place::Constant(index) => memory.at(self.constants[index] + offset),
            Place::State(index) => blocks[states[index]].memory.at(offset),
        }
    }
}

/// Resolves a launch: its kernel's handle, and its arguments in words.
pub(super) fn call(
    modules: &mut Modules,
    launch: GpuLaunch,
    place: &dyn Fn(Tensor, usize) -> sys::CUdeviceptr,
    common: Common,
    tables: &mut Tables,
) -> Result<Call, DeviceError> {
    let function = modules.function(&launch)?;
    let arguments = launch.args.iter().map(|arg| match arg {
        Arg::Address(tensor, element) => vec![place(*tensor, *element)],
        Arg::Noise => vec![common.noise],
        Arg::Null => vec![0],
        Arg::Value(bytes) => {
            let mut words = vec![0u64; bytes.len().div_ceil(size_of::<u64>())];
            bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
            words
        }
        Arg::Table(table) => {
            let start = common.tables + (tables.0.len() * size_of::<u64>()) as u64;
            tables.0.extend(table.iter().map(|word| match word {
                Word::Address(tensor, element) => place(*tensor, *element),
                Word::Number(number) => *number,
            }));
            vec![start]
        }
    });
    Ok(Call {
        arguments: arguments.collect(),
        function,
        launch,
    })
}
