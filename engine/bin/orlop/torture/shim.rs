//! The shim: the system calls that change files, on their way from this program to the system.
//!
//! Symbols that a program defines itself take precedence over those of the C library, also for the
//! standard library and for sled, which are linked into it. So every change that any of them makes
//! passes [`tape::gate`], which records it or has it fail. Calls that are not made through these
//! symbols pass unseen: rustix asks the system directly, which the journal's `fallocate` does; the
//! zeros that are written after it do pass here.
//!
//! This is the one place outside `gpu` where code is `unsafe`: taking over a function of the C
//! library is nothing else. Nothing but the meaning of arguments is decided here.

#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_long, c_uint};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::tape::{self, Call, Place};

/// Gives a path its meaning.
///
/// # Safety
/// `path` must point to a string that ends with a zero and outlives the call.
unsafe fn place<'a>(folder: c_int, path: *const c_char) -> Place<'a> {
    // SAFETY: the caller vouches for it.
    let path = unsafe { CStr::from_ptr(path) };
    Place {
        folder: (folder != libc::AT_FDCWD).then_some(folder),
        path: Path::new(OsStr::from_bytes(path.to_bytes())),
    }
}

/// Passes the gate, and tells a failure as the C library does.
fn pass(call: &Call<'_>, system: &mut dyn FnMut(Option<usize>) -> c_long) -> c_long {
    match tape::gate(call, &mut |limit| system(limit)) {
        Ok(answer) => answer,
        Err(error) => {
            // SAFETY: the C library gives every thread a place for its last error.
            let place = unsafe { libc::__errno_location() };
            // SAFETY: it is valid for as long as the thread.
            unsafe { *place = error };
            -1
        }
    }
}

fn int(answer: c_long) -> c_int {
    c_int::try_from(answer).unwrap_or(-1)
}

/// # Safety
/// As the C library's `openat`. The mode is read also where the caller gave none, as the C library
/// does itself: the variable argument of a C function is in the place of a fixed one on every
/// Linux that Rust supports.
unsafe fn open_in(folder: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let mut system = |_| {
        // SAFETY: the arguments are the caller's.
        unsafe { libc::syscall(libc::SYS_openat, folder, path, flags, mode) }
    };
    if !tape::is_on() {
        return int(system(None));
    }
    // SAFETY: the caller's path is one.
    let place = unsafe { place(folder, path) };
    let call = Call::Open {
        place,
        creates: flags & libc::O_CREAT != 0,
        truncates: flags & libc::O_TRUNC != 0,
        appends: flags & libc::O_APPEND != 0,
    };
    int(pass(&call, &mut system))
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { open_in(libc::AT_FDCWD, path, flags, mode) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { open_in(libc::AT_FDCWD, path, flags, mode) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn openat(
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    mode: c_uint,
) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { open_in(folder, path, flags, mode) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn openat64(
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    mode: c_uint,
) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { open_in(folder, path, flags, mode) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn close(file: c_int) -> c_int {
    let mut system = |_| {
        // SAFETY: the arguments are the caller's.
        unsafe { libc::syscall(libc::SYS_close, file) }
    };
    if !tape::is_on() {
        return int(system(None));
    }
    int(pass(&Call::Close { file }, &mut system))
}

/// Writes at an offset, or where the file stands.
///
/// # Safety
/// `data` must be valid for `count` bytes.
unsafe fn write_to(file: c_int, data: *const u8, count: usize, offset: Option<i64>) -> isize {
    let mut system = |limit: Option<usize>| {
        let count = limit.map_or(count, |limit| limit.min(count));
        match offset {
            // SAFETY: the caller vouches for the bytes.
            Some(at) => unsafe { libc::syscall(libc::SYS_pwrite64, file, data, count, at) },
            // SAFETY: as above.
            None => unsafe { libc::syscall(libc::SYS_write, file, data, count) },
        }
    };
    let answer = if tape::is_on() {
        let at = offset.unwrap_or_else(|| {
            // SAFETY: only asks where the file stands.
            unsafe { libc::syscall(libc::SYS_lseek, file, 0_i64, libc::SEEK_CUR) }
        });
        let data = if count == 0 {
            &[]
        } else {
            // SAFETY: the caller vouches for it, for as long as the call takes.
            unsafe { std::slice::from_raw_parts(data, count) }
        };
        let offset = u64::try_from(at).unwrap_or_default();
        pass(&Call::Write { file, offset, data }, &mut system)
    } else {
        system(None)
    };
    isize::try_from(answer).unwrap_or(-1)
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn write(file: c_int, data: *const u8, count: usize) -> isize {
    // SAFETY: the arguments are the caller's.
    unsafe { write_to(file, data, count, None) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite(file: c_int, data: *const u8, count: usize, offset: i64) -> isize {
    // SAFETY: the arguments are the caller's.
    unsafe { write_to(file, data, count, Some(offset)) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(file: c_int, data: *const u8, count: usize, offset: i64) -> isize {
    // SAFETY: the arguments are the caller's.
    unsafe { write_to(file, data, count, Some(offset)) }
}

/// Writes the first part that is not empty: to write less than was asked for is allowed.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn writev(file: c_int, parts: *const libc::iovec, count: c_int) -> isize {
    if !tape::is_on() {
        // SAFETY: the arguments are the caller's.
        let answer = unsafe { libc::syscall(libc::SYS_writev, file, parts, count) };
        return isize::try_from(answer).unwrap_or(-1);
    }
    let parts = if count <= 0 {
        &[]
    } else {
        // SAFETY: the caller vouches for `count` parts.
        unsafe { std::slice::from_raw_parts(parts, count.unsigned_abs() as usize) }
    };
    match parts.iter().find(|part| part.iov_len > 0) {
        // SAFETY: the caller vouches for each part.
        Some(part) => unsafe { write_to(file, part.iov_base.cast(), part.iov_len, None) },
        None => 0,
    }
}

fn on_file(call: &Call<'_>, system: &mut dyn FnMut(Option<usize>) -> c_long) -> c_int {
    if tape::is_on() {
        int(pass(call, system))
    } else {
        int(system(None))
    }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(file: c_int) -> c_int {
    // SAFETY: the argument is the caller's.
    let mut system = |_| unsafe { libc::syscall(libc::SYS_fsync, file) };
    on_file(&Call::Sync { file }, &mut system)
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(file: c_int) -> c_int {
    // SAFETY: the argument is the caller's.
    let mut system = |_| unsafe { libc::syscall(libc::SYS_fdatasync, file) };
    on_file(&Call::Sync { file }, &mut system)
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn sync_file_range(file: c_int, from: i64, bytes: i64, flags: c_uint) -> c_int {
    let mut system = |_| {
        // SAFETY: the arguments are the caller's.
        unsafe { libc::syscall(libc::SYS_sync_file_range, file, from, bytes, flags) }
    };
    on_file(&Call::SyncRange { file }, &mut system)
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate(file: c_int, length: i64) -> c_int {
    // SAFETY: the arguments are the caller's.
    let mut system = |_| unsafe { libc::syscall(libc::SYS_ftruncate, file, length) };
    let bytes = u64::try_from(length).unwrap_or_default();
    on_file(&Call::SetLength { file, bytes }, &mut system)
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate64(file: c_int, length: i64) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { ftruncate(file, length) }
}

/// # Safety
/// As the C library's `renameat2`.
unsafe fn rename_in(
    (from_folder, from): (c_int, *const c_char),
    (to_folder, to): (c_int, *const c_char),
    flags: c_uint,
) -> c_int {
    let call = libc::SYS_renameat2;
    let mut system = |_| {
        // SAFETY: the arguments are the caller's.
        unsafe { libc::syscall(call, from_folder, from, to_folder, to, flags) }
    };
    if !tape::is_on() {
        return int(system(None));
    }
    // SAFETY: the caller's path is one.
    let from = unsafe { place(from_folder, from) };
    // SAFETY: as above.
    let to = unsafe { place(to_folder, to) };
    int(pass(&Call::Rename { from, to }, &mut system))
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { rename_in((libc::AT_FDCWD, from), (libc::AT_FDCWD, to), 0) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn renameat(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { rename_in((from_folder, from), (to_folder, to), 0) }
}

/// # Safety
/// As the C library's `unlinkat`.
unsafe fn unlink_in(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    let mut system = |_| {
        // SAFETY: the arguments are the caller's.
        unsafe { libc::syscall(libc::SYS_unlinkat, folder, path, flags) }
    };
    if !tape::is_on() {
        return int(system(None));
    }
    // SAFETY: the caller's path is one.
    let place = unsafe { place(folder, path) };
    int(pass(&Call::Remove { place }, &mut system))
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { unlink_in(libc::AT_FDCWD, path, 0) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { unlink_in(libc::AT_FDCWD, path, libc::AT_REMOVEDIR) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn unlinkat(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { unlink_in(folder, path, flags) }
}

/// # Safety
/// As the C library's `mkdirat`.
unsafe fn make_in(folder: c_int, path: *const c_char, mode: c_uint) -> c_int {
    let mut system = |_| {
        // SAFETY: the arguments are the caller's.
        unsafe { libc::syscall(libc::SYS_mkdirat, folder, path, mode) }
    };
    if !tape::is_on() {
        return int(system(None));
    }
    // SAFETY: the caller's path is one.
    let place = unsafe { place(folder, path) };
    int(pass(&Call::MakeFolder { place }, &mut system))
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn mkdir(path: *const c_char, mode: c_uint) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { make_in(libc::AT_FDCWD, path, mode) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn mkdirat(folder: c_int, path: *const c_char, mode: c_uint) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { make_in(folder, path, mode) }
}

/// # Safety
/// As the C library's `linkat`.
unsafe fn link_in(
    (from_folder, from): (c_int, *const c_char),
    (to_folder, to): (c_int, *const c_char),
    flags: c_int,
) -> c_int {
    let call = libc::SYS_linkat;
    let mut system = |_| {
        // SAFETY: the arguments are the caller's.
        unsafe { libc::syscall(call, from_folder, from, to_folder, to, flags) }
    };
    if !tape::is_on() {
        return int(system(None));
    }
    // SAFETY: the caller's path is one.
    let from = unsafe { place(from_folder, from) };
    // SAFETY: as above.
    let to = unsafe { place(to_folder, to) };
    int(pass(&Call::Link { from, to }, &mut system))
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn link(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { link_in((libc::AT_FDCWD, from), (libc::AT_FDCWD, to), 0) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn linkat(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { link_in((from_folder, from), (to_folder, to), flags) }
}
