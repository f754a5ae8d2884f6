//! Two files that are overwritten in turn: one of them is whole at any moment. Overwriting costs a
//! third of what writing a new file does.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Image;
use super::header::{Header, damaged};
use super::reading::{Saved, read};
use crate::sampler::pool::PromptPool;

const NAMES: [&str; 2] = ["a.safetensors", "b.safetensors"];

/// A directory with the two newest snapshots. Only one process may write to it at a time.
#[derive(Debug)]
pub struct Slots {
    directory: PathBuf,
    /// The slot with the newest whole snapshot, which is not to be overwritten; looked for before
    /// the first write.
    newest: Option<usize>,
    /// Greatest number that a snapshot bears, a damaged one included.
    generation: u64,
    /// Pool whose ids each slot holds since it was written by this object, and where.
    held: [Option<(u128, u64)>; 2],
    searched: bool,
}

impl Slots {
    /// Opens a directory, which is made if missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory).map_err(|error| named(&directory, &error))?;
        Ok(Self { directory, newest: None, generation: 0, held: [None; 2], searched: false })
    }

    /// Writes a snapshot over the older one and returns its number.
    ///
    /// # Errors
    /// It could not be written, or not forced to the disk; the newer one is as it was.
    pub fn write(&mut self, image: &Image) -> io::Result<u64> {
        if !self.searched {
            // Both may be damaged: then neither is lost by being overwritten.
            self.read(None).or_else(|error| {
                if error.kind() == io::ErrorKind::InvalidData { Ok(None) } else { Err(error) }
            })?;
        }
        let slot = self.newest.map_or(0, |newest| 1 - newest);
        let held = self.held[slot].take();
        let path = self.directory.join(NAMES[slot]);
        let written = self.write_slot(&path, image, held).map_err(|error| named(&path, &error))?;
        self.held[slot] = Some(written);
        self.newest = Some(slot);
        self.generation += 1;
        Ok(self.generation)
    }

    fn write_slot(
        &self,
        path: &Path,
        image: &Image,
        held: Option<(u128, u64)>,
    ) -> io::Result<(u128, u64)> {
        let exists = path.exists();
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let written = image.write(&mut file, self.generation + 1, held)?;
        if !exists && cfg!(unix) {
            File::open(&self.directory)?.sync_all()?;
        }
        Ok(written)
    }

    /// Reads the newest whole snapshot; none if there never was one. Ids are read only if they are
    /// not those of `pool`.
    ///
    /// # Errors
    /// There are snapshots, but none is whole (`InvalidData`), or they cannot be read.
    pub fn read(&mut self, pool: Option<&PromptPool>) -> io::Result<Option<Saved>> {
        let mut problems = vec![];
        let mut numbered = vec![];
        for slot in [0, 1] {
            match self.in_slot(slot, |mut file| Header::generation(&mut file)) {
                Ok(None | Some(0)) => {}
                Ok(Some(generation)) => numbered.push((generation, slot)),
                Err(error) => problems.push(error),
            }
        }
        numbered.sort_unstable();
        self.generation =
            numbered.last().map_or(0, |&(generation, _)| generation).max(self.generation);
        (self.searched, self.newest) = (true, None);
        for (_, slot) in numbered.into_iter().rev() {
            match self.in_slot(slot, |file| read(file, pool)) {
                Ok(saved) => {
                    self.newest = Some(slot);
                    return Ok(saved);
                }
                Err(error) => problems.push(error),
            }
        }
        match problems.iter().position(|error| !is_damage(error)) {
            Some(position) => Err(problems.swap_remove(position)),
            None if problems.is_empty() => Ok(None),
            None => Err(damaged(
                problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            )),
        }
    }

    /// Does something with the file of a slot, if there is one.
    fn in_slot<T>(
        &self,
        slot: usize,
        work: impl FnOnce(File) -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        let path = self.directory.join(NAMES[slot]);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.and_then(work).map(Some).map_err(|error| named(&path, &error)),
        }
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
