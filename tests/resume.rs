//! Runs that were stopped, or that crashed, and were resumed end bit for bit as one that never was.

mod tiny;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::tempdir;
use vaebm::checkpoint::{Checkpoint, Retention, Store};
use vaebm::config::{Config, Stage};
use vaebm::run::{RunFolder, Start};
use vaebm::train::Ended;

/// What happens to a run before it is let go to its end.
enum Interruption {
    Stop(u64),
    Crash(u64),
}
use Interruption::{Crash, Stop};

/// Runs a stage once in one go and once with interruptions, and compares.
fn resumes(stage: Stage, change: impl Fn(&mut Config), interruptions: &[Interruption]) {
    let folder = tempdir().unwrap();
    let config = |name: &str| {
        let mut config = tiny::config(&folder.path().join(name));
        change(&mut config);
        config
    };
    let (whole, resumed) = (config("whole"), config("resumed"));
    let vae = (stage == Stage::Ebm).then(|| tiny::trained_vae(folder.path(), &whole));
    let vae: Option<&Path> = vae.as_deref();
    assert_eq!(tiny::train(&whole, stage, Start::Fresh, vae), Ended::Done);
    let mut start = Start::Fresh;
    for interruption in interruptions {
        match *interruption {
            Stop(step) => tiny::train_until(&resumed, stage, start, vae, step),
            Crash(step) => tiny::train_and_crash(&resumed, stage, start, vae, step),
        }
        start = Start::Resume;
    }
    assert_eq!(tiny::train(&resumed, stage, start, vae), Ended::Done);
    tiny::assert_same(&whole, &resumed, stage);
}

#[test]
fn stage_1_stopped_at_its_first_step_before_and_at_a_save_and_at_its_end() {
    resumes(Stage::Vae, |_| {}, &[Stop(1), Stop(3), Stop(4), Stop(8)]);
}

#[test]
fn stage_1_crashed_after_a_checkpoint() {
    // Checkpoints fall due at 4, and at 3 if the validation there is the best so far, as the first one is.
    resumes(Stage::Vae, |_| {}, &[Crash(4), Stop(5), Crash(7)]);
}

#[test]
fn stage_1_over_the_end_of_an_epoch() {
    // 30 images in batches of 4: an epoch has 7 steps, and the learning rate changes with it.
    let change = |c: &mut Config| {
        c.train_vae.steps = None;
        (c.train_vae.epochs, c.train_vae.warmup_epochs) = (2, 1);
        c.data.flip = true;
    };
    resumes(Stage::Vae, change, &[Stop(7), Stop(8)]);
}

#[test]
fn stage_2_without_a_buffer() {
    resumes(Stage::Ebm, |_| {}, &[Stop(1), Stop(4), Crash(7)]);
}

#[test]
fn stage_2_with_a_buffer_that_wraps_around() {
    // Nine iterations append 36 chains to a buffer of ten, which has slots for eighteen.
    let change = |c: &mut Config| c.train_ebm.use_buffer = true;
    resumes(Stage::Ebm, change, &[Stop(1), Stop(3), Crash(6), Crash(8)]);
}

#[test]
fn stage_2_stopped_with_a_buffer_that_is_not_yet_full() {
    let change = |c: &mut Config| {
        c.train_ebm.use_buffer = true;
        c.train_ebm.save_every = 4;
        c.train_ebm.total_iter = 5;
        c.train_ebm.use_mu_cd = true;
    };
    resumes(Stage::Ebm, change, &[Stop(2)]);
}

/// The interval between checkpoints, which sets the buffer's room, may be another one when a run goes on.
#[test]
fn a_buffer_goes_on_with_checkpoints_farther_apart_and_closer() {
    let folder = tempdir().unwrap();
    let config = |save_every: u64, total: u64| {
        let mut config = tiny::config(&folder.path().join("run"));
        config.train_ebm.use_buffer = true;
        (config.train_ebm.save_every, config.train_ebm.total_iter) = (save_every, total);
        config
    };
    let vae = tiny::trained_vae(folder.path(), &config(1, 3));
    let train = |start, save_every, total| {
        let ended = tiny::train(&config(save_every, total), Stage::Ebm, start, Some(&vae));
        assert_eq!(ended, Ended::Done);
    };
    train(Start::Fresh, 1, 3);
    train(Start::Resume, 100, 9);
    train(Start::Resume, 1, 12);
}

/// Whether a checkpoint lies there unfinished.
fn is_writing(run: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(RunFolder::checkpoints_of(run)) else {
        return false;
    };
    let mut names = entries.filter_map(Result::ok).map(|e| e.file_name());
    names.any(|name| name.to_string_lossy().starts_with(".unfinished-"))
}

/// The steps of the checkpoints that a run has, every one of which must be whole.
fn whole_checkpoints(run: &Path, stage: Stage) -> Vec<u64> {
    let retention = Retention { last: 1, every: 0 };
    let store = Store::view(&RunFolder::checkpoints_of(run), stage.name(), retention);
    let steps = store.steps().unwrap().into_iter().collect::<Vec<_>>();
    for step in &steps {
        let checkpoint = Checkpoint::open(&store.path(*step)).unwrap();
        for name in checkpoint.names() {
            checkpoint.tensor(name).unwrap();
        }
    }
    steps
}

/// Runs `vaebm train` again and again, kills it with SIGKILL until so many kills have hit a run with something to lose, lets it come
/// to its end and compares with a run that was let alone.
fn survives_kills(stage: Stage, kills: u32, change: impl Fn(&mut Config)) {
    let folder = tempdir().unwrap();
    let config = |name: &str| {
        let mut config = tiny::config(&folder.path().join(name));
        change(&mut config);
        tiny::write_config(&folder.path().join(format!("{name}.toml")), &config);
        config
    };
    let (whole, killed) = (config("whole"), config("killed"));
    let vae = (stage == Stage::Ebm).then(|| tiny::trained_vae(folder.path(), &whole));
    tiny::train(&whole, stage, Start::Fresh, vae.as_deref());

    let fresh = ["train", stage.name(), "--config", "killed.toml"];
    let mut fresh = fresh.map(str::to_owned).to_vec();
    if let Some(vae) = &vae {
        fresh.extend(["--vae".into(), vae.display().to_string()]);
    }
    let resume = ["train", stage.name(), "--resume", "killed"].map(str::to_owned);
    let (mut hits, mut in_a_write, mut victims) = (0, 0, 0);
    // A fixed walk over the moments of a victim's life.
    let mut chance: u64 = 0x9E37_79B9_7F4A_7C15;
    loop {
        let before = whole_checkpoints(&killed.run.out, stage);
        let args = if before.is_empty() {
            &fresh[..]
        } else {
            &resume
        };
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut victim = tiny::vaebm(folder.path(), &args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        victims += 1;
        assert!(victims < 20 * kills, "the run does not come forward");
        chance = chance
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let wait = Duration::from_millis((chance >> 33) % 40);
        // It lives until it has saved something of its own, then for a random time; every other one until it is seen writing.
        let mut saved: Option<Instant> = None;
        let status = loop {
            if let Some(status) = victim.try_wait().unwrap() {
                break Some(status);
            }
            if saved.is_none() && newest(&killed.run.out, stage) > before.last().copied() {
                saved = Some(Instant::now());
            }
            let due = saved.is_some_and(|at| at.elapsed() >= wait);
            if hits < kills && due && (victims % 2 == 0 || is_writing(&killed.run.out)) {
                victim.kill().unwrap();
                victim.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_micros(100));
        };
        match status {
            Some(status) => {
                let mut told = String::new();
                std::io::Read::read_to_string(&mut victim.stderr.take().unwrap(), &mut told)
                    .unwrap();
                assert!(status.success(), "{args:?}: {told}");
                break;
            }
            None => {
                hits += 1;
                in_a_write += u32::from(is_writing(&killed.run.out));
            }
        }
    }
    println!("{hits} kills, {in_a_write} in the middle of a write, {victims} runs");
    assert!(hits > 0, "the run ended before it could be killed");
    tiny::assert_same(&whole, &killed, stage);
}

/// The newest checkpoint by its name; a look that costs little and does not touch the file.
fn newest(run: &Path, stage: Stage) -> Option<u64> {
    let retention = Retention { last: 1, every: 0 };
    let store = Store::view(&RunFolder::checkpoints_of(run), stage.name(), retention);
    store.steps().unwrap().last().copied()
}

#[test]
fn stage_1_killed_again_and_again() {
    survives_kills(Stage::Vae, 5, |c| {
        c.train_vae.steps = Some(25);
        (c.train_vae.save_every, c.train_vae.eval_every) = (1, 4);
        c.train_vae.sample_every = 20;
    });
}

#[test]
fn stage_2_killed_again_and_again() {
    survives_kills(Stage::Ebm, 5, |c| {
        c.train_ebm.total_iter = 25;
        (c.train_ebm.save_every, c.train_ebm.sample_every) = (1, 20);
        c.train_ebm.use_buffer = true;
    });
}
