//! `vaebm report`: pages of real runs, made by the binary while they go on and after they ended, and of what is no run.

mod tiny;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use tempfile::{TempDir, tempdir};
use vaebm::config::{Config, Stage};
use vaebm::run::{RunFolder, Start};

/// A folder with `tiny.toml`, for a run of six steps each into `run`.
fn prepared() -> (TempDir, Config) {
    let folder = tempdir().unwrap();
    let mut config = tiny::config(&folder.path().join("run"));
    config.train_vae.steps = Some(6);
    config.train_ebm.total_iter = 6;
    tiny::write_config(&folder.path().join("tiny.toml"), &config);
    (folder, config)
}

fn page(folder: &Path, args: &[&str], at: &str) -> String {
    let told = tiny::succeed(folder, &[&["report", "run"], args].concat());
    assert!(told.contains("report: ") && told.contains(at), "{told}");
    std::fs::read_to_string(folder.join(at)).unwrap()
}

#[test]
fn a_run_has_a_page_after_each_stage() {
    let (folder, config) = prepared();
    let at = folder.path();
    tiny::succeed(at, &["train", "vae", "--config", "tiny.toml"]);
    let first = page(at, &[], "run/report.html");
    for part in [
        "Stage 1: VAE",
        "<dd>6 of 6</dd>",
        "Held-out negative ELBO",
        "nelbo (held-out)",
        "Grid of samples after step 5",
        "vae-000000006.safetensors",
        "Where each stage ran last: vae",
        "num_latent_scales = 2",
    ] {
        assert!(first.contains(part), "{part}");
    }
    assert!(!first.contains("Stage 2: energy network"), "not begun");

    tiny::succeed(at, &["train", "ebm", "--vae", "run"]);
    let both = page(at, &["--out", "page.html"], "page.html");
    for part in [
        "Stage 2: energy network",
        "Energy gap: data minus chains",
        "ebm-000000006.safetensors",
        "Grid of samples after step 5",
        "<th scope=\"row\">ebm</th>",
        std::env::consts::ARCH,
    ] {
        assert!(both.contains(part), "{part}");
    }
    // Where both stages ran on the same machine, one table has both.
    assert!(!both.contains("Where each stage ran last: vae"));

    assert_eq!(both, page(at, &[], "run/report.html"), "made again");
    assert!(config.run.out.join("machine.json").is_file());
}

#[test]
fn a_run_that_goes_on_or_was_cut_off_has_a_page_as_well() {
    let (folder, config) = prepared();
    let at = folder.path();
    // A trainer has the folder, and has written nothing yet.
    let held = RunFolder::open(&config, Stage::Vae, Start::Fresh).unwrap();
    let begun = page(at, &[], "run/report.html");
    assert!(begun.contains("Nothing has been logged yet"), "{begun}");
    drop(held);

    tiny::succeed(at, &["train", "vae", "--config", "tiny.toml"]);
    let metrics = config.run.out.join("metrics.jsonl");
    let mut file = OpenOptions::new().append(true).open(&metrics).unwrap();
    file.write_all(b"{\"stage\":\"vae\",\"kind\":\"st").unwrap();
    let grid = config.run.out.join("samples/vae-000000005.png");
    let whole = std::fs::read(&grid).unwrap();
    std::fs::write(&grid, &whole[..10]).unwrap();
    let cut = page(at, &[], "run/report.html");
    assert!(cut.contains("The last line of metrics.jsonl is not whole"));
    assert!(cut.contains("vae-000000005.png is not a whole PNG file"));
    assert!(cut.contains("loss: "), "the curves before it are there");
}

#[test]
fn what_is_no_run_gets_one_clear_error() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir(at.join("empty")).unwrap();
    std::fs::write(at.join("file"), "x").unwrap();
    for name in ["empty", "file", "missing"] {
        let output = tiny::output(at, &["report", name]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        let error = format!("error: {name} is no run folder");
        assert!(told.starts_with(&error) && told.contains("--out"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    assert!(!at.join("empty/report.html").exists());
}
