//! What the ops' CUDA launches say, for their cases and for the programs of published models at full size, held against the committed
//! PTX: no driver is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use vaebm::config::Config;
use vaebm::device::cuda::kernels::{Target, gpu_kernel, narrow};
use vaebm::device::cuda::{modules, peaks};
use vaebm::langevin::programs::{Chains, StepNoise};
use vaebm::nvae::Nvae;
use vaebm::ops::registry::entries;
use vaebm::program::gpu::{Arg, GpuKernel, GpuLaunch, Narrow, Precision, Stored, Tensor, Word};
use vaebm::program::{Launch, Plan, Slot};
use vaebm::train::vae_programs::NoiseSource;
use vaebm::train::{ebm_programs, vae_programs};

/// Shared memory that a block may have: the least of the architectures that we ship for (compute capability 8.9), and the most (9.0).
const SHARED: [usize; 2] = [99 << 10, 227 << 10];
/// Threads of a block.
const MAX_THREADS: u32 = 1024;

/// A kernel of a PTX file: the bytes of each parameter, and the largest block it was compiled for.
#[derive(Debug)]
struct Entry {
    params: Vec<usize>,
    max_threads: Option<u32>,
    static_shared: u32,
}

fn bytes_of(kind: &str) -> usize {
    let bits: usize = kind[1..].parse().expect("a type such as .u32");
    bits / 8
}

/// The kernels of a PTX text.
fn kernels(ptx: &str) -> BTreeMap<String, Entry> {
    let mut found = BTreeMap::new();
    let mut lines = ptx.lines();
    while let Some(line) = lines.next() {
        let Some(rest) = line.trim().strip_prefix(".visible .entry ") else {
            continue;
        };
        let name = rest.trim_end_matches(['(', ')']).to_owned();
        let mut entry = Entry {
            params: Vec::new(),
            max_threads: None,
            static_shared: 0,
        };
        for line in lines.by_ref() {
            let words: Vec<&str> = line
                .trim()
                .trim_end_matches(',')
                .split_whitespace()
                .collect();
            match words[..] {
                [".param", ".align", _, ".b8", array] => {
                    let count = array.split(['[', ']']).nth(1).and_then(|n| n.parse().ok());
                    entry.params.push(count.expect("an array with a length"));
                }
                [".param", kind, _] => entry.params.push(bytes_of(kind.trim_start_matches('.'))),
                [".maxntid", ..] => {
                    let product = line.trim()[".maxntid".len()..].split(',');
                    let product = product.map(|n| n.trim().parse::<u32>().expect("an extent"));
                    entry.max_threads = Some(product.product());
                }
                ["{"] => break,
                _ => {}
            }
        }
        found.insert(name, entry);
    }
    // `ptxas` says how much shared memory a kernel declares; kernelc writes it down at the head of the file.
    for line in ptx
        .lines()
        .filter_map(|l| l.strip_prefix("// kernelc: usage "))
    {
        let mut words = line.split_whitespace();
        let entry = words.next().and_then(|name| found.get_mut(name));
        let shared = words.find_map(|w| w.strip_prefix("shared=")?.parse().ok());
        if let (Some(entry), Some(shared)) = (entry, shared) {
            entry.static_shared = entry.static_shared.max(shared);
        }
    }
    found
}

fn all_kernels() -> BTreeMap<&'static str, BTreeMap<String, Entry>> {
    modules::PTX
        .iter()
        .map(|(name, text)| (*name, kernels(text)))
        .collect()
}

/// The steps of both stages of a preset.
fn programs(preset: &str) -> Vec<Plan> {
    let config = Config::preset(preset).expect("a preset");
    let model = Nvae::new(config.vae.clone(), config.data.size, config.data.channels);
    let chains = Chains {
        model: model.clone(),
        ebm: config.ebm.clone(),
        n: config.train_ebm.batch_size,
        target: config.train_ebm.target,
        temperature: 1.0,
    };
    let (n, bits) = (config.train_vae.batch_size, config.data.num_x_bits);
    let vae = vae_programs::train_step(
        &model,
        &config.train_vae,
        bits,
        n,
        4,
        NoiseSource::Streams(0),
    );
    let ebm = |precision| ebm_programs::train_step(&chains, &config.train_ebm, precision, 4, false);
    vec![
        vae.tape.plan("stage1/train"),
        ebm(Precision::F32).tape.plan("stage2/update"),
        ebm(Precision::Bf16).tape.plan("stage2/update"),
        chains.start().plan("stage2/start"),
        chains
            .step(StepNoise::Generated, false)
            .plan("stage2/langevin"),
        chains.images().plan("stage2/images"),
    ]
}

/// What a launch's tensors can be stored as in bf16, as far as its op says: all that it takes, and each of them by itself.
fn storages(launch: &Launch, target: Target) -> Vec<Narrow> {
    let mut all = vec![Narrow::NONE];
    if target.stored == Stored::F32 {
        return all;
    }
    let alone = (0..launch.inputs.len()).map(|i| Narrow::new(&[i], &[]));
    let alone = alone.chain((0..launch.outputs.len()).map(|i| Narrow::new(&[], &[i])));
    for mut proposed in [Narrow::ALL].into_iter().chain(alone) {
        // Until it agrees, as a plan asks.
        loop {
            let taken = narrow(launch, target, true, proposed).expect("small enough");
            if taken == proposed {
                break;
            }
            proposed = taken;
        }
        if !all.contains(&proposed) {
            all.push(proposed);
        }
    }
    all
}

/// Every launch of every case of every op and of published models, in every precision and storage, for GPUs with little and much shared
/// memory and for compute capability 9.0, with what planned it. The same op on tensors of the same shapes is visited once, and so is what one
/// GPU shares with another.
fn every_launch(mut visit: impl FnMut(&Launch, &GpuKernel, Narrow, usize)) {
    let mut plans = Vec::new();
    for entry in entries() {
        for case in (entry.cases)() {
            for tape in [case.value_tape(), case.gradient_tape()] {
                plans.push(tape.plan(&format!("case `{}` of {}", case.name, entry.folder)));
            }
        }
    }
    plans.extend(programs("toy"));
    plans.extend(programs("cifar10"));
    let mut known = BTreeSet::new();
    for plan in &plans {
        for launch in plan.per_version.iter().chain(&plan.per_step) {
            let shapes = [&launch.inputs, &launch.outputs, &launch.updates]
                .map(|slots| slots.iter().map(|s| s.shape).collect::<Vec<_>>());
            if !known.insert(format!("{:?} {shapes:?}", launch.kernel)) {
                continue;
            }
            for precision in Precision::ALL {
                let mut seen = Vec::new();
                for (shared, sm_90a) in [(SHARED[0], false), (SHARED[1], false), (SHARED[1], true)]
                {
                    let target = Target::new(precision, shared).with_sm_90a(sm_90a);
                    for stored in storages(launch, target) {
                        let kernel = gpu_kernel(launch, target, true, stored)
                            .unwrap_or_else(|e| panic!("{}: {e}", plan.name));
                        let now = (stored, kernel);
                        if !seen.contains(&now) {
                            visit(launch, &now.1, stored, shared);
                            seen.push(now);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn arguments_are_the_parameters_of_the_kernel() {
    let known = all_kernels();
    let check = |launches: &[GpuLaunch]| {
        for GpuLaunch {
            module,
            function,
            args,
            ..
        } in launches
        {
            let file = known
                .get(module)
                .unwrap_or_else(|| panic!("no kernels/ptx/{module}.ptx"));
            let entry = file
                .get(function)
                .unwrap_or_else(|| panic!("no kernel `{function}` in kernels/ptx/{module}.ptx"));
            let sizes: Vec<usize> = args.iter().map(Arg::bytes).collect();
            assert_eq!(
                sizes, entry.params,
                "bytes of the arguments of `{function}`"
            );
        }
    };
    check(&peaks::launches());
    every_launch(|_, kernel, _, _| check(&kernel.launches));
}

#[test]
fn geometry_is_within_the_limits_of_every_gpu() {
    let known = all_kernels();
    every_launch(|_, kernel, _, room| {
        for l in &kernel.launches {
            let entry = &known[l.module][&l.function];
            let threads: u32 = l.block.iter().product();
            let limit = entry.max_threads.unwrap_or(MAX_THREADS).min(MAX_THREADS);
            assert!(
                (1..=limit).contains(&threads),
                "{threads} threads for `{}`",
                l.function
            );
            assert!(
                l.block[2] <= 64,
                "{:?} threads for `{}`",
                l.block,
                l.function
            );
            assert!(
                l.grid[0] <= i32::MAX as u32 && l.grid[1] <= 65535 && l.grid[2] <= 65535,
                "{:?} blocks for `{}`",
                l.grid,
                l.function
            );
            let shared = l.shared + entry.static_shared;
            assert!(
                shared as usize <= room,
                "{shared} bytes of shared memory for `{}`",
                l.function
            );
        }
    });
}

#[test]
fn addresses_lie_inside_their_tensors() {
    every_launch(|launch, kernel, _, _| {
        let len = |slots: &[Slot], i: usize| slots[i].shape.len();
        let size = |tensor: Tensor| match tensor {
            Tensor::Input(i) => len(&launch.inputs, i),
            Tensor::Output(i) => len(&launch.outputs, i),
            Tensor::Update(i) => len(&launch.updates, i),
            Tensor::Workspace => kernel.workspace,
            Tensor::Kept => kernel.kept.expect("a room").len,
        };
        for l in &kernel.launches {
            let check = |tensor: Tensor, element: usize| {
                // The end itself is the address of a part that is empty.
                assert!(
                    element <= size(tensor),
                    "`{}` is given element {element} of {tensor:?} of {} elements",
                    l.function,
                    size(tensor)
                );
            };
            for arg in &l.args {
                match arg {
                    Arg::Address(tensor, element) => check(*tensor, *element),
                    Arg::Table(words) => words.iter().for_each(|word| match word {
                        Word::Address(tensor, element) => check(*tensor, *element),
                        Word::Number(_) => {}
                    }),
                    Arg::Value(_) | Arg::Noise | Arg::Null => {}
                }
            }
        }
    });
}

/// Kernels that only move numbers: 16 bytes at a time, whatever they hold.
const MOVES: [&str; 4] = [
    "slice_f32_x4",
    "slice_dgrad_f32_x4",
    "concat_f32_x4",
    "reshape_f32",
];

#[test]
fn kernels_that_are_given_bf16_say_so_in_their_names() {
    let mut given = 0;
    every_launch(|_, kernel, narrow, _| {
        for l in &kernel.launches {
            let addresses = l.args.iter().flat_map(|arg| match arg {
                Arg::Address(tensor, _) => vec![*tensor],
                Arg::Table(words) => (words.iter())
                    .filter_map(|word| match word {
                        Word::Address(tensor, _) => Some(*tensor),
                        Word::Number(_) => None,
                    })
                    .collect(),
                Arg::Value(_) | Arg::Noise | Arg::Null => Vec::new(),
            });
            let bf16 = addresses.filter(|tensor| narrow.has(*tensor)).count();
            let named = l.function.ends_with("_h") || MOVES.contains(&l.function.as_str());
            assert!(bf16 == 0 || named, "`{}` is given {narrow:?}", l.function);
            given += bf16;
        }
    });
    assert!(given > 0);
}

#[test]
fn every_kernel_is_launched_by_some_program() {
    let mut used = BTreeSet::from(["noise_advance".to_owned()]);
    used.extend(peaks::launches().into_iter().map(|l| l.function));
    every_launch(|_, kernel, _, _| used.extend(kernel.launches.iter().map(|l| l.function.clone())));
    let shipped = all_kernels().into_values().flat_map(BTreeMap::into_keys);
    let idle: Vec<String> = shipped.filter(|name| !used.contains(name)).collect();
    assert!(idle.is_empty(), "nothing launches {idle:?}");
}

#[test]
fn every_source_is_part_of_the_binary() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut sources = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "cu") {
            sources.insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
    }
    let shipped: BTreeSet<String> = modules::PTX
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(
        sources, shipped,
        "kernels/*.cu and the list in device/cuda/modules.rs"
    );
}
