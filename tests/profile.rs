//! What is promised of the published CIFAR-10 setting's chain-step, counted on its true layer shapes without a GPU.

use vaebm::config::Config;
use vaebm::device::cuda::kernels::Target;
use vaebm::profile::Counted;
use vaebm::profile::count::{Node, activation_bytes, belongs, count};
use vaebm::profile::gpus::GPUS;
use vaebm::profile::programs::Program;
use vaebm::program::gpu::Precision;

const BF16: Precision = Precision::Bf16;

fn cifar10(batch: usize) -> Counted {
    let config = Config::preset("cifar10").unwrap();
    Counted::new(Program::Langevin, &config, batch, &GPUS[0], BF16).unwrap()
}

#[test]
fn fused_kernels_move_at_most_two_fifths_of_the_bytes() {
    for batch in [64, 512] {
        let counted = cifar10(batch);
        let share = counted.total.bytes / counted.unfused.bytes;
        println!("batch {batch}: {share:.3} of the unfused bytes");
        assert!(share <= 0.4, "batch {batch}: {share:.3}");
    }
}

/// Bytes are counted once per launch, which holds while what all blocks read again stays in the L2.
#[test]
fn weights_of_every_launch_fit_the_l2() {
    for node in &cifar10(64).nodes {
        let share = node.weights / GPUS[0].l2 as f64;
        assert!(share < 0.5, "{node:?}");
    }
}

#[test]
fn activations_grow_with_the_batch_and_with_nothing_else() {
    let config = Config::preset("cifar10").unwrap();
    let bytes = |batch| {
        let plan = Program::Langevin.plan(&config, batch);
        activation_bytes(&plan, Target::new(BF16, GPUS[0].shared)).unwrap() as f64
    };
    let [small, middle, large] = [64, 128, 512].map(bytes);
    let (first, second) = ((middle - small) / 64.0, (large - middle) / 384.0);
    println!("per chain: {first:.0}, then {second:.0} bytes");
    assert!((first / second - 1.0).abs() < 0.01, "{first} and {second}");
}

/// A node can hardly move less than its cost rule says it must.
#[test]
fn no_node_moves_less_than_its_arguments() {
    let config = Config::preset("toy").unwrap();
    for program in [Program::Langevin, Program::Stage1, Program::Energy] {
        let plan = program.plan(&config, 4);
        for shared in [0, GPUS[0].shared] {
            for node in count(&plan, Target::new(BF16, shared)).unwrap() {
                // Packed weights hold several layouts of which a launch reads one, a slice leaves the rest of its input, and the slope
                // of a scaling does not depend on where it is taken.
                let partial = ["mbconv_", "residual_cell_", "slice", "unary_dgrad"]
                    .iter()
                    .any(|p| node.kernel.starts_with(p));
                // Convolutions pack their weights in bf16, which is half of what the cost rule says of them.
                let packs = ["conv2d_", "residual_block_"]
                    .iter()
                    .any(|p| node.kernel.starts_with(p));
                let least = if packs { 0.5 } else { 0.999 };
                assert!(
                    partial || node.bytes >= least * node.compulsory,
                    "{node:?} with {shared} bytes"
                );
            }
        }
    }
}

/// The published cell, held against the count that was made by hand from its launches, in passes over an image of x: of the hidden tensors,
/// six times as large, 4 passes forward and 9 back where they are stored.
#[test]
fn the_cell_counts_as_by_hand() {
    let config = Config::preset("cifar10").unwrap();
    let plan = Program::Langevin.plan(&config, 64);
    let image = 16.0 * 16.0 * 256.0 * 4.0;
    let of = |shared| -> Vec<f64> {
        let nodes = count(&plan, Target::new(BF16, shared)).unwrap();
        let published = |kernel: &str| {
            let places = plan.per_step.iter().zip(&nodes);
            let mut of_shape = places.filter(|(l, n)| {
                n.kernel == kernel
                    && l.outputs[0].shape.len() == 64 * 16 * 16 * 256
                    && !l.inputs.is_empty()
                    && l.inputs[0].shape == l.outputs[0].shape
            });
            of_shape.next().expect("a cell at 16x16x256").1.bytes
        };
        ["residual_cell_fprop", "residual_cell_dgrad"]
            .map(published)
            .into()
    };
    let weights = 4.0 * 1536.0 * (2.0 * 256.0 + 25.0 + 3.0);
    let close = |own: f64, wanted: f64| {
        assert!(
            (own - 64.0 * wanted).abs() <= 2.0 * weights,
            "{own} for {}",
            64.0 * wanted
        )
    };
    // Forward x, b; b; b, x, y. Back dy, b; dy, db; db, x, and what becomes dx; that, dy, dx.
    let separate = of(0);
    close(separate[0], (6.0 + 4.0 * 6.0) * image);
    close(separate[1], (10.0 + 9.0 * 6.0) * image);
    // Forward x, the slopes of either swish in 8 bits, b; b, x, y. Back dy, b; dy, the same two, dx.
    let fused = of(GPUS[0].shared);
    close(fused[0], 5.0 * image + 3.0 * image);
    close(fused[1], 4.0 * image + 3.0 * image);
}

#[test]
fn a_cell_takes_at_most_four_launches_forward_and_backward_together() {
    let config = Config::preset("cifar10").unwrap();
    let cells = Program::Langevin.cells(&config);
    for gpu in ["h200", "a100"] {
        let gpu = GPUS.iter().find(|g| g.name == gpu).unwrap();
        let counted = Counted::new(Program::Langevin, &config, 64, gpu, BF16).unwrap();
        at_most_four(&cells, &counted.nodes);
    }
}

fn at_most_four(cells: &[String], nodes: &[Node]) {
    let launches = |cell: &String| -> usize {
        let own = nodes.iter().filter(|node| belongs(node, cell));
        own.map(|node| node.functions.len()).sum()
    };
    let more: Vec<(&String, usize)> = (cells.iter().map(|c| (c, launches(c))))
        .filter(|(_, launches)| *launches > 4)
        .collect();
    assert!(cells.len() == 60 && more.is_empty(), "{more:?}");
}

/// Around the cells a chain-step has no pass that only concatenates, cuts, activates or adds up what a convolution has in its registers.
#[test]
fn convolutions_take_along_what_stands_around_them() {
    let nodes = cifar10(64).nodes;
    let launches = |kernel: &str| -> usize {
        let own = nodes.iter().filter(|node| node.kernel == kernel);
        own.map(|node| node.functions.len()).sum()
    };
    // Samplers' activations, combiners' concatenations and the parts of their gradients are gone; so are the energy network's passes.
    for kernel in ["concat", "slice", "unary", "binary"] {
        let few = if kernel == "binary" { 2 } else { 0 };
        assert!(launches(kernel) <= few, "{} of {kernel}", launches(kernel));
    }
    // The energy's blocks: two launches each way. The slope behind the last one is a pass over 4x4 pixels.
    assert_eq!(launches("residual_block_fprop"), 2 * 6);
    assert_eq!(launches("residual_block_dgrad"), 2 * 6);
    assert!(launches("unary_dgrad") <= 1);
    // A group's combiner, sampler and draw are a launch each way.
    for kernel in ["conv2d_joined", "latent_sample", "latent_sample_dgrad"] {
        assert_eq!(launches(kernel), 30, "{kernel}");
    }
    // What reads the features of a group beside its combiner adds to the gradient that this has made.
    assert!(launches("sum_of") <= 3, "{}", launches("sum_of"));
}
