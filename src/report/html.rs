//! Pieces of the page. Whatever comes from a file goes through [`escape`].

use std::fmt::Write;

use serde_json::{Map, Value};

use super::chart::{Chart, Line, figure_of};
use super::metrics::{brief, number};

/// Text as HTML, in elements and in quoted attributes. Control characters, which HTML forbids, become the replacement character.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            '\n' | '\t' => out.push(character),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A section with a heading that the table of contents can lead to.
pub(super) fn section(id: &str, heading: &str, inside: &str) -> String {
    format!(
        "<section id=\"{id}\" aria-labelledby=\"{id}-h\"><h2 id=\"{id}-h\">{}</h2>\n{inside}</section>\n",
        escape(heading)
    )
}

/// A paragraph for what is missing or left out.
pub(super) fn note(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", escape(text))
}

/// A table; the first column heads its rows. Cells are plain text.
pub(super) fn table(caption: &str, head: &[String], rows: &[Vec<String>]) -> String {
    let mut out = format!(
        "<div class=\"scroll\"><table><caption>{}</caption>",
        escape(caption)
    );
    if !head.is_empty() {
        out += "<thead><tr>";
        for cell in head {
            let _ = write!(out, "<th scope=\"col\">{}</th>", escape(cell));
        }
        out += "</tr></thead>";
    }
    out += "<tbody>";
    for row in rows {
        out += "<tr>";
        for (i, cell) in row.iter().enumerate() {
            let cell = escape(cell);
            let _ = match i {
                0 => write!(out, "<th scope=\"row\">{cell}</th>"),
                _ => write!(out, "<td>{cell}</td>"),
            };
        }
        out += "</tr>";
    }
    out += "</tbody></table></div>\n";
    out
}

/// Tables side by side where there is room.
pub(super) fn side_by_side(tables: &str) -> String {
    match tables.is_empty() {
        true => String::new(),
        false => format!("<div class=\"tables\">\n{tables}</div>\n"),
    }
}

/// The name of a field in words.
pub(super) fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// Most rows of a table made from a list.
const ROWS: usize = 60;

/// Lists of at least so many numbers are drawn rather than told.
const DRAWN: usize = 12;
/// Lines of one chart; further ones are counted.
const LINES: usize = 4;

/// Any JSON object: objects that have the same fields side by side in one table, lists of objects as one each, long lists of numbers
/// (and lists of such lists, as of several chains) as curves over their index, the rest as a table of names and values. `id` starts
/// the ids of curves, and is unique in the page.
pub(super) fn json(id: &str, caption: &str, object: &Map<String, Value>) -> String {
    let (mut tables, mut curves) = (String::new(), String::new());
    collect(id, caption, object, &mut tables, &mut curves);
    let mut out = side_by_side(&tables);
    if !curves.is_empty() {
        let _ = writeln!(out, "<div class=\"charts\">\n{curves}</div>");
    }
    out
}

fn collect(
    id: &str,
    caption: &str,
    object: &Map<String, Value>,
    tables: &mut String,
    curves: &mut String,
) {
    let mut out = String::new();
    let mut plain = Vec::new();
    let mut alike: Vec<(&String, &Map<String, Value>)> = Vec::new();
    for (i, (name, value)) in object.iter().enumerate() {
        let (id, title) = (format!("{id}-{i}"), format!("{caption}: {}", words(name)));
        match value {
            Value::Object(fields) if flat(fields) => alike.push((name, fields)),
            Value::Object(fields) => collect(&id, &title, fields, &mut out, curves),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                out += &list(&title, items);
            }
            other => match lines_of(other) {
                Some(lines) => *curves += &curve(&id, &title, &words(name), &lines),
                None => plain.push(vec![words(name), brief(other)]),
            },
        }
    }
    while let Some((_, first)) = alike.first() {
        let keys: Vec<&String> = first.keys().collect();
        let (same, rest): (Vec<_>, Vec<_>) = (alike.iter().copied())
            .partition(|(_, fields)| fields.keys().collect::<Vec<_>>() == keys);
        alike = rest;
        let cells = |fields: &Map<String, Value>| fields.values().map(brief).collect::<Vec<_>>();
        if let [(name, fields)] = same[..] {
            let rows: Vec<Vec<String>> = (fields.iter())
                .map(|(k, v)| vec![words(k), brief(v)])
                .collect();
            out += &table(&format!("{caption}: {}", words(name)), &[], &rows);
            continue;
        }
        let head: Vec<String> = std::iter::once(String::new())
            .chain(keys.iter().map(|k| words(k)))
            .collect();
        let rows: Vec<Vec<String>> = (same.iter())
            .map(|(name, fields)| [vec![words(name)], cells(fields)].concat())
            .collect();
        out = table(caption, &head, &rows) + &out;
    }
    if !plain.is_empty() {
        out += &table(caption, &[], &plain);
    }
    *tables += &out;
}

/// The numbers of a long list, or of each of several such lists.
fn lines_of(value: &Value) -> Option<Vec<Vec<(f64, f64)>>> {
    let items = value.as_array()?;
    let line = |items: &[Value]| -> Option<Vec<(f64, f64)>> {
        let numbers: Option<Vec<f64>> = items.iter().map(number).collect();
        let points = numbers?.into_iter().enumerate();
        Some(points.map(|(i, v)| (i as f64, v)).collect())
    };
    let lines = match line(items) {
        Some(one) => vec![one],
        None => (items.iter())
            .map(|inner| line(inner.as_array()?))
            .collect::<Option<Vec<_>>>()?,
    };
    lines.iter().any(|l| l.len() >= DRAWN).then_some(lines)
}

fn curve(id: &str, title: &str, name: &str, lines: &[Vec<(f64, f64)>]) -> String {
    let shown: Vec<Line<'_>> = (lines.iter().take(LINES).enumerate())
        .map(|(i, points)| Line {
            label: match lines.len() {
                1 => name.to_owned(),
                _ => format!("{name} {i}"),
            },
            points,
        })
        .collect();
    let title = match lines.len() {
        n if n > LINES => format!("{title} (the first {LINES} of {n})"),
        _ => title.to_owned(),
    };
    let chart = Chart {
        title: &title,
        over: "index",
        steep: false,
        lines: &shown,
        marks: &[],
    };
    figure_of(id, &chart)
}

fn flat(fields: &Map<String, Value>) -> bool {
    !fields.is_empty()
        && (fields.values()).all(|v| number(v).is_some() || !(v.is_object() || v.is_array()))
}

fn list(caption: &str, items: &[Value]) -> String {
    let mut keys: Vec<&String> = Vec::new();
    for object in items.iter().filter_map(Value::as_object) {
        for key in object.keys() {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    let rows: Vec<Vec<String>> = (items.iter().take(ROWS))
        .map(|item| match item.as_object() {
            Some(o) => (keys.iter())
                .map(|k| o.get(*k).map_or_else(String::new, brief))
                .collect(),
            None => vec![brief(item)],
        })
        .collect();
    let head: Vec<String> = keys.iter().map(|k| words(k)).collect();
    let mut out = table(caption, &head, &rows);
    if items.len() > ROWS {
        out += &note(&format!("{} more rows are left out.", items.len() - ROWS));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_html_reads_is_escaped() {
        assert_eq!(
            escape("<script a=\"b\" c='d'>&\u{0}\u{7}é\n"),
            "&lt;script a=&quot;b&quot; c=&#39;d&#39;&gt;&amp;\u{fffd}\u{fffd}é\n"
        );
    }

    #[test]
    fn long_lists_of_numbers_are_curves_and_short_ones_text() {
        let numbers = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
        let text = format!(
            r#"{{"trace":[{}],"chains":[{}],"few":[1,2.5,"NaN"],"names":["<a>","b"],"mixed":[{},"<c>"]}}"#,
            numbers(20),
            vec![format!("[{}]", numbers(15)); 6].join(","),
            numbers(40)
        );
        let object: Map<String, Value> = serde_json::from_str(&text).unwrap();
        let shown = json("j", "x", &object);
        assert_eq!(shown.matches("<figure").count(), 2, "{shown}");
        assert!(shown.contains("trace: 19 at index 19, lowest 0 at 0, highest 19 at 19"));
        assert!(shown.contains("x: chains (the first 4 of 6)"));
        assert!(shown.contains("<td>1, 2.5, NaN</td>"));
        assert!(shown.contains("<td>&lt;a&gt;, b</td>"));
        assert!(shown.contains("7, \u{2026} (41 values)</td>") && !shown.contains("<c>"));
    }

    #[test]
    fn objects_of_the_same_fields_share_a_table() {
        let text = r#"{"vae":{"kl":0.5,"modes":3},"seed":1,"vaebm":{"kl":0.25,"modes":4},"seconds":{"vae":7},
            "chains":[{"r_hat":1.01},{"ess":200}],"deep":{"a":{"<b>":1}}}"#;
        let object: Map<String, Value> = serde_json::from_str(text).unwrap();
        let shown = json("j", "report", &object);
        assert_eq!(shown.matches("<table>").count(), 5, "{shown}");
        assert!(shown.contains("<th scope=\"row\">vaebm</th><td>0.25</td><td>4</td>"));
        assert!(shown.contains("<th scope=\"col\">r hat</th><th scope=\"col\">ess</th>"));
        assert!(shown.contains("&lt;b&gt;") && !shown.contains("<b>"));
    }
}
