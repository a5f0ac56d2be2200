//! The binary's life with a run: train both stages, sample, measure, interrupt, and what it says when something is wrong.

mod tiny;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tempfile::{TempDir, tempdir};
use vaebm::checkpoint::Checkpoint;
use vaebm::config::{Config, DataSet, Decoder, EnergyNet, Stage};
use vaebm::run::{RunFolder, Start};

/// A folder with `tiny.toml`, for a run into `run`.
fn prepared(change: impl Fn(&mut Config)) -> (TempDir, Config) {
    let folder = tempdir().unwrap();
    let mut config = tiny::config(&folder.path().join("run"));
    config.train_vae.steps = Some(3);
    (config.train_vae.eval_images, config.train_ebm.total_iter) = (4, 3);
    config.sample.num_samples = 5;
    config.sample.batch_size = 3;
    change(&mut config);
    tiny::write_config(&folder.path().join("tiny.toml"), &config);
    (folder, config)
}

/// Asserts that the binary refuses with one error that names the thing, and without a panic.
fn refused(folder: &Path, args: &[&str], names: &[&str]) {
    let output = tiny::output(folder, args);
    let told = told(&output);
    assert!(!output.status.success(), "{args:?} succeeded");
    let code = output.status.code();
    assert!(code == Some(1) || code == Some(2), "{args:?}: {code:?}");
    assert!(!told.contains("panicked"), "{args:?}: {told}");
    let errors = told.lines().filter(|l| l.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{args:?}: {told}");
    for name in names {
        assert!(told.contains(name), "{args:?}: no `{name}` in: {told}");
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn is_png(path: &Path) -> bool {
    let bytes = std::fs::read(path).unwrap_or_default();
    bytes.starts_with(b"\x89PNG\r\n\x1a\n")
}

#[test]
fn a_run_from_training_to_samples_and_measures() {
    let (folder, config) = prepared(|c| c.train_ebm.use_buffer = true);
    let at = folder.path();
    let run = |args: &[&str]| tiny::succeed(at, args);

    assert!(run(&["train", "vae", "--config", "tiny.toml"]).contains("done: "));
    let vae = RunFolder::checkpoint_at(&config.run.out, Stage::Vae).unwrap();
    assert_eq!(Checkpoint::open(&vae).unwrap().header().stage, "vae");
    run(&[
        "train", "ebm", "--vae", "run", "--out", "ebm", "--lr", "2e-4",
    ]);
    let ebm = RunFolder::checkpoint_at(&at.join("ebm"), Stage::Ebm).unwrap();
    let header = Checkpoint::open(&ebm).unwrap().header().clone();
    assert_eq!((header.stage.as_str(), header.step), ("ebm", 3));
    let kept = Config::from_toml(&header.config, "the checkpoint").unwrap();
    assert_eq!((kept.train_ebm.lr, &kept.vae), (2e-4, &config.vae));
    let metrics = std::fs::read_to_string(at.join("ebm/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 3);

    // From the prior, with everything written out; five images in batches of three.
    let told = run(&[
        "sample",
        "ebm",
        "--energies",
        "--trajectory",
        "--out",
        "drawn",
        "--seed",
        "9",
    ]);
    assert!(told.contains("5 images in drawn"), "{told}");
    assert!(is_png(&at.join("drawn/overview.png")) && is_png(&at.join("drawn/00004.png")));
    assert!(!at.join("drawn/00005.png").exists());
    let energies = std::fs::read_to_string(at.join("drawn/energies.csv")).unwrap();
    assert_eq!(energies.lines().count(), 6);
    for line in energies.lines().skip(1) {
        let numbers: Vec<f64> = line.split(',').map(|n| n.parse().unwrap()).collect();
        assert!(
            numbers.len() == 3 && numbers.iter().all(|n| n.is_finite()),
            "{line}"
        );
    }
    let bytes = std::fs::read(at.join("drawn/trajectory.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let shapes: Vec<_> = ["batch0", "batch1"]
        .map(|n| file.tensor(n).unwrap().shape().to_vec())
        .into();
    assert_eq!(shapes[0], [config.sample.num_steps + 1, 3, 16, 16, 3]);
    assert_eq!(shapes[1].iter().product::<usize>() % (16 * 16 * 3), 0);

    // From the replay buffer, from the VAE under the energy network, from the VAE alone, from a file.
    run(&["sample", "ebm", "--start", "buffer", "--out", "buffered"]);
    assert!(is_png(&at.join("buffered/overview.png")));
    run(&["sample", "ebm", "--num-steps", "0", "--image", "sample"]);
    assert!(is_png(&at.join("ebm/samples/overview.png")));
    run(&["sample", "run", "--n", "2", "--temperature", "0.7"]);
    assert!(is_png(&at.join("run/samples/00001.png")));
    run(&["sample", &ebm.display().to_string(), "--out", "of-a-file"]);

    // The same seed draws the same pictures, another one others.
    run(&["sample", "ebm", "--out", "again", "--seed", "9"]);
    run(&["sample", "ebm", "--out", "other", "--seed", "10"]);
    let overview = |name: &str| std::fs::read(at.join(name).join("overview.png")).unwrap();
    assert_eq!(overview("drawn"), overview("again"));
    assert_ne!(overview("drawn"), overview("other"));

    // Into a folder of nothing else and into one file, for tools that measure samples: the same pixels as in the pictures.
    let export = [
        "sample",
        "ebm",
        "--seed",
        "9",
        "--out",
        "look",
        "--png-dir",
        "pictures",
        "--npz",
        "samples.npz",
    ];
    let told = run(&export);
    assert!(
        told.contains("5 images in pictures and samples.npz"),
        "{told}"
    );
    let picture = |path: &str| std::fs::read(at.join(path)).unwrap();
    let names = std::fs::read_dir(at.join("pictures")).unwrap().count();
    assert_eq!(names, 5);
    for name in ["00000.png", "00004.png"] {
        let [drawn, pictures] = ["drawn", "pictures"].map(|f| picture(&format!("{f}/{name}")));
        assert_eq!(drawn, pictures);
    }
    assert!(is_png(&at.join("look/overview.png")) && !at.join("look/00000.png").exists());
    let npz = picture("samples.npz");
    assert!(npz.windows(27).any(|w| w == b"'shape': (5, 16, 16, 3), } "));
    refused(at, &export, &["pictures", "not empty"]);
    let again = [&export[..6], &["--npz", "samples.npz"]].concat();
    refused(at, &again, &["samples.npz", "already"]);

    benched(at, &run);
    run(&[
        "bench",
        "--config",
        "tiny.toml",
        "--batch",
        "2",
        "--dump",
        "case",
    ]);
    let bytes = std::fs::read(at.join("case/case.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("init.eps_x").unwrap().shape(), [2, 3, 16, 16]);
    assert!(file.names().iter().any(|n| n.starts_with("step2.eps_z")));

    let printed = run(&["config", "--config", "run/config.toml"]);
    assert_eq!(Config::from_toml(&printed, "printed").unwrap(), config);
}

/// The table and the report of `vaebm bench`, every kind of step; and what a report can be held against.
fn benched(at: &Path, run: &dyn Fn(&[&str]) -> String) {
    let common = ["bench", "--config", "tiny.toml", "--seconds", "0.01"];
    let with = |more: &[&'static str]| [&common[..], more].concat();
    let whats = "langevin,stage1,energy,sample";
    let weights = ["--weights", "ebm", "--batch", "1,2", "--steps", "1,3"];
    let told = run(&with(
        &[&weights[..], &["--what", whats, "--json"]].concat(),
    ));
    let report: serde_json::Value = serde_json::from_str(&told).unwrap();
    let rows = report.as_array().unwrap();
    let of = |what: &str| {
        rows.iter()
            .filter(|r| r["what"] == what)
            .collect::<Vec<_>>()
    };
    // Two batches, and two numbers of steps of what has steps.
    let counts = ["langevin", "stage1", "energy", "sample"].map(|w| of(w).len());
    assert_eq!(counts, [4, 2, 2, 4], "{told}");
    for row in rows {
        let positive = |value: &serde_json::Value| value.as_f64().is_some_and(|v| v > 0.0);
        for name in [
            "items_per_s",
            "ms_median",
            "gflop_per_s",
            "gb_per_s",
            "planned_bytes",
        ] {
            assert!(positive(&row[name]), "{name}: {row}");
        }
        assert!(
            positive(&row["share_of_matrix_peak"]) && positive(&row["rates"]["copy"]),
            "{row}"
        );
        assert_eq!(
            (&row["device"], &row["precision"]),
            (&"cpu".into(), &"f32".into())
        );
        assert!(
            row["machine"]["date"].as_str().unwrap().starts_with("20"),
            "{row}"
        );
        let quantiles = ["ms_q10", "ms_median", "ms_q90"].map(|q| row[q].as_f64().unwrap());
        assert!(quantiles.is_sorted(), "{row}");
        let start = &row["start_up"];
        assert_eq!(
            positive(&start["first_images_ms"]),
            row["what"] == "sample",
            "{row}"
        );
        let Some(parts) = row["split"]["parts"].as_array() else {
            assert_eq!(row["what"], "sample");
            continue;
        };
        let sum: f64 = parts.iter().map(|p| p["ms"].as_f64().unwrap()).sum();
        assert!((sum - quantiles[1]).abs() < 1e-6 * quantiles[1], "{row}");
        let parts: Vec<&str> = parts.iter().map(|p| p["part"].as_str().unwrap()).collect();
        let expected: &[&str] = match row["what"].as_str().unwrap() {
            "stage1" => &[
                "encoder forward",
                "encoder backward",
                "decoder forward",
                "decoder backward",
                "update",
            ],
            "energy" => &[
                "decoder forward",
                "energy forward",
                "energy backward",
                "update",
            ],
            _ => &[
                "decoder forward",
                "decoder backward",
                "energy forward",
                "energy backward",
                "update",
            ],
        };
        assert_eq!(parts, expected);
    }
    // An earlier report that lacks the last row of stage 1.
    let missing = of("stage1")[1];
    let kept: Vec<_> = rows.iter().filter(|row| *row != missing).collect();
    std::fs::write(at.join("old.json"), serde_json::to_string(&kept).unwrap()).unwrap();
    let compared = run(&with(&[
        "--batch",
        "1,2",
        "--what",
        "stage1",
        "--compare",
        "old.json",
    ]));
    assert!(compared.contains("times the earlier median"), "{compared}");
    assert!(
        compared.contains("no such row") && compared.contains("GFLOP/s of f32"),
        "{compared}"
    );

    std::fs::write(at.join("none.json"), "{\"batch\": 2}").unwrap();
    let refusals: [(&[&str], &[&str]); 6] = [
        (
            &["--batch", "7", "--compare", "old.json"],
            &["earlier report", "batch 1", "7"],
        ),
        (&["--compare", "none.json"], &["no rows", "--json"]),
        (&["--compare", "tiny.toml"], &["tiny.toml", "no report"]),
        (&["--compare", "missing.json"], &["missing.json"]),
        (
            &["--profile", "--batch", "1,2"],
            &["--profile", "one of each"],
        ),
        (&["--precision", "bf16"], &["bf16", "GPU", "f32"]),
    ];
    for (more, names) in refusals {
        refused(at, &[&common[..], more].concat(), names);
    }
}

#[test]
fn wrong_files_are_named() {
    let (folder, _) = prepared(|_| ());
    let at = folder.path();
    let mnist = |data: &str, names: &[&str]| {
        let args = ["train", "vae", "mnist", "--data", data, "--out", "digits"];
        refused(at, &args, names);
    };
    refused(at, &["train", "vae", "mnist"], &["mnist", "--data"]);
    mnist("nowhere", &["nowhere"]);
    std::fs::create_dir(at.join("files")).unwrap();
    mnist("files", &["files", "train-images"]);
    let images = at.join("files/train-images-idx3-ubyte");
    std::fs::write(&images, [0, 0, 8, 1, 0, 0, 0, 1]).unwrap();
    std::fs::write(
        at.join("files/train-labels-idx1-ubyte"),
        [0, 0, 8, 1, 0, 0, 0, 0],
    )
    .unwrap();
    mnist("files", &["train-images-idx3-ubyte", "0x00000803"]);

    // A gzipped file, cut in the middle of its data.
    let mut raw = vec![0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28];
    raw.extend((0..2 * 28 * 28).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8));
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, &raw).unwrap();
    let whole = gz.finish().unwrap();
    std::fs::remove_file(&images).unwrap();
    let name = "train-images-idx3-ubyte.gz";
    std::fs::write(at.join("files").join(name), &whole[..whole.len() / 2]).unwrap();
    mnist("files", &[name, "truncated"]);

    let args = [
        "train", "vae", "cifar10", "--data", "nowhere", "--num-nf", "0",
    ];
    refused(at, &args, &["nowhere"]);
    std::fs::create_dir(at.join("empty")).unwrap();
    let args = [
        "train", "vae", "celeba64", "--data", "empty", "--num-nf", "0",
    ];
    refused(at, &args, &["empty", ".png"]);
    // None of that left a run behind which would stand in the way.
    assert!(!at.join("digits/checkpoints").exists());
}

#[test]
fn wrong_settings_are_named() {
    let (folder, config) = prepared(|_| ());
    let at = folder.path();
    let tiny = ["--config", "tiny.toml"];
    let with = |args: &[&'static str]| [&args[..2], &tiny, &args[2..]].concat();
    refused(
        at,
        &with(&["train", "vae", "--set", "vae.num_chanels_enc=8"]),
        &["num_chanels_enc", "num_channels_enc"],
    );
    refused(
        at,
        &with(&["train", "vae", "--learning-rate=-1"]),
        &["learning_rate"],
    );
    refused(
        at,
        &with(&["train", "vae", "--device", "tpu"]),
        &["device", "tpu"],
    );
    refused(
        at,
        &with(&["train", "vae", "--batch-size", "100"]),
        &["batch", "100", "30"],
    );
    refused(at, &["train", "vae", "glyfs"], &["glyfs", "glyphs"]);
    std::fs::write(at.join("bad.toml"), "[vae]\nnum_latent_scales = \"two\"\n").unwrap();
    refused(
        at,
        &["train", "vae", "--config", "bad.toml"],
        &["bad.toml", "num_latent_scales"],
    );
    std::fs::write(at.join("worse.toml"), "[vae\n").unwrap();
    refused(
        at,
        &["train", "vae", "--config", "worse.toml"],
        &["worse.toml"],
    );
    refused(at, &["train", "vae", "--resume", "nothing"], &["nothing"]);
    refused(at, &["sample", "nothing"], &["nothing"]);
    refused(at, &["train", "ebm", "--vae", "nothing"], &["nothing"]);

    tiny::train(&config, Stage::Vae, Start::Fresh, None);
    refused(
        at,
        &with(&["train", "vae"]),
        &["run", "step 3", "--resume", "--out"],
    );
    let ebm = ["train", "ebm", "--vae", "run", "--out", "ebm"];
    for size in ["-1", "0", "nan", "inf"] {
        let flag = format!("--step-size={size}");
        refused(at, &[&ebm[..], &[&flag]].concat(), &["step_size"]);
    }
    refused(
        at,
        &["sample", "run", "--start", "buffer", "--temperature=-1"],
        &["temperature"],
    );
    // The steps of a chain that leave the numbers: it says so instead of writing black pictures.
    tiny::succeed(at, &ebm);
    refused(
        at,
        &["sample", "ebm", "--step-size", "1e30"],
        &["step", "finite"],
    );
    refused(at, &["sample", "ebm", "--start", "buffer"], &["buffer"]);
    assert!(!at.join("ebm/samples/overview.png").exists());
}

#[test]
fn wrong_checkpoints_are_named() {
    let (folder, config) = prepared(|_| ());
    let at = folder.path();
    tiny::train(&config, Stage::Vae, Start::Fresh, None);
    let path = RunFolder::checkpoint_at(&config.run.out, Stage::Vae).unwrap();
    let file = path.file_name().unwrap().to_str().unwrap();

    // Of another architecture: the folder is resumed with other settings than it was started with.
    let args = [
        "train",
        "vae",
        "--resume",
        "run",
        "--num-channels-dec",
        "16",
        "--num-channels-enc",
        "16",
    ];
    refused(at, &args, &[file, "vae.num_channels_enc = 8", "says 16"]);
    let args = [
        "train",
        "ebm",
        "--config",
        "tiny.toml",
        "--vae",
        "run",
        "--out",
        "b",
        "--set",
        "data.size=32",
    ];
    refused(at, &args, &["16x16", "32x32"]);
    let images = ["--weights", "run"];
    refused(
        at,
        &[&["bench", "--config", "tiny.toml"], &images[..]].concat(),
        &["run", "ebm"],
    );

    let bytes = std::fs::read(&path).unwrap();
    let mut flipped = bytes.clone();
    let last = flipped.len() - 5;
    flipped[last] ^= 0x10;
    std::fs::write(&path, &flipped).unwrap();
    refused(at, &["train", "vae", "--resume", "run"], &[file, "damaged"]);
    std::fs::write(&path, &bytes).unwrap();
    for bytes in [
        &bytes[..bytes.len() / 2],
        &bytes[..20],
        b"no checkpoint at all, but some text that is long enough",
        b"",
    ] {
        std::fs::write(at.join("no.safetensors"), bytes).unwrap();
        let train = ["train", "ebm", "--vae", "no.safetensors", "--out", "c"];
        refused(at, &train, &["no.safetensors"]);
        refused(at, &["sample", "no.safetensors"], &["no.safetensors"]);
    }
    // The only checkpoint is gone; the pointer to it does not help.
    std::fs::remove_file(&path).unwrap();
    let args = ["train", "vae", "--resume", "run"];
    refused(
        at,
        &args,
        &["run holds no checkpoint", "leave --resume out"],
    );
}

#[test]
fn decoders_of_one_channel() {
    let one = |c: &mut Config| {
        c.data.dataset = DataSet::Glyphs;
        c.data.channels = 1;
        c.ebm.network = EnergyNet::Mnist;
    };
    let (folder, _) = prepared(one);
    let at = folder.path();
    tiny::succeed(at, &["train", "vae", "--config", "tiny.toml"]);
    tiny::succeed(at, &["train", "ebm", "--vae", "run"]);
    let ebm = RunFolder::checkpoint_at(&at.join("run"), Stage::Ebm).unwrap();
    let first = Checkpoint::open(&ebm).unwrap();
    assert_eq!(first.shape("ebm.conv1.weight"), Some(&[3, 3, 1, 8][..]));
    tiny::succeed(at, &["sample", "run"]);
    assert!(is_png(&at.join("run/samples/overview.png")));

    let (folder, _) = prepared(|c| {
        one(c);
        c.vae.decoder = Decoder::Bernoulli;
    });
    let at = folder.path();
    tiny::succeed(at, &["train", "vae", "--config", "tiny.toml"]);
    tiny::succeed(at, &["sample", "run"]);
    assert!(is_png(&at.join("run/samples/overview.png")));
    refused(
        at,
        &["train", "ebm", "--vae", "run", "--out", "e"],
        &["decoder", "normal", "bernoulli"],
    );
}

/// An interrupt ends a run cleanly, and it goes on from there.
#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_and_goes_on() {
    let (folder, config) = prepared(|c| c.train_vae.steps = Some(100_000));
    let at = folder.path();
    let child = tiny::vaebm(
        at,
        &[
            "train",
            "vae",
            "--config",
            "tiny.toml",
            "--progress",
            "json",
        ],
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let metrics = config.run.out.join("metrics.jsonl");
    let steps = || {
        std::fs::read_to_string(&metrics)
            .unwrap_or_default()
            .lines()
            .count()
    };
    for _ in 0..6000 {
        if steps() >= 2 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let id = child.id().to_string();
    let killed = std::process::Command::new("kill")
        .args(["-INT", &id])
        .status();
    assert!(killed.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("--resume"), "{said}");
    let last = RunFolder::last_checkpoint_at(&config.run.out, Stage::Vae).unwrap();
    let stopped = Checkpoint::open(&last).unwrap().header().step;
    assert!(stopped >= 2, "{stopped}");

    let steps = (stopped + 2).to_string();
    let said = tiny::succeed(at, &["train", "vae", "--resume", "run", "--steps", &steps]);
    assert!(said.contains("done: "), "{said}");
    let last = RunFolder::last_checkpoint_at(&config.run.out, Stage::Vae).unwrap();
    assert_eq!(Checkpoint::open(&last).unwrap().header().step, stopped + 2);
}

#[test]
fn runs_of_two_seeds_are_measured_by_one_classifier() {
    let (folder, _) = prepared(|c| c.data.valid = 60);
    let at = folder.path();
    tiny::succeed(at, &["train", "vae", "--config", "tiny.toml"]);
    for (out, seed) in [("one", "1"), ("two", "2")] {
        tiny::succeed(
            at,
            &["train", "ebm", "--vae", "run", "--out", out, "--seed", seed],
        );
    }
    let told = tiny::succeed(
        at,
        &[
            "eval",
            "one",
            "two",
            "--n",
            "30",
            "--num-steps",
            "10",
            "--neighbours",
        ],
    );
    assert!(told.contains("2 runs (mean; difference"), "{told}");
    let reports = ["one", "two"].map(|out| {
        assert!(is_png(&at.join(out).join("samples.png")));
        let text = std::fs::read_to_string(at.join(out).join("report.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    });
    for (report, seed) in reports.iter().zip([1, 2]) {
        assert_eq!(
            (&report["samples"], &report["seed"]),
            (&30.into(), &seed.into())
        );
    }
    for (out, report) in ["one", "two"].iter().zip(&reports) {
        for row in ["data", "vae", "vaebm"].map(|row| &report[row]) {
            for share in ["precision", "recall", "coverage", "novelty"] {
                let value = row[share].as_f64().unwrap();
                assert!((0.0..=1.0).contains(&value), "{share}: {value}");
            }
            assert!(row["kernel"].is_number() && row["density"].is_number());
        }
        // Twelve samples, the four nearest of the 30 training images by each distance.
        assert!(is_png(&at.join(out).join("neighbours.png")));
        let text = std::fs::read_to_string(at.join(out).join("neighbours.json")).unwrap();
        let nearest: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(nearest.as_array().unwrap().len(), 12);
        for by in ["pixels", "features"].map(|by| &nearest[11][by]) {
            let distances: Vec<f64> = (by.as_array().unwrap().iter())
                .map(|n| n["distance"].as_f64().unwrap())
                .collect();
            assert!(distances.len() == 4 && distances.is_sorted(), "{by}");
            assert!(by[0]["item"].as_u64().unwrap() < 30);
        }
    }
    // The same yardstick: held-out data measures the same, samples do not.
    assert_eq!(reports[0]["data"], reports[1]["data"]);
    assert_eq!(
        reports[0]["classifier_accuracy"],
        reports[1]["classifier_accuracy"]
    );
    assert_ne!(
        reports[0]["vaebm"]["frechet"],
        reports[1]["vaebm"]["frechet"]
    );
    // The last line of the table is the mean of the runs' own figures.
    let figure = |report: &serde_json::Value| report["vaebm"]["frechet"].as_f64().unwrap();
    let mean = format!("{:.4}", reports.iter().map(figure).sum::<f64>() / 2.0);
    let line = told
        .lines()
        .rfind(|line| line.starts_with("Frechet"))
        .unwrap();
    assert!(line.contains(&mean), "{mean} in: {line}");
    refused(at, &["eval", "one", "--n", "5"], &["5 samples", "6"]);
}
