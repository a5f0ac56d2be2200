//! Curves as inline SVG: one chart, one or more lines over steps, events as vertical marks.

use std::fmt::Write;

use super::html::escape;
use super::metrics::figure;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 30.0;
/// Colours of lines in the style sheet.
const COLOURS: usize = 4;
/// Lines of more points are thinned to the lowest and highest of each of this many parts.
const PARTS: usize = 400;
/// Lines of at most so many points show each of them.
const DOTS: usize = 40;

/// One line of a chart.
pub(super) struct Line<'a> {
    /// What it is.
    pub(super) label: String,
    /// `(step, value)` in order of steps.
    pub(super) points: &'a [(f64, f64)],
}

/// An event at a step.
#[derive(Clone)]
pub(super) struct Mark {
    /// Its classes in the style sheet.
    pub(super) class: &'static str,
    /// When.
    pub(super) step: f64,
    /// Its kind, in words.
    pub(super) text: String,
}

/// From a range of numbers to one of places.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        // Far outside is cut off anyway, and files stay short.
        let share = ((value - self.low) / (self.high - self.low)).clamp(-3.0, 4.0);
        self.start + share * (self.end - self.start)
    }

    /// About four round numbers within the range.
    fn ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / 4.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|m| m * power)
            .find(|s| *s >= rough * 0.999)
            .unwrap_or(10.0 * power);
        let (first, last) = ((self.low / step).ceil(), (self.high / step).floor());
        (0..=((last - first).max(0.0) as usize).min(12))
            // Adding zero takes the sign off a negative zero.
            .map(|i| (first + i as f64) * step + 0.0)
            .collect()
    }
}

/// The range that is shown: of all values, or where a few of them are far away from the rest, of the rest.
fn range(values: &mut [f64]) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let (first, last) = (*values.first()?, *values.last()?);
    let (mut low, mut high) = (first, last);
    if values.len() >= 40 {
        let at = |p: f64| values[((values.len() - 1) as f64 * p).round() as usize];
        let (q_low, q_high) = (at(0.02), at(0.98));
        let middle = q_high - q_low;
        if middle > 0.0 && last - first > 3.0 * middle {
            low = first.max(q_low - 0.1 * middle);
            high = last.min(q_high + 0.1 * middle);
        }
    }
    let room = match high > low {
        true => 0.05 * (high - low),
        false => (0.1 * high.abs()).max(0.5),
    };
    let (low, high) = (low - room, high + room);
    (low.is_finite() && high.is_finite() && high > low).then_some((low, high))
}

/// Values in the first steps, up to this share of all, do not widen the scale of a chart that starts steeply.
const START: f64 = 0.2;
/// Unless fewer values than this are left.
const FEWEST: usize = 20;

/// The range that is shown: see [`range`]. Where lines start `steep`ly, as losses do, and that would flatten all the rest, the range of
/// the rest.
fn scale(lines: &[Line<'_>], steps: (f64, f64), steep: bool) -> Option<(f64, f64)> {
    let points = || lines.iter().flat_map(|l| l.points);
    let from = |step: f64| {
        let within = points().filter(move |p| p.0 >= step && p.1.is_finite());
        within.map(|p| p.1).collect::<Vec<f64>>()
    };
    let whole = range(&mut from(f64::NEG_INFINITY))?;
    let mut later = from(steps.0 + START * (steps.1 - steps.0));
    if !steep || later.len() < FEWEST {
        return Some(whole);
    }
    let later = range(&mut later)?;
    Some(match whole.1 - whole.0 > 2.0 * (later.1 - later.0) {
        true => later,
        false => whole,
    })
}

/// The lowest and highest of each part of a long line, in their order; values that are not finite stay.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= 2 * PARTS {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(2 * PARTS);
    for part in points.chunks(points.len().div_ceil(PARTS)) {
        if let Some(bad) = part.iter().find(|p| !p.1.is_finite()) {
            kept.push(*bad);
            continue;
        }
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (low, high) = (part.iter().min_by(by_value), part.iter().max_by(by_value));
        let mut pair: Vec<(f64, f64)> = low.into_iter().chain(high).copied().collect();
        pair.sort_by(|a, b| a.0.total_cmp(&b.0));
        pair.dedup();
        kept.extend(pair);
    }
    kept
}

/// What a line comes to, in words; `at` names what it goes over.
fn told(line: &Line<'_>, at: &str) -> String {
    let finite = line.points.iter().filter(|p| p.1.is_finite());
    let (Some(low), Some(high), Some(last)) = (
        finite.clone().min_by(|a, b| a.1.total_cmp(&b.1)),
        finite.clone().max_by(|a, b| a.1.total_cmp(&b.1)),
        line.points.last(),
    ) else {
        return format!("{}: no finite value", line.label);
    };
    format!(
        "{}: {} at {at} {}, lowest {} at {}, highest {} at {}",
        line.label,
        figure(last.1),
        figure(last.0),
        figure(low.1),
        figure(low.0),
        figure(high.1),
        figure(high.0)
    )
}

/// What a chart shows.
pub(super) struct Chart<'a> {
    /// Its heading.
    pub(super) title: &'a str,
    /// What its lines go over: steps.
    pub(super) over: &'a str,
    /// Whether its lines start far away from where they go, so that the start need not be to scale.
    pub(super) steep: bool,
    /// The lines.
    pub(super) lines: &'a [Line<'a>],
    /// Events.
    pub(super) marks: &'a [Mark],
}

/// A figure with its heading, curves and a caption in words. `id` is unique in the page.
pub(super) fn figure_of(id: &str, chart: &Chart<'_>) -> String {
    let Chart { title, lines, .. } = *chart;
    let all = || lines.iter().flat_map(|l| l.points);
    let values: Vec<f64> = all().map(|p| p.1).filter(|v| v.is_finite()).collect();
    let captions: Vec<String> = lines.iter().map(|l| told(l, chart.over)).collect();
    let mut out = format!("<figure class=\"chart\"><h4>{}</h4>", escape(title));
    if lines.len() > 1 {
        out += "<p class=\"legend\">";
        for (i, line) in lines.iter().enumerate() {
            let _ = write!(
                out,
                "<span><svg width=\"26\" height=\"10\" aria-hidden=\"true\"><path class=\"line s{}\" d=\"M1 5H25\"/></svg>{}</span>",
                i % COLOURS,
                escape(&line.label)
            );
        }
        out += "</p>";
    }
    let steps = all()
        .map(|p| p.0)
        .filter(|s| s.is_finite())
        .fold(None, |r: Option<(f64, f64)>, s| {
            Some(r.map_or((s, s), |(a, b)| (a.min(s), b.max(s))))
        });
    if let Some((first, last)) = steps
        && let Some((low, high)) = scale(lines, (first, last), chart.steep)
    {
        let outside = values.iter().filter(|v| **v < low || **v > high).count();
        let wide = f64::from(u8::from(first == last));
        let x = Axis {
            low: first - wide,
            high: last + wide,
            start: LEFT,
            end: WIDTH - RIGHT,
        };
        let y = Axis {
            low,
            high,
            start: HEIGHT - BOTTOM,
            end: TOP,
        };
        out += &drawing(id, chart, &captions, [x, y]);
        if outside > 0 {
            let _ = write!(
                out,
                "<p class=\"note\">{outside} of {} values lie beyond the scale.</p>",
                values.len()
            );
        }
    }
    out += "<figcaption>";
    for caption in captions {
        let _ = write!(out, "<span>{}</span>", escape(&caption));
    }
    out += "</figcaption></figure>\n";
    out
}

fn drawing(id: &str, chart: &Chart<'_>, captions: &[String], [x, y]: [Axis; 2]) -> String {
    // Dots at both ends are whole.
    let (clip_left, clip_width) = (LEFT - 5.0, WIDTH - LEFT - RIGHT + 10.0);
    let plot_height = HEIGHT - TOP - BOTTOM;
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\"><title id=\"{id}-t\">{}</title>\
         <desc id=\"{id}-d\">{}</desc><clipPath id=\"{id}-c\"><rect x=\"{clip_left}\" y=\"{TOP}\" width=\"{clip_width}\" \
         height=\"{plot_height}\"/></clipPath>",
        escape(chart.title),
        escape(&captions.join(". "))
    );
    for tick in y.ticks() {
        let at = y.place(tick);
        let _ = write!(
            out,
            "<path class=\"{}\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{}</text>",
            if tick == 0.0 { "grid zero" } else { "grid" },
            WIDTH - RIGHT,
            LEFT - 9.0,
            at + 4.0,
            figure(tick)
        );
    }
    let bottom = HEIGHT - BOTTOM;
    for tick in x.ticks().into_iter().filter(|t| t.fract() == 0.0) {
        let at = x.place(tick);
        let anchor = match at {
            a if a > WIDTH - RIGHT - 20.0 => "end",
            _ => "middle",
        };
        let _ = write!(
            out,
            "<path class=\"axis\" d=\"M{at:.1} {bottom:.1}v4\"/><text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" \
             text-anchor=\"{anchor}\">{}</text>",
            bottom + 18.0,
            figure(tick)
        );
    }
    let _ = write!(
        out,
        "<path class=\"axis\" d=\"M{LEFT} {bottom:.1}H{:.1}\"/><g clip-path=\"url(#{id}-c)\">",
        WIDTH - RIGHT
    );
    for mark in chart.marks {
        let _ = write!(
            out,
            "<path class=\"{}\" d=\"M{:.1} {TOP}V{bottom:.1}\"><title>{}</title></path>",
            mark.class,
            x.place(mark.step),
            escape(&mark.text)
        );
    }
    for (i, line) in chart.lines.iter().enumerate() {
        out += &curve(line, chart.over, i % COLOURS, [x, y]);
    }
    out += "</g></svg>";
    out
}

fn curve(line: &Line<'_>, over: &str, colour: usize, [x, y]: [Axis; 2]) -> String {
    let (mut path, mut dots, mut bad) = (String::new(), String::new(), String::new());
    let mut pen = 'M';
    for (step, value) in thinned(line.points) {
        let at = x.place(step);
        if !value.is_finite() {
            pen = 'M';
            let _ = write!(
                bad,
                "<path class=\"bad\" d=\"M{:.1} {:.1}l8 8m0 -8l-8 8\"><title>{}: {value} at {over} {}</title></path>",
                at - 4.0,
                TOP + 2.0,
                escape(&line.label),
                figure(step)
            );
            continue;
        }
        let height = y.place(value);
        let _ = write!(path, "{pen}{at:.1} {height:.1}");
        pen = 'L';
        if line.points.len() <= DOTS {
            let _ = write!(
                dots,
                "<circle class=\"dot s{colour}\" cx=\"{at:.1}\" cy=\"{height:.1}\" r=\"3\"><title>{}: {} at {over} {}</title></circle>",
                escape(&line.label),
                figure(value),
                figure(step)
            );
        }
    }
    if !path.is_empty() {
        path = format!("<path class=\"line s{colour}\" d=\"{path}\"/>");
    }
    path + &dots + &bad
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: &[(f64, f64)]) -> Line<'_> {
        Line {
            label: "a<b".into(),
            points,
        }
    }

    fn drawn(points: &[(f64, f64)], marks: &[Mark]) -> String {
        let chart = Chart {
            title: "title",
            over: "step",
            steep: false,
            lines: &[line(points)],
            marks,
        };
        figure_of("c", &chart)
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let axis = |low, high| Axis {
            low,
            high,
            start: 0.0,
            end: 1.0,
        };
        assert_eq!(axis(-0.3, 10.2).ticks(), [0.0, 5.0, 10.0]);
        assert_eq!(axis(3.0, 4.0).ticks(), [3.0, 3.5, 4.0]);
        for (low, high) in [(-841.3, -834.0), (1e-7, 3e-7), (0.0, 2000.0)] {
            let ticks = axis(low, high).ticks();
            assert!((2..=6).contains(&ticks.len()), "{ticks:?}");
            assert!(ticks.iter().all(|t| *t >= low && *t <= high), "{ticks:?}");
        }
    }

    #[test]
    fn a_few_values_far_away_do_not_flatten_the_rest() {
        let mut values: Vec<f64> = (0..200).map(|i| f64::from(i) / 100.0).collect();
        values.push(1e6);
        let (low, high) = range(&mut values).unwrap();
        assert!(low > -1.0 && high < 4.0, "{low} {high}");
        assert_eq!(range(&mut []), None);
        assert_eq!(range(&mut [3.0]), Some((2.5, 3.5)));
    }

    #[test]
    fn a_steep_start_leaves_the_scale_to_what_follows() {
        let loss = |i: i32| (f64::from(i), 1000.0 * (-0.2 * f64::from(i)).exp());
        let points: Vec<(f64, f64)> = (0..100).map(loss).collect();
        let of = |points: &[(f64, f64)], steep| {
            let last = points.len() as f64 - 1.0;
            scale(&[line(points)], (0.0, last), steep).unwrap()
        };
        assert!(of(&points, false).1 > 900.0);
        let (low, high) = of(&points, true);
        assert!(low < 0.0 && (15.0..30.0).contains(&high), "{low} {high}");
        // Too few to tell, or a line that does not start steeply.
        assert!(of(&points[..10], true).1 > 900.0);
        let even: Vec<(f64, f64)> = (0..100).map(|i| (f64::from(i), f64::from(i))).collect();
        assert_eq!(of(&even, true), of(&even, false));
    }

    #[test]
    fn long_lines_keep_their_extremes() {
        let mut points: Vec<(f64, f64)> = (0..10_000).map(|i| (f64::from(i), 1.0)).collect();
        points[5_003].1 = 9.0;
        points[7_777].1 = f64::NAN;
        let kept = thinned(&points);
        assert!(kept.len() <= 2 * PARTS);
        assert!(kept.contains(&(5_003.0, 9.0)));
        assert!(kept.iter().any(|p| p.1.is_nan()));
        assert!(kept.windows(2).all(|w| w[0].0 <= w[1].0));
    }

    #[test]
    fn a_chart_shows_what_is_not_finite_and_breaks_its_line_there() {
        let points = [(1.0, 1.0), (2.0, f64::INFINITY), (3.0, 2.0)];
        let marks = [Mark {
            class: "mark",
            step: 2.0,
            text: "guard".into(),
        }];
        let drawn = drawn(&points, &marks);
        assert!(drawn.contains("a&lt;b: inf at step 2"), "{drawn}");
        assert_eq!(drawn.matches("class=\"bad\"").count(), 1);
        assert_eq!(drawn.matches("class=\"mark\"").count(), 1);
        let path = drawn.split("class=\"line s0\" d=\"").nth(1).unwrap();
        let path = &path[..path.find('"').unwrap()];
        assert_eq!(path.matches('M').count(), 2, "{path}");
        assert!(!drawn.contains("a<b") && !drawn.contains("NaN"), "{drawn}");
    }

    #[test]
    fn nothing_to_draw_is_said_in_words() {
        let points = [(1.0, f64::NAN)];
        let drawn = drawn(&points, &[]);
        assert!(drawn.contains("no finite value") && !drawn.contains("<svg viewBox"));
    }
}
