//! Pages of whole, begun, damaged and strange run folders: well-formed, self-contained, nothing unescaped.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::data::picture::Picture;

const VOID: [&str; 4] = ["meta", "img", "br", "link"];

/// Checks that tags nest, that attributes are quoted and that ids are unique; gives all `(tag, attribute, value)`.
fn attributes(page: &str) -> Vec<(String, String, String)> {
    let mut open: Vec<String> = Vec::new();
    let mut found = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a doctype");
    while let Some(start) = rest.find('<') {
        let text = &rest[..start];
        assert!(!text.contains('>'), "a lone > in {text:?}");
        for entity in text.split('&').skip(1) {
            let name = entity.split(';').next().unwrap();
            assert!(
                ["amp", "lt", "gt", "quot", "#39"].contains(&name),
                "&{name}"
            );
        }
        rest = &rest[start + 1..];
        let end = rest.find('>').expect("an end of the tag");
        let tag = &rest[..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "</{name}>");
            continue;
        }
        let empty = tag.ends_with('/');
        let tag = tag.trim_end_matches('/');
        let (name, mut list) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()) || name == "clipPath");
        while let Some((key, value)) = list.split_once("=\"") {
            let (value, after) = value.split_once('"').expect("a closing quote");
            found.push((name.to_owned(), key.trim().to_owned(), value.to_owned()));
            list = after;
        }
        assert_eq!(list.trim(), "", "in <{tag}>");
        if name == "style" {
            let end = rest.find("</style>").expect("an end of the styles");
            rest = &rest[end + "</style>".len()..];
        } else if !empty && !VOID.contains(&name) {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    found
}

/// The page of a folder, checked as every page must be.
fn checked(run: &Path) -> String {
    let out = run.join("report.html");
    write(run, &out).unwrap();
    let page = fs::read_to_string(out).unwrap();
    let attributes = attributes(&page);
    let of = |name: &str| {
        let values = attributes.iter().filter(move |(_, key, _)| key == name);
        values
            .map(|(_, _, value)| value.clone())
            .collect::<Vec<_>>()
    };
    for name in [
        "srcset",
        "action",
        "data",
        "poster",
        "onload",
        "onclick",
        "xlink:href",
    ] {
        assert_eq!(of(name), Vec::<String>::new(), "{name}");
    }
    assert!(
        of("src")
            .iter()
            .all(|s| s.starts_with("data:image/png;base64,"))
    );
    let mut ids = of("id");
    for link in of("href") {
        let target = link.strip_prefix('#').expect("links stay in the page");
        assert!(ids.iter().any(|id| id == target), "{link}");
    }
    for labels in of("aria-labelledby") {
        assert!(labels.split(' ').all(|l| ids.iter().any(|id| id == l)));
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "ids are unique");
    for (tag, _, _) in attributes.iter().filter(|(tag, ..)| tag == "img") {
        let of_tag = attributes
            .iter()
            .filter(|(t, key, _)| t == tag && key == "alt");
        assert!(of_tag.clone().count() > 0 && of_tag.clone().all(|(.., alt)| !alt.is_empty()));
    }
    for outside in [
        "http:", "https:", "url(h", "url(\"", "@import", "<script", "<link",
    ] {
        assert!(!page.contains(outside), "{outside}");
    }
    page
}

fn with_config(change: impl FnOnce(&mut Config)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::preset("glyphs").unwrap();
    change(&mut config);
    fs::write(folder.path().join("config.toml"), config.to_toml().unwrap()).unwrap();
    folder
}

fn steps(stage: &str, count: u64, figures: &str) -> String {
    let line = |i: u64| {
        let step = 10 * i;
        format!(
            "{{\"stage\":\"{stage}\",\"kind\":\"step\",\"step\":{step},{}}}\n",
            figures.replace('#', &i.to_string())
        )
    };
    (1..=count).map(line).collect()
}

#[test]
fn a_run_that_has_just_begun_has_a_page() {
    let folder = with_config(|_| ());
    let page = checked(folder.path());
    assert!(page.contains("Nothing has been logged yet"), "{page}");
    assert!(page.contains("[train_ebm]") && page.contains("preset glyphs"));
    // A page made again has no picture of itself and is the same.
    assert_eq!(page, checked(folder.path()));
}

#[test]
fn both_stages_show_curves_pictures_events_measures_and_machine() {
    let folder = with_config(|c| c.train_ebm.total_iter = 300);
    let at = folder.path();
    let mut lines = steps("vae", 30, "\"loss\":-#,\"kl\":0.5,\"recon\":3");
    lines +=
        "{\"stage\":\"vae\",\"kind\":\"validation\",\"step\":300,\"nelbo\":-77.25,\"best\":true}\n";
    lines += &steps(
        "ebm",
        20,
        "\"loss\":1.5,\"energy_pos\":#,\"energy_neg\":-#,\"reused\":0,\"a_new_one\":#",
    );
    lines += "{\"stage\":\"ebm\",\"kind\":\"guard\",\"step\":155,\"gap\":1e9,\"back_to\":100}\n";
    for step in [50, 100, 150] {
        lines +=
            &format!("{{\"stage\":\"ebm\",\"kind\":\"quality\",\"step\":{step},\"distance\":4}}\n");
    }
    fs::write(at.join("metrics.jsonl"), lines).unwrap();
    fs::create_dir_all(at.join("samples")).unwrap();
    let picture = Picture::new(3, 2, [1, 2, 3]);
    for name in [
        "vae-000000100.png",
        "vae-000000300.png",
        "ebm-000000200.png",
        "00000.png",
    ] {
        picture.write_png(&at.join("samples").join(name)).unwrap();
    }
    picture.write_png(&at.join("samples.png")).unwrap();
    fs::create_dir_all(at.join("checkpoints")).unwrap();
    fs::write(at.join("checkpoints/ebm-000000200.safetensors"), [0; 9]).unwrap();
    fs::write(
        at.join("checkpoints/ebm.best"),
        "ebm-000000200.safetensors\n",
    )
    .unwrap();
    let figures = "{\"vae\":{\"frechet\":55.0},\"vaebm\":{\"frechet\":40.0},\"seed\":1}";
    fs::write(at.join("report.json"), figures).unwrap();
    fs::write(at.join("chains.json"), "{\"r_hat\":1.01}").unwrap();
    fs::write(at.join("machine.json"), "{\"ebm\":{\"device\":\"a GPU\"}}").unwrap();
    let page = checked(at);
    let has = |text: &str| assert!(page.contains(text), "{text}");
    has("Stage 1: VAE");
    has("Stage 2: energy network");
    has("<dd>200 of 300</dd>");
    has("Energy gap: data minus chains");
    has("nelbo (held-out): −77.25 at step 300");
    has("<h4>a new one</h4>");
    has("<h4>quality: distance</h4>");
    has("guard at step 155: back to 100, gap");
    has("<td>best</td>");
    has("55 → 40");
    has("<td>1.01</td>");
    has("<td>a GPU</td>");
    has("<td>best</td></tr></tbody>");
    assert!(!page.contains("replay buffer</h4>"), "all zero");
    assert_eq!(page.matches("<img ").count(), 4);
    assert_eq!(page.matches("width=\"3\" height=\"2\"").count(), 4);
    // Energies share a chart: two lines, two keys in the legend.
    let (_, chart) = page.split_once("<h4>Mean energy of data (pos)").unwrap();
    let chart = &chart[..chart.find("</figure>").unwrap()];
    assert_eq!(chart.matches("class=\"line s1\"").count(), 2);
    assert!(page.find("Stage 1: VAE") < page.find("Stage 2: energy network"));
}

#[test]
fn damaged_and_missing_files_are_told_and_stop_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut lines = steps("ebm", 3, "\"loss\":\"NaN\"") + "rubbish\n";
    lines += "{\"stage\":\"ebm\",\"ki";
    fs::write(at.join("metrics.jsonl"), lines).unwrap();
    fs::write(at.join("report.json"), "[1").unwrap();
    fs::write(at.join("samples.png"), "no picture").unwrap();
    fs::write(at.join("config.toml"), "[vae\nfoo = 1").unwrap();
    let page = checked(at);
    for told in [
        "One line of metrics.jsonl is damaged",
        "The last line of metrics.jsonl is not whole",
        "report.json is not shown",
        "samples.png is not a whole PNG file",
        "config.toml",
        "no finite value",
    ] {
        assert!(page.contains(told), "{told}");
    }
    assert!(page.contains("foo = 1"), "the text is shown as it is");
}

#[test]
fn whatever_files_say_stays_text() {
    const EVIL: &str = "</pre><script>alert('x')</script>\\\"&quot;";
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("<b>run & \"co\"");
    fs::create_dir_all(run.join("samples")).unwrap();
    let mut lines = String::new();
    for step in 1..6 {
        lines += &format!(
            "{{\"stage\":\"{EVIL}\",\"kind\":\"{EVIL}\",\"step\":{step},\"{EVIL}\":{step},\"text\":\"{EVIL}\"}}\n"
        );
    }
    fs::write(run.join("metrics.jsonl"), lines).unwrap();
    fs::write(run.join("config.toml"), format!("# {EVIL}\n")).unwrap();
    fs::write(
        run.join("x.json"),
        format!("{{\"{EVIL}\":{{\"{EVIL}\":\"{EVIL}\"}}}}"),
    )
    .unwrap();
    let picture = Picture::new(1, 1, [0, 0, 0]);
    picture
        .write_png(&run.join("\"><img src=x onerror=y>.png"))
        .unwrap();
    let page = checked(&run);
    assert!(page.contains("&lt;b&gt;run &amp; &quot;co&quot;"));
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)"));
    assert!(!page.contains("<b>") && !page.contains("<script"));
}

#[test]
fn long_films_keep_the_first_and_the_last() {
    let folder = with_config(|_| ());
    let samples = folder.path().join("samples");
    fs::create_dir_all(&samples).unwrap();
    for step in 1..=40 {
        let path = samples.join(format!("vae-{:09}.png", 50 * step));
        Picture::new(2, 2, [0, 0, 0]).write_png(&path).unwrap();
    }
    let page = checked(folder.path());
    assert!(page.contains(">step 50<") && page.contains(">step 2000<"));
    assert_eq!(page.matches("<img ").count(), 12);
    assert!(page.contains("28 grids between these"));
}

#[test]
fn what_is_no_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("missing")] {
        let told = write(&path, &folder.path().join("x.html"))
            .unwrap_err()
            .to_string();
        assert!(told.contains("is no run folder"), "{told}");
    }
    let run = with_config(|_| ());
    let told = write(run.path(), &folder.path().join("no/such/folder.html")).unwrap_err();
    assert!(told.to_string().contains("folder.html"), "{told}");
}

#[test]
fn scores_and_sets_told_apart_are_shown() {
    let folder = with_config(|_| ());
    let score = |step: u64, score: f64, best: bool| {
        format!(
            "{{\"best\":{best},\"kernel\":0.1,\"kind\":\"validation\",\"score\":{score},\"stage\":\"ebm\",\"step\":{step}}}\n"
        )
    };
    let text = score(100, 9.5, true) + &score(200, 7.25, true) + &score(300, 8.0, false);
    fs::write(folder.path().join("metrics.jsonl"), text).unwrap();
    let histogram = crate::eval::histogram::Histogram::of(&[0.0, 1.0], &[1.0, 2.0]);
    let detection = serde_json::json!({
        "kind": crate::eval::ood::KIND,
        "in": {"set": "mnist", "images": 2},
        "out": {"set": "images-<b>", "images": 2},
        "scores": [{
            "name": "energy", "formula": "E(x)", "auroc": 0.875, "interval": [0.5, 1.0], "medians": [0.5, 1.5],
            "histogram": histogram,
        }],
    });
    let path = folder.path().join("ood-mnist-images.json");
    fs::write(&path, detection.to_string()).unwrap();
    let page = checked(folder.path());
    for part in [
        "<dt>Best sample score</dt><dd>7.25 at step 200</dd>",
        "best, at step 200: kernel 0.1, score 7.25",
        "Out-of-distribution detection",
        "mnist (2 images) against images-&lt;b&gt; (2 images)",
        "<td>0.8750</td><td>0.5000 to 1.0000</td>",
    ] {
        assert!(page.contains(part), "no {part} in {page}");
    }
    // One mark, on the chart of what the best is chosen by, and one drawing of both sets.
    assert_eq!(page.matches("class=\"mark best\"").count(), 1);
    assert_eq!(page.matches("class=\"bars").count(), 4);
    // What cannot be drawn is told as any other object is.
    let mut broken = detection.clone();
    broken["scores"][0]["histogram"]["edges"] = serde_json::json!([1.0]);
    fs::write(&path, broken.to_string()).unwrap();
    let page = checked(folder.path());
    assert!(!page.contains("Out-of-distribution detection") && page.contains("0.875"));
}
