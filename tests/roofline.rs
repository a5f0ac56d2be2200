//! What each kernel of the published CIFAR-10 setting's chain-step takes of a GPU's units, counted on the simulator at its true layer
//! shapes, at the rates of the GPU that runs it. No GPU is needed; see `docs/profiling.md` for what is counted.

#[path = "roofline/choices.rs"]
mod choices;
#[path = "roofline/simulate.rs"]
mod simulate;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use choices::Choices;
use ptxsim::Chip;
use simulate::{Simulator, Usage, Usages};
use vaebm::config::Config;
use vaebm::device::cuda::kernels::{PlanKernels, Target};
use vaebm::device::cuda::modules;
use vaebm::profile::count::count;
use vaebm::profile::counters::{Counters, Unit, beyond_l2, largest};
use vaebm::profile::gpus::{GPUS, Gpu};
use vaebm::profile::programs::Program;
use vaebm::program::Plan;
use vaebm::program::gpu::{GpuLaunch, Precision};

const BF16: Precision = Precision::Bf16;
/// Chains of the step that is judged.
const BATCH: usize = 64;
/// Pairs of batches, one of which is simulated for a node: the first whose blocks grow up to [`BATCH`] as from one to the other, so that no
/// block is filled in part. [`Counters::at_batch`] makes the counts of [`BATCH`] out of the two.
const SIMULATED: [[usize; 2]; 4] = [[1, 2], [2, 4], [4, 8], [8, 16]];

/// A step as one GPU runs it: the rates that it is judged by, and what the simulator poses as.
struct Judge {
    gpu: &'static Gpu,
    chip: Chip,
}

/// The one with code for compute capability 9.0 alone, and the one with what any GPU from compute capability 8.0 on can take.
const JUDGES: [Judge; 2] = [
    Judge {
        gpu: &GPUS[0],
        chip: Chip::H200,
    },
    Judge {
        gpu: &GPUS[1],
        chip: Chip::A100,
    },
];

impl Judge {
    fn target(&self) -> Target {
        Target::new(BF16, self.gpu.shared).with_sm_90a(self.gpu.sm_90a)
    }
}

/// All launches of a kernel in a step.
#[derive(Debug, Default)]
struct Row {
    launches: usize,
    counters: Counters,
    /// Bytes read again from device memory.
    beyond: f64,
    /// Seconds on each unit, added up.
    units: [f64; 7],
    /// Seconds, each launch at its largest roof.
    seconds: f64,
    /// Floors of the ops that launch it, in seconds: each once, however often the op launches it.
    floor: f64,
    usage: Option<Usage>,
}

/// A planned step.
struct Step {
    batch: usize,
    plan: Plan,
    kernels: PlanKernels,
}

impl Step {
    fn new(config: &Config, batch: usize, target: Target) -> Self {
        let plan = Program::Langevin.plan(config, batch);
        let kernels = PlanKernels::new(&plan, target).expect("small enough");
        Step {
            batch,
            plan,
            kernels,
        }
    }

    /// The launches of a node that do something.
    fn launches(&self, node: usize) -> Vec<&GpuLaunch> {
        let all = self.kernels.per_step[node].kernel.launches.iter();
        all.filter(|l| !l.grid.contains(&0)).collect()
    }

    /// The kernels of these.
    fn functions(&self, node: usize) -> Vec<&str> {
        let launches = self.launches(node).into_iter();
        launches.map(|l| l.function.as_str()).collect()
    }

    fn blocks(&self, node: usize) -> Vec<f64> {
        let launches = self.launches(node).into_iter();
        launches
            .map(|l| l.grid.iter().map(|n| f64::from(*n)).product())
            .collect()
    }
}

/// Whether a node runs the same kernels for `a`, `b` and `n` chains, and its blocks grow alike from `a` to `b` and on to `n`.
fn grow_alike(node: usize, a: &Step, b: &Step, n: &Step) -> bool {
    let times = (n.batch - a.batch) as f64 / (b.batch - a.batch) as f64;
    let same = [a, b].map(|step| step.functions(node) == n.functions(node));
    let [a, b, n] = [a, b, n].map(|step| step.blocks(node));
    same == [true; 2] && (0..n.len()).all(|i| a[i] + times * (b[i] - a[i]) == n[i])
}

/// A step's kernels by name.
fn rows(simulator: &mut Simulator, judge: &Judge, target: Target) -> BTreeMap<String, Row> {
    let (gpu, usages) = (judge.gpu, Usages::of(&judge.chip));
    let config = Config::preset("cifar10").expect("a preset");
    let choices = Arc::new(Choices::default());
    let whole = choices.record(|| Step::new(&config, BATCH, target));
    let small =
        [1, 2, 4, 8, 16].map(|n| choices.repeat(BATCH / n, || Step::new(&config, n, target)));
    let of = |n: usize| &small[n.ilog2() as usize];
    let nodes = count(&whole.plan, target).expect("small enough");
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for (i, node) in nodes.iter().enumerate() {
        let pairs = SIMULATED.map(|pair| pair.map(of));
        let grows = |pair: &&[&Step; 2]| grow_alike(i, pair[0], pair[1], &whole);
        let pair = pairs.iter().find(grows).unwrap_or(&pairs[3]);
        let counted =
            pair.map(|step| simulator.count(&step.plan.per_step[i], &step.kernels.per_step[i]));
        let launches = whole.launches(i);
        for step in pair {
            let [counted, meant] = [step, &whole].map(|step| step.functions(i));
            assert_eq!(counted, meant, "what is counted is what runs: {node:?}");
        }
        let floor = node.floor(gpu, BF16);
        let blocks = whole.blocks(i);
        for (j, launch) in launches.iter().enumerate() {
            let [one, other] = [&counted[0][j], &counted[1][j]];
            let resident = usages.resident(&judge.chip, launch);
            let [a, b, n] = [pair[0].batch, pair[1].batch, BATCH].map(|n| n as f64);
            let counters = one.at_batch(a, (other, b), n);
            // Between two reads of a weight lie the other weights, and what the blocks in flight read and write meanwhile.
            let streamed = (counters.unique_bytes() - node.weights).max(0.0);
            let between = node.weights + streamed * (resident / blocks[j]).min(1.0);
            let beyond = beyond_l2(gpu, counters.reread_bytes(), between);
            let seconds = counters.seconds(gpu, beyond);
            let row = rows.entry(launch.function.clone()).or_default();
            row.launches += 1;
            row.beyond += beyond;
            row.seconds += largest(&seconds).1;
            let before = &launches[..j];
            if !before.iter().any(|l| l.function == launch.function) {
                row.floor += floor;
            }
            for (sum, s) in row.units.iter_mut().zip(seconds) {
                *sum += s;
            }
            row.counters = row.counters.plus(&counters);
            row.usage = Some(usages.kernel(&launch.function));
        }
    }
    rows
}

/// Launches that several programs have are simulated once.
static SIMULATOR: LazyLock<Mutex<Simulator>> = LazyLock::new(Mutex::default);

fn counted(judge: &Judge, target: Target) -> BTreeMap<String, Row> {
    let mut simulator = SIMULATOR.lock().expect("no test broke it");
    rows(&mut simulator, judge, target)
}

/// The kernels of the step as each judge's GPU runs it.
fn fused() -> &'static [BTreeMap<String, Row>; 2] {
    static ROWS: LazyLock<[BTreeMap<String, Row>; 2]> = LazyLock::new(|| {
        JUDGES
            .each_ref()
            .map(|judge| counted(judge, judge.target()))
    });
    &ROWS
}

/// A step's kernels by time, the costliest first, and how many of them make up 90% of it.
fn by_time(rows: &BTreeMap<String, Row>) -> (Vec<(&String, &Row)>, usize) {
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    let all: f64 = rows.iter().map(|(_, r)| r.seconds).sum();
    let mut sum = 0.0;
    let before = rows.iter().take_while(|(_, row)| {
        sum += row.seconds;
        sum - row.seconds < 0.9 * all
    });
    let most = before.count();
    (rows, most)
}

/// The kernels that are judged, with the name of the GPU.
fn judged() -> Vec<(&'static str, &'static str, &'static Row)> {
    let of = |(judge, rows): (&Judge, &'static BTreeMap<String, Row>)| {
        let (mut rows, most) = by_time(rows);
        rows.truncate(most);
        let gpu = judge.gpu.name;
        rows.into_iter()
            .map(move |(name, row)| (gpu, name.as_str(), row))
    };
    JUDGES.iter().zip(fused()).flat_map(of).collect()
}

fn table(rows: &BTreeMap<String, Row>) -> String {
    let (rows, most) = by_time(rows);
    let mut text = format!("{:<38}{:>5}{:>9}", "kernel, us at a batch of 64", "n", "us");
    for unit in Unit::ALL {
        text += &format!("{:>9}", unit.name());
    }
    text += &format!(
        "{:>9}{:>7}{:>7}{:>7}{:>7}{:>8}{:>6}\n",
        "floor", "ratio", "coal", "16B", "banks", "reread", "stack"
    );
    for (i, (name, row)) in rows.iter().enumerate() {
        if i == most {
            text += "-- beyond 90% of the time:\n";
        }
        text += &format!("{name:<38}{:>5}{:>9.1}", row.launches, row.seconds * 1e6);
        for s in row.units {
            text += &format!("{:>9.1}", s * 1e6);
        }
        let c = &row.counters;
        text += &format!(
            "{:>9.1}{:>7.2}{:>7.3}{:>7.3}{:>7.3}{:>8.1}{:>6}\n",
            row.floor * 1e6,
            row.seconds / row.floor,
            c.coalescing(),
            c.wide_share(),
            c.conflict_share(),
            c.reread_bytes() / c.unique_bytes(),
            row.usage.map_or(0, |u| u.stack),
        );
    }
    let all: f64 = rows.iter().map(|(_, r)| r.seconds).sum();
    let bytes: f64 = rows
        .iter()
        .map(|(_, r)| r.counters.unique_bytes() + r.beyond)
        .sum();
    text + &format!(
        "all: {:.1} us, {:.1} MB per chain\n",
        all * 1e6,
        bytes / 1e6 / BATCH as f64
    )
}

/// What is demanded of a kernel, see `docs/profiling.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Criterion {
    /// Its largest roof over the floor of its op.
    Roof,
    /// The share of sectors that accesses narrower than 16 bytes touch.
    Narrow,
    /// The share of sectors that coalesced accesses would not need.
    Scattered,
    /// The share of passes over shared memory that bank conflicts cause.
    Banks,
    /// Bytes of local memory of a thread, into which registers spill.
    Local,
}

impl Criterion {
    const ALL: [Criterion; 5] = [
        Criterion::Roof,
        Criterion::Narrow,
        Criterion::Scattered,
        Criterion::Banks,
        Criterion::Local,
    ];

    /// What a kernel may have at most.
    fn most(self) -> f64 {
        match self {
            Criterion::Roof => 1.6,
            Criterion::Narrow | Criterion::Scattered => 0.1,
            Criterion::Banks => 0.05,
            Criterion::Local => 0.0,
        }
    }

    fn of(self, row: &Row) -> f64 {
        let c = &row.counters;
        match self {
            Criterion::Roof => row.seconds / row.floor,
            Criterion::Narrow => 1.0 - c.wide_share(),
            Criterion::Scattered => 1.0 - c.coalescing(),
            Criterion::Banks => c.conflict_share(),
            Criterion::Local => f64::from(row.usage.expect("a kernel of the binary").stack),
        }
    }
}

#[test]
fn the_kernels_of_the_step_come_near_what_their_ops_must_cost() {
    let mut wrong = String::new();
    for (gpu, name, row) in judged() {
        for criterion in Criterion::ALL {
            let value = criterion.of(row);
            // A value that is no number holds nothing.
            let holds = value <= criterion.most();
            if !holds {
                wrong += &format!("{gpu}: {name}: {criterion:?} is {value:.3}\n");
            }
        }
    }
    let tables = fused().each_ref().map(table);
    let tables = [0, 1]
        .map(|i| format!("{}\n{}", JUDGES[i].gpu.name, tables[i]))
        .join("\n");
    println!("{tables}");
    assert!(wrong.is_empty(), "{wrong}\n{tables}");
}

/// Counted launch by launch on the simulator, as `tests/profile.rs` counts it from the launches' arguments.
#[test]
fn fused_kernels_move_at_most_two_fifths_of_the_bytes() {
    let bytes = |rows: &BTreeMap<String, Row>| -> f64 {
        rows.values()
            .map(|r| r.counters.unique_bytes() + r.beyond)
            .sum()
    };
    let unfused = counted(&JUDGES[0], Target::new(BF16, 0));
    let [fused, unfused] = [&fused()[0], &unfused].map(bytes);
    let megabytes = |bytes: f64| bytes / 1e6 / BATCH as f64;
    println!(
        "device memory: {:.1} MB per chain, {:.1} unfused: {:.3}",
        megabytes(fused),
        megabytes(unfused),
        fused / unfused
    );
    assert!(fused <= 0.4 * unfused, "{fused} of {unfused} bytes");
}

/// A kernel's row of `kernels/ptx/sass.txt` on one architecture.
struct Code {
    kernel: &'static str,
    architecture: &'static str,
    /// By the titles of the columns.
    counts: BTreeMap<&'static str, u32>,
}

fn machine_code() -> Vec<Code> {
    let text = include_str!("../kernels/ptx/sass.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut rows = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let titles = rows.next().expect("a line of titles");
    // A file's own line has two words: its name and a digest.
    rows.filter(|words| words.len() == titles.len())
        .map(|words| Code {
            kernel: words[0],
            architecture: words[1],
            counts: (titles[2..].iter().copied())
                .zip(words[2..].iter().map(|n| n.parse().expect("a count")))
                .collect(),
        })
        .collect()
}

/// The text of each kernel in the PTX of the binary.
fn bodies() -> impl Iterator<Item = (&'static str, &'static str)> {
    let kernels = modules::PTX
        .iter()
        .flat_map(|(_, ptx)| ptx.split(".visible .entry ").skip(1));
    kernels.filter_map(|text| text.split_once('('))
}

#[test]
fn products_of_matrices_are_done_by_tensor_cores_in_machine_code() {
    let code = machine_code();
    let mut multiply = 0;
    for (kernel, body) in bodies() {
        let rows: Vec<&Code> = code.iter().filter(|c| c.kernel == kernel).collect();
        assert!(
            !rows.is_empty(),
            "{kernel} is not in kernels/ptx/sass.txt: run kernelc"
        );
        for (instruction, title) in [("mma.sync", "hmma"), ("wgmma.mma_async", "hgmma")] {
            let has = body.contains(instruction);
            multiply += usize::from(has);
            for row in &rows {
                let found = row.counts[title];
                assert_eq!(
                    found > 0,
                    has,
                    "{kernel} on {}: {found} {title}",
                    row.architecture
                );
            }
        }
    }
    assert!(
        multiply > 10,
        "{multiply} kernels with products of matrices"
    );
}

#[test]
fn no_kernel_spills_in_machine_code() {
    for code in machine_code() {
        assert_eq!(
            code.counts["local"], 0,
            "{} on {}",
            code.kernel, code.architecture
        );
    }
}
