//! What can be wrong with a configuration, said so that the way out is clear.

use std::path::PathBuf;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML.
    #[error("{origin} is not valid TOML: {message}")]
    Syntax {
        /// File or flag.
        origin: String,
        /// The parser's message, with line and column.
        message: String,
    },
    /// No such key.
    #[error("{origin}: unknown key `{key}`{hint}")]
    UnknownKey {
        /// File or flag.
        origin: String,
        /// The key with its section.
        key: String,
        /// What may have been meant.
        hint: String,
    },
    /// A value of the wrong kind.
    #[error("{origin}: `{key}` is {found}; it must be {expected}")]
    WrongKind {
        /// File or flag.
        origin: String,
        /// The key with its section.
        key: String,
        /// The value found.
        found: String,
        /// What may stand there.
        expected: String,
    },
    /// No such preset.
    #[error("unknown preset `{name}`{hint}; presets: {}", super::PRESETS.join(", "))]
    Preset {
        /// The name asked for.
        name: String,
        /// What may have been meant.
        hint: String,
    },
    /// Nothing says where to start.
    #[error("{0}")]
    Missing(String),
    /// Values that cannot be used, all of them.
    #[error("{}", invalid_text(.0))]
    Invalid(Vec<String>),
}

fn invalid_text(problems: &[String]) -> String {
    match problems {
        [one] => format!("the configuration cannot be used: {one}"),
        all => format!(
            "the configuration cannot be used:\n  - {}",
            all.join("\n  - ")
        ),
    }
}

/// The candidate nearest to `word`, if one is near enough to have been meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| {
            (
                edit_distance(&word, &candidate.replace('-', "_")),
                candidate,
            )
        })
        .min()
        .filter(|&(distance, candidate)| distance <= (candidate.len().max(word.len()) / 3).max(2))
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
