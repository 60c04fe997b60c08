//! A folder as its pages that are not zero: small enough to be committed.
//!
//! Layout: magic `orlopfix`, then entries: kind u8, name behind its length (u16), and for kind 0 (a
//! folder) nothing, for kind 1 (a file) its length u64, pages u32, and each page as index u32,
//! length u16 and its bytes without the zeros at its end; for kind 2 (something outside) its remote
//! key (32).

use std::fs;
use std::path::Path;

const MAGIC: &[u8; 8] = b"orlopfix";
const PAGE: usize = 4096;

struct File {
    name: String,
    length: u64,
    pages: Vec<(u32, Vec<u8>)>,
}

/// A folder, and what the outside had.
#[derive(Default)]
pub(crate) struct Pages {
    folders: Vec<String>,
    files: Vec<File>,
    pub(crate) outside: Vec<([u8; 32], String)>,
}

impl Pages {
    /// Reads a folder.
    pub(crate) fn read(folder: &Path) -> Self {
        let mut pages = Self::default();
        pages.walk(folder, "");
        pages
    }

    fn walk(&mut self, folder: &Path, prefix: &str) {
        let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                self.walk(&entry.path(), &format!("{name}/"));
                self.folders.push(name);
            } else {
                self.files
                    .push(File::of(name, &fs::read(entry.path()).unwrap()));
            }
        }
    }

    /// Adds the first page of a longer frame whose other pages never arrived.
    pub(crate) fn tear_tail(&mut self) {
        let of_log = |file: &&mut File| {
            let name = Path::new(&file.name);
            name.starts_with("log") && name.extension().is_some_and(|end| end == "log")
        };
        let file = self.files.iter_mut().rfind(of_log).unwrap();
        let last = file.pages.last().unwrap().0;
        assert!(
            u64::from(last + 2) * PAGE as u64 <= file.length,
            "no page is left"
        );
        let mut page = b"OFRM\x01\0\x01\0".to_vec();
        page.extend_from_slice(&9_000_u32.to_le_bytes());
        page.extend_from_slice(&1_u32.to_le_bytes());
        page.resize(PAGE, 0xa5);
        file.pages.push((last + 1, page));
    }

    /// Makes the folder again.
    pub(crate) fn lay_out(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for name in &self.folders {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        for file in &self.files {
            let mut bytes = vec![0; usize::try_from(file.length).unwrap()];
            for (index, page) in &file.pages {
                let at = *index as usize * PAGE;
                bytes[at..at + page.len()].copy_from_slice(page);
            }
            fs::write(folder.join(&file.name), bytes).unwrap();
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let head = |out: &mut Vec<u8>, kind: u8, name: &str| {
            out.push(kind);
            out.extend_from_slice(&u16::try_from(name.len()).unwrap().to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        };
        for name in &self.folders {
            head(&mut out, 0, name);
        }
        for file in &self.files {
            head(&mut out, 1, &file.name);
            out.extend_from_slice(&file.length.to_le_bytes());
            out.extend_from_slice(&u32::try_from(file.pages.len()).unwrap().to_le_bytes());
            for (index, page) in &file.pages {
                out.extend_from_slice(&index.to_le_bytes());
                out.extend_from_slice(&u16::try_from(page.len()).unwrap().to_le_bytes());
                out.extend_from_slice(page);
            }
        }
        for (key, name) in &self.outside {
            head(&mut out, 2, name);
            out.extend_from_slice(key);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let mut rest = bytes.strip_prefix(MAGIC).unwrap();
        let mut pages = Self::default();
        while !rest.is_empty() {
            let kind = number::<1>(&mut rest);
            let length = number::<2>(&mut rest);
            let name = String::from_utf8(take(&mut rest, length).to_vec()).unwrap();
            match kind {
                0 => pages.folders.push(name),
                1 => {
                    let mut file = File {
                        name,
                        length: number::<8>(&mut rest),
                        pages: Vec::new(),
                    };
                    for _ in 0..number::<4>(&mut rest) {
                        let index = u32::try_from(number::<4>(&mut rest)).unwrap();
                        let length = number::<2>(&mut rest);
                        file.pages.push((index, take(&mut rest, length).to_vec()));
                    }
                    pages.files.push(file);
                }
                2 => {
                    let key = take(&mut rest, 32).try_into().unwrap();
                    pages.outside.push((key, name));
                }
                _ => panic!("an entry of kind {kind}"),
            }
        }
        pages
    }
}

impl File {
    fn of(name: String, bytes: &[u8]) -> Self {
        let page = |(index, page): (usize, &[u8])| {
            let end = page.iter().rposition(|byte| *byte != 0)? + 1;
            Some((u32::try_from(index).unwrap(), page[..end].to_vec()))
        };
        Self {
            name,
            length: bytes.len() as u64,
            pages: bytes.chunks(PAGE).enumerate().filter_map(page).collect(),
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], bytes: u64) -> &'a [u8] {
    let (taken, left) = rest.split_at(usize::try_from(bytes).unwrap());
    *rest = left;
    taken
}

fn number<const N: usize>(rest: &mut &[u8]) -> u64 {
    let mut raw = [0; 8];
    raw[..N].copy_from_slice(take(rest, N as u64));
    u64::from_le_bytes(raw)
}
