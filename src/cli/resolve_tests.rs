//! How commands arrive at their configuration, without running them.

use super::*;
use crate::config::{Config, Stage};
use crate::run::{RunFolder, Start};
use std::path::Path;

fn command(args: &[&str]) -> Command {
    Cli::try_parse_from([&["vaebm"], args].concat())
        .unwrap()
        .command
}

fn resolve_vae(args: &[&str]) -> Result<(Config, Start), ConfigError> {
    let Command::Train(train) = command(&[&["train", "vae"], args].concat()) else {
        unreachable!()
    };
    train.resolve_vae()
}

fn config_kept(root: &Path, change: impl FnOnce(&mut Config)) {
    let mut config = Config::preset("glyphs").unwrap();
    config.run.out = "elsewhere/before/it/was/moved".into();
    change(&mut config);
    std::fs::create_dir_all(root).unwrap();
    std::fs::write(RunFolder::config_of(root), config.to_toml().unwrap()).unwrap();
}

#[test]
fn a_fresh_run_takes_the_preset_and_a_file_names_its_own_folder() {
    let (config, start) = resolve_vae(&["glyphs", "--epochs", "7", "--seed=3"]).unwrap();
    assert_eq!(
        (start, config.train_vae.epochs, config.run.seed),
        (Start::Fresh, 7, 3)
    );
    assert_eq!(config.run.out, Path::new("runs/glyphs"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, "[vae]\nnum_channels_enc = 8\n").unwrap();
    let (config, _) = resolve_vae(&["--config", file.to_str().unwrap()]).unwrap();
    assert_eq!(
        (config.run.out.as_path(), config.vae.num_channels_enc),
        (Path::new("runs/mine"), 8)
    );
}

#[test]
fn a_resumed_run_keeps_its_configuration_but_for_what_is_given_again() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("run");
    config_kept(&root, |config| config.train_vae.learning_rate = 0.005);
    let root_text = root.to_str().unwrap();
    for args in [
        &["--resume", root_text, "--steps", "9"][..],
        &["--resume", "--out", root_text, "--steps", "9"],
        &["glyphs", "--resume", "--out", root_text, "--steps", "9"],
    ] {
        let (config, start) = resolve_vae(args).unwrap();
        assert_eq!((start, &config.run.out), (Start::Resume, &root), "{args:?}");
        assert_eq!(
            (config.train_vae.learning_rate, config.train_vae.steps),
            (0.005, Some(9)),
            "{args:?}"
        );
    }
}

#[test]
fn the_energy_network_takes_the_architecture_of_its_vae() {
    let vae = Config::preset("glyphs").unwrap();
    let mut config = Config::preset("glyphs").unwrap();
    config.vae.num_channels_enc = 99;
    train_ebm::adopt(&mut config, &vae).unwrap();
    assert_eq!(config.vae, vae.vae);
    let mut other = Config::preset("mnist").unwrap();
    let told = train_ebm::adopt(&mut other, &vae).unwrap_err().to_string();
    assert!(
        told.contains("16x16 with 3 channel(s), not 28x28 with 1"),
        "{told}"
    );
    assert!(vae.check_stage(Stage::Ebm).is_ok());
}

#[test]
fn published_flag_names_are_understood() {
    let published = [
        "--dataset=cifar10",
        "--data",
        "folder",
        "--im_size=32",
        "--num_x_bits=8",
        "--learning_rate_min=1e-5",
        "--weight_decay_norm_anneal",
        "--warmup_epochs=2",
        "--kl_anneal_portion=0.4",
        "--num_channels_enc=8",
        "--num_channels_dec=8",
        "--num_preprocess_cells=3",
        "--num_cell_per_cond_enc=1",
        "--num_nf=0",
        "--arch_instance=res_mbconv",
        "--ada_groups",
        "--min_groups_per_scale=2",
        "--use_se",
        "--res_dist",
    ];
    let (config, _) = resolve_vae(&[&["medium"], &published[..]].concat()).unwrap();
    assert_eq!(
        (
            config.train_vae.learning_rate_min,
            config.train_vae.warmup_epochs
        ),
        (1e-5, 2)
    );
    assert!(config.vae.ada_groups && config.train_vae.weight_decay_norm_anneal);
    assert_eq!(config.data.path.as_deref(), Some(Path::new("folder")));
    let stage_two = [
        "train",
        "ebm",
        "medium",
        "--num_steps=5",
        "--step_size=1e-5",
        "--total_iter=3",
        "--alpha_s=0.1",
        "--max_p=0.5",
        "--anneal_step=7",
        "--buffer_size=64",
        "--use_buffer",
        "--use_mu_cd",
        "--lr=1e-4",
        "--wd=0",
        "--n_channel=8",
        "--batch_size=4",
        "--data_init=false",
        "--target=paper",
    ];
    assert!(matches!(command(&stage_two), Command::Train(_)));
}
