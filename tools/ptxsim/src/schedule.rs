//! Spreads a launch's blocks over host threads and turns what they found into a report.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::finding::Finding;
use crate::interp::cluster::{Cluster, Random, Stop};
use crate::interp::findings::Findings;
use crate::interp::machine::{Machine, Undo, Worker};
use crate::interp::registers::Constants;
use crate::interp::warp::position;
use crate::launch::{LaunchConfig, LaunchError, LaunchReport, Loaded};
use crate::memory::{CLUSTER_BLOCKS, Memory, SHARED_WINDOW, WINDOW};
use crate::module::Kernel;
use crate::ptx::isa::{Op, Space};

/// Threads per block on every chip.
const MAX_THREADS: u32 = 1024;
/// Instructions a block runs in a serial launch before another block gets its turn. Blocks that wait for each other
/// (grid barriers, locks) get on this way; blocks that do not end long before.
const BLOCK_TURN: u64 = 1 << 20;
/// Blocks that a shuffled serial launch interleaves.
const INTERLEAVED: usize = 4;

/// Checks geometry, arguments and shared memory against kernel and chip.
fn check(kernel: &Kernel, config: &LaunchConfig) -> Result<(), String> {
    let [gx, gy, gz] = config.grid;
    let [bx, by, bz] = config.block;
    if gx == 0 || gy == 0 || gz == 0 || bx == 0 || by == 0 || bz == 0 {
        return Err(format!(
            "grid {:?} and block {:?} must not be zero",
            config.grid, config.block
        ));
    }
    if gx > i32::MAX as u32 || gy > 65_535 || gz > 65_535 {
        return Err(format!(
            "grid {:?} exceeds 2147483647 x 65535 x 65535",
            config.grid
        ));
    }
    let threads = u64::from(bx) * u64::from(by) * u64::from(bz);
    if threads > u64::from(MAX_THREADS) || bx > 1024 || by > 1024 || bz > 64 {
        return Err(format!(
            "block {:?} has {threads} threads; the limit is {MAX_THREADS}",
            config.block
        ));
    }
    if let Some(required) = kernel.required_ntid
        && required != config.block
    {
        return Err(format!(
            "block {:?} is not the one required by .reqntid: {required:?}",
            config.block
        ));
    }
    if let Some(most) = kernel.max_ntid {
        let most = most.iter().map(|n| u64::from(*n)).product::<u64>();
        if threads > most {
            return Err(format!(
                "{threads} threads per block exceed .maxntid: {most}"
            ));
        }
    }
    let shared = u64::from(kernel.static_shared) + u64::from(config.dynamic_shared);
    let limit = u64::from(config.chip.shared_per_block_optin);
    if shared > limit {
        return Err(format!(
            "{shared} bytes of shared memory per block exceed the {limit} of {}",
            config.chip.name
        ));
    }
    let blocks = check_cluster(kernel, config)?;
    let engines = blocks > 1 || kernel.code.mbarriers;
    if engines && threads.next_multiple_of(32) * blocks > u64::from(MAX_THREADS - 32) {
        return Err(format!(
            "{blocks} x {threads} threads that work together by mbarriers, bulk copies or as a cluster; {} are supported",
            MAX_THREADS - 32
        ));
    }
    if config.params.len() != kernel.param_bytes as usize {
        let (has, wants) = (config.params.len(), kernel.param_bytes);
        return Err(format!(
            "{has} bytes of arguments, but the kernel takes {wants}"
        ));
    }
    Ok(())
}

/// Checks the extents of a cluster; yields how many blocks it has.
fn check_cluster(kernel: &Kernel, config: &LaunchConfig) -> Result<u64, String> {
    let Some(cluster) = kernel.cluster else {
        if kernel.explicit_cluster {
            return Err("the launch must say how many blocks a cluster has".into());
        }
        return Ok(1);
    };
    let blocks: u64 = cluster.iter().map(|n| u64::from(*n)).product();
    if !(1..=u64::from(CLUSTER_BLOCKS)).contains(&blocks) {
        return Err(format!(
            "clusters of {blocks} blocks; 1 to {CLUSTER_BLOCKS} are possible"
        ));
    }
    let divides = |axis: usize| config.grid[axis].is_multiple_of(cluster[axis]);
    if !(0..3).all(divides) {
        return Err(format!(
            "grid {:?} is no multiple of the cluster's {cluster:?} blocks",
            config.grid
        ));
    }
    Ok(blocks)
}

/// Whether the kernel orders blocks itself: device-wide fences together with atomics or strong accesses.
fn is_fenced(kernel: &Kernel) -> bool {
    let ops = || kernel.code.insts.iter().map(|inst| &inst.op);
    let fence = ops().any(|op| {
        matches!(
            op,
            Op::Fence { block_only: false }
                | Op::Atom { release: true, .. }
                | Op::St { release: true, .. }
        )
    });
    fence && kernel.code.ordered
}

/// Whether warps can wait for each other by shared memory: fences together with atomics that yield values, or strong
/// loads.
fn is_fenced_shared(kernel: &Kernel) -> bool {
    let ops = || kernel.code.insts.iter().map(|inst| &inst.op);
    let waits = |op: &Op| match op {
        Op::Atom { space, d, .. } => {
            matches!(space, Space::Shared | Space::Cluster | Space::Generic) && !d.is_none()
        }
        Op::Ld { space, strong, .. } => {
            *strong && matches!(space, Space::Shared | Space::Cluster | Space::Generic)
        }
        _ => false,
    };
    ops().any(|op| matches!(op, Op::Fence { .. })) && ops().any(waits)
}

fn constants(kernel: &Kernel, loaded: &Loaded) -> Constants {
    let code = &kernel.code;
    let narrow = code.constants32.iter().map(|value| [*value; 32]).collect();
    let mut wide: Vec<[u64; 32]> = code.constants64.iter().map(|value| [*value; 32]).collect();
    for (constant, global, addend) in &code.relocations {
        wide[*constant] = [loaded.addresses[*global].wrapping_add(*addend as u64); 32];
    }
    Constants { narrow, wide }
}

/// How an attempt at a launch ended.
struct Outcome {
    findings: Findings,
    issued: Vec<[u64; 2]>,
    counters: crate::counters::Counters,
    undo: Vec<Undo>,
    /// The stop of the lowest block.
    stop: Option<(u64, Stop)>,
}

impl Outcome {
    fn of(worker: Worker<'_>, stop: Option<(u64, Stop)>) -> Outcome {
        let Worker {
            findings,
            issued,
            counters,
            undo,
            ..
        } = worker;
        Outcome {
            findings,
            issued,
            counters,
            undo,
            stop,
        }
    }

    fn merge(&mut self, other: Outcome) {
        self.findings.merge(other.findings);
        for (mine, theirs) in self.issued.iter_mut().zip(&other.issued) {
            mine[0] += theirs[0];
            mine[1] += theirs[1];
        }
        self.counters.add(&other.counters);
        self.undo.extend(other.undo);
        if let Some(stop) = other.stop
            && self.stop.as_ref().is_none_or(|mine| stop.0 < mine.0)
        {
            self.stop = Some(stop);
        }
    }
}

/// The order of clusters: natural, or shuffled by the seed (a full-period affine walk needs no memory).
#[derive(Clone, Copy)]
struct ClusterOrder {
    count: u64,
    factor: u64,
    offset: u64,
}

impl ClusterOrder {
    fn new(count: u64, shuffle: Option<u64>) -> ClusterOrder {
        let Some(seed) = shuffle else {
            return ClusterOrder {
                count,
                factor: 1,
                offset: 0,
            };
        };
        let mut random = Random::new(seed);
        let offset = random.below(count);
        let mut factor = 1 + random.below(count);
        let gcd = |mut a: u64, mut b: u64| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        while gcd(factor, count) != 1 {
            factor += 1;
        }
        ClusterOrder {
            count,
            factor,
            offset,
        }
    }

    fn cluster(self, rank: u64) -> u64 {
        ((u128::from(rank) * u128::from(self.factor) + u128::from(self.offset))
            % u128::from(self.count)) as u64
    }
}

pub(crate) fn run(
    loaded: &Loaded,
    kernel: &Kernel,
    config: &LaunchConfig,
    memory: &Memory,
) -> Result<LaunchReport, LaunchError> {
    let bad = |message| LaunchError::BadConfig {
        kernel: kernel.name.clone(),
        message,
    };
    check(kernel, config).map_err(bad)?;
    let (module, chip) = (loaded.module(), &config.chip);
    if !module.runs_on(chip.compute_capability) {
        let (target, name) = (module.target(), chip.name);
        return Err(bad(format!(
            "the PTX is for {target}, which {name} does not run"
        )));
    }
    if u64::from(kernel.code.dynamic_offset) + u64::from(config.dynamic_shared) > WINDOW {
        return Err(bad(format!(
            "shared memory does not fit the window at {SHARED_WINDOW:#x}"
        )));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cluster = kernel.cluster.unwrap_or([1; 3]);
    let clusters: u64 = (config.grid.iter().zip(cluster))
        .map(|(blocks, of)| u64::from(blocks / of))
        .product();
    let wanted = if config.threads == 0 {
        cores
    } else {
        config.threads
    };
    let threads = wanted
        .min(usize::try_from(clusters).unwrap_or(usize::MAX))
        .max(1);
    let machine = |serial: bool| Machine {
        code: &kernel.code,
        constants: constants(kernel, loaded),
        params: &config.params,
        grid: config.grid,
        block: config.block,
        cluster,
        explicit_cluster: kernel.explicit_cluster,
        threads: config.block.iter().product(),
        dynamic_shared: config.dynamic_shared,
        static_shared: kernel.static_shared,
        sms: config.chip.sms,
        memory,
        allocations: memory.live(),
        launch: memory.next_launch(),
        check: config.check,
        serial,
        fenced: serial && (is_fenced(kernel) || cluster != [1; 3]),
        fenced_shared: is_fenced_shared(kernel),
        instruction_limit: config.instruction_limit,
        launch_limit: config.launch_limit,
        spent: AtomicU64::new(0),
        shuffle: config.shuffle,
        abort: AtomicBool::new(false),
        sequence: AtomicU64::new(0),
    };
    let order = ClusterOrder::new(clusters, config.shuffle);
    let mut outcome = None;
    if threads > 1 && !kernel.code.ordered {
        let m = machine(false);
        let attempt = parallel(&m, order, threads);
        // A stop or a dependence between blocks: what was written is taken back, and the serial run decides.
        if m.check && (m.abort.load(Relaxed) || attempt.stop.is_some()) {
            take_back(&m, attempt.undo);
        } else {
            outcome = Some(attempt);
        }
    }
    let outcome = outcome.unwrap_or_else(|| serial(&machine(true), order));
    let report = report(kernel, loaded, config, &outcome);
    match outcome.stop {
        None => Ok(report),
        Some((block, stop)) => {
            let line = kernel.code.meta[stop.pc as usize].line;
            let [bx, by, bz] = position(block, config.grid);
            let [tx, ty, tz] = position(u64::from(stop.thread), config.block);
            let message = format!(
                "{}: {} at {}:{line}, block ({bx},{by},{bz}) thread ({tx},{ty},{tz})",
                kernel.name,
                stop.message,
                loaded.module().file()
            );
            Err(LaunchError::Stopped {
                message,
                report: Box::new(report),
            })
        }
    }
}

/// Runs blocks on several threads, as if independent.
fn parallel(m: &Machine<'_>, order: ClusterOrder, threads: usize) -> Outcome {
    let next = AtomicU64::new(0);
    let work = || {
        let mut worker = Worker::new(m);
        let mut cluster = Cluster::new();
        let mut stop = None;
        while !m.abort.load(Relaxed) {
            let rank = next.fetch_add(1, Relaxed);
            if rank >= order.count {
                break;
            }
            cluster.reset(m, order.cluster(rank));
            let end = loop {
                match cluster.run(&mut worker, BLOCK_TURN) {
                    Ok(false) if !m.abort.load(Relaxed) => {}
                    end => break end,
                }
            };
            if let Err(why) = end {
                m.abort.store(true, Relaxed);
                stop = Some((worker.block, why));
            }
        }
        Outcome::of(worker, stop)
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut outcome = work();
        for other in others {
            match other.join() {
                Ok(theirs) => outcome.merge(theirs),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcome
    })
}

/// Runs blocks on one thread in a fixed order. A block that takes long gives way to others, so that blocks can wait
/// for each other.
fn serial(m: &Machine<'_>, order: ClusterOrder) -> Outcome {
    let mut worker = Worker::new(m);
    let mut random = m.shuffle.map(|seed| Random::new(seed ^ 0x5eed));
    let resident = (m.sms as usize * 32).min(4096);
    let mut next = 0;
    let mut active: VecDeque<Cluster> = VecDeque::new();
    let mut spare: Vec<Cluster> = Vec::new();
    loop {
        let room = if random.is_some() { INTERLEAVED } else { 1 };
        while next < order.count && active.len() < room {
            let mut cluster = spare.pop().unwrap_or_else(Cluster::new);
            cluster.reset(m, order.cluster(next));
            active.push_back(cluster);
            next += 1;
        }
        if let Some(random) = &mut random {
            let turns = random.below(active.len().max(1) as u64) as usize;
            active.rotate_left(turns);
        }
        let Some(mut cluster) = active.pop_front() else {
            return Outcome::of(worker, None);
        };
        let budget = random
            .as_mut()
            .map_or(BLOCK_TURN, |random| 1 + random.below(20_000));
        match cluster.run(&mut worker, budget) {
            Ok(true) => spare.push(cluster),
            Ok(false) => {
                active.push_back(cluster);
                // The block may wait for one that has not begun.
                if next < order.count && active.len() < resident && m.code.ordered {
                    let mut cluster = spare.pop().unwrap_or_else(Cluster::new);
                    cluster.reset(m, order.cluster(next));
                    active.push_front(cluster);
                    next += 1;
                }
            }
            Err(stop) => {
                let block = worker.block;
                return Outcome::of(worker, Some((block, stop)));
            }
        }
    }
}

/// Restores what a given-up attempt wrote, the latest first.
fn take_back(m: &Machine<'_>, mut undo: Vec<Undo>) {
    undo.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.sequence));
    for entry in undo {
        let allocation = &m.allocations[entry.allocation as usize];
        allocation.restore(entry.offset, entry.word, entry.written, entry.bytes);
    }
}

fn report(
    kernel: &Kernel,
    loaded: &Loaded,
    config: &LaunchConfig,
    outcome: &Outcome,
) -> LaunchReport {
    let mut counters = outcome.counters.clone();
    for (meta, [issued, lanes]) in kernel.code.meta.iter().zip(&outcome.issued) {
        if *issued == 0 {
            continue;
        }
        counters.warp_instructions += issued;
        counters.lane_instructions += lanes;
        *counters.by_class.entry(meta.class).or_default() += issued;
        if let Some((unit, each)) = meta.flops {
            *counters.flops.entry(unit).or_default() += each * lanes;
        }
        counters.special_functions += meta.special_functions * lanes;
    }
    let module = loaded.module();
    let mut findings: Vec<Finding> = outcome
        .findings
        .records
        .iter()
        .map(|((pc, kind), record)| {
            let meta = &kernel.code.meta[*pc as usize];
            let (allocation, offset) = record.place.clone().unzip();
            Finding {
                kind: *kind,
                kernel: kernel.name.clone(),
                ptx_file: module.file.clone(),
                ptx_line: meta.line,
                source: module.lines.chain(meta.loc),
                block: position(record.block, config.grid),
                thread: position(u64::from(record.thread), config.block),
                access: record.access,
                address: record.address,
                allocation,
                offset,
                message: record.message.clone(),
                count: record.count,
            }
        })
        .collect();
    findings.sort_by_key(|finding| (finding.ptx_line, finding.kind));
    LaunchReport {
        kernel: kernel.name.clone(),
        findings,
        counters,
    }
}
