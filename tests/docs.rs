//! The documentation says what is so: help texts are those of `docs/cli.md`, examples parse, links lead somewhere.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    pages
}

/// Help of a command and of those below it.
fn help(command: &mut clap::Command, name: &str, level: usize, out: &mut String) {
    let text = command
        .clone()
        .bin_name(name)
        .term_width(100)
        .render_long_help()
        .to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    writeln!(
        out,
        "{} `{name}`\n\n```text\n{}\n```\n",
        "#".repeat(level),
        lines.join("\n").trim_end()
    )
    .unwrap();
    let names: Vec<String> = command
        .get_subcommands()
        .map(|c| c.get_name().to_owned())
        .collect();
    for sub in names.iter().filter(|n| *n != "help") {
        let child = command.find_subcommand_mut(sub).unwrap();
        help(child, &format!("{name} {sub}"), level + 1, out);
    }
}

#[test]
fn help_texts_are_those_of_the_page() {
    let mut command = vaebm::cli::command();
    command.build();
    let mut want =
        String::from("# Command line\n\nMade from the program's own help; a test keeps it so.\n\n");
    help(&mut command, "vaebm", 2, &mut want);
    let page = root().join("docs/cli.md");
    if std::env::var_os("VAEBM_UPDATE_DOCS").is_some() {
        std::fs::write(&page, &want).unwrap();
    }
    let have = std::fs::read_to_string(&page).unwrap_or_default();
    let differs = have.lines().zip(want.lines()).position(|(a, b)| a != b);
    assert!(
        have == want,
        "docs/cli.md differs from the program's help (first at line {:?}): run the tests with VAEBM_UPDATE_DOCS=1",
        differs.map(|l| l + 1)
    );
}

/// The words of example commands in code blocks: what follows `vaebm`, or `--` after `cargo run`.
fn examples(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut shell = false;
    for line in text.lines() {
        let line = line.trim();
        if let Some(language) = line.strip_prefix("```") {
            shell = !shell && (language == "sh" || language == "console");
            continue;
        }
        if !shell {
            continue;
        }
        let line = line
            .split(" #")
            .next()
            .unwrap_or(line)
            .trim_start_matches("$ ");
        let words: Vec<&str> = line.split_whitespace().collect();
        let arguments = match words.as_slice() {
            ["vaebm" | "target/release/vaebm", rest @ ..] => rest,
            ["cargo", "run", rest @ ..] if !rest.contains(&"-p") => {
                match rest.iter().position(|w| *w == "--") {
                    Some(at) => &rest[at + 1..],
                    None => continue,
                }
            }
            _ => continue,
        };
        found.push(arguments.iter().map(|w| w.to_string()).collect());
    }
    found
}

#[test]
fn examples_are_commands_that_exist() {
    let mut count = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for words in examples(&text) {
            let line = std::iter::once("vaebm".to_owned()).chain(words);
            let line: Vec<String> = line.collect();
            count += 1;
            if let Err(e) = vaebm::cli::command().try_get_matches_from(&line) {
                panic!("{}: `{}`: {e}", page.display(), line.join(" "));
            }
        }
    }
    assert!(count >= 8, "only {count} examples found");
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let path = page.parent().unwrap().join(file);
            assert!(
                path.exists(),
                "{} links to {target}, which is not there",
                page.display()
            );
        }
    }
}

#[test]
fn every_direct_dependency_has_its_reason() {
    let manifest: toml::Table =
        toml::from_str(&std::fs::read_to_string(root().join("Cargo.toml")).unwrap()).unwrap();
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    for section in ["dependencies", "dev-dependencies"] {
        for name in manifest[section].as_table().unwrap().keys() {
            let named = page.lines().any(|l| {
                l.starts_with('|')
                    && l.split('|')
                        .nth(1)
                        .is_some_and(|c| c.split(", ").any(|w| w.trim() == name))
            });
            assert!(named, "{name} is not in the table of docs/architecture.md");
        }
    }
}
