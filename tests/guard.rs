//! The divergence guard: forced explosions are found and survived, a healthy run is left alone, and a run that went back and was
//! interrupted ends as one that was not.

mod tiny;

use std::path::Path;

use tempfile::{TempDir, tempdir};
use vaebm::checkpoint::Checkpoint;
use vaebm::config::{Config, Stage};
use vaebm::device::host::Cpu;
use vaebm::device::{Device, DeviceError, ProgramId};
use vaebm::program::{Noise, Plan};
use vaebm::run::{Event, Observer, RunFolder, Start, StopFlag};
use vaebm::tensor::Shape;
use vaebm::train::{Ended, TrainError, ebm, vae};

/// What the guard told.
#[derive(Default)]
struct Told {
    /// Steps whose update was left out.
    withheld: Vec<u64>,
    /// Divergences: step and where the run went back to.
    rollbacks: Vec<(u64, u64)>,
    texts: Vec<String>,
}

impl Observer for Told {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Guard {
            step,
            back_to,
            text,
            ..
        } = event
        {
            self.texts.push(text.to_owned());
            match back_to {
                None => self.withheld.push(step),
                Some(to) => self.rollbacks.push((step, to)),
            }
        }
    }
}

/// A device on which something goes wrong: what is fed to programs of a training step can be changed on its way.
struct Faulty<F> {
    cpu: Cpu,
    change: F,
}

impl<F: FnMut(&str, &str, &mut Vec<f32>)> Device for Faulty<F> {
    fn name(&self) -> String {
        self.cpu.name()
    }
    fn available_bytes(&self) -> usize {
        self.cpu.available_bytes()
    }
    fn prepare(&mut self, plan: Plan) -> Result<ProgramId, DeviceError> {
        self.cpu.prepare(plan)
    }
    fn plan(&self, program: ProgramId) -> &Plan {
        self.cpu.plan(program)
    }
    fn release(&mut self, program: ProgramId) {
        self.cpu.release(program);
    }
    fn feed(&mut self, program: ProgramId, name: &str, data: &[f32]) -> Result<(), DeviceError> {
        let mut data = data.to_vec();
        let plan = self.cpu.plan(program).name.clone();
        (self.change)(&plan, name, &mut data);
        self.cpu.feed(program, name, &data)
    }
    fn run_steps(
        &mut self,
        program: ProgramId,
        noise: Noise,
        steps: u32,
    ) -> Result<(), DeviceError> {
        self.cpu.run_steps(program, noise, steps)
    }
    fn time_launches(&mut self, program: ProgramId, noise: Noise) -> Result<Vec<f64>, DeviceError> {
        self.cpu.time_launches(program, noise)
    }
    fn fetch(&mut self, program: ProgramId, name: &str) -> Result<Vec<f32>, DeviceError> {
        self.cpu.fetch(program, name)
    }
    fn states(&self) -> Vec<(String, Shape)> {
        self.cpu.states()
    }
    fn declare_state(&mut self, name: &str, shape: Shape) -> Result<(), DeviceError> {
        self.cpu.declare_state(name, shape)
    }
    fn read_state(&mut self, name: &str) -> Result<Vec<f32>, DeviceError> {
        self.cpu.read_state(name)
    }
    fn write_state(&mut self, name: &str, data: &[f32]) -> Result<(), DeviceError> {
        self.cpu.write_state(name, data)
    }
}

/// Runs a stage, which may go wrong as `change` says: it sees program, feed and numbers.
fn run(
    config: &Config,
    stage: Stage,
    start: Start,
    vae_at: Option<&Path>,
    change: impl FnMut(&str, &str, &mut Vec<f32>),
) -> (Result<Ended, TrainError>, Told) {
    let mut device = Faulty {
        cpu: Cpu::new(),
        change,
    };
    let mut told = Told::default();
    let stop = StopFlag::new();
    let ended = match stage {
        Stage::Vae => vae::train(config, &mut device, start, &mut told, &stop),
        Stage::Ebm => {
            let last = || RunFolder::last_checkpoint_at(&config.run.out, stage).unwrap();
            let at = match start {
                Start::Fresh => vae_at.expect("a VAE").to_owned(),
                Start::Resume => last(),
            };
            let vae = Checkpoint::open(&at).unwrap();
            ebm::train(config, &mut device, start, &vae, &mut told, &stop)
        }
    };
    (ended, told)
}

/// A folder and a configuration of so many steps of stage 2, with a VAE that has seen some data.
fn prepared(steps: u64, change: impl Fn(&mut Config)) -> (TempDir, Config, std::path::PathBuf) {
    let folder = tempdir().unwrap();
    let mut config = tiny::config(&folder.path().join("run"));
    config.data.draws = 200;
    config.train_ebm.total_iter = steps;
    config.train_ebm.lr = 1e-4;
    (config.train_ebm.save_every, config.train_ebm.sample_every) = (20, 1000);
    (config.guard.window, config.guard.warmup) = (40, 20);
    change(&mut config);
    let mut first = config.clone();
    first.run.out = folder.path().join("vae");
    first.train_vae.steps = Some(20);
    let (ended, told) = run(&first, Stage::Vae, Start::Fresh, None, |_, _, _| ());
    assert_eq!(ended.unwrap(), Ended::Done);
    assert!(told.texts.is_empty(), "{:?}", told.texts);
    let vae = RunFolder::checkpoint_at(&first.run.out, Stage::Vae).unwrap();
    (folder, config, vae)
}

#[test]
fn explore() {
    let (_folder, config, vae) = prepared(300, |c| c.guard.every = 10);
    let z = |name: &str, out: &Path| {
        let c = RunFolder::last_checkpoint_at(out, Stage::Ebm).unwrap();
        let c = Checkpoint::open(&c).unwrap();
        println!("{name} {:?}", &c.tensor("guard.ebm").unwrap().1[..4 + 10 * 10]);
    };
    let (ended, told) = run(&config, Stage::Ebm, Start::Fresh, Some(&vae), |_, _, _| ());
    println!("{ended:?} {:?}", told.texts);
    z("healthy", &config.run.out);
    for (lr, step) in [(100.0, 1.0), (1000.0, 1.0), (1.0, 1000.0)] {
        let mut c = config.clone();
        c.run.out = c.run.out.with_file_name(format!("run{lr}{step}"));
        let (ended, told) = run(&c, Stage::Ebm, Start::Fresh, Some(&vae), |_, name, data| {
            if name == "lr" { data[0] *= lr }
            if name == "step_size" { data[0] *= step }
        });
        println!("{lr} {step} {ended:?} {:#?}", told.texts);
        let m = std::fs::read_to_string(c.run.out.join("metrics.jsonl")).unwrap();
        for l in m.lines().filter(|l| l.contains("0,\"stage")) { println!("{l}"); }
    }
}
