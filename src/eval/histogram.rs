//! Two sets of scores as histograms over the same bins, and their picture.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// Bins of a histogram.
const BINS: usize = 48;
/// Of all values of both sets, the share at each end that need not be to scale.
const TAIL: f64 = 0.01;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 30.0;

/// What a picture by itself looks like; within a page the page's own style counts, which has the same classes.
const STYLE: &str = "\
svg{--ink:#1d2125;--soft:#5a636c;--rule:#dfe2e4;--s0:#1f63b5;--s1:#c2570c;background:#fff;font:13px system-ui,sans-serif}\
@media (prefers-color-scheme:dark){svg{--ink:#e7eaec;--soft:#a2abb3;--rule:#343a40;--s0:#6cabf5;--s1:#f2994a;background:#1c2024}}\
text{fill:var(--ink)}.tick{fill:var(--soft);font-size:12px}.axis{stroke:var(--soft);fill:none}.grid{stroke:var(--rule);fill:none}\
.bars{stroke-width:1.6;fill-opacity:.22}.s0{stroke:var(--s0);fill:var(--s0)}.s1{stroke:var(--s1);fill:var(--s1)}\
.bars.s1{stroke-dasharray:6 3}";

/// Shares of two sets in each bin. What lies beyond the first or last edge counts in the bin there, so that shares add up to one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Ascending; one more than bins.
    pub edges: Vec<f64>,
    /// Share of the first set in each bin.
    #[serde(rename = "in")]
    pub inside: Vec<f64>,
    /// Share of the second set in each bin.
    #[serde(rename = "out")]
    pub outside: Vec<f64>,
}

impl Histogram {
    /// Of finite values, at least one in each set. Bins reach over all values, unless a few are far away from the rest.
    ///
    /// # Panics
    /// For an empty set.
    pub fn of(inside: &[f64], outside: &[f64]) -> Self {
        assert!(!inside.is_empty() && !outside.is_empty(), "values in each");
        let mut all = [inside, outside].concat();
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all[((all.len() - 1) as f64 * share).round() as usize];
        let (mut low, mut high) = (at(0.0), at(1.0));
        let (tail_low, tail_high) = (at(TAIL), at(1.0 - TAIL));
        let middle = tail_high - tail_low;
        if middle > 0.0 && high - low > 3.0 * middle {
            low = low.max(tail_low - 0.1 * middle);
            high = high.min(tail_high + 0.1 * middle);
        }
        if high <= low {
            let room = (0.1 * high.abs()).max(0.5);
            (low, high) = (low - room, high + room);
        }
        let width = (high - low) / BINS as f64;
        let shares = |values: &[f64]| {
            let mut counts = vec![0.0; BINS];
            for value in values {
                // The conversion saturates at zero.
                let bin = ((value - low) / width) as usize;
                counts[bin.min(BINS - 1)] += 1.0;
            }
            counts.iter().map(|c| c / values.len() as f64).collect()
        };
        Histogram {
            edges: (0..=BINS).map(|i| low + width * i as f64).collect(),
            inside: shares(inside),
            outside: shares(outside),
        }
    }

    /// Whether it can be drawn: one from a file may be anything.
    pub fn is_whole(&self) -> bool {
        let bins = self.inside.len();
        let rising = self.edges.windows(2).all(|w| w[0] < w[1]);
        let finite = self.edges.iter().all(|e| e.is_finite());
        let shares = [&self.inside, &self.outside].into_iter().flatten();
        bins > 0
            && self.outside.len() == bins
            && self.edges.len() == bins + 1
            && rising
            && finite
            && shares.clone().all(|s| *s >= 0.0 && s.is_finite())
            && shares.clone().any(|s| *s > 0.0)
    }

    /// The picture: an `svg` element for a page that has the classes `bars`, `s0`, `s1`, `axis`, `grid` and `tick`. `title` is said to
    /// those who do not see it, and must be free of `<` and `&`.
    pub fn svg(&self, title: &str) -> String {
        let mut out =
            format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">");
        self.draw(&mut out);
        out + "</svg>"
    }

    fn draw(&self, out: &mut String) {
        let (first, last) = (self.edges[0], self.edges[self.edges.len() - 1]);
        let shares = self.inside.iter().chain(&self.outside);
        let most = shares.copied().fold(0.0, f64::max);
        let bottom = HEIGHT - BOTTOM;
        let x = |value: f64| LEFT + (value - first) / (last - first) * (WIDTH - LEFT - RIGHT);
        let y = |share: f64| bottom - share / most * (bottom - TOP);
        for share in ticks(0.0, most) {
            let at = y(share);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}%</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                short(100.0 * share)
            );
        }
        for value in ticks(first, last) {
            let at = x(value);
            let anchor = match at {
                a if a > WIDTH - RIGHT - 20.0 => "end",
                a if a < LEFT + 10.0 => "start",
                _ => "middle",
            };
            let _ = write!(
                out,
                "<path class=\"axis\" d=\"M{at:.1} {bottom:.1}v4\"/><text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" \
                 text-anchor=\"{anchor}\">{}</text>",
                bottom + 18.0,
                short(value)
            );
        }
        for (class, shares) in [("s0", &self.inside), ("s1", &self.outside)] {
            let _ = write!(
                out,
                "<path class=\"bars {class}\" d=\"M{:.1} {bottom:.1}",
                x(first)
            );
            for (edges, share) in self.edges.windows(2).zip(shares) {
                let _ = write!(out, "V{:.1}H{:.1}", y(*share), x(edges[1]));
            }
            let _ = write!(out, "V{bottom:.1}Z\"/>");
        }
        let _ = write!(
            out,
            "<path class=\"axis\" d=\"M{LEFT} {bottom:.1}H{:.1}\"/>",
            WIDTH - RIGHT
        );
    }
}

/// Titled histograms one below the other as an SVG file. `legend` names the two sets.
pub fn file(legend: [&str; 2], panels: &[(String, &Histogram)]) -> String {
    const HEAD: f64 = 34.0;
    const TITLE: f64 = 26.0;
    let height = HEAD + panels.len() as f64 * (TITLE + HEIGHT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\
         <style>{STYLE}</style>"
    );
    for (i, name) in legend.into_iter().enumerate() {
        let at = LEFT + i as f64 * 290.0;
        let _ = write!(
            out,
            "<path class=\"bars s{i}\" d=\"M{at} 12h22v10h-22Z\"/><text x=\"{}\" y=\"22\">{}</text>",
            at + 30.0,
            xml(name)
        );
    }
    for (i, (title, histogram)) in panels.iter().enumerate() {
        let top = HEAD + i as f64 * (TITLE + HEIGHT);
        let _ = write!(
            out,
            "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"600\">{}</text><g transform=\"translate(0 {})\">",
            top + 18.0,
            xml(title),
            top + TITLE
        );
        histogram.draw(&mut out);
        out += "</g>";
    }
    out + "</svg>\n"
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// About four round numbers within a range.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|m| m * power);
    let step = *steps
        .iter()
        .find(|s| **s >= rough * 0.999)
        .unwrap_or(&steps[3]);
    let (first, last) = ((low / step).ceil(), (high / step).floor());
    // Adding zero takes the sign off a negative zero.
    (0..=((last - first).max(0.0) as usize).min(12))
        .map(|i| (first + i as f64) * step + 0.0)
        .collect()
}

/// A tick's number without noise in its last places.
fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        0.0 => "0".into(),
        s if !(1e-3..1e6).contains(&s) => format!("{value:.1e}"),
        _ => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0')
                .trim_end_matches('.')
                .replace('-', "\u{2212}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_one_bin_and_bins_are_shared() {
        let inside: Vec<f64> = (0..100).map(f64::from).collect();
        let h = Histogram::of(&inside, &[40.0, 99.0]);
        assert_eq!((h.edges[0], h.edges[BINS]), (0.0, 99.0));
        for shares in [&h.inside, &h.outside] {
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        // 40 lies in the bin from 39.1875 to 41.25, and 99, the last edge, in the last one.
        let held: Vec<usize> = (0..BINS).filter(|i| h.outside[*i] > 0.0).collect();
        assert_eq!(held, [19, 47]);
        assert!(h.is_whole());
    }

    #[test]
    fn values_far_away_count_in_the_last_bin() {
        let mut inside: Vec<f64> = (0..400).map(|i| f64::from(i) / 400.0).collect();
        inside.push(1e9);
        let h = Histogram::of(&inside, &inside);
        assert!(h.edges[BINS] < 1.2, "{:?}", h.edges[BINS]);
        assert!(h.inside[BINS - 1] >= 1.0 / 401.0);
        assert!((h.inside.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        // All alike.
        assert!(Histogram::of(&[3.0, 3.0], &[3.0]).is_whole());
        assert!(Histogram::of(&[-1e30, 1e30], &[0.0]).is_whole());
    }

    #[test]
    fn what_cannot_be_drawn_is_told_from_what_can() {
        let good = Histogram::of(&[0.0, 1.0], &[2.0]);
        let change = |f: fn(&mut Histogram)| {
            let mut h = good.clone();
            f(&mut h);
            h.is_whole()
        };
        assert!(change(|_| ()));
        assert!(!change(|h| h.edges[3] = f64::NAN));
        assert!(!change(|h| h.edges.swap(1, 2)));
        assert!(!change(|h| h.edges.truncate(4)));
        assert!(!change(|h| h.outside.clear()));
        assert!(!change(|h| h.inside[0] = -1.0));
        assert!(!change(|h| {
            h.inside.fill(0.0);
            h.outside.fill(0.0);
        }));
    }

    #[test]
    fn a_picture_has_both_sets_and_no_number_that_is_none() {
        let h = Histogram::of(&[0.0, 1.0, 1.5], &[2.0, 8.0]);
        let file = file(["a<b", "c & d"], &[("E(x)".into(), &h)]);
        assert!(file.contains("a&lt;b") && file.contains("c &amp; d"));
        for text in [&file, &h.svg("x")] {
            assert_eq!(text.matches("<svg").count(), text.matches("</svg>").count());
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
        assert_eq!(h.svg("x").matches("class=\"bars").count(), 2);
    }
}
