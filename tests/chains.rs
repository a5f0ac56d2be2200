//! `vaebm chains` through the binary: on densities with known answers, on a run, and what it says when something is wrong.

mod tiny;

use std::path::Path;

use serde_json::Value;
use vaebm::config::Config;

fn json(folder: &Path, args: &[&str]) -> Value {
    let told = tiny::succeed(folder, args);
    let line = told.lines().last().expect("a line");
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {told}"))
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn quantity<'a>(study: &'a Value, name: &str) -> &'a Value {
    let quantities = study["quantities"].as_array().expect("a list");
    let found = quantities.iter().find(|q| q["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {quantities:?}"))
}

/// Refused with one error that names the thing, with this exit code and without a panic.
fn refused(folder: &Path, args: &[&str], code: i32, names: &[&str]) {
    let args = [&["chains"], args].concat();
    let output = tiny::output(folder, &args);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
    let errors = told.lines().filter(|l| l.starts_with("error: ")).count();
    assert!(
        errors == 1 && !told.contains("panicked"),
        "{args:?}: {told}"
    );
    for name in names {
        assert!(told.contains(name), "{args:?}: no `{name}` in: {told}");
    }
}

const SMALL: [&str; 5] = ["chains", "--device", "cpu", "--num-chains", "8"];

#[test]
fn densities_are_measured_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let args = [
        &SMALL[..],
        &[
            "--target-density",
            "gaussian",
            "--dim",
            "6",
            "--condition-number",
            "20",
        ],
        &[
            "--sampler",
            "mala",
            "--num-warmup",
            "300",
            "--num-draws",
            "400",
        ],
    ]
    .concat();
    let study = json(at, &[&args[..], &["--json", "--traces", "t.npz"]].concat());
    assert_eq!(
        (&study["sampler"], &study["chains"]),
        (&"mala".into(), &8.into())
    );
    let last = quantity(&study, "x[5]");
    assert!((number(&last["sd"]) - 1.0).abs() < 0.25, "{last}");
    assert!(
        number(&last["mean"]).abs() < 5.0 * number(&last["mcse"]),
        "{last}"
    );
    for key in ["ess_bulk", "ess_tail", "rhat", "autocorrelation_steps"] {
        assert!(number(&last[key]) >= 0.9, "{key}: {last}");
    }
    // Effective draws a second are of the time of the draws alone.
    let rate = number(&last["ess_bulk"]) / number(&study["seconds"]);
    assert!((number(&last["ess_per_second"]) / rate - 1.0).abs() < 1e-9);
    let steps = 8.0 * 400.0 / number(&study["seconds"]);
    assert!((number(&study["chain_steps_per_second"]) / steps - 1.0).abs() < 1e-9);
    let accepted = &study["acceptance"];
    assert!(
        (number(&accepted["mean"]) - 0.574).abs() < 0.08,
        "{accepted}"
    );
    assert!(number(&accepted["lowest"]) <= number(&accepted["highest"]));
    let steps: Vec<u64> = (study["drift"].as_array().unwrap().iter())
        .map(|d| d["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
    let npz = std::fs::read(at.join("t.npz")).unwrap();
    for name in [&b"log_density.npy"[..], b"x[0].npy", b"x[5].npy"] {
        assert!(npz.windows(name.len()).any(|w| w == name));
    }
    assert!(npz.windows(19).any(|w| w == b"'shape': (8, 400,),"));

    let told = tiny::succeed(at, &args);
    for words in [
        "mala on gaussian in 6",
        "bulk ESS",
        "R-hat",
        "ESS/s",
        "accepted 0.",
        "worst: ",
    ] {
        assert!(told.contains(words), "no `{words}` in {told}");
    }
    // The samplers that anneal, and the densities that have no gaussian's shape.
    let annealed = [
        &SMALL[..],
        &[
            "--target-density",
            "mixture",
            "--dim",
            "2",
            "--num-draws",
            "30",
            "--num-warmup",
            "20",
            "--json",
        ],
        &[
            "--step-schedule",
            "cosine",
            "--step-size",
            "1",
            "--step-size-end",
            "0.05",
        ],
        &[
            "--noise-schedule",
            "linear",
            "--noise-scale",
            "2",
            "--noise-scale-end",
            "1",
        ],
    ]
    .concat();
    let study = json(at, &annealed);
    assert!(study["acceptance"].is_null());
    assert_eq!(
        (
            number(&study["first_step_size"]),
            number(&study["step_size"])
        ),
        (1.0, 0.05)
    );
    let funnel = [
        &SMALL[..],
        &[
            "--target-density",
            "funnel",
            "--dim",
            "3",
            "--num-draws",
            "30",
            "--thin",
            "3",
            "--json",
        ],
    ]
    .concat();
    assert_eq!(json(at, &funnel)["thin"], 3);
}

#[test]
fn a_runs_chains_are_measured() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut config: Config = tiny::config(&at.join("run"));
    config.train_vae.steps = Some(2);
    (config.train_vae.eval_images, config.train_ebm.total_iter) = (4, 2);
    config.data.draws = 12;
    tiny::write_config(&at.join("tiny.toml"), &config);
    tiny::succeed(at, &["train", "vae", "--config", "tiny.toml"]);
    tiny::succeed(at, &["train", "ebm", "--vae", "run"]);

    let args = [
        "chains",
        "run",
        "--num-chains",
        "3",
        "--num-warmup",
        "3",
        "--num-draws",
        "9",
        "--json",
    ];
    let groups = ["eps_z.0", "eps_z.1", "eps_z.2", "eps_z.3", "eps_x"];
    for (sampler, target) in [("ula", "official"), ("mala", "official"), ("mala", "paper")] {
        let chosen = ["--sampler", sampler, "--target", target];
        let study = json(at, &[&args[..], &chosen].concat());
        assert_eq!(
            study["told"],
            serde_json::json!(["log_density", "energy", "brightness"])
        );
        assert_eq!(study["groups"], serde_json::json!(groups));
        let drift = study["drift"].as_array().unwrap();
        let steps: Vec<u64> = drift.iter().map(|d| d["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [0, 1, 2, 4, 8]);
        for d in drift {
            for (group, moved) in groups.iter().zip(d["movement"].as_array().unwrap()) {
                let still = d["step"] == 0;
                assert_eq!(
                    number(moved) == 0.0,
                    still,
                    "{sampler} {target} {group}: {d}"
                );
            }
            let brightness = number(&d["means"][2]);
            assert!(brightness > 0.0 && brightness < 1.0, "{d}");
        }
        assert_eq!(study["acceptance"].is_null(), sampler == "ula");
        let energy = quantity(&study, "energy");
        assert!(
            number(&energy["ess_bulk"]) > 0.0 && number(&energy["sd"]) > 0.0,
            "{energy}"
        );
    }
    // A ULA step of eta moves noise by its root.
    let study = json(at, &[&args[..], &["--step-size", "1e-4"]].concat());
    let moved = number(&study["drift"][1]["movement"][4]);
    assert!((moved / 1e-2 - 1.0).abs() < 0.1, "{moved}");
    let told = tiny::succeed(at, &args[..args.len() - 1]);
    assert!(
        told.contains("moved by group after 8 steps") && told.contains("eps_z.3"),
        "{told}"
    );

    refused(
        at,
        &["run", "--target-density", "funnel"],
        2,
        &["exclude each other"],
    );
    refused(
        at,
        &["run", "--target", "posterior"],
        2,
        &["posterior", "paper", "official"],
    );
    refused(
        at,
        &["run", "--num-chains", "3", "--step-size", "1e30"],
        1,
        &["cannot be measured", "--step-size"],
    );
    refused(
        at,
        &["run", "--sampler", "mala", "--set", "ebm.model=pixels"],
        2,
        &["mala", "pixels", "ula"],
    );
    refused(
        at,
        &["run", "--traces", "none/t.npz", "--num-chains", "2"],
        1,
        &["none/t.npz"],
    );
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    refused(at, &[], 2, &["name a run", "--target-density"]);
    refused(at, &["nowhere"], 1, &["nowhere"]);
    refused(
        at,
        &["--target-density", "banana"],
        2,
        &["banana", "funnel"],
    );
    for (flags, names) in [
        (&["--num-chains", "0"][..], &["chains.num_chains = 0"][..]),
        (&["--num-draws", "7"], &["chains.num_draws = 7", "8"]),
        (&["--thin", "0"], &["chains.thin = 0"]),
        (&["--dim", "0"], &["chains.dim = 0"]),
        (&["--step-size", "-1"], &["chains.step_size"]),
        (&["--step-size", "nan"], &["chains.step_size"]),
        (&["--weight", "1"], &["chains.weight"]),
        (&["--condition-number", "0.5"], &["chains.condition_number"]),
        (&["--target-accept", "1"], &["chains.target_accept"]),
        (&["--sampler", "hmc"], &["hmc", "mala"]),
        (&["--step-schedule", "linear"], &["chains.step_size_end"]),
        (&["--noise-scale-end", "2"], &["noise_schedule = constant"]),
        (
            &[
                "--sampler",
                "mala",
                "--step-schedule",
                "linear",
                "--step-size-end",
                "1",
            ],
            &["mala", "schedules"],
        ),
        (
            &["--sampler", "mala", "--noise-scale", "0.5"],
            &["mala", "noise_scale"],
        ),
        (
            &[
                "--sampler",
                "mala",
                "--precision",
                "bf16",
                "--device",
                "auto",
            ],
            &["mala", "bf16", "f32"],
        ),
        (
            &["--num-chains", "100000", "--num-draws", "100000"],
            &["too many", "chains.thin"],
        ),
        (
            &["--num-draws", "100000", "--thin", "1000000"],
            &["too many", "2^32"],
        ),
    ] {
        let args = [&["--target-density", "gaussian"], flags].concat();
        refused(at, &args, 2, names);
    }
    refused(
        at,
        &["--target-density", "funnel", "--dim", "1"],
        2,
        &["chains.dim = 1"],
    );
}
