//! Reports: figures as a table for a person and as JSON for a program.

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
