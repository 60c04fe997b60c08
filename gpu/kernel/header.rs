//! Header: the numbers that both languages need, written out for the other one.
//!
//! `layout.gen.h` is committed; a number that drifts fails the test, and
//! `ORLOP_WRITE_HEADER=1` has the test write it anew.

use std::fmt::Write;
use std::path::Path;

use orlop_saga::id::TenantId;

use crate::control::{Order, Reply};
use crate::entry::Opcode;
use crate::layout::{
    ARGS_FIRST, ARGS_MAX, CONTROL_SLOTS, ENTRY_SLOTS_MAX, ENTRY_WORDS_MAX, INLINE_BYTES,
    LAYOUT_VERSION, MAGIC, PAGE_BYTES, RESULT_BYTES_MAX, SLOT_BYTES, SLOT_WORDS, WINDOW_WORDS,
    WINDOWS_MAX, completion_word, control_word, entry_word, header_word, window_word, worker_slot,
};
use crate::ops::aggregate::TILE_ROWS;
use crate::ops::topk::{QUERIES_PER_TILE, WORK_PER_SCORE, WORK_PER_TILE, query};
use crate::ops::{
    Blake3, Blake3Many, Crc32c, Crc32cPages, FilterAggregate, Noop, OpError, PARTIAL_BYTES_MAX,
    VectorTopk,
};
use crate::status::{RefusedWhy, Status};

fn command(order: Order) -> u64 {
    order.encode(0)[control_word::COMMAND].into()
}

fn reply(reply: Reply) -> u64 {
    reply.encode(0)[control_word::COMMAND].into()
}

fn status(status: Status) -> u64 {
    status.to_words().0.into()
}

fn refused(why: RefusedWhy) -> u64 {
    Status::Refused(why).to_words().1.into()
}

fn sizes() -> Vec<(&'static str, u64)> {
    vec![
        ("MAGIC", MAGIC),
        ("VERSION", LAYOUT_VERSION),
        ("PAGE_BYTES", PAGE_BYTES),
        ("SLOT_BYTES", SLOT_BYTES as u64),
        ("SLOT_WORDS", SLOT_WORDS as u64),
        ("ENTRY_SLOTS_MAX", ENTRY_SLOTS_MAX as u64),
        ("ENTRY_WORDS_MAX", ENTRY_WORDS_MAX as u64),
        ("WINDOWS_MAX", WINDOWS_MAX as u64),
        ("WINDOW_WORDS", WINDOW_WORDS as u64),
        ("ARGS_MAX", ARGS_MAX as u64),
        ("ARGS_FIRST", ARGS_FIRST as u64),
        ("INLINE_BYTES", INLINE_BYTES as u64),
        ("RESULT_BYTES_MAX", RESULT_BYTES_MAX.into()),
        ("PARTIAL_BYTES_MAX", PARTIAL_BYTES_MAX as u64),
        ("CONTROL_SLOTS", CONTROL_SLOTS.into()),
        ("WORKER_SLOTS", worker_slot::COUNT),
        ("WORKER_HEARTBEAT", worker_slot::HEARTBEAT),
        ("BLAKE3_TILE_BYTES", crate::ops::blake3::TILE_BYTES as u64),
        ("CRC32C_TILE_BYTES", crate::ops::crc32c::TILE_BYTES as u64),
        ("BLAKE3_SPAN_BYTES", crate::ops::blake3_many::TILE_BYTES),
        ("BLAKE3_ITEMS_MAX", Blake3Many::ITEMS_MAX as u64),
        ("BLAKE3_ITEM_BYTES_MAX", Blake3Many::ITEM_BYTES_MAX),
        ("CRC32C_PAGES_MAX", Crc32cPages::PAGES_MAX as u64),
        ("AGGREGATE_TILE_ROWS", TILE_ROWS as u64),
        ("TOPK_QUERIES_PER_TILE", QUERIES_PER_TILE as u64),
        ("TOPK_WORK_PER_TILE", WORK_PER_TILE as u64),
        ("TOPK_WORK_PER_SCORE", WORK_PER_SCORE as u64),
        ("TOPK_DIMENSIONS_MAX", query::DIMENSIONS_MAX.into()),
        ("TOPK_K_MAX", query::K_MAX.into()),
        ("OPCODE_PAD", Opcode::PAD.get().into()),
        ("OPCODE_NOOP", Noop::OPCODE.get().into()),
        ("OPCODE_BLAKE3", Blake3::OPCODE.get().into()),
        ("OPCODE_CRC32C", Crc32c::OPCODE.get().into()),
        ("OPCODE_BLAKE3_MANY", Blake3Many::OPCODE.get().into()),
        ("OPCODE_CRC32C_PAGES", Crc32cPages::OPCODE.get().into()),
        ("OPCODE_AGGREGATE", FilterAggregate::OPCODE.get().into()),
        ("OPCODE_TOPK", VectorTopk::OPCODE.get().into()),
        ("OPCODE_USER_FIRST", Opcode::USER_FIRST.get().into()),
    ]
}

fn words() -> Vec<(&'static str, usize)> {
    vec![
        ("HEADER_MAGIC", header_word::MAGIC),
        ("HEADER_VERSION", header_word::VERSION),
        ("HEADER_ENTRY_SLOTS", header_word::ENTRY_SLOTS),
        ("HEADER_CONTROL_SLOTS", header_word::CONTROL_SLOTS),
        ("HEADER_TICKETS", header_word::TICKETS),
        ("HEADER_RESULT_BYTES", header_word::RESULT_BYTES),
        ("HEADER_WORKERS", header_word::WORKERS),
        ("HEADER_ARENA_BYTES", header_word::ARENA_BYTES),
        ("HEADER_DOORBELL", header_word::DOORBELL),
        ("HEADER_GENERATION", header_word::GENERATION),
        ("ENTRY_OPCODE", entry_word::OPCODE),
        ("ENTRY_SHAPE", entry_word::SHAPE),
        ("ENTRY_TENANT_SLOT", entry_word::TENANT_SLOT),
        ("ENTRY_TENANT_GENERATION", entry_word::TENANT_GENERATION),
        ("ENTRY_TICKET_LOW", entry_word::TICKET_LOW),
        ("ENTRY_TICKET_HIGH", entry_word::TICKET_HIGH),
        ("ENTRY_ATTEMPT", entry_word::ATTEMPT),
        ("ENTRY_TILES", entry_word::TILES),
        ("ENTRY_DEADLINE_US", entry_word::DEADLINE_US),
        ("ENTRY_ARGS", entry_word::ARGS),
        ("WINDOW_SLOT", window_word::SLOT),
        ("WINDOW_GENERATION", window_word::GENERATION),
        ("WINDOW_OFFSET_LOW", window_word::OFFSET_LOW),
        ("WINDOW_OFFSET_HIGH", window_word::OFFSET_HIGH),
        ("WINDOW_LENGTH_LOW", window_word::LENGTH_LOW),
        ("WINDOW_LENGTH_HIGH", window_word::LENGTH_HIGH),
        ("COMPLETION_TICKET_LOW", completion_word::TICKET_LOW),
        ("COMPLETION_TICKET_HIGH", completion_word::TICKET_HIGH),
        ("COMPLETION_STATUS", completion_word::STATUS),
        ("COMPLETION_ATTEMPT", completion_word::ATTEMPT),
        ("COMPLETION_COST_LOW", completion_word::COST_LOW),
        ("COMPLETION_COST_HIGH", completion_word::COST_HIGH),
        ("COMPLETION_LENGTH_LOW", completion_word::LENGTH_LOW),
        ("COMPLETION_LENGTH_HIGH", completion_word::LENGTH_HIGH),
        ("COMPLETION_INLINE", completion_word::INLINE),
        ("CONTROL_COMMAND", control_word::COMMAND),
        ("CONTROL_ORDER_LOW", control_word::ORDER_LOW),
        ("CONTROL_ORDER_HIGH", control_word::ORDER_HIGH),
        ("CONTROL_BODY", control_word::BODY),
    ]
}

fn meanings() -> Vec<(&'static str, u64)> {
    let tenant = TenantId::new(0, 1);
    let map = Order::Map {
        slot: 0,
        generation: 0,
        offset: 0,
        length: 0,
        tenant,
    };
    let unmap = Order::Unmap {
        slot: 0,
        generation: 0,
    };
    vec![
        ("COMMAND_MAP", command(map)),
        ("COMMAND_UNMAP", command(unmap)),
        ("COMMAND_SET_TENANT", command(Order::SetTenant(tenant))),
        ("COMMAND_CLEAR_TENANT", command(Order::ClearTenant(tenant))),
        ("COMMAND_CANCEL", command(Order::Cancel { ticket: 0 })),
        ("COMMAND_DRAIN", command(Order::Drain)),
        ("COMMAND_STOP", command(Order::Stop)),
        ("REPLY_DONE", reply(Reply::Done)),
        ("REPLY_STALE", reply(Reply::Stale)),
        ("REPLY_UNKNOWN", reply(Reply::Unknown)),
        ("REPLY_MALFORMED", reply(Reply::Malformed)),
        ("STATUS_DONE", status(Status::Done)),
        ("STATUS_FAILED", status(Status::Failed { code: 0 })),
        ("STATUS_CANCELLED", status(Status::Cancelled)),
        ("STATUS_EXPIRED", status(Status::Expired)),
        (
            "STATUS_REFUSED",
            status(Status::Refused(RefusedWhy::Malformed)),
        ),
        ("STATUS_FAULTED", status(Status::Faulted)),
        ("REFUSED_MALFORMED", refused(RefusedWhy::Malformed)),
        ("REFUSED_UNKNOWN_OPCODE", refused(RefusedWhy::UnknownOpcode)),
        ("REFUSED_STALE_TENANT", refused(RefusedWhy::StaleTenant)),
        ("REFUSED_STALE_WINDOW", refused(RefusedWhy::StaleWindow)),
        ("REFUSED_WINDOW_BOUNDS", refused(RefusedWhy::WindowBounds)),
        ("REFUSED_FOREIGN_WINDOW", refused(RefusedWhy::ForeignWindow)),
        ("REFUSED_TOO_MANY_TILES", refused(RefusedWhy::TooManyTiles)),
    ]
}

fn errors() -> Vec<(&'static str, u64)> {
    let named = [
        ("ERROR_MISSING_ARGUMENT", OpError::MISSING_ARGUMENT),
        ("ERROR_MISSING_WINDOW", OpError::MISSING_WINDOW),
        ("ERROR_RESULT_TOO_LONG", OpError::RESULT_TOO_LONG),
        ("ERROR_BAD_PARTIAL", OpError::BAD_PARTIAL),
        ("ERROR_INPUT_TOO_LONG", OpError::INPUT_TOO_LONG),
        ("ERROR_BAD_ARGUMENT", OpError::BAD_ARGUMENT),
        ("ERROR_BAD_LENGTH", OpError::BAD_LENGTH),
        ("ERROR_MISALIGNED", OpError::MISALIGNED),
        ("ERROR_OVERFLOW", OpError::OVERFLOW),
        ("ERROR_BAD_CONTENT", OpError::BAD_CONTENT),
    ];
    named
        .map(|(name, error)| (name, error.code.into()))
        .to_vec()
}

fn generated() -> String {
    let mut text = String::from(
        "// Written by the test in header.rs from the constants of the Rust side; not by hand.\n\
         #pragma once\n\nnamespace orlop {\nnamespace layout {\n\n",
    );
    let words = words().into_iter().map(|(name, word)| (name, word as u64));
    let rows = sizes()
        .into_iter()
        .chain(words)
        .chain(meanings())
        .chain(errors());
    for (name, value) in rows {
        if value > u32::MAX.into() {
            writeln!(text, "constexpr unsigned long long {name} = {value:#x}ULL;").unwrap();
        } else {
            writeln!(text, "constexpr unsigned int {name} = {value}U;").unwrap();
        }
    }
    text.push_str("\n} // namespace layout\n} // namespace orlop\n");
    text
}

#[test]
fn the_kernel_is_compiled_against_the_numbers_of_this_side() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernel/layout.gen.h");
    let text = generated();
    if std::env::var_os("ORLOP_WRITE_HEADER").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(
        committed == text,
        "kernel/layout.gen.h is of other constants: ORLOP_WRITE_HEADER=1 writes it anew"
    );
}
