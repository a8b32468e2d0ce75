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
