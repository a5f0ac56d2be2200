//! Every measure against NumPy, SciPy and scikit-learn: fixtures of `tools/eval/fixtures.py`.

use serde::Deserialize;

use super::auroc::auroc;
use super::frechet::Gaussian;
use super::interval::t_quantile;
use super::kernel::kernel_distance;
use super::manifold::fidelity;
use super::modes::coverage;

#[derive(Deserialize)]
struct Cases<T> {
    cases: Vec<T>,
}

#[derive(Deserialize)]
struct Features {
    name: String,
    width: usize,
    real: Vec<f32>,
    samples: Vec<f32>,
    kernel: f64,
    kernel_half_width: f64,
    frechet: Option<f64>,
    precision: f64,
    recall: f64,
    density: f64,
    coverage: f64,
}

#[derive(Deserialize)]
struct Scores {
    name: String,
    above: Vec<f64>,
    below: Vec<f64>,
    auroc: f64,
    half_width: f64,
}

#[derive(Deserialize)]
struct Tables {
    t_quantiles: Vec<(usize, f64)>,
    mode_labels: Vec<usize>,
    mode_law: Vec<f64>,
    mode_kl: f64,
}

fn near(ours: f64, theirs: f64, relative: f64, what: &str) {
    let allowed = relative * theirs.abs().max(1.0);
    assert!(
        (ours - theirs).abs() <= allowed,
        "{what}: {ours}, not {theirs}"
    );
}

#[test]
fn distances_and_fidelity_are_those_of_scikit_learn() {
    let text = include_str!("../../tests/fixtures/eval/features.json");
    let Cases::<Features> { cases } = serde_json::from_str(text).unwrap();
    assert!(cases.len() >= 8);
    for c in cases {
        let kernel = kernel_distance(&c.real, &c.samples, c.width);
        near(kernel.mean, c.kernel, 1e-10, &c.name);
        // Up to ten blocks the engine's quantiles of Student's t are a table of four decimals.
        near(kernel.half_width, c.kernel_half_width, 2e-5, &c.name);
        if let Some(frechet) = c.frechet {
            let [real, samples] = [&c.real, &c.samples].map(|f| Gaussian::fit(f, c.width));
            near(samples.distance(&real), frechet, 1e-9, &c.name);
        }
        let f = fidelity(&c.real, &c.samples, c.width);
        // Counts over counts: not a single image may be judged differently.
        near(f.precision, c.precision, 1e-12, &c.name);
        near(f.recall, c.recall, 1e-12, &c.name);
        near(f.density, c.density, 1e-12, &c.name);
        near(f.coverage, c.coverage, 1e-12, &c.name);
    }
}

#[test]
fn areas_are_those_of_scikit_learn_and_intervals_those_of_delong() {
    let text = include_str!("../../tests/fixtures/eval/scores.json");
    let Cases::<Scores> { cases } = serde_json::from_str(text).unwrap();
    assert!(cases.len() >= 6);
    for c in cases {
        let area = auroc(&c.above, &c.below);
        near(area.value, c.auroc, 1e-13, &c.name);
        near(area.half_width, c.half_width, 1e-12, &c.name);
    }
}

#[test]
fn quantiles_and_divergences_are_those_of_scipy() {
    let text = include_str!("../../tests/fixtures/eval/tables.json");
    let tables: Tables = serde_json::from_str(text).unwrap();
    for (degrees, t) in tables.t_quantiles {
        near(t_quantile(degrees), t, 1e-4, &degrees.to_string());
    }
    let found = coverage(&tables.mode_labels, &tables.mode_law);
    near(found.kl, tables.mode_kl, 1e-14, "KL over modes");
}
