use super::*;
use crate::device::DeviceChoice;
use std::collections::BTreeSet;

#[test]
fn every_preset_resolves_prints_and_reads_back_to_itself() {
    for name in PRESETS {
        let config = Config::preset(name).unwrap();
        config.validate().unwrap();
        let text = config.to_toml().unwrap();
        assert_eq!(
            Config::from_toml(&text, name).unwrap(),
            config,
            "{name}:\n{text}"
        );
        assert_eq!(config.run.preset, *name);
    }
}

#[test]
fn optional_keys_survive_the_round_trip() {
    let mut config = Config::preset("toy").unwrap();
    config.data.path = Some("a \"quoted\" folder".into());
    config.train_vae.steps = Some(7);
    config.sample.step_size = 1.0 / 3.0;
    assert_eq!(
        Config::from_toml(&config.to_toml().unwrap(), "test").unwrap(),
        config
    );
}

#[test]
fn the_published_presets_carry_the_published_values() {
    let c = Config::preset("cifar10").unwrap();
    assert_eq!(
        (
            c.vae.num_channels_enc,
            c.vae.num_groups_per_scale,
            c.vae.num_nf
        ),
        (128, 30, 1)
    );
    assert_eq!(
        (
            c.train_vae.epochs,
            c.train_vae.warmup_epochs,
            c.train_vae.weight_decay_norm
        ),
        (400, 5, 0.1)
    );
    assert_eq!(
        (c.train_ebm.lr, c.train_ebm.step_size, c.train_ebm.use_mu_cd),
        (4e-5, 8e-5, false)
    );
    assert_eq!(
        (c.ebm.n_channel, c.sample.num_steps, c.train_ebm.use_buffer),
        (128, 16, false)
    );
    let c = Config::preset("celeba64").unwrap();
    assert_eq!(
        (
            c.vae.num_channels_dec,
            c.vae.num_latent_scales,
            c.train_vae.epochs
        ),
        (48, 3, 50)
    );
    assert_eq!(
        (c.train_ebm.lr, c.train_ebm.step_size, c.sample.num_steps),
        (5e-5, 5e-6, 20)
    );
    let c = Config::preset("lsun-church64").unwrap();
    assert_eq!(
        (
            c.ebm.network,
            c.train_ebm.buffer_size,
            c.train_ebm.anneal_step
        ),
        (EnergyNet::Lsun64, 10000, 5000)
    );
    assert_eq!(
        (c.train_ebm.max_p, c.train_ebm.step_size, c.train_vae.epochs),
        (0.6, 4e-6, 60)
    );
    let c = Config::preset("celebahq256").unwrap();
    assert_eq!(
        (
            c.vae.num_latent_scales,
            c.vae.num_groups_per_scale,
            c.vae.num_nf
        ),
        (5, 4, 2)
    );
    assert_eq!(
        (
            c.train_vae.learning_rate,
            c.train_vae.weight_decay_norm,
            c.data.num_x_bits
        ),
        (6e-3, 1e-2, 5)
    );
    assert_eq!(
        (
            c.train_ebm.num_steps,
            c.train_ebm.total_iter,
            c.train_ebm.alpha_s
        ),
        (6, 9000, 0.3)
    );
    assert_eq!(
        (
            c.sample.num_steps,
            c.sample.step_size,
            c.train_ebm.batch_size
        ),
        (24, 3e-6, 4)
    );
}

#[test]
fn every_published_model_can_be_run_and_what_lacks_files_says_so() {
    for name in PRESETS {
        let config = Config::preset(name).unwrap();
        for stage in [Stage::Vae, Stage::Ebm] {
            assert!(config.check_model(stage).is_ok(), "{name}");
        }
    }
    assert!(
        Config::preset("toy")
            .unwrap()
            .check_stage(Stage::Ebm)
            .is_ok()
    );
    let told = Config::preset("celebahq256")
        .unwrap()
        .check_stage(Stage::Vae)
        .unwrap_err()
        .to_string();
    assert!(told.contains("data.path"), "{told}");
    let told = Config::preset("mnist")
        .unwrap()
        .check_stage(Stage::Vae)
        .unwrap_err()
        .to_string();
    assert!(told.contains("data.path"), "{told}");
}

fn error_of(text: &str) -> String {
    Config::from_toml(text, "my.toml").unwrap_err().to_string()
}

#[test]
fn a_misspelt_key_names_file_key_and_the_nearest() {
    let told = error_of("[vae]\nnum_latent_scale = 2\n");
    assert_eq!(
        told,
        "my.toml: unknown key `vae.num_latent_scale`; did you mean `num_latent_scales`?"
    );
    let told = error_of("[vea]\nx = 2\n");
    assert!(told.contains("did you mean the section [vae]?"), "{told}");
    let told = error_of("[vae]\nalpha_s = 2\n");
    assert!(
        told.contains("`alpha_s` belongs under [train_ebm]"),
        "{told}"
    );
    let told = error_of("num_latent_scales = 2\n");
    assert!(told.contains("belongs under [vae]"), "{told}");
    let told = error_of("[vae]\nqqqqqq = 2\n");
    assert!(told.contains("[vae] has num_latent_scales, "), "{told}");
}

#[test]
fn a_value_of_the_wrong_kind_is_told_with_what_may_stand_there() {
    let told = error_of("[train_vae]\nbatch_size = \"many\"\n");
    assert_eq!(
        told,
        "my.toml: `train_vae.batch_size` is \"many\"; it must be a whole number, zero or more"
    );
    assert!(error_of("[train_vae]\nbatch_size = -1\n").contains("is -1"));
    assert!(error_of("[train_ebm]\ntarget = \"Paper\"\n").contains("one of paper, official"));
    assert!(error_of("[vae]\nuse_se = 1\n").contains("true or false"));
    assert!(error_of("[vae\n").contains("my.toml is not valid TOML"));
    assert_eq!(
        Config::from_toml("[train_ebm]\nlr = 1\n", "t")
            .unwrap()
            .train_ebm
            .lr,
        1.0
    );
}

#[test]
fn values_out_of_range_are_told_all_at_once() {
    let told = error_of(
        "[data]\nsize = 20\n[vae]\nnum_latent_scales = 3\ndecoder = \"bernoulli\"\n[train_ebm]\nmax_p = 2.0\n",
    );
    for part in [
        "data.size = 20 must be a multiple of 8",
        "bernoulli is for one-channel",
        "train_ebm.max_p = 2",
    ] {
        assert!(told.contains(part), "{told}");
    }
    for (text, part) in [
        ("[run]\ndevice = \"gpu\"", "auto, cpu, cuda or cuda:N"),
        ("[run]\ndevice = \"cuda:x\"", "auto, cpu, cuda or cuda:N"),
        (
            "[run]\ndevice = \"cpu\"\nprecision = \"bf16\"",
            "needs a GPU",
        ),
        (
            "[train_vae]\nlearning_rate = nan",
            "train_vae.learning_rate",
        ),
        ("[train_vae]\nepochs = 5", "warmup_epochs = 5 must be below"),
        ("[data]\nchannels = 1", "stacked-glyphs has 3 channel(s)"),
        ("[vae]\nnum_mixture_dec = 10", "needs vae.decoder = dmol"),
        ("[vae]\nnum_latent_scales = 0", "vae.num_latent_scales = 0"),
        (
            "[train_ebm]\nuse_buffer = true\nbuffer_size = 8",
            "at least one batch",
        ),
    ] {
        assert!(error_of(text).contains(part), "{text}: {}", error_of(text));
    }
}

#[test]
fn layers_override_each_other_in_order() {
    let mut flags = Layer::new("flags");
    flags.assign("train_ebm.alpha-s=0.4").unwrap();
    let config = Resolver::new(&Config::preset("toy").unwrap())
        .unwrap()
        .overlay(Layer::parse("[train_ebm]\nalpha_s = 0.3\nlr = 1e-3\n", "file").unwrap())
        .unwrap()
        .overlay(flags)
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!((config.train_ebm.alpha_s, config.train_ebm.lr), (0.4, 1e-3));
    assert!(Layer::new("flags").assign("train_ebm.alpha_s").is_err());
    assert!(Layer::new("flags").assign("train_ebm.alpha_s=x").is_err());
    assert!(Layer::new("flags").assign("train_ebm.alhpa_s=1").is_err());
}

#[test]
fn a_number_beyond_toml_is_an_error_and_no_panic() {
    let mut config = Config::preset("toy").unwrap();
    config.run.seed = u64::MAX;
    assert!(config.validate().is_err());
    assert!(config.to_toml().is_err());
}

#[test]
fn groups_halve_with_resolution_under_ada_groups() {
    let vae = Vae {
        num_latent_scales: 5,
        num_groups_per_scale: 16,
        ada_groups: true,
        min_groups_per_scale: 4,
        ..Vae::default()
    };
    assert_eq!(vae.groups_per_scale(), [16, 8, 4, 4, 4]);
    assert_eq!(
        Vae {
            ada_groups: false,
            ..vae
        }
        .groups_per_scale(),
        [16; 5]
    );
}

#[test]
fn no_section_declares_a_key_twice_and_all_have_help() {
    for section in Config::SECTIONS {
        let names: BTreeSet<_> = section.keys.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), section.keys.len(), "{}", section.name);
        assert!(section.keys.iter().all(|key| !key.help.trim().is_empty()));
    }
}

#[test]
fn the_nearest_word_is_found_only_when_it_is_near() {
    assert_eq!(nearest("cifar", ["cifar10", "celeba64"]), Some("cifar10"));
    assert_eq!(nearest("num-steps", ["num_steps"]), Some("num_steps"));
    assert_eq!(nearest("zebra", ["cifar10", "celeba64"]), None);
    assert!(
        Config::preset("minst")
            .unwrap_err()
            .to_string()
            .contains("did you mean `mnist`?")
    );
}

#[test]
fn devices_are_named_as_people_name_them() {
    let choice = |device: &str| {
        Run {
            device: device.into(),
            ..Run::default()
        }
        .device_choice()
    };
    assert_eq!(choice("auto"), Some(DeviceChoice::Auto));
    assert_eq!(
        (choice("cuda"), choice("cuda:3")),
        (Some(DeviceChoice::Cuda(0)), Some(DeviceChoice::Cuda(3)))
    );
    assert_eq!(
        (
            choice("cuda:-1"),
            choice("cuda:"),
            choice("gpu"),
            choice("")
        ),
        (None, None, None, None)
    );
}

#[test]
fn a_number_beyond_its_type_is_named() {
    let layer = Layer::parse("[data]\nnum_x_bits = 9223372036854775807", "a.toml").unwrap();
    let resolver = Resolver::new(&Config::default()).unwrap();
    let told = resolver
        .overlay(layer)
        .unwrap()
        .finish()
        .unwrap_err()
        .to_string();
    assert!(
        told.contains("data.num_x_bits: ") && told.contains("9223372036854775807"),
        "{told}"
    );
}

#[test]
fn one_image_is_too_few_where_features_are_single_pixels() {
    let mut config = Config::default();
    config.data.size = 16;
    config.vae.num_preprocess_blocks = 1;
    config.vae.num_postprocess_blocks = 1;
    config.vae.num_latent_scales = 4;
    config.train_vae.batch_size = 2;
    config.sample.readjust_batch = 1;
    config.validate().unwrap();
    config.sample.readjust_bn = 1;
    config.train_vae.batch_size = 1;
    config.train_ebm.batch_size = 1;
    let told = config.validate().unwrap_err().to_string();
    assert!(
        told.contains("train_vae.batch_size = 1") && told.contains("sample.readjust_batch = 1"),
        "{told}"
    );
    assert!(!told.contains("train_ebm.batch_size"), "{told}");
    config.vae.num_latent_scales = 3;
    config.validate().unwrap();
}
