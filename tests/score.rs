//! The best checkpoint of stage 2 by its score: marked, kept, bit for bit the same after interruptions, and no burden on training.

mod tiny;

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::{TempDir, tempdir};
use vaebm::checkpoint::Checkpoint;
use vaebm::config::{Config, DataSet, Stage};
use vaebm::run::{RunFolder, Start, Which};
use vaebm::train::Ended;

const SCORER: &str = "scorer.safetensors";

/// A folder with a VAE, and a configuration of nine steps of stage 2 in `whole`, scored at every other one and at the last.
fn prepared(change: impl Fn(&mut Config)) -> (TempDir, Config, PathBuf) {
    let folder = tempdir().unwrap();
    let mut config = tiny::config(&folder.path().join("whole"));
    (config.train_ebm.score_every, config.train_ebm.score_images) = (2, 70);
    config.data.valid = 40;
    config.data.draws = 60;
    change(&mut config);
    let vae = tiny::trained_vae(folder.path(), &config);
    (folder, config, vae)
}

/// The same in another folder, which has the first one's classifier already.
fn beside(config: &Config, name: &str) -> Config {
    let mut other = config.clone();
    other.run.out = config.run.out.with_file_name(name);
    std::fs::create_dir(&other.run.out).unwrap();
    let from = config.run.out.join(SCORER);
    std::fs::copy(from, other.run.out.join(SCORER)).unwrap();
    other
}

/// Step, score and whether it was the best, from the metrics.
fn scores(run: &Path) -> Vec<(u64, f64, bool)> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str(l).unwrap());
    lines
        .filter(|l: &Value| l["kind"] == "validation" && l["stage"] == "ebm")
        .map(|l| {
            assert!(l["kernel"].is_number(), "{l}");
            let step = l["step"].as_u64().unwrap();
            (
                step,
                l["score"].as_f64().unwrap(),
                l["best"].as_bool().unwrap(),
            )
        })
        .collect()
}

fn step_of(path: &Path) -> u64 {
    Checkpoint::open(path).unwrap().header().step
}

fn best_step(run: &Path) -> u64 {
    step_of(&RunFolder::find(run, Stage::Ebm, &Which::Best).unwrap())
}

#[test]
fn scores_are_logged_mark_the_best_and_resume_bit_for_bit() {
    let (_folder, whole, vae) = prepared(|c| {
        c.train_ebm.use_buffer = true;
        // Only what is pointed at stays: the best is kept by its pointer.
        c.run.keep_last = 1;
        // Large steps, so that scores differ.
        c.train_ebm.lr = 1e-3;
    });
    let train = |config: &Config| tiny::train(config, Stage::Ebm, Start::Fresh, Some(&vae));
    assert_eq!(train(&whole), Ended::Done);
    let of_whole = scores(&whole.run.out);
    let steps: Vec<u64> = of_whole.iter().map(|s| s.0).collect();
    assert_eq!(steps, [2, 4, 6, 8, 9]);
    // The least score is the marked one, and each that was called the best was the least so far.
    let mut least = (0, f64::INFINITY);
    for &(step, score, best) in &of_whole {
        assert_eq!(best, score < least.1, "{of_whole:?}");
        least = if best { (step, score) } else { least };
    }
    assert_eq!(best_step(&whole.run.out), least.0);
    assert_eq!(
        step_of(&RunFolder::find(&whole.run.out, Stage::Ebm, &Which::Last).unwrap()),
        9
    );

    // Interrupted before, at and after scores, with the classifier from the folder.
    let kept = std::fs::read(whole.run.out.join(SCORER)).unwrap();
    let resumed = beside(&whole, "resumed");
    let vae = Some(vae.as_path());
    tiny::train_until(&resumed, Stage::Ebm, Start::Fresh, vae, 1);
    tiny::train_until(&resumed, Stage::Ebm, Start::Resume, vae, 4);
    tiny::train_and_crash(&resumed, Stage::Ebm, Start::Resume, vae, 5);
    tiny::train_and_crash(&resumed, Stage::Ebm, Start::Resume, vae, 8);
    assert_eq!(
        tiny::train(&resumed, Stage::Ebm, Start::Resume, vae),
        Ended::Done
    );
    tiny::assert_same(&whole, &resumed, Stage::Ebm);
    assert_eq!(
        std::fs::read(resumed.run.out.join(SCORER)).unwrap(),
        kept,
        "it was not trained again"
    );

    // Without scores the same training: they take no noise and move no state.
    let mut unscored = whole.clone();
    unscored.run.out = whole.run.out.with_file_name("unscored");
    unscored.train_ebm.score_every = 0;
    assert_eq!(
        tiny::train(&unscored, Stage::Ebm, Start::Fresh, vae),
        Ended::Done
    );
    let tensors = |config: &Config| {
        let last = RunFolder::last_checkpoint_at(&config.run.out, Stage::Ebm).unwrap();
        let last = Checkpoint::open(&last).unwrap();
        let read = |name: &str| (name.to_owned(), tiny::bits(last.tensor(name).unwrap().1));
        last.names().map(read).collect::<Vec<_>>()
    };
    assert!(tensors(&whole) == tensors(&unscored));
    assert!(!unscored.run.out.join(SCORER).exists());
}

#[test]
fn a_classifier_that_is_gone_or_of_other_images_is_made_again() {
    let (_folder, whole, vae) = prepared(|c| c.train_ebm.total_iter = 4);
    let train = |config: &Config, start| tiny::train(config, Stage::Ebm, start, Some(&vae));
    train(&whole, Start::Fresh);
    let scorer = |config: &Config| config.run.out.join(SCORER);
    let kept = std::fs::read(scorer(&whole)).unwrap();
    let before = scores(&whole.run.out);
    // Damaged: the same one is trained, and the scores go on.
    let other = beside(&whole, "damaged");
    std::fs::write(scorer(&other), &kept[..kept.len() / 2]).unwrap();
    train(&other, Start::Fresh);
    assert_eq!(scores(&other.run.out), before);
    assert!(std::fs::read(scorer(&other)).unwrap() == kept);
    // Of other images: another one, and earlier scores, which do not compare with its own, count no longer.
    let mut moved = other.clone();
    (moved.data.valid, moved.train_ebm.total_iter) = (44, 6);
    train(&moved, Start::Resume);
    assert!(std::fs::read(scorer(&moved)).unwrap() != kept);
    let after = scores(&moved.run.out);
    assert_eq!((after.len(), &after[..2]), (3, &before[..2]));
    assert_eq!(
        (after[2].0, after[2].2, best_step(&moved.run.out)),
        (6, true, 6)
    );
}

#[test]
fn training_ends_when_scores_get_no_better_and_goes_on_when_told() {
    // Nothing moves, so the first score is the best for ever.
    let (_folder, config, vae) = prepared(|c| {
        (c.train_ebm.lr, c.train_ebm.wd) = (1e-30, 0.0);
        (c.train_ebm.score_every, c.train_ebm.patience) = (1, 3);
        // No end falls on a step where it would be saved in any case.
        c.train_ebm.save_every = 50;
    });
    let train = |config: &Config, start| tiny::train(config, Stage::Ebm, start, Some(&vae));
    assert_eq!(train(&config, Start::Fresh), Ended::Done);
    let last = || step_of(&RunFolder::last_checkpoint_at(&config.run.out, Stage::Ebm).unwrap());
    let found = scores(&config.run.out);
    assert!(found.iter().all(|s| s.1 == found[0].1), "{found:?}");
    assert_eq!((found.len(), last(), best_step(&config.run.out)), (4, 4, 1));
    // It has ended; with more patience it goes on, with none to the last step.
    assert_eq!(train(&config, Start::Resume), Ended::Done);
    assert_eq!((scores(&config.run.out).len(), last()), (4, 4));
    let with = |patience: u64| {
        let mut config = config.clone();
        config.train_ebm.patience = patience;
        config
    };
    train(&with(5), Start::Resume);
    assert_eq!(last(), 6);
    train(&with(0), Start::Resume);
    assert_eq!((last(), best_step(&config.run.out)), (9, 1));
}

/// Pictures have no labels: their classifier learns to tell which way up they are. And the command line's choice of a checkpoint.
#[test]
fn pictures_without_labels_are_scored_and_the_binary_takes_best_and_last() {
    let (folder, config, vae) = prepared(|c| c.train_ebm.lr = 1e-3);
    let at = folder.path();
    let vae = vae.display().to_string();
    let export = [
        "sample",
        &vae,
        "--n",
        "80",
        "--png-dir",
        "pictures",
        "--out",
        "look",
    ];
    tiny::succeed(at, &export);
    let mut config = config;
    (config.data.dataset, config.data.path) = (DataSet::Images, Some("pictures".into()));
    config.data.valid = 0;
    config.train_vae.steps = Some(1);
    config.run.out = "run".into();
    tiny::write_config(&at.join("tiny.toml"), &config);
    tiny::succeed(at, &["train", "vae", "--config", "tiny.toml"]);
    tiny::succeed(at, &["train", "ebm", "--vae", "run"]);
    let run = at.join("run");
    let found = scores(&run);
    assert_eq!(found.len(), 5);
    assert!(
        found.iter().all(|s| s.1.is_finite() && s.1 > 0.0),
        "{found:?}"
    );
    let best = best_step(&run);

    // Both choices, and the file itself; without one the best is taken.
    let draw = |out: &str, which: &[&str]| {
        let args = ["sample", "run", "--n", "3", "--energies", "--out", out];
        tiny::succeed(at, &[&args, which].concat());
        std::fs::read(at.join(out).join("energies.csv")).unwrap()
    };
    let file = format!("run/checkpoints/ebm-{best:09}.safetensors");
    let by_best = draw("best", &["--checkpoint", "best"]);
    assert_eq!(by_best, draw("usual", &[]));
    assert_eq!(by_best, draw("file", &["--checkpoint", &file]));
    let by_last = draw("last", &["--checkpoint", "last"]);
    assert_eq!(by_best == by_last, best == 9);

    // A set without labels cannot be measured by `eval`; what it says of the choice comes first.
    let output = tiny::output(at, &["eval", "run", "run", "--checkpoint", &file]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("there are 2 runs"), "{told}");
}

#[test]
fn settings_of_scores_that_make_no_sense_are_named() {
    let (folder, config, _) = prepared(|_| ());
    tiny::write_config(&folder.path().join("tiny.toml"), &config);
    for (set, named) in [
        ("train_ebm.score_images=3", "score_images = 3"),
        ("train_ebm.score_every=0", "patience counts scores"),
    ] {
        let args = [
            "config",
            "--config",
            "tiny.toml",
            "--set",
            "train_ebm.patience=2",
            "--set",
            set,
        ];
        let output = tiny::output(folder.path(), &args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(2) && told.contains(named),
            "{told}"
        );
    }
}
