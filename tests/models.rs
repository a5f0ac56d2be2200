//! Every kind of model through the binary: it trains, its likelihood is measured, it is sampled, and stage 2 goes on top of it where the
//! method has one.

mod tiny;

use std::path::{Path, PathBuf};

use tempfile::{TempDir, tempdir};
use vaebm::checkpoint::Checkpoint;
use vaebm::config::{Arch, Config, DataSet, Decoder, Stage};
use vaebm::run::RunFolder;

/// A folder with `tiny.toml`, for a run into `run`.
fn prepared(change: impl FnOnce(&mut Config)) -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let out = folder.path().join("run");
    let mut config = tiny::config(&out);
    config.train_vae.steps = Some(2);
    (config.train_vae.eval_images, config.train_ebm.total_iter) = (4, 1);
    (config.sample.num_samples, config.sample.batch_size) = (3, 2);
    change(&mut config);
    tiny::write_config(&folder.path().join("tiny.toml"), &config);
    (folder, out)
}

fn likelihood(folder: &Path, args: &[&str]) -> serde_json::Value {
    let args = [&["likelihood", "run", "--json", "--images", "5"], args].concat();
    serde_json::from_str(&tiny::succeed(folder, &args)).unwrap()
}

fn number(report: &serde_json::Value, name: &str) -> f64 {
    report[name].as_f64().unwrap_or(f64::NAN)
}

/// Pixels of a picture, and how many of them differ from its first one.
fn shown(path: &Path) -> (Vec<u8>, usize) {
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let differing = pixels.iter().filter(|p| **p != pixels[0]).count();
    (pixels, differing)
}

/// Trains stage 1 of a model, measures it, samples it, and trains and samples stage 2 if `chains`, else sees that refused.
fn lives(chains: bool, change: impl FnOnce(&mut Config)) {
    let (folder, out) = prepared(change);
    let at = folder.path();
    tiny::succeed(at, &["train", "vae", "--config", "tiny.toml"]);
    let report = likelihood(at, &["--samples", "2"]);
    for figure in ["nelbo", "log_p", "bpd_elbo", "bpd_log_p"] {
        assert!(number(&report, figure).is_finite(), "{report}");
    }
    let cool = ["sample", "run", "--temperature", "0.8"];
    tiny::succeed(at, &[&cool[..], &["--image", "mean"]].concat());
    let (mean, differing) = shown(&out.join("samples/00002.png"));
    assert!(differing > 0, "an even picture");
    tiny::succeed(at, &[&cool[..], &["--image", "sample"]].concat());
    let drawn = shown(&out.join("samples/00002.png")).0;
    let config = Config::load(&out.join("config.toml")).unwrap();
    assert_eq!(mean == drawn, config.vae.decoder == Decoder::Bernoulli);

    let ebm = ["train", "ebm", "--vae", "run"];
    if chains {
        tiny::succeed(at, &ebm);
        tiny::succeed(at, &["sample", "run", "--out", "drawn", "--energies"]);
        assert!(shown(&at.join("drawn/00002.png")).1 > 0);
    } else {
        let output = tiny::output(at, &ebm);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && told.contains("decoder = normal"),
            "{told}"
        );
    }
}

fn flows(config: &mut Config) {
    config.vae.num_nf = 2;
}

#[test]
fn normalising_flows() {
    lives(true, flows);
}

#[test]
fn mixtures_of_logistics() {
    lives(false, |c| {
        c.vae.decoder = Decoder::Dmol;
        c.vae.num_mixture_dec = 3;
    });
}

#[test]
fn mixtures_of_logistics_with_flows_on_five_bits() {
    lives(false, |c| {
        flows(c);
        c.vae.decoder = Decoder::Dmol;
        c.vae.num_mixture_dec = 10;
        c.data.num_x_bits = 5;
    });
}

#[test]
fn one_group() {
    lives(true, |c| {
        (c.vae.num_latent_scales, c.vae.num_groups_per_scale) = (1, 1);
    });
}

#[test]
fn three_bits() {
    lives(true, |c| c.data.num_x_bits = 3);
}

#[test]
fn binary_pixels() {
    lives(false, |c| {
        c.data.dataset = DataSet::Glyphs;
        c.data.channels = 1;
        c.vae.decoder = Decoder::Bernoulli;
    });
}

#[test]
fn adaptive_groups() {
    lives(true, |c| {
        c.vae.num_groups_per_scale = 3;
        c.vae.ada_groups = true;
    });
}

#[test]
fn every_cell_family() {
    for arch in [
        Arch::ResElu,
        Arch::ResBnelu,
        Arch::ResBnswish,
        Arch::MbconvSep,
        Arch::MbconvSep11,
        Arch::Res53Mbconv,
        Arch::Res35Mbconv,
        Arch::Res55Mbconv,
        Arch::MbconvRes,
        Arch::MbconvDen,
    ] {
        lives(true, |c| c.vae.arch_instance = arch);
    }
}

/// The layers of `res_elu` start from the first batch: what they give it has mean 0 and deviation 1/5 (SPEC section 1), and a
/// convolution behind a batch norm does not care.
#[test]
fn layers_that_start_from_data_do_so_in_training() {
    let (folder, out) = prepared(|c| {
        c.vae.arch_instance = Arch::ResElu;
        c.train_vae.steps = Some(1);
    });
    tiny::succeed(folder.path(), &["train", "vae", "--config", "tiny.toml"]);
    let path = RunFolder::checkpoint_at(&out, Stage::Vae).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    // The first step has a learning rate of 0: what stands there is how it started.
    let gain = |layer: &str| {
        let (_, gain) = checkpoint
            .tensor(&format!("vae.{layer}.log_weight_norm"))
            .unwrap();
        let (_, weight) = checkpoint.tensor(&format!("vae.{layer}.weight")).unwrap();
        let filters = gain.len();
        let squares = (0..filters).map(|o| {
            let filter = weight.iter().skip(o).step_by(filters);
            filter.map(|w| f64::from(*w).powi(2)).sum::<f64>()
        });
        let plain: Vec<f64> = squares.map(|s| (s.sqrt() + 0.01).ln()).collect();
        let apart = |(g, p): (&f32, &f64)| (f64::from(*g) - p).abs();
        gain.iter().zip(&plain).map(apart).fold(0.0, f64::max)
    };
    assert!(gain("stem") < 1e-5, "the stem starts from its weights");
    assert!(gain("pre_process.0._ops.0.conv_0") > 0.1);
    assert!(gain("dec_tower.1._ops.1.conv_0") > 0.1);
}

#[test]
fn likelihoods_are_bounds_that_tighten() {
    let (folder, _) = prepared(|c| {
        c.vae.decoder = Decoder::Dmol;
        c.vae.num_mixture_dec = 2;
    });
    let at = folder.path();
    tiny::succeed(at, &["train", "vae", "--config", "tiny.toml"]);
    let one = likelihood(at, &["--samples", "1"]);
    let many = likelihood(at, &["--samples", "30"]);
    assert_eq!(
        (
            &many["images"],
            &many["importance_samples"],
            &many["decoder"],
            &many["num_x_bits"]
        ),
        (&5.into(), &30.into(), &"dmol".into(), &8.into())
    );
    assert_eq!(many["dimensions"], 16 * 16 * 3);
    assert!(number(&many, "log_p") > -number(&many, "nelbo"), "{many}");
    assert!(
        number(&many, "log_p") > number(&one, "log_p"),
        "{one} {many}"
    );
    let bits = |nats: f64| nats / (std::f64::consts::LN_2 * f64::from(16 * 16 * 3));
    for (nats, bpd) in [
        (number(&many, "nelbo"), "bpd_elbo"),
        (-number(&many, "log_p"), "bpd_log_p"),
    ] {
        assert!((number(&many, bpd) - bits(nats)).abs() < 1e-9 * nats.abs());
    }
    // However images are batched: each has noise of its own.
    let single = likelihood(at, &["--samples", "30", "--batch", "1"]);
    for figure in ["nelbo", "log_p", "log_p_error"] {
        let (a, b) = (number(&single, figure), number(&many, figure));
        assert!((a - b).abs() <= 1e-4 * b.abs(), "{figure}: {a} {b}");
    }
    let other = likelihood(at, &["--samples", "30", "--seed", "2"]);
    assert_ne!(other["log_p"], many["log_p"]);

    let told = tiny::succeed(at, &["likelihood", "run", "--samples", "2"]);
    for word in [
        "-ELBO",
        "bits / dim",
        "importance-weighted",
        "2 importance samples",
    ] {
        assert!(told.contains(word), "{told}");
    }
    assert!(!told.contains("densities"), "{told}");
}

#[test]
fn likelihoods_need_an_encoder() {
    let (folder, _) = prepared(|_| ());
    let at = folder.path();
    tiny::succeed(at, &["train", "vae", "--config", "tiny.toml"]);
    let told = tiny::succeed(
        at,
        &["likelihood", "run", "--samples", "1", "--images", "3"],
    );
    assert!(
        told.contains("densities") && told.contains("3 held-out images"),
        "{told}"
    );
    tiny::succeed(at, &["train", "ebm", "--vae", "run"]);
    let ebm = RunFolder::checkpoint_at(&at.join("run"), Stage::Ebm).unwrap();
    let args = [
        vec!["likelihood".into(), ebm.display().to_string()],
        vec!["likelihood".into(), "nowhere".into()],
        vec![
            "likelihood".into(),
            "run".into(),
            "--samples".into(),
            "0".into(),
        ],
    ];
    for (args, names) in args.iter().zip(["encoder", "nowhere", "--samples"]) {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = tiny::output(at, &args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && told.contains(names),
            "{args:?}: {told}"
        );
    }
}

#[test]
fn batch_norms_are_estimated_anew_for_sampling() {
    let (folder, out) = prepared(|_| ());
    let at = folder.path();
    tiny::succeed(at, &["train", "vae", "--config", "tiny.toml"]);
    tiny::succeed(at, &["train", "ebm", "--vae", "run"]);
    let checkpoint = RunFolder::checkpoint_at(&out, Stage::Vae).unwrap();
    let before = std::fs::read(&checkpoint).unwrap();
    let drawn = |name: &str, args: &[&str]| {
        let common = ["sample", "run", "--out", name, "--temperature", "0.7"];
        tiny::succeed(at, &[&common, args].concat());
        shown(&at.join(name).join("overview.png")).0
    };
    for steps in ["0", "2"] {
        let steps = ["--num-steps", steps];
        let with = |args: &[&'static str]| [&steps, args].concat();
        let plain = drawn("plain", &steps);
        let readjusted = drawn("readjusted", &with(&["--readjust-bn", "20"]));
        assert_ne!(plain, readjusted);
        assert_eq!(readjusted, drawn("again", &with(&["--readjust-bn", "20"])));
        let small = with(&["--readjust-bn=20", "--readjust-batch", "2"]);
        assert_ne!(readjusted, drawn("small", &small));
    }
    assert_eq!(
        before,
        std::fs::read(&checkpoint).unwrap(),
        "the run stays as it was"
    );
}

#[test]
fn measures_follow_the_settings_of_sampling() {
    let (folder, out) = prepared(|c| c.data.draws = 200);
    let at = folder.path();
    tiny::succeed(at, &["train", "vae", "--config", "tiny.toml"]);
    tiny::succeed(at, &["train", "ebm", "--vae", "run"]);
    let measured = |args: &[&str]| {
        tiny::succeed(
            at,
            &[&["eval", "run", "--n", "100", "--valid", "100"], args].concat(),
        );
        let text = std::fs::read_to_string(out.join("report.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let plain = measured(&[]);
    let readjusted = measured(&["--readjust-bn", "20"]);
    let stretched = measured(&["--pixel-range", "per-image"]);
    for other in [&readjusted, &stretched] {
        assert_eq!(plain["data"], other["data"], "data are not sampled");
        for samples in ["vae", "vaebm"] {
            assert_ne!(
                plain[samples]["frechet"], other[samples]["frechet"],
                "{samples}"
            );
        }
    }
    assert_eq!(
        (&readjusted["readjust_bn"], &plain["readjust_bn"]),
        (&20.into(), &0.into())
    );
    assert_eq!(stretched["pixel_range"], "per-image");
}

/// The published stage 2 starts with one prior batch in training mode; `--readjust-bn 1` does so, and the default does not.
#[test]
fn stage_two_moves_statistics_only_if_asked() {
    let (folder, out) = prepared(|_| ());
    let at = folder.path();
    tiny::succeed(at, &["train", "vae", "--config", "tiny.toml"]);
    let vae = RunFolder::checkpoint_at(&out, Stage::Vae).unwrap();
    let vae = Checkpoint::open(&vae).unwrap();
    for passes in ["0", "1"] {
        let args = ["train", "ebm", "--vae", "run", "--out", passes];
        tiny::succeed(at, &[&args[..], &["--readjust-bn", passes]].concat());
        let ebm = RunFolder::checkpoint_at(&at.join(passes), Stage::Ebm).unwrap();
        let ebm = Checkpoint::open(&ebm).unwrap();
        for name in ebm.names().filter(|name| name.starts_with("vae.")) {
            let same = ebm.tensor(name).unwrap() == vae.tensor(name).unwrap();
            let moves = passes == "1" && name.contains(".running_");
            assert_eq!(same, !moves, "{passes} passes: {name}");
        }
    }
}
