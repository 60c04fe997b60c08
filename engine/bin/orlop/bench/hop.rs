//! A hop between two threads: park and unpark, there and back. The limit of a round trip.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use super::BenchError;
use super::sample::Times;

const IDLE: u32 = 0;
const ASKED: u32 = 1;
const OVER: u32 = 2;

/// Times hops there and back.
pub(crate) fn times(duration: Duration) -> Result<Times, BenchError> {
    let word = Arc::new(AtomicU32::new(IDLE));
    let here = thread::current();
    let shared = Arc::clone(&word);
    let peer = thread::Builder::new().spawn(move || {
        loop {
            match shared.load(Ordering::Acquire) {
                OVER => return,
                ASKED => {
                    shared.store(IDLE, Ordering::Release);
                    here.unpark();
                }
                _ => thread::park(),
            }
        }
    });
    let peer = peer.map_err(BenchError::Thread)?;
    let times = Times::of(duration, || {
        word.store(ASKED, Ordering::Release);
        peer.thread().unpark();
        while word.load(Ordering::Acquire) != IDLE {
            thread::park();
        }
        Ok(())
    });
    word.store(OVER, Ordering::Release);
    peer.thread().unpark();
    // It has nothing to say.
    let _ = peer.join();
    times
}
