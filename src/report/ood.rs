//! What `vaebm ood` left in the folder: areas as a table, scores as histograms.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::html::{escape, note, table};
use super::metrics::figure;
use crate::eval::histogram::Histogram;
use crate::eval::ood::KIND;

#[derive(Deserialize)]
struct Side {
    set: String,
    images: u64,
}

#[derive(Deserialize)]
struct Score {
    formula: String,
    auroc: f64,
    interval: [f64; 2],
    medians: [f64; 2],
    histogram: Histogram,
}

/// As much of a file as is shown here.
#[derive(Deserialize)]
pub(super) struct Detection {
    #[serde(rename = "in")]
    inside: Side,
    #[serde(rename = "out")]
    outside: Side,
    scores: Vec<Score>,
}

/// The detection that an object is, if it is one and whole.
pub(super) fn read(object: &Map<String, Value>) -> Option<Detection> {
    if object.get("kind").and_then(Value::as_str) != Some(KIND) {
        return None;
    }
    let detection: Detection = serde_json::from_value(Value::Object(object.clone())).ok()?;
    (detection.scores.iter().all(|s| s.histogram.is_whole())).then_some(detection)
}

/// A formula with a sign where a hyphen would let a line break.
fn minus(formula: &str) -> String {
    formula.replace('-', "\u{2212}")
}

/// Its table and pictures.
pub(super) fn part(detection: &Detection) -> String {
    let Detection {
        inside, outside, ..
    } = detection;
    let head = ["score", "AUROC", "95% interval", "median in", "median out"].map(str::to_owned);
    let rows: Vec<Vec<String>> = (detection.scores.iter())
        .map(|s| {
            vec![
                minus(&s.formula),
                format!("{:.4}", s.auroc),
                format!("{:.4} to {:.4}", s.interval[0], s.interval[1]),
                figure(s.medians[0]),
                figure(s.medians[1]),
            ]
        })
        .collect();
    let caption = format!(
        "{} ({} images) against {} ({} images)",
        inside.set, inside.images, outside.set, outside.images
    );
    let mut out = table(&caption, &head, &rows);
    out += &note(
        "AUROC: the chance that an image of the other set scores higher than one of the model\u{2019}s own; 0.5 tells nothing apart.",
    );
    out += "<div class=\"charts\">\n";
    for score in &detection.scores {
        let told = format!(
            "Histograms of {}: {} about {}, {} about {}",
            minus(&score.formula),
            inside.set,
            figure(score.medians[0]),
            outside.set,
            figure(score.medians[1])
        );
        let _ = write!(
            out,
            "<figure class=\"chart\"><h4>{}</h4><p class=\"legend\">",
            escape(&minus(&score.formula))
        );
        for (i, side) in [inside, outside].into_iter().enumerate() {
            let _ = write!(
                out,
                "<span><svg width=\"26\" height=\"12\" aria-hidden=\"true\"><path class=\"bars s{i}\" d=\"M2 1H24V11H2Z\"/></svg>{}</span>",
                escape(&side.set)
            );
        }
        out += "</p>";
        out += &score.histogram.svg(&escape(&told));
        let _ = writeln!(out, "<figcaption>{}</figcaption></figure>", escape(&told));
    }
    out + "</div>\n"
}
