//! Published checkpoints through the binary: brought over, looked at, trained further, and written out again.

mod tiny;

use std::path::{Path, PathBuf};

use tempfile::tempdir;
use vaebm::checkpoint::Checkpoint;
use vaebm::config::Stage;
use vaebm::run::RunFolder;
use vaebm::shared::require_shared;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Asserts that an import fails with one error that names these, and leaves no checkpoint.
fn refused(folder: &Path, file: &Path, names: &[&str]) {
    let output = tiny::output(folder, &["import", text(file), "--out", "refused"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!(
        told.lines().filter(|l| l.starts_with("error: ")).count(),
        1,
        "{told}"
    );
    for name in names {
        assert!(told.contains(name), "no `{name}` in: {told}");
    }
    let found = RunFolder::last_checkpoint_at(&folder.join("refused"), Stage::Vae);
    assert!(found.is_err());
}

/// Tensors of a safetensors file without those that the official code keeps twice or never reads.
fn tensors(path: &Path) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path).expect("a file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let redundant =
        |n: &str| n.ends_with(".weight_normalized") || n.ends_with(".num_batches_tracked");
    let mut all: Vec<_> = file
        .iter()
        .filter(|(name, _)| !redundant(name))
        .map(|(name, t)| (name.to_owned(), t.shape().to_vec(), t.data().to_vec()))
        .collect();
    all.sort();
    all
}

#[test]
fn a_published_run_is_measured_sampled_and_trained_further() {
    let Some(cases) = require_shared("parity") else {
        return;
    };
    let folder = tempdir().unwrap();
    let at = folder.path();
    let import = |file: &str| {
        let file: PathBuf = cases.join(file);
        tiny::succeed(at, &["import", text(&file), "--out", "run"])
    };
    let told = import("A/checkpoint.pt");
    assert!(
        told.contains("VAE after 10 steps, with its optimiser's state"),
        "{told}"
    );
    assert!(told.contains("master_address"), "{told}");
    import("A/EBM_0.pth");
    for (network, original) in [("vae", "A/vae.safetensors"), ("ebm", "A/ebm.safetensors")] {
        tiny::succeed(
            at,
            &[
                "export",
                "run",
                "--network",
                network,
                "--out",
                "official.safetensors",
            ],
        );
        let (ours, theirs) = (
            tensors(&at.join("official.safetensors")),
            tensors(&cases.join(original)),
        );
        assert!(
            ours == theirs,
            "{network}: export gives back what was imported"
        );
    }
    tiny::succeed(
        at,
        &[
            "sample",
            "run",
            "--n",
            "2",
            "--num-steps",
            "1",
            "--out",
            "drawn",
        ],
    );
    assert!(at.join("drawn/00001.png").is_file());

    // On images that need no files; 16x16 ones are padded to the 32x32 of the model.
    let images = [
        "--dataset",
        "stacked-glyphs",
        "--draws",
        "8",
        "--valid",
        "4",
    ];
    let measure = [
        "likelihood",
        "run",
        "--samples",
        "2",
        "--images",
        "2",
        "--json",
    ];
    let told = tiny::succeed(
        at,
        &[&measure[..], &["--dataset", "stacked-glyphs"]].concat(),
    );
    let report: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(
        report["log_p"].as_f64().is_some_and(f64::is_finite),
        "{told}"
    );

    let vae = RunFolder::last_checkpoint_at(&at.join("run"), Stage::Vae).unwrap();
    let before = Checkpoint::open(&vae).unwrap();
    let further = ["train", "vae", "--resume", "run", "--steps", "11"];
    tiny::succeed(at, &[&further[..], &images].concat());
    let vae = RunFolder::last_checkpoint_at(&at.join("run"), Stage::Vae).unwrap();
    let after = Checkpoint::open(&vae).unwrap();
    assert_eq!((before.header().step, after.header().step), (10, 11));
    // Adamax has gone on from its moments: u = max(0.999 u, |g| + eps) never falls faster than that.
    let largest = |c: &Checkpoint| {
        let (_, moment) = c.tensor("vae.exp_inf.stem.weight").unwrap();
        moment.to_vec()
    };
    let (before, after) = (largest(&before), largest(&after));
    assert!(before.iter().any(|u| *u > 2e-3), "the file holds moments");
    for (u0, u1) in before.iter().zip(&after) {
        assert!(*u1 >= 0.999 * u0 * (1.0 - 1e-6), "{u0} {u1}");
    }
}

#[test]
fn a_mixture_with_flows_comes_over_from_either_form() {
    let Some(cases) = require_shared("parity") else {
        return;
    };
    let folder = tempdir().unwrap();
    let at = folder.path();
    for (file, out) in [
        ("B/checkpoint.pt", "zip"),
        ("B/checkpoint_legacy.pt", "legacy"),
    ] {
        tiny::succeed(at, &["import", text(&cases.join(file)), "--out", out]);
        tiny::succeed(at, &["sample", out, "--n", "1"]);
    }
    let of = |out: &str| {
        let path = RunFolder::last_checkpoint_at(&at.join(out), Stage::Vae).unwrap();
        tiny::content(&path)
    };
    assert!(of("zip") == of("legacy"), "both forms hold the same");
    let flows = RunFolder::last_checkpoint_at(&at.join("zip"), Stage::Vae).unwrap();
    let flows = Checkpoint::open(&flows).unwrap();
    assert!(
        flows
            .names()
            .any(|name| name.starts_with("vae.nf_cells.2."))
    );
}

#[test]
fn hostile_files_are_named() {
    let Some(cases) = require_shared("parity") else {
        return;
    };
    let folder = tempdir().unwrap();
    let at = folder.path();
    let file = at.join("hostile.pt");
    let bytes = std::fs::read(cases.join("B/checkpoint.pt")).unwrap();
    let legacy = std::fs::read(cases.join("B/checkpoint_legacy.pt")).unwrap();
    let with = |bytes: &[u8], names: &[&str]| {
        std::fs::write(&file, bytes).unwrap();
        refused(at, &file, &[&["hostile.pt"], names].concat());
    };
    with(&bytes[..bytes.len() / 2], &["truncated"]);
    with(&legacy[..legacy.len() / 2], &[]);
    with(b"", &[]);
    with(b"#!/bin/sh\necho no checkpoint\n", &[]);
    // Members of an archive are stored as they are: a compressed one would be a bomb's.
    let entry = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let mut packed = bytes.clone();
    packed[entry + 10] = 8;
    with(&packed, &["compressed"]);
    // A name that leaves the archive, in the directory and in front of the member.
    let name = |bytes: &mut [u8], at: usize| bytes[at..at + 3].copy_from_slice(b"../");
    let mut climbing = bytes.clone();
    name(&mut climbing, entry + 46);
    with(&climbing, &["path out of the archive"]);
    // A call in place of data: the protocol's opcode GLOBAL of another class, and one that this reader does not have.
    let start = bytes.windows(2).position(|w| w == b"\x80\x02").unwrap();
    let mut odd = bytes.clone();
    odd[start + 2] = b'i';
    with(&odd, &["opcode 'i'"]);
    refused(
        at,
        &cases.join("A/EBM_0.pth"),
        &["EBM_0.pth", "checkpoint.pt"],
    );
    refused(at, &cases.join("A/vae.safetensors"), &["vae.safetensors"]);
    refused(at, &at.join("nowhere.pt"), &["nowhere.pt"]);
}
