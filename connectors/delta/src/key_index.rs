//! Where the row of a key is.
//!
//! ```text
//! new rows ──▶ run ─┐
//!              run ─┼─ eight of a size become one ──▶ run ──▶ …
//!              run ─┘
//! key ──▶ filter of each run, newest first ──▶ records of that key ──▶ the one that is live
//! ```
//!
//! A record says where a row was written. Whether that row is still there is not said here: the
//! file's deletion vector says it, so a commit changes no record. Records of rows that are gone
//! are left out when runs are merged.
//!
//! Memory: about 1.3 bytes a row (filter and first key of each block), plus some MiB for small
//! runs; disk: 32 bytes a row. It is a cache: dropped with the process, rebuilt from the table.

mod run;

use std::io;
use std::path::{Path, PathBuf};

use run::Run;

/// 128 bits of a keyed hash of the row's key columns.
///
/// The hash is SipHash under keys drawn for this index alone, so nobody can choose colliding
/// keys: among a billion rows two keys share a hash with probability 10⁻²¹, far below that of an
/// undetected memory error.
pub(crate) type KeyHash = u128;

/// Where a row was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: KeyHash,
    /// The row's version.
    pub(crate) version: i64,
    pub(crate) place: Place,
}

/// A row of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// The number of the file in this process.
    pub(crate) slot: u32,
    /// The row in the file, from 0.
    pub(crate) row: u32,
}

/// The live row of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) version: i64,
    pub(crate) place: Place,
    run: u64,
}

#[cfg(test)]
impl Hit {
    /// A hit of no run.
    pub(crate) fn for_test(version: i64, place: Place) -> Self {
        Self { version, place, run: u64::MAX }
    }
}

/// Whether a row is there.
pub(crate) type IsLive<'a> = &'a dyn Fn(Place) -> bool;

/// Runs of this many rows or more are not merged: a merge never takes longer than a batch.
const MERGE_ROWS_MAX: usize = 1 << 20;
/// Runs of one size that become one.
const FAN: usize = 8;
/// Runs below this many rows are of the same, smallest size.
const SMALL_ROWS: usize = 4096;
/// Sizes there are: `SMALL_ROWS · FAN^3` is already beyond `MERGE_ROWS_MAX`.
const SIZES: usize = 4;

/// The index of one table's rows, as far as they are in partitions of this worker.
#[derive(Debug)]
pub(crate) struct KeyIndex {
    folder: PathBuf,
    /// Oldest first.
    runs: Vec<Run>,
    next_id: u64,
}

impl KeyIndex {
    /// An empty index, with its files in `folder`.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), runs: Vec::new(), next_id: 0 })
    }

    /// The live row of each of `keys`.
    pub(crate) fn find(
        &self,
        keys: &[KeyHash],
        is_live: IsLive<'_>,
    ) -> io::Result<Vec<Option<Hit>>> {
        // In the order of the keys a run is read from front to back, each block once.
        let mut open: Vec<(KeyHash, usize)> =
            keys.iter().copied().enumerate().map(|(place, key)| (key, place)).collect();
        open.sort_unstable();
        let mut hits = vec![None; keys.len()];
        for run in self.runs.iter().rev() {
            let mut cursor = run.cursor();
            let mut still_open = Vec::with_capacity(open.len());
            for (key, place) in open {
                let mut hit = None;
                if run.may_hold(key) {
                    cursor.find(key, &mut |record| {
                        if hit.is_none() && is_live(record.place) {
                            let Record { version, place, .. } = *record;
                            hit = Some(Hit { version, place, run: run.id() });
                        }
                    })?;
                }
                match (hit, hits.get_mut(place)) {
                    (Some(hit), Some(slot)) => *slot = Some(hit),
                    _ => still_open.push((key, place)),
                }
            }
            open = still_open;
        }
        Ok(hits)
    }

    /// Adds rows that are live from now on.
    pub(crate) fn add(&mut self, mut records: Vec<Record>, is_live: IsLive<'_>) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        records.sort_unstable_by_key(|record| record.key);
        self.push(records)?;
        while let Some(ids) = self.due() {
            self.merge(&ids, is_live)?;
        }
        Ok(())
    }

    /// Says that the rows of `hits` are gone.
    pub(crate) fn superseded(&mut self, hits: impl Iterator<Item = Hit>) {
        let mut by_run = std::collections::HashMap::<u64, usize>::new();
        hits.for_each(|hit| *by_run.entry(hit.run).or_default() += 1);
        for run in &mut self.runs {
            run.lose(by_run.get(&run.id()).copied().unwrap_or(0));
        }
        self.runs.retain(|run| run.live() > 0);
    }

    /// Counts what is left, after rows have gone in other ways than by their key.
    pub(crate) fn recount(&mut self, is_live: IsLive<'_>) -> io::Result<()> {
        for run in &mut self.runs {
            let mut live = 0;
            run.for_each(&mut |record| live += usize::from(is_live(record.place)))?;
            run.set_live(live);
        }
        self.runs.retain(|run| run.live() > 0);
        Ok(())
    }

    fn push(&mut self, records: Vec<Record>) -> io::Result<()> {
        let run = Run::build(self.next_id, records, &self.folder)?;
        self.next_id += 1;
        self.runs.push(run);
        Ok(())
    }

    /// The runs that are due to become one.
    fn due(&self) -> Option<Vec<u64>> {
        let mut sizes = vec![Vec::new(); SIZES];
        for run in self.runs.iter().filter(|run| run.live() < MERGE_ROWS_MAX / 2) {
            if let Some(of_size) = sizes.get_mut(size(run.live())) {
                of_size.push(run.id());
            }
        }
        sizes.into_iter().find(|ids| ids.len() >= FAN)
    }

    fn merge(&mut self, ids: &[u64], is_live: IsLive<'_>) -> io::Result<()> {
        let mut records = Vec::new();
        for run in self.runs.iter().filter(|run| ids.contains(&run.id())) {
            run.for_each(&mut |record| {
                if is_live(record.place) {
                    records.push(*record);
                }
            })?;
        }
        // The stable sort is the one that makes use of sorted stretches.
        records.sort_by_key(|record| record.key);
        if !records.is_empty() {
            self.push(records)?;
        }
        self.runs.retain(|run| !ids.contains(&run.id()));
        Ok(())
    }
}

fn size(rows: usize) -> usize {
    let mut size = 0;
    let mut limit = SMALL_ROWS;
    while rows >= limit && size + 1 < SIZES {
        size += 1;
        limit *= FAN;
    }
    size
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::hash::{BuildHasher, RandomState};

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn hash(state: &RandomState, key: u64) -> KeyHash {
        KeyHash::from(state.hash_one(key)) << 64 | KeyHash::from(state.hash_one(!key))
    }

    /// Writes batches of random keys over each other, with files that vanish, against a map.
    fn exercise(seed: u64, batches: u32, rows: usize, keys: u64) -> KeyIndex {
        let folder = tempfile::tempdir().unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        let state = RandomState::new();
        let mut index = KeyIndex::new(folder.path()).unwrap();
        let mut model: HashMap<u64, (Place, i64)> = HashMap::new();
        for slot in 0..batches {
            let changed: HashSet<u64> = (0..rows).map(|_| rng.random_range(0..keys)).collect();
            let changed: Vec<u64> = changed.into_iter().collect();
            let hashes: Vec<KeyHash> = changed.iter().map(|key| hash(&state, *key)).collect();
            let live: HashSet<Place> = model.values().map(|(place, _)| *place).collect();
            let hits = index.find(&hashes, &|place| live.contains(&place)).unwrap();
            for (key, hit) in changed.iter().zip(&hits) {
                let expected = model.get(key).copied();
                assert_eq!(hit.map(|hit| (hit.place, hit.version)), expected, "seed {seed}");
            }
            let mut records = Vec::new();
            for (row, (key, hash)) in changed.iter().zip(&hashes).enumerate() {
                if rng.random_bool(0.1) {
                    model.remove(key);
                    continue;
                }
                let place = Place { slot, row: u32::try_from(row).unwrap() };
                model.insert(*key, (place, i64::from(slot)));
                records.push(Record { key: *hash, version: i64::from(slot), place });
            }
            let mut live: HashSet<Place> = model.values().map(|(place, _)| *place).collect();
            index.add(records, &|place| live.contains(&place)).unwrap();
            index.superseded(hits.into_iter().flatten());
            if rng.random_bool(0.02) {
                let gone = rng.random_range(0..=slot);
                model.retain(|_, (place, _)| place.slot != gone);
                live.retain(|place| place.slot != gone);
                index.recount(&|place| live.contains(&place)).unwrap();
            }
        }
        index
    }

    #[test]
    fn random_batches_against_a_map() {
        for seed in 0..20 {
            exercise(seed, 200, 40, 300);
        }
    }

    #[test]
    fn large_runs_on_disk_against_a_map() {
        let index = exercise(1, 40, 20_000, 200_000);
        assert!(index.runs.len() <= SIZES * FAN, "{} runs", index.runs.len());
        let rows: usize = index.runs.iter().map(Run::live).sum();
        assert!(rows <= 200_000, "rows that are gone are not counted: {rows}");
    }

    #[test]
    fn sizes_are_powers_of_the_fan() {
        let of = [0, SMALL_ROWS - 1, SMALL_ROWS, SMALL_ROWS * FAN, SMALL_ROWS * FAN * FAN];
        assert_eq!(of.map(size), [0, 0, 1, 2, 3]);
        assert_eq!(size(usize::MAX), SIZES - 1);
    }
}
