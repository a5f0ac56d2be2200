//! The ops' cost rules reproduce the counts of `shared/design/FLOORS.md`, which were made from the architecture without this code.
//!
//! Programs are recorded and laid out here, never prepared: that of the largest preset takes gigabytes to run.

use vaebm::config::Config;
use vaebm::energy::energy;
use vaebm::langevin::programs::{Chains, EBM, StepNoise};
use vaebm::nn::params::{ParamSpec, Role};
use vaebm::nn::{Mode, Net};
use vaebm::nvae::Nvae;
use vaebm::ops::{ACTIVATION_FLOPS, Recorder};
use vaebm::program::{Launch, Plan};
use vaebm::tape::Tape;
use vaebm::train::vae_programs::VAE;

/// A row of the table, as printed there: a number is right if it rounds to the digits given.
struct Floors {
    preset: &'static str,
    /// Multiply-adds of one image, in billions, and the place of the last digit.
    decoder_gmac: (f64, f64),
    energy_gmac: (f64, f64),
    /// Parameters in millions; the small presets have none in the table.
    decoder_params: Option<(f64, f64)>,
    energy_params: Option<(f64, f64)>,
    cells: Option<usize>,
    /// Of a chain-step, in billions.
    gflop: (f64, f64),
    /// Elements of all expanded tensors, in millions.
    expanded: (f64, f64),
}

const FLOORS: [Floors; 6] = [
    Floors {
        preset: "cifar10",
        decoder_gmac: (13.34, 0.01),
        energy_gmac: (0.81, 0.01),
        decoder_params: Some((50.7, 0.1)),
        energy_params: Some((5.1, 0.1)),
        cells: Some(60),
        gflop: (56.6, 0.1),
        expanded: (24.0, 0.1),
    },
    Floors {
        preset: "celeba64",
        decoder_gmac: (4.68, 0.01),
        energy_gmac: (0.95, 0.01),
        decoder_params: Some((23.5, 0.1)),
        energy_params: Some((4.3, 0.1)),
        cells: Some(32),
        gflop: (22.5, 0.1),
        expanded: (13.6, 0.1),
    },
    Floors {
        preset: "lsun-church64",
        decoder_gmac: (4.68, 0.01),
        energy_gmac: (1.10, 0.01),
        decoder_params: Some((23.5, 0.1)),
        energy_params: Some((5.8, 0.1)),
        cells: Some(32),
        gflop: (23.1, 0.1),
        expanded: (13.6, 0.1),
    },
    Floors {
        preset: "celebahq256",
        decoder_gmac: (48.0, 0.1),
        energy_gmac: (14.9, 0.1),
        decoder_params: Some((130.0, 1.0)),
        energy_params: Some((14.2, 0.1)),
        cells: Some(44),
        gflop: (252.0, 1.0),
        expanded: (139.0, 1.0),
    },
    Floors {
        preset: "toy",
        decoder_gmac: (0.05, 0.01),
        energy_gmac: (0.01, 0.01),
        decoder_params: None,
        energy_params: None,
        cells: None,
        gflop: (0.25, 0.01),
        expanded: (0.49, 0.01),
    },
    Floors {
        preset: "medium",
        decoder_gmac: (0.17, 0.01),
        energy_gmac: (0.05, 0.01),
        decoder_params: None,
        energy_params: None,
        cells: None,
        gflop: (0.9, 0.1),
        expanded: (1.08, 0.01),
    },
];

/// The kernels that multiply: everything else is elementwise or a reduction.
const PRODUCTS: [&str; 14] = [
    "conv2d_fprop",
    "conv2d_dgrad",
    "conv2d_joined",
    "conv2d_joined_dgrad",
    "dwconv_fprop",
    "dwconv_dgrad",
    "linear_fprop",
    "linear_dgrad",
    "mbconv_fprop",
    "mbconv_dgrad",
    "residual_block_fprop",
    "residual_block_dgrad",
    "residual_cell_fprop",
    "residual_cell_dgrad",
];

fn multiplies(launch: &&Launch) -> bool {
    let name = launch.kernel.name();
    assert!(
        !name.ends_with("wgrad"),
        "a chain needs no gradient of a weight, but `{}` runs {name}",
        launch.label
    );
    PRODUCTS.contains(&name)
}

/// FLOPs of all products of a program, those that hold for a parameter version left out, in billions.
fn gflop(plan: &Plan) -> f64 {
    let products = plan.per_step.iter().filter(multiplies);
    products.map(|l| l.cost.flops).sum::<f64>() / 1e9
}

fn model(config: &Config) -> Nvae {
    Nvae::new(config.vae.clone(), config.data.size, config.data.channels)
}

/// Weights of convolutions, those of the skips of up cells apart: that is how the table comes to its digits for all four published
/// presets.
fn millions(params: &[ParamSpec]) -> f64 {
    let weights = params.iter().filter(|p| {
        matches!(p.role, Role::Conv | Role::Depthwise) && !p.name.ends_with("skip.1.weight")
    });
    weights.map(|p| p.shape.len()).sum::<usize>() as f64 / 1e6
}

/// The decoder from noise to logits, for one image.
fn decoder(config: &Config, tape: Tape) -> (Plan, Vec<ParamSpec>) {
    let net = Net::new(&tape, VAE, Mode::Eval);
    let model = model(config);
    let groups = model.groups();
    let eps: Vec<_> = (groups.iter().enumerate())
        .map(|(g, group)| tape.feed(&format!("eps.{g}"), group.shape(1)))
        .collect();
    let sampled = model.decode(&net, &eps, 1.0);
    let params = net.params();
    drop(net);
    tape.output("logits", sampled.logits);
    (tape.plan("decoder"), params)
}

/// The energy of one image.
fn energy_net(config: &Config, tape: Tape) -> (Plan, Vec<ParamSpec>) {
    let net = Net::new(&tape, EBM, Mode::Eval);
    let x = tape.feed("x", model(config).image_shape(1));
    let e = energy(&config.ebm, &net, x);
    assert_eq!(tape.shape(e).dims(), [1]);
    let params = net.params();
    drop(net);
    tape.output("energy", e);
    (tape.plan("energy"), params)
}

/// One Langevin step of one chain.
fn langevin(config: &Config, fused: bool) -> Plan {
    let chains = Chains {
        model: model(config),
        ebm: config.ebm.clone(),
        n: 1,
        target: config.sample.target,
        temperature: 1.0,
    };
    let tape = match fused {
        true => chains.step(StepNoise::Generated, false),
        false => chains.step_unfused(StepNoise::Generated, false),
    };
    tape.plan("langevin")
}

/// Elements of what the first 1x1 convolution of every inverted residual makes: the input of its depthwise convolution.
fn expanded(plan: &Plan) -> f64 {
    let depthwise = (plan.per_step.iter()).filter(|l| l.kernel.name() == "dwconv_fprop");
    depthwise.map(|l| l.inputs[0].shape.len()).sum::<usize>() as f64 / 1e6
}

/// GMAC of the products that stand behind an upsampling, nearest in a branch and bilinear in a skip: three quarters of them the fused form
/// saves.
fn saved_by_expanding_first(plain: &Plan) -> f64 {
    let launches = &plain.per_step;
    let mut saved = 0.0;
    for (i, launch) in launches.iter().enumerate() {
        if launch.kernel.name() != "resample" {
            continue;
        }
        // In recorded order: upsampling, batch norm, expansion; of a skip upsampling, and the skip's own layer.
        if let Some(product) = launches[i + 1..].iter().find(multiplies) {
            saved += 0.75 * product.cost.flops / 2e9;
        }
    }
    saved
}

struct Check<'a> {
    preset: &'a str,
    misses: Vec<String>,
}

impl Check<'_> {
    fn rounds_to(&mut self, what: &str, own: f64, (table, digit): (f64, f64)) {
        println!("{} {what}: {own:.4}, in the table {table}", self.preset);
        let passes = (own - table).abs() <= 0.5001 * digit;
        if !passes {
            self.misses
                .push(format!("{}: {what} is {own:.4}, not {table}", self.preset));
        }
    }

    fn within(&mut self, what: &str, own: f64, wanted: f64, share: f64) {
        println!("{} {what}: {own:.4} for {wanted:.4}", self.preset);
        let passes = (own - wanted).abs() <= share * wanted;
        if !passes {
            self.misses.push(format!(
                "{}: {what} is {own:.4}, not {wanted:.4}",
                self.preset
            ));
        }
    }
}

#[test]
fn cost_rules_reproduce_the_table() {
    let mut misses = Vec::new();
    for floors in &FLOORS {
        let config = Config::preset(floors.preset).unwrap();
        let mut check = Check {
            preset: floors.preset,
            misses: Vec::new(),
        };
        let (plain, params) = decoder(&config, Tape::unfused());
        let (energy_plan, energy_params) = energy_net(&config, Tape::unfused());
        let (decoder_gmac, energy_gmac) = (gflop(&plain) / 2.0, gflop(&energy_plan) / 2.0);
        check.rounds_to("decoder GMAC", decoder_gmac, floors.decoder_gmac);
        check.rounds_to("energy GMAC", energy_gmac, floors.energy_gmac);
        if let Some(table) = floors.decoder_params {
            check.rounds_to("decoder parameters, M", millions(&params), table);
        }
        if let Some(table) = floors.energy_params {
            check.rounds_to("energy parameters, M", millions(&energy_params), table);
        }
        if let Some(table) = floors.cells {
            // Every cell of the decoder has one squeeze-excite.
            let cells = params.iter().filter(|p| p.name.ends_with("se.se.0.weight"));
            assert_eq!(cells.count(), table, "{}", floors.preset);
        }
        check.rounds_to("expanded elements, M", expanded(&plain), floors.expanded);

        // Forward and input gradient of both networks, two FLOPs to a multiply-add.
        let four = 4.0 * (decoder_gmac + energy_gmac);
        check.rounds_to("GFLOP of a chain-step", four, floors.gflop);
        let plain_step = gflop(&langevin(&config, false));
        check.within("recorded step", plain_step, four, 0.02);
        // A fused cell that doubles the resolution multiplies its input before it is enlarged: a quarter of those products, nothing
        // else may change.
        let fused = gflop(&decoder(&config, Tape::new()).0) / 2.0;
        // Its two activations of every expanded element count in its cost.
        let activations = expanded(&plain) * 1e6 * 2.0 * ACTIVATION_FLOPS / 2e9;
        let wanted = decoder_gmac - saved_by_expanding_first(&plain) + activations;
        check.within("fused decoder GMAC", fused, wanted, 0.02);
        misses.extend(check.misses);
    }
    assert!(misses.is_empty(), "\n{}", misses.join("\n"));
}

/// What one chain-step costs does not depend on how many chains there are, and nothing is counted twice.
#[test]
fn costs_grow_with_the_batch_and_with_nothing_else() {
    let config = Config::preset("toy").unwrap();
    let step = |n: usize| {
        let chains = Chains {
            model: model(&config),
            ebm: config.ebm.clone(),
            n,
            target: config.sample.target,
            temperature: 1.0,
        };
        let plan = chains.step(StepNoise::Generated, false).plan("langevin");
        (gflop(&plan), plan.per_step.len())
    };
    let ((one, launches), (five, same)) = (step(1), step(5));
    assert_eq!(launches, same);
    assert!((five / one - 5.0).abs() < 1e-9, "{one} and {five}");
}
