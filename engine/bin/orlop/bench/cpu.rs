//! The processor time of this process: all of its threads, in user and in system mode.

use std::time::Duration;

use super::BenchError;

/// The processor time used since the process began.
///
/// # Source
/// POSIX `clock_gettime` with `CLOCK_PROCESS_CPUTIME_ID`: nanoseconds, where the counters of
/// `/proc/self/stat` have steps of 10 ms.
#[cfg(target_os = "linux")]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
pub(crate) fn time() -> Result<Duration, BenchError> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
    Ok(Duration::new(seconds, nanos))
}

/// The processor time used since the process began: not told here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn time() -> Result<Duration, BenchError> {
    Err(BenchError::NoClock)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_computes_uses_processor_time() {
        let before = time().unwrap();
        let spun = std::thread::spawn(|| {
            (0..10_000).fold([0; 32], |digest, _| *orlop::Digest::of(&digest).as_bytes())
        });
        assert_ne!(spun.join().unwrap(), [0; 32]);
        assert!(time().unwrap() > before);
    }
}
