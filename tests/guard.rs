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
    (config.train_ebm.save_every, config.train_ebm.sample_every) = (20, 1000);
    (config.guard.every, config.guard.window, config.guard.warmup) = (5, 40, 15);
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

/// Asserts that the newest checkpoint of stage 2 is sane: all numbers finite, and energies of a size that a healthy run has.
fn is_sane(config: &Config, stage: Stage) {
    let last = RunFolder::last_checkpoint_at(&config.run.out, stage).unwrap();
    let last = Checkpoint::open(&last).unwrap();
    for name in last.names() {
        let (_, values) = last.tensor(name).unwrap();
        assert!(values.iter().all(|v| v.is_finite()), "{name}");
    }
    let text = std::fs::read_to_string(config.run.out.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str(l).unwrap());
    let steps: Vec<serde_json::Value> = lines
        .filter(|l: &serde_json::Value| l["kind"] == "step")
        .collect();
    // Every step once, whatever was gone back over.
    let numbers: Vec<u64> = steps.iter().map(|l| l["step"].as_u64().unwrap()).collect();
    let total = match stage {
        Stage::Vae => config.train_vae.steps.unwrap(),
        Stage::Ebm => config.train_ebm.total_iter,
    };
    assert!(numbers.iter().copied().eq(1..=total), "{numbers:?}");
    if stage == Stage::Ebm {
        let gap = steps.last().unwrap()["loss"].as_f64().unwrap();
        assert!(gap.abs() < 100.0, "an energy gap of {gap}");
    }
}

/// Counts the iterations of stage 2 from what is fed, rollbacks included.
fn iteration(program: &str, name: &str, count: &mut u64) -> u64 {
    *count += u64::from((program, name) == ("stage2/langevin", "step_size"));
    *count
}

#[test]
fn a_healthy_run_is_left_alone() {
    let (_folder, config, vae) = prepared(150, |c| c.train_ebm.use_buffer = true);
    let (ended, told) = run(&config, Stage::Ebm, Start::Fresh, Some(&vae), |_, _, _| ());
    assert_eq!(ended.unwrap(), Ended::Done);
    assert!(told.texts.is_empty(), "{:?}", told.texts);
}

#[test]
fn a_learning_rate_a_hundred_times_too_high_is_found_and_lowered() {
    let (_folder, config, vae) = prepared(45, |c| c.guard.lr_factor = 0.1);
    let mut count = 0;
    let (ended, told) = run(
        &config,
        Stage::Ebm,
        Start::Fresh,
        Some(&vae),
        |program, name, x| {
            if iteration(program, name, &mut count) > 25 && name == "lr" {
                x[0] *= 100.0;
            }
        },
    );
    assert_eq!(ended.unwrap(), Ended::Done);
    let (step, back_to) = told.rollbacks[0];
    assert!(
        (26..=40).contains(&step) && back_to == 20,
        "{:?}",
        told.texts
    );
    assert!(
        told.texts
            .iter()
            .any(|t| t.contains("0.1 of the learning rate"))
    );
    is_sane(&config, Stage::Ebm);
}

/// Without a past to compare with, and nothing saved: it goes back to its start.
#[test]
fn a_learning_rate_that_is_far_too_high_from_the_start_is_lowered() {
    let (folder, mut config, vae) = prepared(30, |c| {
        (c.guard.lr_factor, c.guard.max_gap) = (0.1, 90.0);
    });
    // The bound is not what raises the alarm: a run at the rate that is not too high never comes near it.
    let mut healthy = config.clone();
    healthy.run.out = folder.path().join("healthy");
    let (ended, told) = run(&healthy, Stage::Ebm, Start::Fresh, Some(&vae), |_, _, _| ());
    assert_eq!(ended.unwrap(), Ended::Done);
    assert!(told.texts.is_empty(), "{:?}", told.texts);

    config.train_ebm.lr *= 100.0;
    let (ended, told) = run(&config, Stage::Ebm, Start::Fresh, Some(&vae), |_, _, _| ());
    assert_eq!(ended.unwrap(), Ended::Done);
    assert_eq!(told.rollbacks[0].1, 0, "{:?}", told.texts);
    is_sane(&config, Stage::Ebm);
}

#[test]
fn a_step_size_a_thousand_times_too_large_is_found_and_lowered() {
    let (_folder, config, vae) = prepared(45, |_| ());
    let mut count = 0;
    let (ended, told) = run(
        &config,
        Stage::Ebm,
        Start::Fresh,
        Some(&vae),
        |program, name, x| {
            if iteration(program, name, &mut count) > 25 && name == "step_size" {
                x[0] *= 1000.0;
            }
        },
    );
    assert_eq!(ended.unwrap(), Ended::Done);
    assert!(told.texts[0].contains("movement"), "{:?}", told.texts);
    assert!(
        told.texts
            .iter()
            .any(|t| t.contains("0.1 of the Langevin step size"))
    );
    is_sane(&config, Stage::Ebm);
}

/// One batch of numbers that no image has, and one that holds no numbers: both are left out, and that is all.
#[test]
fn poisoned_batches_are_left_out() {
    let (_folder, config, vae) = prepared(40, |c| c.train_ebm.use_buffer = true);
    let mut count = 0;
    let (ended, told) = run(
        &config,
        Stage::Ebm,
        Start::Fresh,
        Some(&vae),
        |program, name, x| {
            let at = iteration(program, name, &mut count);
            match (at, program, name) {
                (4, "stage2/first" | "stage2/update", "x") => x[7] = f32::NAN,
                (30, "stage2/update", "x") => x.iter_mut().for_each(|v| *v = 1e4 - *v),
                _ => {}
            }
        },
    );
    assert_eq!(ended.unwrap(), Ended::Done);
    assert_eq!(told.withheld, [4, 30], "{:?}", told.texts);
    assert!(told.rollbacks.is_empty());
    is_sane(&config, Stage::Ebm);
}

#[test]
fn gradients_that_are_not_numbers_send_a_run_back_with_more_regularisation() {
    let (_folder, config, vae) = prepared(40, |c| {
        c.guard.remedy = vaebm::config::Remedy::Regularisation;
    });
    let mut count = 0;
    let (ended, told) = run(
        &config,
        Stage::Ebm,
        Start::Fresh,
        Some(&vae),
        |program, name, x| {
            // A weight of one term of the loss: what is told of the loss stays a number, its gradient does not.
            let at = iteration(program, name, &mut count);
            if name == "extra_alpha" && (25..28).contains(&at) {
                x[0] = f32::NAN;
            }
        },
    );
    assert_eq!(ended.unwrap(), Ended::Done);
    assert_eq!(
        (told.withheld, told.rollbacks),
        (vec![25, 26, 27], vec![(27, 20)])
    );
    assert!(
        told.texts[0].contains("grad norm is not finite"),
        "{:?}",
        told.texts
    );
    assert!(
        told.texts[3].contains("2 times the regularisation"),
        "{:?}",
        told.texts
    );
    is_sane(&config, Stage::Ebm);
}

#[test]
fn stage_1_survives_what_is_not_a_number() {
    let folder = tempdir().unwrap();
    let mut config = tiny::config(&folder.path().join("run"));
    config.train_vae.steps = Some(16);
    let mut count = 0;
    let (ended, told) = run(
        &config,
        Stage::Vae,
        Start::Fresh,
        None,
        |program, name, x| {
            let training = matches!(program, "stage1/first" | "stage1/train");
            count += u64::from(training && name == "x");
            match (count, name) {
                (3, "x") if training => x[0] = f32::NAN,
                (9..=11, "norm_coeff") => x[0] = f32::INFINITY,
                _ => {}
            }
        },
    );
    assert_eq!(ended.unwrap(), Ended::Done);
    assert_eq!(
        (told.withheld, told.rollbacks),
        (vec![3, 9, 10, 11], vec![(11, 8)])
    );
    is_sane(&config, Stage::Vae);
}

#[test]
fn a_run_that_cannot_be_helped_ends_and_names_its_best_checkpoint() {
    let (_folder, config, vae) = prepared(40, |c| c.guard.max_rollbacks = 2);
    let mut count = 0;
    let (ended, told) = run(
        &config,
        Stage::Ebm,
        Start::Fresh,
        Some(&vae),
        |program, name, x| {
            if iteration(program, name, &mut count) > 22
                && name == "x"
                && program == "stage2/update"
            {
                x[0] = f32::NAN;
            }
        },
    );
    let error = ended.unwrap_err().to_string();
    for part in [
        "after 2 rollbacks",
        "is not finite",
        "ebm-000000020.safetensors",
    ] {
        assert!(error.contains(part), "no `{part}` in: {error}");
    }
    assert_eq!(told.rollbacks, [(25, 20), (23, 20)]);
    // The folder is whole: the run goes on from there when what ailed it is gone.
    let (ended, told) = run(&config, Stage::Ebm, Start::Resume, None, |_, _, _| ());
    assert_eq!(ended.unwrap(), Ended::Done);
    assert!(told.texts.is_empty(), "{:?}", told.texts);
    is_sane(&config, Stage::Ebm);
}

/// All states but the guard's own and the chains, which start anew in every iteration.
fn states(device: &mut dyn Device) -> Vec<(String, Vec<u32>)> {
    let names = device.states().into_iter().map(|(name, _)| name);
    let names: Vec<String> = names
        .filter(|n| !n.starts_with("guard.") && !n.starts_with("chains"))
        .collect();
    let read = |name: String| {
        let bits = tiny::bits(&device.read_state(&name).unwrap());
        (name, bits)
    };
    names.into_iter().map(read).collect()
}

#[test]
fn a_bad_step_changes_no_bit_of_parameters_moments_statistics_and_vectors() {
    use vaebm::train::{ebm::EbmTrainer, images, vae::VaeTrainer};
    let (_folder, config, vae) = prepared(5, |_| ());
    let splits = images::open(&config).unwrap();
    let poison = std::cell::Cell::new(false);
    let faulty = || Faulty {
        cpu: Cpu::new(),
        change: |_: &str, name: &str, x: &mut Vec<f32>| {
            if poison.get() && name == "x" {
                x[3] = f32::INFINITY;
            }
        },
    };
    for stage in [Stage::Vae, Stage::Ebm] {
        // The same run with one bad step more; the first step of all comes before it, so that all states have moved.
        let run = |bad: bool| {
            let mut device = faulty();
            let vae = Checkpoint::open(&vae).unwrap();
            let steps: &[bool] = if bad { &[false, true] } else { &[false] };
            match stage {
                Stage::Vae => {
                    let mut trainer = VaeTrainer::new(&config, &mut device, &splits).unwrap();
                    for step in steps {
                        poison.set(*step);
                        trainer.train_step(true).unwrap();
                    }
                }
                Stage::Ebm => {
                    let mut trainer = EbmTrainer::new(&config, &mut device, &splits, &vae).unwrap();
                    for step in steps {
                        poison.set(*step);
                        trainer.train_step(true).unwrap();
                    }
                }
            }
            poison.set(false);
            states(&mut device)
        };
        let (without, with) = (run(false), run(true));
        assert!(without.len() > 20);
        for (a, b) in without.iter().zip(&with) {
            assert!(a == b, "{stage:?}: a bad step changed `{}`", a.0);
        }
    }
}

/// A run that diverges by its configuration alone, whole and with interruptions before, in and after what it goes back over.
#[test]
fn a_run_that_went_back_resumes_bit_for_bit() {
    let (folder, base, vae) = prepared(16, |c| {
        c.train_ebm.lr = 1e-2;
        c.train_ebm.use_buffer = true;
        (c.train_ebm.save_every, c.train_ebm.sample_every) = (4, 5);
        (c.guard.every, c.guard.patience, c.guard.lr_factor) = (4, 2, 0.01);
        c.guard.max_gap = 300.0;
        // Scores of steps that never were must not count, and the best of those that were must be kept.
        (
            c.train_ebm.score_every,
            c.train_ebm.score_images,
            c.run.keep_last,
        ) = (2, 32, 1);
        c.data.valid = 40;
    });
    let config = |name: &str| {
        let mut config = base.clone();
        config.run.out = folder.path().join(name);
        // One classifier is enough.
        let scorer = folder.path().join("whole/scorer.safetensors");
        if scorer.is_file() {
            std::fs::create_dir(&config.run.out).unwrap();
            std::fs::copy(&scorer, config.run.out.join("scorer.safetensors")).unwrap();
        }
        config
    };
    let whole = config("whole");
    let (ended, told) = run(&whole, Stage::Ebm, Start::Fresh, Some(&vae), |_, _, _| ());
    assert_eq!(ended.unwrap(), Ended::Done);
    println!("{:?}", told.texts);
    assert!(!told.rollbacks.is_empty(), "it has not diverged");
    let (_, back_to) = *told.rollbacks.last().unwrap();
    let text = std::fs::read_to_string(whole.run.out.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str(l).unwrap());
    let scores: Vec<(u64, f64)> = lines
        .filter(|l: &serde_json::Value| l["kind"] == "validation")
        .map(|l| {
            (
                l["step"].as_u64().unwrap(),
                l["score"].as_f64().unwrap_or(f64::INFINITY),
            )
        })
        .collect();
    assert!(
        scores.iter().map(|s| s.0).eq((2..=16).step_by(2)),
        "{scores:?}"
    );
    let least = scores.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let best = RunFolder::checkpoint_at(&whole.run.out, Stage::Ebm).unwrap();
    assert_eq!(
        Checkpoint::open(&best).unwrap().header().step,
        least.0,
        "{scores:?}"
    );
    for stops in [vec![1], vec![3], vec![back_to + 1, back_to + 6], vec![13]] {
        let name = format!("stopped{stops:?}");
        let resumed = config(&name);
        let mut start = Start::Fresh;
        for step in stops {
            tiny::train_until(&resumed, Stage::Ebm, start, Some(&vae), step);
            start = Start::Resume;
        }
        tiny::train(&resumed, Stage::Ebm, start, Some(&vae));
        tiny::assert_same(&whole, &resumed, Stage::Ebm);
    }
}
