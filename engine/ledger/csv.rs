//! The ledger as comma-separated values. The columns are a promise to whoever bills by them.

use std::io::{self, Write};

use super::LedgerLine;

/// The columns, in their order.
const COLUMNS: [&str; 9] = [
    "tenant_slot",
    "tenant_generation",
    "tenant_label",
    "organisation",
    "engagement",
    "spent_ns",
    "undone_ns",
    "total_ns",
    "outcomes",
];

pub(super) fn write(lines: &[LedgerLine], into: impl Write) -> io::Result<()> {
    let mut writer = ::csv::WriterBuilder::new()
        .terminator(::csv::Terminator::CRLF)
        .from_writer(into);
    writer.write_record(COLUMNS)?;
    for line in lines {
        writer.write_record([
            line.tenant.slot().to_string(),
            line.tenant.generation().to_string(),
            line.label.clone().unwrap_or_default(),
            line.audit.organisation.to_string(),
            line.audit.engagement.to_string(),
            line.spent.get().to_string(),
            line.undone.get().to_string(),
            line.total().get().to_string(),
            line.outcomes.to_string(),
        ])?;
    }
    writer.flush()
}

#[cfg(test)]
mod tests {
    use orlop_saga::amount::BusyNanos;
    use orlop_saga::id::TenantId;
    use orlop_saga::tenant::AuditTag;

    use super::*;

    #[test]
    fn the_columns_are_pinned_and_a_label_with_commas_and_quotes_is_read_back() {
        let label = "acme, \"north\"";
        let line = LedgerLine {
            tenant: TenantId::new(4, 2),
            label: Some(label.to_owned()),
            audit: AuditTag {
                organisation: 7,
                engagement: u64::MAX,
            },
            spent: BusyNanos::new(30),
            undone: BusyNanos::new(12),
            outcomes: 3,
        };
        let mut bytes = Vec::new();
        write(&[line], &mut bytes).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let header = "tenant_slot,tenant_generation,tenant_label,organisation,engagement,\
                      spent_ns,undone_ns,total_ns,outcomes\r\n";
        assert!(text.starts_with(header), "{text}");
        let mut reader = ::csv::Reader::from_reader(&bytes[..]);
        let rows: Vec<::csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        let [row] = &rows[..] else {
            panic!("{rows:?}");
        };
        let cells: Vec<&str> = row.iter().collect();
        let max = u64::MAX.to_string();
        assert_eq!(cells, ["4", "2", label, "7", &max, "30", "12", "42", "3"]);
    }
}
