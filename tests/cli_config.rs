//! The binary's command line: resolution of configurations, messages, exit codes.

use std::path::Path;
use std::process::{Command, Output};
use vaebm::config::{Config, PRESETS};

fn vaebm(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vaebm"))
        .current_dir(folder)
        .args(args)
        .output()
        .expect("the binary starts")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn config_prints_every_preset_and_its_output_can_be_given_back() {
    let folder = tempfile::tempdir().unwrap();
    for preset in PRESETS {
        let text = stdout(&vaebm(folder.path(), &["config", preset]));
        assert_eq!(
            Config::from_toml(&text, preset).unwrap(),
            Config::preset(preset).unwrap()
        );
        std::fs::write(folder.path().join("again.toml"), &text).unwrap();
        assert_eq!(
            stdout(&vaebm(folder.path(), &["config", "--config", "again.toml"])),
            text
        );
    }
}

#[test]
fn flags_beat_the_file_and_the_file_beats_the_preset() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("my.toml"),
        "[run]\npreset = \"medium\"\nseed = 5\n[vae]\nnum_latent_scales = 2\nnum_groups_per_scale = 7\n",
    )
    .unwrap();
    let args = [
        "config",
        "--config",
        "my.toml",
        "--num_groups_per_scale",
        "3",
        "--use_se=false",
        "--res-dist",
    ];
    let more = [
        "--alpha_s",
        "0.5",
        "--max-p=0.25",
        "--total_iter",
        "9",
        "--use_mu_cd",
        "--set",
        "sample.num_steps=4",
    ];
    let config = Config::from_toml(
        &stdout(&vaebm(folder.path(), &[&args[..], &more].concat())),
        "out",
    )
    .unwrap();
    assert_eq!(
        (
            config.run.seed,
            config.vae.num_latent_scales,
            config.vae.num_groups_per_scale
        ),
        (5, 2, 3)
    );
    assert_eq!(
        (
            config.vae.num_channels_enc,
            config.vae.use_se,
            config.vae.res_dist
        ),
        (32, false, true)
    );
    assert_eq!(
        (
            config.train_ebm.alpha_s,
            config.train_ebm.max_p,
            config.train_ebm.total_iter
        ),
        (0.5, 0.25, 9)
    );
    assert_eq!(
        (config.train_ebm.use_mu_cd, config.sample.num_steps),
        (true, 4)
    );
    // A preset on the command line replaces the file's.
    let text = stdout(&vaebm(
        folder.path(),
        &["config", "toy", "--config", "my.toml"],
    ));
    let config = Config::from_toml(&text, "out").unwrap();
    assert_eq!(
        (
            config.run.preset.as_str(),
            config.vae.num_channels_enc,
            config.run.seed
        ),
        ("toy", 16, 5)
    );
}

#[test]
fn wrong_usage_exits_with_2_and_says_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("wrong.toml"),
        "[vae]\nnum_latent_scale = 2\n",
    )
    .unwrap();
    for (args, told) in [
        (&["config", "toyy"][..], "did you mean `toy`?"),
        (&["config"], "name a preset"),
        (&["train", "vae"], "name a preset"),
        (&["train", "ebm"], "--vae RUN"),
        (&["train", "vae", "--resume"], "name the run folder"),
        (
            &["config", "toy", "--config", "wrong.toml"],
            "wrong.toml: unknown key `vae.num_latent_scale`",
        ),
        (
            &["config", "toy", "--config", "none.toml"],
            "cannot read configuration none.toml",
        ),
        (
            &["config", "toy", "--num-latent-scales", "x"],
            "a whole number",
        ),
        (
            &["config", "toy", "--num-latent-scales", "-1"],
            "a whole number",
        ),
        (
            &["config", "toy", "--device", "gpu"],
            "auto, cpu, cuda or cuda:N",
        ),
        (
            &["config", "toy", "--set", "vae.num_nfs=1"],
            "did you mean `num_nf`?",
        ),
        (
            &["config", "toy", "--size", "31"],
            "must be a multiple of 4",
        ),
        (&["train", "vae", "mnist"], "--data"),
        (&["bench", "toy", "--batch", "0"], "0 is not in"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&[], "Usage"),
    ] {
        let output = vaebm(folder.path(), args);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(told),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(!stderr(&output).contains("panicked"));
    }
}

#[test]
fn published_presets_name_the_images_that_are_missing() {
    let folder = tempfile::tempdir().unwrap();
    let output = vaebm(
        folder.path(),
        &["train", "vae", "celebahq256", "--data", "images"],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("cannot read images"),
        "{}",
        stderr(&output)
    );
    assert!(
        !folder.path().join("runs").exists(),
        "nothing is written before the configuration is known to be good"
    );
}

#[test]
fn a_run_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["sample", "runs/none"][..],
        &["train", "ebm", "--vae", "runs/none"],
        &["train", "vae", "--resume", "runs/none"],
    ] {
        let output = vaebm(folder.path(), args);
        assert!(!output.status.success());
        assert!(
            stderr(&output).contains("runs/none"),
            "{args:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn doctor_speaks_and_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    let text = stdout(&vaebm(folder.path(), &["doctor"]));
    assert!(
        text.contains("cpu cores") && text.contains("writable"),
        "{text}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&vaebm(folder.path(), &["doctor", "--json"]))).unwrap();
    assert_eq!(json["vaebm"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "the probe is gone"
    );
}

#[test]
fn every_help_text_prints() {
    let folder = tempfile::tempdir().unwrap();
    for (args, told) in [
        (&["--help"][..], "vaebm demo"),
        (&["demo", "--help"], "--seed"),
        (&["train", "vae", "--help"], "--num-latent-scales"),
        (&["train", "ebm", "--help"], "--alpha-s"),
        (&["sample", "--help"], "--temperature"),
        (&["bench", "--help"], "--json"),
        (&["doctor", "--help"], "--json"),
        (&["config", "--help"], "--max-p"),
    ] {
        let text = stdout(&vaebm(folder.path(), args));
        assert!(text.contains(told), "{args:?}: {text}");
    }
}
