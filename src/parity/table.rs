//! Results as a table: one line for each quantity, or for each group of alike ones.

use std::fmt::Write;

use super::Row;

/// The head of the table.
pub fn header() -> String {
    format!(
        "{:<26} {:<36} {:>9} {:>9} {:>9}  pass",
        "test", "quantity", "max", "rms", "allowed"
    )
}

/// The lines of one test's rows. Errors are relative to the largest expected value.
///
/// Unless `verbose`, alike quantities (`it0.grad.*`) share a line, which shows the one that comes closest to its tolerance, and how
/// many there are; those that fail have a line each, with the reason.
pub fn lines(rows: &[Row], verbose: bool) -> String {
    let mut text = String::new();
    let mut groups: Vec<(String, Vec<&Row>)> = Vec::new();
    for row in rows {
        let name = match verbose || row.failure.is_some() {
            true => row.quantity.clone(),
            false => group(&row.quantity),
        };
        let alike = |(n, rows): &&mut (String, Vec<&Row>)| {
            *n == name && rows[0].failure.is_none() && row.failure.is_none()
        };
        match groups.iter_mut().find(alike) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((name, vec![row])),
        }
    }
    for (name, rows) in groups {
        let worst = (rows.iter().copied()).max_by(|a, b| closeness(a).total_cmp(&closeness(b)));
        let Some(worst) = worst else { continue };
        let name = match rows.len() {
            1 => name,
            n => format!("{name} ({n})"),
        };
        line(&mut text, &name, worst);
    }
    text
}

fn line(text: &mut String, name: &str, row: &Row) {
    let (verdict, reason) = match &row.failure {
        None => ("yes", ""),
        Some(reason) => ("NO: ", reason.as_str()),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{:<26} {name:<36} {:>9} {:>9} {:>9}  {verdict}{reason}",
        row.test,
        number(row.max_error),
        number(row.rms_error),
        number(row.tolerance)
    );
}

/// How much of its tolerance a row uses.
fn closeness(row: &Row) -> f64 {
    match (row.max_error, row.tolerance) {
        (error, _) if error == 0.0 => 0.0,
        (error, tolerance) => error / tolerance,
    }
}

fn number(value: f64) -> String {
    match value.is_nan() {
        true => "-".into(),
        false => format!("{value:.1e}"),
    }
}

/// Parts of a name before which whole families of quantities differ only in a parameter's or a layer's name.
const FAMILIES: [&str; 19] = [
    "grad",
    "grad_w",
    "grad_lwn",
    "sr_u",
    "sr_grad",
    "clipped",
    "after",
    "after1",
    "after2",
    "after3",
    "exp_avg",
    "exp_avg_sq",
    "exp_inf",
    "mask",
    "wn",
    "out",
    "in0",
    "in1",
    "alpha",
];

/// The group of a quantity: up to a family's name, with numbers replaced by `#`.
fn group(quantity: &str) -> String {
    let mut parts = Vec::new();
    let mut family = false;
    for part in quantity.split('.') {
        if family {
            parts.push("*".to_owned());
            break;
        }
        family = FAMILIES.contains(&part);
        parts.push(part.to_owned());
    }
    let name = parts.join(".");
    let mut short = String::new();
    for c in name.chars() {
        match c.is_ascii_digit() {
            true if short.ends_with('#') => {}
            true => short.push('#'),
            false => short.push(c),
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(quantity: &str, max_error: f64, failure: Option<&str>) -> Row {
        Row {
            test: "A/t".into(),
            quantity: quantity.into(),
            max_error,
            rms_error: max_error,
            tolerance: 1.0,
            failure: failure.map(str::to_owned),
        }
    }

    #[test]
    fn alike_quantities_share_a_line_and_failures_have_their_own() {
        let rows = [
            row("it0.grad.a.weight", 0.1, None),
            row("it0.grad.b.bias", 0.3, None),
            row("it0.grad.c", 2.0, Some("too far")),
        ];
        let text = lines(&rows, false);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(
            text.contains("it#.grad.* (2)") && text.contains("3.0e-1"),
            "{text}"
        );
        assert!(
            text.contains("it0.grad.c") && text.contains("NO: too far"),
            "{text}"
        );
        assert_eq!(lines(&rows, true).lines().count(), 3);
    }

    #[test]
    fn groups_replace_numbers() {
        assert_eq!(
            group("step12.grad_of_mean.eps_z.3"),
            "step#.grad_of_mean.eps_z.#"
        );
        assert_eq!(group("after1.stem.weight"), "after#.*");
    }
}
