//! The wire: how a child reaches the outside, which its parent keeps. A connection is one question
//! and at most one answer, each a line of JSON. What a child has sent reaches the outside also
//! when the child is dead by then.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::outside::{Answer, Outside, Request};

/// Asks the outside behind `socket`.
pub(crate) fn ask(socket: &Path, request: &Request) -> Answer {
    // Nothing was sent, so nothing happens.
    let Ok(mut stream) = UnixStream::connect(socket) else {
        return Answer::Busy;
    };
    exchange(&mut stream, request).unwrap_or(Answer::Silence)
}

fn exchange(stream: &mut UnixStream, request: &Request) -> io::Result<Answer> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

/// The outside, answering at a socket until it is dropped.
pub(crate) struct Server {
    socket: PathBuf,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(socket: &Path, outside: Arc<Outside>) -> io::Result<Self> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket)?;
        let ending = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ending);
        let serve = move || {
            for stream in listener.incoming() {
                if told.load(Ordering::Acquire) {
                    return;
                }
                // Whoever was cut off in the middle of a question has asked nothing.
                let _ = stream.and_then(|stream| answer(stream, &outside));
            }
        };
        let thread = std::thread::Builder::new().name("outside".to_owned());
        Ok(Self {
            socket: socket.to_owned(),
            ending,
            thread: Some(thread.spawn(serve)?),
        })
    }
}

fn answer(mut stream: UnixStream, outside: &Outside) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line)?;
    let answer = outside.ask(&request);
    if answer == Answer::Silence {
        return Ok(());
    }
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        // The connection wakes it; if there is none, nobody waits for another either.
        if UnixStream::connect(&self.socket).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}
