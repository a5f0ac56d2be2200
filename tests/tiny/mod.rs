//! What the tests of whole runs share: a model that trains a step in milliseconds, runs of both stages, and their comparison.

#![allow(
    dead_code,
    reason = "every test binary compiles this module and uses a part of it"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vaebm::checkpoint::Checkpoint;
use vaebm::checkpoint::ring::Ring;
use vaebm::config::{Config, DataSet, EnergyNet, Stage, TrainEbm, TrainVae, Vae};
use vaebm::device::host::Cpu;
use vaebm::langevin::draw::buffer_spec;
use vaebm::nvae::Nvae;
use vaebm::run::{BUFFER_FILE, Event, Observer, RunFolder, Silent, Start, StopFlag};
use vaebm::train::{Ended, ebm, vae};

/// Two scales of two groups on 16x16 images of 1,000 modes, eight channels; everything that a run writes falls due within a few
/// steps, and no two of them at the same steps only.
pub fn config(out: &Path) -> Config {
    let mut config = Config::preset("glyphs").expect("a preset");
    config.run.out = out.to_owned();
    config.run.device = "cpu".into();
    config.run.keep_last = 2;
    config.data.dataset = DataSet::StackedGlyphs;
    config.data.draws = 30;
    config.vae = Vae {
        num_latent_scales: 2,
        num_groups_per_scale: 2,
        num_latent_per_group: 3,
        num_channels_enc: 8,
        num_channels_dec: 8,
        num_cell_per_cond_enc: 1,
        num_cell_per_cond_dec: 1,
        ..Vae::default()
    };
    config.train_vae = TrainVae {
        steps: Some(8),
        batch_size: 4,
        eval_every: 3,
        eval_images: 6,
        save_every: 4,
        sample_every: 5,
        log_every: 1,
        ..TrainVae::default()
    };
    config.ebm.network = EnergyNet::Mnist;
    config.ebm.n_channel = 8;
    config.ebm.data_init_batches = 2;
    config.train_ebm = TrainEbm {
        batch_size: 4,
        num_steps: 2,
        total_iter: 9,
        save_every: 2,
        sample_every: 5,
        log_every: 1,
        lr: 1e-4,
        max_p: 0.9,
        anneal_step: 1,
        buffer_size: 10,
        ..TrainEbm::default()
    };
    config.sample.num_steps = 2;
    config
}

/// Asks for a stop, or dies, when a step has been done.
pub struct At {
    /// Which step.
    pub step: u64,
    /// What happens then.
    pub end: End,
}

/// How a run is interrupted.
pub enum End {
    /// It is asked to stop, and saves.
    Stop(StopFlag),
    /// It ends there and then, with nothing saved: what was written since the last checkpoint stays in the files.
    Crash,
}

impl Observer for At {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Step { step, .. } = event
            && step == self.step
        {
            match &self.end {
                End::Stop(flag) => {
                    flag.request();
                }
                // Unwinds without a message, as this panic is the point.
                End::Crash => std::panic::resume_unwind(Box::new("crash")),
            }
        }
    }
}

/// Runs a stage to its end on a fresh device.
pub fn train(config: &Config, stage: Stage, start: Start, vae: Option<&Path>) -> Ended {
    train_with(config, stage, start, vae, &mut Silent, &StopFlag::new())
}

/// Runs a stage until a step, where it is asked to stop.
pub fn train_until(config: &Config, stage: Stage, start: Start, vae: Option<&Path>, step: u64) {
    let stop = StopFlag::new();
    let mut at = At {
        step,
        end: End::Stop(stop.clone()),
    };
    let ended = train_with(config, stage, start, vae, &mut at, &stop);
    assert_eq!(ended, Ended::Stopped);
}

/// Runs a stage until a step, where it dies.
pub fn train_and_crash(config: &Config, stage: Stage, start: Start, vae: Option<&Path>, step: u64) {
    let mut at = At {
        step,
        end: End::Crash,
    };
    let run = std::panic::AssertUnwindSafe(|| {
        train_with(config, stage, start, vae, &mut at, &StopFlag::new())
    });
    assert!(std::panic::catch_unwind(run).is_err(), "it has not crashed");
}

fn train_with(
    config: &Config,
    stage: Stage,
    start: Start,
    vae: Option<&Path>,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Ended {
    let mut device = Cpu::new();
    let outcome = match stage {
        Stage::Vae => vae::train(config, &mut device, start, observer, stop),
        Stage::Ebm => {
            let at = match start {
                Start::Fresh => vae.expect("a fresh stage 2 needs a VAE").to_owned(),
                Start::Resume => {
                    RunFolder::last_checkpoint_at(&config.run.out, stage).expect("a checkpoint")
                }
            };
            let vae = Checkpoint::open(&at).expect("a checkpoint");
            ebm::train(config, &mut device, start, &vae, observer, stop)
        }
    };
    outcome.unwrap_or_else(|e| panic!("{}: {e}", config.run.out.display()))
}

/// A VAE of one step: where stage 2 starts in a test.
pub fn trained_vae(folder: &Path, config: &Config) -> PathBuf {
    let mut config = config.clone();
    config.run.out = folder.join("vae");
    config.train_vae.steps = Some(1);
    train(&config, Stage::Vae, Start::Fresh, None);
    RunFolder::checkpoint_at(&config.run.out, Stage::Vae).expect("a checkpoint")
}

/// Bits of the numbers of a tensor: two NaN compare equal here, and `0.0` differs from `-0.0`.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Everything in a checkpoint but its configuration, which names the run folder.
#[derive(Debug, PartialEq)]
pub struct Content {
    header: (String, u64, u64, u64, BTreeMap<String, u64>, Vec<u64>),
    tensors: BTreeMap<String, (Vec<usize>, Vec<u32>)>,
}

/// Reads a checkpoint whole.
pub fn content(path: &Path) -> Content {
    let checkpoint = Checkpoint::open(path).expect("a checkpoint");
    let h = checkpoint.header();
    let tensor = |name: &str| {
        let (shape, values) = checkpoint.tensor(name).expect("a whole tensor");
        (name.to_owned(), (shape.to_vec(), bits(values)))
    };
    // How many records were ever appended tells marks apart; two runs that stop elsewhere still agree on it.
    Content {
        header: (
            h.stage.clone(),
            h.step,
            h.epoch,
            h.seed,
            h.ints.clone(),
            h.floats.values().map(|v| v.to_bits()).collect(),
        ),
        tensors: checkpoint.names().map(tensor).collect(),
    }
}

/// The first difference of two tensors, for a message that can be read.
fn first_difference(a: &Content, b: &Content) -> String {
    if a.header != b.header {
        return format!("headers {:?} and {:?}", a.header, b.header);
    }
    let differing: Vec<&String> = a
        .tensors
        .iter()
        .filter(|(name, tensor)| b.tensors.get(*name) != Some(tensor))
        .map(|(name, _)| name)
        .collect();
    format!(
        "{} of {} and {} tensors, the first {:?}",
        differing.len(),
        a.tensors.len(),
        b.tensors.len(),
        differing.first()
    )
}

/// The records of the replay buffer that a run's last checkpoint speaks of.
fn buffer(config: &Config) -> Vec<Vec<u32>> {
    let last = RunFolder::last_checkpoint_at(&config.run.out, Stage::Ebm).expect("a checkpoint");
    let mark = Checkpoint::open(&last).expect("whole").header().ints["buffer_mark"];
    let model = Nvae::new(config.vae.clone(), config.data.size, config.data.channels);
    let spec = buffer_spec(config, &model);
    let path = last.with_file_name(BUFFER_FILE);
    let mut ring = Ring::view(&path, spec, mark).expect("the mark of the last checkpoint");
    let mut record = vec![0.0; spec.record];
    (0..ring.len())
        .map(|i| {
            ring.read(i, &mut record).expect("a record");
            bits(&record)
        })
        .collect()
}

/// Asserts that two runs of a stage ended alike: last and best checkpoint, metrics, sample grids and replay buffer.
pub fn assert_same(whole: &Config, resumed: &Config, stage: Stage) {
    let both = [whole, resumed];
    type Find = fn(&Path, Stage) -> Result<PathBuf, vaebm::run::RunError>;
    for find in [
        RunFolder::last_checkpoint_at as Find,
        RunFolder::checkpoint_at,
    ] {
        let [a, b] = both.map(|c| content(&find(&c.run.out, stage).expect("a checkpoint")));
        assert!(a == b, "checkpoints differ: {}", first_difference(&a, &b));
    }
    let [a, b] = both.map(|c| {
        let path = c.run.out.join("metrics.jsonl");
        std::fs::read_to_string(path).expect("metrics")
    });
    assert_eq!(a, b);
    let [a, b] = both.map(|c| pictures(&c.run.out.join("samples")));
    assert!(!a.is_empty(), "no sample grid was written");
    assert!(
        a == b,
        "sample grids differ: {:?} and {:?}",
        a.keys(),
        b.keys()
    );
    if stage == Stage::Ebm && whole.train_ebm.use_buffer {
        let [a, b] = both.map(buffer);
        assert_eq!(a.len(), whole.train_ebm.buffer_size, "the buffer is full");
        assert!(a == b, "replay buffers differ");
    }
}

fn pictures(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let picture = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, std::fs::read(entry.path()).expect("a picture"))
    };
    entries.map(picture).collect()
}

/// The binary, to be started in a folder.
pub fn vaebm(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vaebm"));
    command.current_dir(folder).args(args);
    command
}

/// Runs the binary to its end.
pub fn output(folder: &Path, args: &[&str]) -> Output {
    vaebm(folder, args).output().expect("the binary starts")
}

/// Runs the binary, which must succeed, and gives its standard output.
pub fn succeed(folder: &Path, args: &[&str]) -> String {
    let output = output(folder, args);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{args:?}: {}: {told}",
        output.status
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Writes a configuration that the binary reads.
pub fn write_config(path: &Path, config: &Config) {
    let text = config.to_toml().expect("a configuration");
    std::fs::write(path, text).expect("a writable folder");
}
