//! `vaebm faithful` on the cpu, whose reference is its own plain kernels in f64; bf16 on a GPU's stand-in is among tests/cuda.

mod tiny;

use serde_json::Value;
use tempfile::tempdir;

#[test]
fn chains_on_the_cpu_are_those_of_the_reference() {
    let folder = tempdir().unwrap();
    let config = tiny::config(&folder.path().join("run"));
    tiny::write_config(&folder.path().join("tiny.toml"), &config);
    let args = ["faithful", "--config", "tiny.toml", "--chains", "4"];
    let args = [&args[..], &["--device", "cpu", "--num-steps", "5"]].concat();
    let told = tiny::succeed(folder.path(), &[&args[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(report["faithful"], true);
    assert_eq!(
        (&report["precision"], &report["reference_precision"]),
        (&"f32".into(), &"f64".into())
    );
    let steps = report["steps"].as_array().unwrap();
    let at: Vec<u64> = steps.iter().map(|s| s["step"].as_u64().unwrap()).collect();
    assert_eq!(at, [0, 1, 2, 4, 5]);
    let number = |step: &Value, key: &str| step[key].as_f64().unwrap();
    // The same noise starts both, and sums in another order part them from the first step on.
    assert_eq!(number(&steps[0], "apart"), 0.0);
    for step in &steps[1..] {
        assert!(
            number(step, "moved") > 0.0 && number(step, "apart") > 0.0,
            "{step}"
        );
        assert!(number(step, "energy_spread") > 0.0, "{step}");
    }
    let text = tiny::succeed(folder.path(), &args);
    assert!(
        text.contains("4 chains in f32") && text.contains("bounds hold"),
        "{text}"
    );
}

#[test]
fn chains_that_run_away_exceed_a_bound() {
    let folder = tempdir().unwrap();
    let config = tiny::config(&folder.path().join("run"));
    tiny::write_config(&folder.path().join("tiny.toml"), &config);
    let args = ["faithful", "--config", "tiny.toml", "--chains", "2"];
    let wild = ["--device", "cpu", "--num-steps", "8", "--step-size", "1e8"];
    let output = tiny::output(folder.path(), &[&args[..], &wild].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("a bound is exceeded"), "{error}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("bounds do not hold"), "{text}");
}
