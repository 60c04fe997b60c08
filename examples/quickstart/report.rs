//! The table that a person reads.

use std::fmt::Display;

use comfy_table::{CellAlignment, Table};
use orlop::Origin;

use crate::acks::Ack;
use crate::parent::Story;
use crate::plan::{Plan, TENANTS};

/// What happened, in figures.
pub(crate) fn table(plan: &Plan, story: &Story) -> Table {
    let mut rows = Rows(Vec::new());
    let (files, omitted) = (plan.files, plan.omitted());
    rows.add(
        "files",
        match omitted {
            0 => files.to_string(),
            _ => format!("{files} ({omitted} entries skipped)"),
        },
    );
    rows.add("segments", plan.segments.len());
    rows.add("bytes", plan.bytes);
    rows.add("tenants", TENANTS.join(", "));
    rows.add("effects run", count(story, Origin::Ran));
    rows.add("effects joined", count(story, Origin::Joined));
    rows.add("effects replayed", count(story, Origin::Replayed));
    rows.add("sagas completed", sagas(&story.second, true));
    rows.add("sagas compensated", sagas(&story.second, false));
    rows.add(
        "killed at",
        match story.killed_at {
            None => "never, there was nothing to upload".to_owned(),
            Some((ended, held)) => format!(
                "{ended} sagas ended, {held} uploads on the wire, after {:.2} s",
                story.first_took.as_secs_f64()
            ),
        },
    );
    for ack in &story.second {
        if let Ack::Opened {
            micros,
            sagas,
            effects,
            records,
        } = ack
        {
            let micros = u32::try_from(*micros).unwrap_or(u32::MAX);
            rows.add(
                "time to recover",
                format!(
                    "{:.1} ms from process start to open",
                    f64::from(micros) / 1e3
                ),
            );
            rows.add(
                "recovered",
                format!("{sagas} sagas and {effects} effects go on, {records} records replayed"),
            );
        }
    }
    let took = story.first_took + story.second_took;
    let kib = u32::try_from(plan.bytes >> 10).unwrap_or(u32::MAX);
    let rate = f64::from(kib) * 1024.0 / 1e6 / took.as_secs_f64().max(1e-9);
    rows.add(
        "MB/s",
        format!("{rate:.1} (all of it, in {:.2} s)", took.as_secs_f64()),
    );
    rows.table()
}

struct Rows(Vec<[String; 2]>);

impl Rows {
    fn add(&mut self, what: &str, value: impl Display) {
        self.0.push([what.to_owned(), format!("{value}")]);
    }

    fn table(self) -> Table {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY);
        table.add_rows(self.0);
        if let Some(column) = table.column_mut(0) {
            column.set_cell_alignment(CellAlignment::Left);
        }
        table
    }
}

fn count(story: &Story, wanted: Origin) -> usize {
    let all = story.first.iter().chain(&story.second);
    let counted = all.filter(|ack| match ack {
        Ack::Effect { origin, .. } => *origin == wanted,
        Ack::Opened { .. } | Ack::Completed { .. } | Ack::Compensated { .. } | Ack::Closed => false,
    });
    counted.count()
}

fn sagas(acks: &[Ack], completed: bool) -> usize {
    let ended = acks.iter().filter(|ack| ack.ends_a_saga());
    ended
        .filter(|ack| matches!(ack, Ack::Completed { .. }) == completed)
        .count()
}
