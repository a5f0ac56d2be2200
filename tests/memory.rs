//! What a plan says about memory is so, and a step that does not fit is refused before it starts.

mod tiny;

use tempfile::tempdir;
use vaebm::checkpoint::Checkpoint;
use vaebm::config::{Config, Stage};
use vaebm::data::export::Destinations;
use vaebm::device::host::Cpu;
use vaebm::device::memory::resident_bytes;
use vaebm::device::{Device, DeviceError, ProgramId};
use vaebm::langevin::draw;
use vaebm::nvae::Nvae;
use vaebm::program::{Noise, Plan};
use vaebm::run::{RunFolder, Silent, Start, StopFlag};
use vaebm::tensor::Shape;
use vaebm::train::ebm::EbmTrainer;
use vaebm::train::vae::VaeTrainer;
use vaebm::train::vae_programs::{NoiseSource, POWER_ITERATIONS, VAE, train_step};
use vaebm::train::{StateList, TrainError, images};

/// The native device on a machine with less memory.
struct Small {
    device: Cpu,
    bytes: usize,
}

impl Small {
    fn new(bytes: usize) -> Self {
        Small {
            device: Cpu::new(),
            bytes,
        }
    }
}

impl Device for Small {
    fn available_bytes(&self) -> usize {
        self.bytes
    }
    fn prepare(&mut self, plan: Plan) -> Result<ProgramId, DeviceError> {
        self.bytes = self.bytes.saturating_sub(plan.bytes());
        self.device.prepare(plan)
    }
    fn release(&mut self, program: ProgramId) {
        self.bytes += self.device.plan(program).bytes();
        self.device.release(program);
    }
    fn name(&self) -> String {
        self.device.name()
    }
    fn plan(&self, program: ProgramId) -> &Plan {
        self.device.plan(program)
    }
    fn feed(&mut self, program: ProgramId, name: &str, data: &[f32]) -> Result<(), DeviceError> {
        self.device.feed(program, name, data)
    }
    fn run_steps(&mut self, p: ProgramId, noise: Noise, steps: u32) -> Result<(), DeviceError> {
        self.device.run_steps(p, noise, steps)
    }
    fn time_launches(&mut self, p: ProgramId, noise: Noise) -> Result<Vec<f64>, DeviceError> {
        self.device.time_launches(p, noise)
    }
    fn fetch(&mut self, program: ProgramId, name: &str) -> Result<Vec<f32>, DeviceError> {
        self.device.fetch(program, name)
    }
    fn states(&self) -> Vec<(String, Shape)> {
        self.device.states()
    }
    fn declare_state(&mut self, name: &str, shape: Shape) -> Result<(), DeviceError> {
        self.device.declare_state(name, shape)
    }
    fn read_state(&mut self, name: &str) -> Result<Vec<f32>, DeviceError> {
        self.device.read_state(name)
    }
    fn write_state(&mut self, name: &str, data: &[f32]) -> Result<(), DeviceError> {
        self.device.write_state(name, data)
    }
}

/// Tries a batch size that is too large, then the one that is advised, which must do, and the next, which must not.
fn advised(
    bytes: usize,
    large: usize,
    attempt: impl Fn(usize, &mut Small) -> Result<(), TrainError>,
) {
    let refused = |batch: usize| match attempt(batch, &mut Small::new(bytes)) {
        Err(TrainError::Fit(error)) => error,
        Err(other) => panic!("batch {batch}: {other}"),
        Ok(()) => panic!("batch {batch} was not refused"),
    };
    let error = refused(large);
    assert_eq!((error.batch, error.available), (large, bytes));
    assert!(error.needed > bytes, "{error}");
    let advice = error
        .advice
        .strip_prefix("batch size ")
        .expect("a size that fits");
    let fits: usize = advice.strip_suffix(" fits").unwrap().parse().unwrap();
    assert!(fits >= 1 && fits < large, "{error}");
    attempt(fits, &mut Small::new(bytes)).unwrap_or_else(|e| panic!("batch {fits}: {e}"));
    refused(fits + 1);
}

#[test]
fn a_batch_that_does_not_fit_is_refused_with_one_that_does() {
    let folder = tempdir().unwrap();
    let mut config = tiny::config(&folder.path().join("run"));
    config.data.draws = 200;
    config.ebm.data_init = false;
    let splits = images::open(&config).unwrap();
    let with = |batch: usize| {
        let mut config: Config = config.clone();
        (config.train_vae.batch_size, config.train_ebm.batch_size) = (batch, batch);
        config
    };
    advised(30 << 20, 100, |batch, device| {
        VaeTrainer::new(&with(batch), device, &splits).map(drop)
    });

    let vae = Checkpoint::open(&tiny::trained_vae(folder.path(), &config)).unwrap();
    // The sample grid takes its share beside the batch: it must not be what is refused here.
    advised(60 << 20, 190, |batch, device| {
        EbmTrainer::new(&with(batch), device, &splits, &vae).map(drop)
    });

    config.train_ebm.total_iter = 1;
    tiny::train(&config, Stage::Ebm, Start::Fresh, Some(vae.path()));
    let ebm = RunFolder::last_checkpoint_at(&config.run.out, Stage::Ebm).unwrap();
    for (checkpoint, bytes) in [(vae.path(), 2 << 20), (&ebm, 10 << 20)] {
        let checkpoint = Checkpoint::open(checkpoint).unwrap();
        advised(bytes, 300, |batch, device| {
            let mut config = config.clone();
            (config.sample.num_samples, config.sample.batch_size) = (batch, batch);
            let (out, stop) = (folder.path().join("drawn"), StopFlag::new());
            let to = Destinations::default();
            draw::draw(&config, device, &checkpoint, &out, &to, &mut Silent, &stop).map(drop)
        });
    }
}

#[test]
fn a_model_of_which_not_one_image_fits_is_refused() {
    let folder = tempdir().unwrap();
    let config = tiny::config(&folder.path().join("run"));
    let splits = images::open(&config).unwrap();
    let Err(error) = VaeTrainer::new(&config, &mut Small::new(1000), &splits) else {
        panic!("a thousand bytes are enough");
    };
    assert!(error.to_string().contains("not even one image"), "{error}");
}

/// Set for the process in which memory is measured: nothing else may allocate there.
const MEASURING: &str = "VAEBM_MEASURE_MEMORY";

/// Growth of this process, at its peak, over what preparing and running a stage-1 step takes, and what the plan said.
fn measure() -> (usize, usize) {
    let mut config = Config::preset("medium").unwrap();
    config.vae.num_groups_per_scale = 3;
    let (batch, iterations) = (32, POWER_ITERATIONS[1]);
    let model = Nvae::new(config.vae.clone(), config.data.size, config.data.channels);
    let source = NoiseSource::Streams(0);
    let recorded = train_step(&model, &config.train_vae, 8, batch, iterations, source);
    let states = StateList::of(VAE, &recorded);
    let plan = recorded.tape.plan("stage1/train");
    let said = plan.bytes() + plan.state_bytes();
    let x = vec![0.5; model.image_shape(batch).len()];
    // Threads have stacks of their own, which no plan speaks of.
    rayon::broadcast(|_| ());

    let (before, _) = resident_bytes().expect("a system that tells");
    let mut device = Cpu::new();
    let program = device.prepare(plan).unwrap();
    states.start(&mut device, 1).unwrap();
    device.feed(program, "x", &x).unwrap();
    for (name, value) in [
        ("lr", 1e-3),
        ("t", 1.0),
        ("kl_coeff", 0.1),
        ("norm_coeff", 0.1),
    ] {
        device.feed(program, name, &[value]).unwrap();
    }
    device.run(program, Noise::default()).unwrap();
    let (_, peak) = resident_bytes().expect("a system that tells");
    (peak - before, said)
}

#[cfg(target_os = "linux")]
#[test]
fn a_step_takes_the_memory_that_its_plan_says() {
    if std::env::var_os(MEASURING).is_some() {
        let (grown, said) = measure();
        println!("grown {grown} said {said}");
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_step_takes_the_memory_that_its_plan_says",
            "--nocapture",
        ])
        .env(MEASURING, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}");
    let line = told
        .lines()
        .find_map(|l| l.split_once("grown "))
        .expect("figures");
    let mut numbers = line
        .1
        .split_whitespace()
        .filter_map(|w| w.parse::<f64>().ok());
    let (grown, said) = (numbers.next().unwrap(), numbers.next().unwrap());
    println!(
        "the plan said {:.1} MiB, the process grew by {:.1} MiB",
        said / 1048576.0,
        grown / 1048576.0
    );
    assert!(said > 64e6, "too small to be measured: {said}");
    assert!(
        (grown / said - 1.0).abs() <= 0.1,
        "grown {grown}, said {said}"
    );
}
