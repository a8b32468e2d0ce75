//! The page of the command line is what `--help` says. `UPDATE_DOCS=1` writes it anew.

use std::fmt::Write;
use std::path::Path;

use clap::CommandFactory;
use serin::cli::arguments::Arguments;

const HEAD: &str = "# The command line

What `serin COMMAND --help` says, from the definition of the command line itself
(`UPDATE_DOCS=1 cargo nextest run the_page_of_the_command_line` writes this page). Data goes to stdout,
messages to stderr. `NO_COLOR` is honoured. Wrong arguments exit with 2. `serin man` prints this as a
manual, `serin completions` teaches it to a shell.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut command = Arguments::command().term_width(100);
    command.build();
    let mut add = |name: &str, help: String| {
        let help: Vec<_> = help.lines().map(str::trim_end).collect();
        write!(page, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()).unwrap();
    };
    add("serin", command.render_long_help().to_string());
    for one in command.get_subcommands_mut().filter(|one| one.get_name() != "help") {
        let name = format!("serin {}", one.get_name());
        let help = one.render_long_help().to_string();
        add(&name, help);
    }
    page
}

#[test]
fn the_page_of_the_command_line_is_what_help_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    let differ = written.lines().zip(page.lines()).find(|(old, new)| old != new);
    assert!(written == page, "docs/cli.md is old (UPDATE_DOCS=1 writes it): {differ:?}");
}

#[test]
fn every_command_shows_how_it_is_used() {
    let mut command = Arguments::command();
    command.build();
    let ours = command.get_subcommands().filter(|one| one.get_name() != "help");
    let without: Vec<_> = ours
        .filter(|one| {
            !one.get_after_help().is_some_and(|help| help.to_string().contains("Example"))
        })
        .map(|one| one.get_name().to_owned())
        .collect();
    assert!(without.is_empty(), "no examples in the help of {without:?}");
}

/// The table of the README, between its marks.
fn table() -> String {
    let mut command = Arguments::command();
    command.build();
    let mut table = "| command | does |\n|---|---|\n".to_owned();
    for one in command.get_subcommands().filter(|one| one.get_name() != "help") {
        let about = one.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(table, "| `serin {}` | {} |", one.get_name(), about.replace('|', "\\|")).unwrap();
    }
    table
}

#[test]
fn the_table_of_the_readme_has_every_command() {
    const MARKS: [&str; 2] = ["<!-- Made of the command line by a test. -->\n\n", "\n<!-- -->\n"];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let written = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = written.split_once(MARKS[0]).expect("the table's mark");
    let (found, after) = rest.split_once(MARKS[1]).expect("the mark of its end");
    let table = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let whole = [before, MARKS[0], &table, MARKS[1], after].concat();
        std::fs::write(&path, whole).unwrap();
        return;
    }
    assert_eq!(found, table, "the README is old: UPDATE_DOCS=1 writes the table anew");
}
