//! `vaebm ood` through the binary: sets that fit and sets that do not, with and without an energy network.

mod tiny;

use std::path::Path;

use serde_json::Value;
use tempfile::{TempDir, tempdir};
use vaebm::config::Stage;
use vaebm::run::RunFolder;

/// A run of three steps of stage 1 in `run`, of stage 2 in `ebm`, and sixty samples of the VAE in `pictures`.
fn prepared() -> TempDir {
    let folder = tempdir().unwrap();
    let at = folder.path();
    let mut config = tiny::config(&at.join("run"));
    config.train_vae.steps = Some(3);
    config.train_ebm.total_iter = 3;
    tiny::write_config(&at.join("tiny.toml"), &config);
    tiny::succeed(at, &["train", "vae", "--config", "tiny.toml"]);
    tiny::succeed(at, &["train", "ebm", "--vae", "run", "--out", "ebm"]);
    let pictures = ["--n", "60", "--png-dir", "pictures", "--out", "look"];
    tiny::succeed(at, &[&["sample", "run"], &pictures[..]].concat());
    folder
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Asserts that the binary refuses with one error that says all this, and gives it.
fn refused(folder: &Path, args: &[&str], names: &[&str]) {
    let output = tiny::output(folder, args);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && !told.contains("panicked"),
        "{told}"
    );
    assert_eq!(
        told.lines().filter(|l| l.starts_with("error: ")).count(),
        1,
        "{told}"
    );
    for name in names {
        assert!(told.contains(name), "{args:?}: no `{name}` in: {told}");
    }
}

const SCORES: [&str; 4] = ["energy", "log_h", "log_p", "elbo"];

fn names(detection: &Value) -> Vec<&str> {
    let scores = detection["scores"].as_array().unwrap().iter();
    scores.map(|s| s["name"].as_str().unwrap()).collect()
}

#[test]
fn sets_are_told_apart_by_every_score_that_the_run_has() {
    let folder = prepared();
    let at = folder.path();
    let ood = |args: &[&str]| tiny::succeed(at, &[&["ood"], args].concat());

    // A stage-2 folder and the VAE's own: the table, and the files beside the run.
    let few = ["--samples", "2", "--images", "7"];
    let told = ood(&[
        &["ebm", "--vae", "run", "--out", "images:pictures"],
        &few[..],
    ]
    .concat());
    for text in [
        "in:  stacked-glyphs, 7 of 10000 held-out images",
        "out: images-pictures (pictures), 6 of 6 held-out images",
        "E(x)",
        "-log h(x)",
        "-ELBO of the VAE",
        "the constant -log Z",
        "resized",
        "histograms: ebm/ood-stacked-glyphs-images-pictures.svg",
    ] {
        assert!(told.contains(text), "no `{text}` in: {told}");
    }
    let kept = read(&at.join("ebm/ood-stacked-glyphs-images-pictures.json"));
    assert_eq!(names(&kept), SCORES);
    assert_eq!(
        (&kept["ebm_step"], &kept["vae_step"]),
        (&3.into(), &3.into())
    );
    for score in kept["scores"].as_array().unwrap() {
        let [area, low, high] = [
            &score["auroc"],
            &score["interval"][0],
            &score["interval"][1],
        ]
        .map(|v| v.as_f64().unwrap());
        assert!(
            (0.0..=area).contains(&low) && (area..=1.0).contains(&high),
            "{score}"
        );
        let shares = |side: &str| -> f64 {
            let shares = score["histogram"][side].as_array().unwrap().iter();
            shares.map(|s| s.as_f64().unwrap()).sum()
        };
        assert!((shares("in") - 1.0).abs() < 1e-9 && (shares("out") - 1.0).abs() < 1e-9);
    }
    let svg =
        std::fs::read_to_string(at.join("ebm/ood-stacked-glyphs-images-pictures.svg")).unwrap();
    assert!(svg.starts_with("<svg xmlns=") && svg.matches("class=\"bars s1\"").count() == 5);

    // JSON alone on standard output, the same figures; a batch of another size gives the same up to rounding.
    let args = [
        "ebm",
        "--vae",
        "run",
        "--out",
        "images:pictures",
        "--json",
        "--batch",
        "3",
    ];
    let printed: Value = serde_json::from_str(&ood(&[&args[..], &few[..]].concat())).unwrap();
    for (a, b) in SCORES
        .iter()
        .enumerate()
        .map(|(i, _)| (&printed["scores"][i], &kept["scores"][i]))
    {
        for side in 0..2 {
            let [a, b] = [a, b].map(|s| s["medians"][side].as_f64().unwrap());
            assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{a} and {b}");
        }
    }

    // A set against itself: every score of one set is one of the other, and the area is a half. Two sets, two lines.
    let args = [
        "ebm",
        "--vae",
        "run",
        "--json",
        "--write",
        "figures",
        "--out",
        "stacked-glyphs",
        "--out",
        "images:pictures",
    ];
    let told = ood(&[&args[..], &few[..]].concat());
    let lines: Vec<Value> = told
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    for score in lines[0]["scores"].as_array().unwrap() {
        let area = score["auroc"].as_f64().unwrap();
        assert!((area - 0.5).abs() < 1e-12, "{score}");
        assert_eq!(score["medians"][0], score["medians"][1]);
    }
    assert_eq!(lines[1], kept);
    assert!(
        at.join("figures/ood-stacked-glyphs-stacked-glyphs.svg")
            .is_file()
    );

    // A VAE alone, by its folder and by its file; the other set as the model's own turns the area round.
    let vae = RunFolder::checkpoint_at(&at.join("run"), Stage::Vae).unwrap();
    let vae = vae.display().to_string();
    let alone = |run: &str, sets: &[&str]| -> Value {
        let args = [&["ood", run, "--json", "--write", "alone"], sets, &few[..]].concat();
        serde_json::from_str(&tiny::succeed(at, &args)).unwrap()
    };
    let by_folder = alone("run", &["--out", "images:pictures"]);
    assert_eq!(names(&by_folder), SCORES[2..]);
    assert_eq!(
        (&by_folder["ebm_step"], &by_folder["scores"][0]),
        (&Value::Null, &kept["scores"][2])
    );
    assert_eq!(alone(&vae, &["--out", "images:pictures"]), by_folder);
    let turned = alone(
        "run",
        &["--in", "images:pictures", "--out", "stacked-glyphs"],
    );
    let [a, b] = [&by_folder, &turned].map(|d| d["scores"][1]["auroc"].as_f64().unwrap());
    assert!((a + b - 1.0).abs() < 1e-12, "{a} and {b}");
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let folder = prepared();
    let at = folder.path();
    let with = |args: &[&'static str]| [&["ood", "ebm", "--vae", "run"], args].concat();
    // Grey images, and nothing is turned to colour.
    refused(
        at,
        &with(&["--out", "glyphs"]),
        &[
            "--out glyphs",
            "16x16 with 1 channel",
            "16x16 with 3",
            "stacked-glyphs, and a folder of PNG",
        ],
    );
    refused(at, &with(&["--out", "cifar10"]), &["--out cifar10:FOLDER"]);
    refused(at, &with(&["--out", "mnist:nowhere"]), &["nowhere"]);
    refused(at, &with(&["--out", "mnits"]), &["mnits", "fashion-mnist"]);
    refused(at, &["ood", "ebm", "--vae", "run"], &["--out"]);
    // An encoder is needed, and the one that belongs to the energy network.
    let sets = ["--out", "images:pictures"];
    refused(
        at,
        &[&["ood", "ebm"], &sets[..]].concat(),
        &["--vae", "encoder"],
    );
    let other = [
        "train",
        "vae",
        "--config",
        "tiny.toml",
        "--out",
        "other",
        "--seed",
        "2",
    ];
    tiny::succeed(at, &other);
    let args = [&["ood", "ebm", "--vae", "other"], &sets[..]].concat();
    refused(at, &args, &["is not the VAE that", "differs", "--vae"]);
    let best = [&with(&sets)[..], &["--checkpoint", "best"]].concat();
    refused(at, &best, &["no best checkpoint", "--checkpoint last"]);
    // Too few to rank.
    std::fs::create_dir(at.join("one")).unwrap();
    for name in ["00000.png", "00001.png"] {
        std::fs::copy(at.join("pictures").join(name), at.join("one").join(name)).unwrap();
    }
    refused(at, &with(&["--out", "images:one"]), &["validation part"]);
    assert!(
        !at.join("ebm/ood-stacked-glyphs-images-pictures.json")
            .exists()
    );
}
