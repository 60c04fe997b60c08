//! The memory of this process that is resident.

use super::BenchError;

/// Resident bytes, to the page.
///
/// # Source
/// Linux `proc_pid_status(5)`: `VmRSS`, in KiB.
pub(crate) fn bytes() -> Result<u64, BenchError> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|_| BenchError::NoMemory)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes
        .map(|kibibytes| kibibytes << 10)
        .ok_or(BenchError::NoMemory)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_becomes_resident() {
        let before = bytes().unwrap();
        let written = vec![1_u8; 64 << 20];
        assert!(bytes().unwrap() >= before + (48 << 20));
        drop(written);
    }
}
