//! The plan: which segments there are, whose they are, and what was left out.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use orlop::Digest;
use orlop::tiered::SegmentName;
use walkdir::{DirEntry, WalkDir};

use crate::{Places, Problem, ROOM, local};

/// The longest segment.
const SEGMENT_BYTES_MAX: usize = 256 << 10;
/// How much is cut, so that this ends in a minute wherever it is pointed at.
const BYTES_MAX: u64 = 256 << 20;
const SEGMENTS_MAX: usize = 2048;
/// How many omissions are named one by one.
const NAMED_MAX: usize = 8;

/// Who the segments belong to.
pub(crate) const TENANTS: [&str; 3] = ["north", "south", "west"];

/// The epoch of ordinary segments.
const EPOCH: u64 = 1;
/// The remote takes no uploads of this epoch.
pub(crate) const REFUSED_EPOCH: u64 = 13;
/// The remote stores uploads of this epoch with a byte flipped.
pub(crate) const CORRUPTED_EPOCH: u64 = 14;

/// One segment.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// Whose: an index into [`TENANTS`].
    pub(crate) tenant: usize,
    pub(crate) name: SegmentName,
    pub(crate) epoch: u64,
    pub(crate) length: u64,
    /// By the `blake3` crate.
    pub(crate) digest: Digest,
    /// By the `crc32c` crate.
    pub(crate) checksum: u32,
}

impl Planned {
    /// Whether the remote lets its eviction succeed.
    pub(crate) fn can_be_evicted(&self) -> bool {
        self.epoch == EPOCH
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) segments: Vec<Planned>,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    omissions: Vec<String>,
    truncated: bool,
}

impl Plan {
    /// Cuts every file under `dir` into segments, as local copies.
    pub(crate) fn cut(dir: &Path, places: &Places) -> Result<Self, Problem> {
        let is_file = can_be_read(dir)?;
        let mut plan = Self::default();
        let own = std::fs::canonicalize(&places.root)?;
        let mut walk = WalkDir::new(dir).sort_by_file_name().into_iter();
        while let Some(entry) = walk.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if error.depth() == 0 => {
                    return Err(format!("{} cannot be read: {error}", shown(dir)).into());
                }
                Err(error) => {
                    plan.omit(format!("{error}"));
                    continue;
                }
            };
            if is_left_out(&entry, &own) {
                plan.omit(format!("{} is left out", shown(entry.path())));
                walk.skip_current_dir();
            } else if entry.file_type().is_symlink() && entry.depth() > 0 {
                plan.omit(format!("{} is a symbolic link", shown(entry.path())));
            } else {
                match std::fs::metadata(entry.path()) {
                    Ok(at) if at.is_file() => plan.cut_file(dir, entry.path(), places)?,
                    Ok(at) if at.is_dir() => {}
                    Ok(_) => plan.omit(format!("{} is no file", shown(entry.path()))),
                    Err(error) => {
                        plan.omit(format!("{} cannot be read: {error}", shown(entry.path())));
                    }
                }
            }
            if plan.truncated {
                break;
            }
        }
        // Of a folder, what cannot be read is left out; of a lone file there is nothing else.
        if is_file
            && plan.files == 0
            && let Some(omission) = plan.omissions.first()
        {
            return Err(omission.clone().into());
        }
        plan.set_aside();
        plan.write(&places.plan).map_err(|error| full(&error))?;
        Ok(plan)
    }

    fn omit(&mut self, omission: String) {
        self.omissions.push(omission);
    }

    fn cut_file(&mut self, dir: &Path, path: &Path, places: &Places) -> Result<(), Problem> {
        let opened = File::open(path).and_then(|file| {
            // What cannot be read at all is left out before anything is made of it.
            let mut reader = BufReader::with_capacity(SEGMENT_BYTES_MAX, file);
            reader.fill_buf()?;
            Ok(reader)
        });
        let mut reader = match opened {
            Ok(reader) => reader,
            Err(error) => {
                self.omit(format!("{} cannot be read: {error}", shown(path)));
                return Ok(());
            }
        };
        let tenant = usize::try_from(self.files % TENANTS.len() as u64)?;
        let relative = path.strip_prefix(dir).unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() {
            Path::new(path.file_name().unwrap_or_default())
        } else {
            relative
        };
        self.files += 1;
        for part in 0_u64.. {
            if self.segments.len() == SEGMENTS_MAX || self.bytes >= BYTES_MAX {
                self.truncated = true;
                return Ok(());
            }
            let mut content = Vec::with_capacity(SEGMENT_BYTES_MAX);
            let limited = &mut (&mut reader).take(SEGMENT_BYTES_MAX as u64);
            if let Err(error) = limited.read_to_end(&mut content) {
                self.omit(format!("{} from part {part} on: {error}", shown(path)));
                return Ok(());
            }
            // An empty file is one empty segment.
            if content.is_empty() && part > 0 {
                return Ok(());
            }
            let planned = Planned {
                tenant,
                name: segment_name(relative, part)?,
                epoch: EPOCH,
                length: content.len() as u64,
                digest: Digest::new(*blake3::hash(&content).as_bytes()),
                checksum: crc32c::crc32c(&content),
            };
            std::fs::write(local::file(&places.local, &planned.name), &content)
                .map_err(|error| full(&error))?;
            self.bytes += planned.length;
            self.segments.push(planned);
            if content.len() < SEGMENT_BYTES_MAX {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Chooses the segments whose evictions will be compensated: one that the remote refuses, and
    /// one that it spoils. The first to come are among them neither, if there are others.
    fn set_aside(&mut self) {
        let count = self.segments.len();
        if count >= 2
            && let Some(last) = self.segments.last_mut()
        {
            last.epoch = REFUSED_EPOCH;
        }
        if count >= 4
            && let Some(spoilt) = self
                .segments
                .iter_mut()
                .rfind(|segment| segment.length > 0 && segment.epoch == EPOCH)
        {
            spoilt.epoch = CORRUPTED_EPOCH;
        }
    }

    pub(crate) fn print_omissions(&self) {
        for omission in self.omissions.iter().take(NAMED_MAX) {
            println!("  skipped: {omission}");
        }
        if self.omissions.len() > NAMED_MAX {
            println!("  skipped: {} more", self.omissions.len() - NAMED_MAX);
        }
        if self.truncated {
            println!(
                "  truncated: only the first {} segments of {} MiB in all are used",
                self.segments.len(),
                self.bytes >> 20
            );
        }
        if self.segments.is_empty() {
            println!("  there are no files in it, so there is nothing to move");
        }
    }

    pub(crate) fn omitted(&self) -> usize {
        self.omissions.len()
    }

    /// Writes what the child needs: one line per segment.
    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = io::BufWriter::new(File::create(path)?);
        for segment in &self.segments {
            let Planned {
                tenant,
                name,
                epoch,
                length,
                digest,
                checksum,
            } = segment;
            let name = hex(name.as_bytes());
            writeln!(
                file,
                "{tenant} {epoch} {length} {checksum} {} {name}",
                hex(digest.as_bytes())
            )?;
        }
        file.flush()
    }

    /// Reads what [`write`](Self::write) wrote.
    pub(crate) fn read(path: &Path) -> Result<Vec<Planned>, Problem> {
        let lines = BufReader::new(File::open(path)?).lines();
        lines.map(|line| read_line(&line?)).collect()
    }
}

/// Whether what the user named is a file, and not a folder; an error unless it can be read.
fn can_be_read(dir: &Path) -> Result<bool, Problem> {
    let unreadable = |error: io::Error| format!("{} cannot be read: {error}", shown(dir));
    let at = std::fs::metadata(dir)
        .map_err(|error| format!("there is nothing to read at {}: {error}", shown(dir)))?;
    if at.is_dir() {
        // To list a folder and to look into it are two permissions.
        std::fs::read_dir(dir).map_err(unreadable)?;
        std::fs::metadata(dir.join(".")).map_err(unreadable)?;
    } else if at.is_file() {
        File::open(dir).map_err(unreadable)?;
    } else {
        return Err(format!("{} is neither a folder nor a file", shown(dir)).into());
    }
    Ok(at.is_file())
}

/// What a full disk means to the user.
fn full(error: &io::Error) -> Problem {
    format!("the segments cannot be written: {error}; if the disk is full, {ROOM}").into()
}

fn read_line(line: &str) -> Result<Planned, Problem> {
    let mut fields = line.split(' ');
    let mut next = || fields.next().ok_or("a line of the plan is cut off");
    let tenant = next()?.parse()?;
    let epoch = next()?.parse()?;
    let length = next()?.parse()?;
    let checksum = next()?.parse()?;
    let digest: [u8; 32] = unhex(next()?)?
        .try_into()
        .map_err(|_| "a digest of the plan is cut off")?;
    Ok(Planned {
        tenant,
        epoch,
        length,
        checksum,
        digest: Digest::new(digest),
        name: SegmentName::new(unhex(next()?)?)?,
    })
}

/// Folders that tools fill, and the folder that this program fills.
fn is_left_out(entry: &DirEntry, own: &Path) -> bool {
    let tools = [".git", "target"];
    entry.depth() > 0
        && entry.file_type().is_dir()
        && (tools.iter().any(|tool| entry.file_name() == *tool)
            || std::fs::canonicalize(entry.path()).is_ok_and(|path| path == own))
}

/// The path and the part, as any bytes; a long path is told apart by its digest.
fn segment_name(path: &Path, part: u64) -> Result<SegmentName, Problem> {
    let path = path.as_os_str().as_encoded_bytes();
    let part = format!("#{part}");
    let mut name = path.to_vec();
    if name.len() + part.len() > SegmentName::BYTES_MAX {
        name.truncate(512);
        name.extend_from_slice(Digest::of(path).to_string().as_bytes());
    }
    name.extend_from_slice(part.as_bytes());
    Ok(SegmentName::new(name)?)
}

/// A path on one line.
fn shown(path: &Path) -> String {
    path.as_os_str()
        .as_encoded_bytes()
        .escape_ascii()
        .to_string()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Result<Vec<u8>, Problem> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
    digits.map(byte).collect()
}
