//! `vaebm ablate`: three models from one VAE, measured together, and gone on with.

mod tiny;

use std::path::Path;

use tempfile::tempdir;
use vaebm::config::{Config, Model, Stage};
use vaebm::run::RunFolder;

fn prepared(folder: &Path) -> Vec<String> {
    let mut config = tiny::config(&folder.join("run"));
    config.data.draws = 200;
    let file = folder.join("tiny.toml");
    tiny::write_config(&file, &config);
    tiny::succeed(folder, &["train", "vae", "--config", "tiny.toml"]);
    let args = [
        "ablate",
        "run",
        "--out",
        "ablation",
        "--n",
        "100",
        "--valid",
        "100",
        "--total-iter",
        "4",
    ];
    args.map(str::to_owned).to_vec()
}

#[test]
fn three_models_are_trained_and_measured_and_go_on_where_they_were() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    let args = prepared(at);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let told = tiny::succeed(at, &args);
    let out = at.join("ablation");
    let json = std::fs::read_to_string(out.join("ablation.json")).unwrap();
    let table: serde_json::Value = serde_json::from_str(&json).unwrap();
    let rows: Vec<&str> = (table["rows"].as_array().unwrap().iter())
        .map(|row| row["what"].as_str().unwrap())
        .collect();
    let want = ["held-out data", "VAE", "pixels", "pixels from VAE", "VAEBM"];
    assert_eq!(rows, want);
    for row in table["rows"].as_array().unwrap() {
        assert!(row["quality"]["frechet"].as_f64().unwrap() > 0.0);
        assert!(told.contains(row["what"].as_str().unwrap()), "{told}");
    }
    assert!(told.contains("Best by Frechet distance: "), "{told}");
    assert!(out.join("ablation.png").is_file());

    let mut kept = Vec::new();
    for model in [Model::Pixels, Model::PixelsFromVae, Model::Vaebm] {
        let run = out.join(format!("run-{model}"));
        let config = Config::load(&RunFolder::config_of(&run)).unwrap();
        let eta = if model == Model::Vaebm { 8e-5 } else { 1e-4 };
        assert_eq!(config.ebm.model, model);
        assert_eq!(config.train_ebm.step_size, eta);
        assert_eq!(config.sample.step_size, eta);
        assert_eq!(
            (config.train_ebm.num_steps, config.sample.num_steps),
            (2, 2)
        );
        let last = RunFolder::last_checkpoint_at(&run, Stage::Ebm).unwrap();
        kept.push((last.clone(), tiny::content(&last)));
    }

    // Once more, from the last checkpoints but one: the same ends and figures.
    for (last, _) in &kept[..2] {
        std::fs::remove_file(last).unwrap();
        let pointer = last.with_file_name("ebm.last");
        std::fs::write(pointer, "ebm-000000002.safetensors\n").unwrap();
    }
    assert_eq!(told, tiny::succeed(at, &args));
    for (last, content) in &kept {
        assert_eq!(*content, tiny::content(last), "{}", last.display());
    }

    let refused = |more: &[&str]| {
        let output = tiny::output(at, &[&args, more].concat());
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let told = refused(&["--lr", "0.5"]);
    assert!(
        told.contains("other settings") && told.contains("--out"),
        "{told}"
    );
    let told = refused(&["run"]);
    assert!(told.contains("called `run`"), "{told}");
    let told = refused(&["--pixel-step-size", "0"]);
    assert!(told.contains("step_size = 0"), "{told}");
    let told = refused(&["--set", "train_ebm.use_buffer=true"]);
    assert!(told.contains("keeps latents"), "{told}");
}
