//! Reports: figures as a table for a person, as JSON for a program, and as Markdown for a page.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Table};

use super::figure::Figure;

/// The figures, each beside what it is measured against.
pub(crate) fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "id", "figure", "value", "against", "ratio", "unit", "target", "met",
    ]);
    for figure in figures {
        let met = match figure.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        let number =
            |value: f64| Cell::new(format!("{value:.3}")).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(&figure.id),
            Cell::new(&figure.name),
            number(figure.value),
            Cell::new(format!("{} {}", figure.reference, figure.reference_value)),
            number(figure.ratio),
            Cell::new(&figure.unit),
            Cell::new(figure.target.as_deref().unwrap_or("-")),
            Cell::new(met),
        ]);
    }
    table
}

/// Writes the figures as a JSON array.
pub(crate) fn write_json(file: &Path, figures: &[Figure]) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(figures)?;
    text.push('\n');
    std::fs::write(file, text)
}

/// Where a page has its figures.
const BEGIN: &str = "<!-- figures: written by `orlop bench --markdown` -->\n";
const END: &str = "<!-- end of figures -->\n";

/// Writes the figures as a table into a page: between its marks if it has them, else at its end.
pub(crate) fn write_markdown(file: &Path, figures: &[Figure]) -> io::Result<()> {
    let page = match std::fs::read_to_string(file) {
        Ok(page) => page,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    std::fs::write(file, marked(&page, &markdown(figures)))
}

fn marked(page: &str, table: &str) -> String {
    let (before, rest) = page.split_once(BEGIN).unwrap_or((page, ""));
    let after = rest.split_once(END).map_or("", |(_, after)| after);
    format!("{before}{BEGIN}{table}{END}{after}")
}

fn markdown(figures: &[Figure]) -> String {
    let mut text = "| id | figure | value | against | ratio | target | met |\n\
                    | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for figure in figures {
        let met = match figure.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        // A string takes everything.
        let _ = writeln!(
            text,
            "| `{}` | {} | {:.2} {unit} | {}: {:.2} {unit} | {:.2} | {} | {met} |",
            figure.id,
            figure.name,
            figure.value,
            figure.reference,
            figure.reference_value,
            figure.ratio,
            figure.target.as_deref().unwrap_or(""),
            unit = figure.unit,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::Measured;

    #[test]
    fn figures_replace_those_between_the_marks_and_nothing_else() {
        let page = format!("before\n{BEGIN}old\n{END}after\n");
        let written = marked(&page, "new\n");
        assert_eq!(written, format!("before\n{BEGIN}new\n{END}after\n"));
        assert_eq!(marked(&written, "new\n"), written);
        assert_eq!(
            marked("page\n", "new\n"),
            format!("page\n{BEGIN}new\n{END}")
        );
    }

    #[test]
    fn a_line_of_markdown_has_value_reference_and_verdict() {
        let measured = Measured {
            id: "a.b",
            suite: "a",
            name: "b",
            value: 3.0,
            unit: "us",
            samples: 1,
            median_of: 1,
        };
        let text = markdown(&[Figure::below(&measured, 2.0)]);
        let line = "| `a.b` | b | 3.00 us | limit: 2.00 us | 1.50 | below 2 us | **no** |";
        assert_eq!(text.lines().last(), Some(line));
    }
}
