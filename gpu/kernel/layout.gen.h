// Written by the test in header.rs from the constants of the Rust side; not by hand.
#pragma once

namespace orlop {
namespace layout {

constexpr unsigned long long MAGIC = 0x757067706f6c726fULL;
constexpr unsigned int VERSION = 1U;
constexpr unsigned int PAGE_BYTES = 4096U;
constexpr unsigned int SLOT_BYTES = 128U;
constexpr unsigned int SLOT_WORDS = 16U;
constexpr unsigned int ENTRY_SLOTS_MAX = 8U;
constexpr unsigned int ENTRY_WORDS_MAX = 128U;
constexpr unsigned int WINDOWS_MAX = 17U;
constexpr unsigned int WINDOW_WORDS = 6U;
constexpr unsigned int ARGS_MAX = 119U;
constexpr unsigned int ARGS_FIRST = 7U;
constexpr unsigned int INLINE_BYTES = 32U;
constexpr unsigned int PARTIAL_BYTES_MAX = 64U;
constexpr unsigned int CONTROL_SLOTS = 64U;
constexpr unsigned int WORKER_SLOTS = 2U;
constexpr unsigned int WORKER_HEARTBEAT = 0U;
constexpr unsigned int BLAKE3_TILE_BYTES = 131072U;
constexpr unsigned int CRC32C_TILE_BYTES = 262144U;
constexpr unsigned int OPCODE_PAD = 0U;
constexpr unsigned int OPCODE_NOOP = 1U;
constexpr unsigned int OPCODE_BLAKE3 = 2U;
constexpr unsigned int OPCODE_CRC32C = 3U;
constexpr unsigned int OPCODE_USER_FIRST = 1073741824U;
constexpr unsigned int HEADER_MAGIC = 0U;
constexpr unsigned int HEADER_VERSION = 1U;
constexpr unsigned int HEADER_ENTRY_SLOTS = 2U;
constexpr unsigned int HEADER_CONTROL_SLOTS = 3U;
constexpr unsigned int HEADER_TICKETS = 4U;
constexpr unsigned int HEADER_RESULT_BYTES = 5U;
constexpr unsigned int HEADER_WORKERS = 6U;
constexpr unsigned int HEADER_ARENA_BYTES = 7U;
constexpr unsigned int HEADER_DOORBELL = 0U;
constexpr unsigned int HEADER_GENERATION = 1U;
constexpr unsigned int ENTRY_OPCODE = 0U;
constexpr unsigned int ENTRY_SHAPE = 1U;
constexpr unsigned int ENTRY_TENANT_SLOT = 2U;
constexpr unsigned int ENTRY_TENANT_GENERATION = 3U;
constexpr unsigned int ENTRY_TICKET_LOW = 4U;
constexpr unsigned int ENTRY_TICKET_HIGH = 5U;
constexpr unsigned int ENTRY_ATTEMPT = 6U;
constexpr unsigned int ENTRY_TILES = 7U;
constexpr unsigned int ENTRY_DEADLINE_US = 8U;
constexpr unsigned int ENTRY_ARGS = 9U;
constexpr unsigned int WINDOW_SLOT = 0U;
constexpr unsigned int WINDOW_GENERATION = 1U;
constexpr unsigned int WINDOW_OFFSET_LOW = 2U;
constexpr unsigned int WINDOW_OFFSET_HIGH = 3U;
constexpr unsigned int WINDOW_LENGTH_LOW = 4U;
constexpr unsigned int WINDOW_LENGTH_HIGH = 5U;
constexpr unsigned int COMPLETION_TICKET_LOW = 0U;
constexpr unsigned int COMPLETION_TICKET_HIGH = 1U;
constexpr unsigned int COMPLETION_STATUS = 2U;
constexpr unsigned int COMPLETION_ATTEMPT = 3U;
constexpr unsigned int COMPLETION_COST_LOW = 4U;
constexpr unsigned int COMPLETION_COST_HIGH = 5U;
constexpr unsigned int COMPLETION_LENGTH_LOW = 6U;
constexpr unsigned int COMPLETION_LENGTH_HIGH = 7U;
constexpr unsigned int COMPLETION_INLINE = 8U;
constexpr unsigned int CONTROL_COMMAND = 0U;
constexpr unsigned int CONTROL_ORDER_LOW = 1U;
constexpr unsigned int CONTROL_ORDER_HIGH = 2U;
constexpr unsigned int CONTROL_BODY = 3U;
constexpr unsigned int COMMAND_MAP = 1U;
constexpr unsigned int COMMAND_UNMAP = 2U;
constexpr unsigned int COMMAND_SET_TENANT = 3U;
constexpr unsigned int COMMAND_CLEAR_TENANT = 4U;
constexpr unsigned int COMMAND_CANCEL = 5U;
constexpr unsigned int COMMAND_DRAIN = 6U;
constexpr unsigned int COMMAND_STOP = 7U;
constexpr unsigned int REPLY_DONE = 1U;
constexpr unsigned int REPLY_STALE = 2U;
constexpr unsigned int REPLY_UNKNOWN = 3U;
constexpr unsigned int REPLY_MALFORMED = 4U;
constexpr unsigned int STATUS_DONE = 1U;
constexpr unsigned int STATUS_FAILED = 2U;
constexpr unsigned int STATUS_CANCELLED = 3U;
constexpr unsigned int STATUS_EXPIRED = 4U;
constexpr unsigned int STATUS_REFUSED = 5U;
constexpr unsigned int STATUS_FAULTED = 6U;
constexpr unsigned int REFUSED_MALFORMED = 1U;
constexpr unsigned int REFUSED_UNKNOWN_OPCODE = 2U;
constexpr unsigned int REFUSED_STALE_TENANT = 3U;
constexpr unsigned int REFUSED_STALE_WINDOW = 4U;
constexpr unsigned int REFUSED_WINDOW_BOUNDS = 5U;
constexpr unsigned int REFUSED_FOREIGN_WINDOW = 6U;
constexpr unsigned int REFUSED_TOO_MANY_TILES = 7U;
constexpr unsigned int ERROR_MISSING_WINDOW = 4294901762U;
constexpr unsigned int ERROR_RESULT_TOO_LONG = 4294901764U;
constexpr unsigned int ERROR_BAD_PARTIAL = 4294901765U;

} // namespace layout
} // namespace orlop
