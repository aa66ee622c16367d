//! Objects from chunks: any order, any source, lies and damage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod stores;

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use em_core::{
    Digest, Kind,
    cancel::Progress,
    gc::{Reclaimed, gc},
    pack::{
        assemble::Assembly,
        plan::{MIN_LIMIT_BYTES, PackPlan},
        reader::Pack,
    },
    store::{
        Store,
        objects::{Presence, relative_path},
    },
    verify::Verify,
};
use stores::{pieces, random, stored};

/// Files that share chunks, with a store that has them and an empty one.
struct Place {
    directory: tempfile::TempDir,
    files: Vec<Vec<u8>>,
    from: Store,
    to: Arc<Store>,
}

impl Place {
    fn new(files: Vec<Vec<u8>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let from = stored(&directory.path().join("from"), &files);
        let to = Arc::new(Store::open(&directory.path().join("to")).unwrap());
        Self { directory, files, from, to }
    }

    fn table(&self, digest: Digest) -> Option<Vec<u8>> {
        fs::read(self.from.root().join("chunks").join(relative_path(digest))).ok()
    }

    fn ask(&self, assembly: &Assembly, file: &[u8]) -> bool {
        let digest = Digest::of(file);
        assembly.add(digest, file.len() as u64, self.table(digest).as_deref()).unwrap()
    }

    /// The records of all chunks of all files, in packs of about 2 MiB.
    fn runs(&self) -> Vec<Vec<u8>> {
        let chunks = |file: &Vec<u8>| {
            let digest = Digest::of(file);
            (digest, pieces(&self.from, digest))
        };
        let plan =
            PackPlan::new(&self.from, &self.files.iter().map(chunks).collect::<Vec<_>>(), MIN_LIMIT_BYTES).unwrap();
        let build = |index| {
            let bytes = plan.build(&self.from, index).unwrap().bytes;
            let last = *Pack::open(&bytes).unwrap().index.entries.last().unwrap();
            bytes[12..(last.offset + last.record.length()) as usize].to_vec()
        };
        (0..plan.len()).map(build).collect()
    }

    fn assert_complete(&self) {
        for file in &self.files {
            let digest = Digest::of(file);
            assert_eq!(self.to.presence(digest, file.len() as u64).unwrap(), Presence::Sealed);
            assert!(fs::read(self.to.object_path(digest)).unwrap() == *file);
            let table = fs::read(self.to.root().join("chunks").join(relative_path(digest))).ok();
            assert_eq!(table, self.table(digest));
        }
        assert!(Verify { store: &self.to, progress: &Progress::default(), threads: 2 }.store().unwrap().is_clean());
    }

    /// Files below `objects/` and `chunks/` of the store being filled, and parts.
    fn left(&self) -> usize {
        let count = |name: &str| walk(&self.directory.path().join("to").join(name));
        count("objects") + count("chunks") + self.parts().len()
    }

    /// Objects of the store being filled that have some of their chunks.
    fn parts(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.to.root().join("parts")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// An assembly that is asked for all files.
    fn assembly(&self) -> Assembly {
        let assembly = Assembly::new(Arc::clone(&self.to)).unwrap();
        for file in &self.files {
            self.ask(&assembly, file);
        }
        assembly
    }
}

fn wanted(assembly: &Assembly) -> u64 {
    assembly.wanted().iter().map(|(_, bytes)| u64::from(*bytes)).sum()
}

fn walk(path: &Path) -> usize {
    fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| if entry.file_type().unwrap().is_dir() { walk(&entry.path()) } else { 1 })
        .sum()
}

fn files() -> Vec<Vec<u8>> {
    let noise = random(1, 5 << 20);
    let zeros = [random(2, 100_000), vec![0; 3 << 20], random(3, 100_000)].concat();
    vec![noise.clone(), [&noise[..2 << 20], b"other", &noise[2 << 20..]].concat(), b"small".to_vec(), vec![], zeros]
}

#[test]
fn runs_in_any_order_and_from_several_threads_give_the_objects() {
    let place = Place::new(files());
    let assembly = Assembly::new(Arc::clone(&place.to)).unwrap();
    let here: Vec<_> = place.files.iter().map(|file| place.ask(&assembly, file)).collect();
    assert_eq!(here, [false; 5]);
    let runs = place.runs();
    assert!(runs.len() > 2);
    std::thread::scope(|scope| {
        for run in runs.iter().rev().chain(&runs) {
            scope.spawn(|| assembly.take_records(run, 2).unwrap());
        }
    });
    let mut completed = assembly.completed();
    completed.sort_unstable();
    let mut expected: Vec<_> = place.files.iter().map(|file| Digest::of(file)).collect();
    expected.sort_unstable();
    assert_eq!(completed, expected);
    assert!(assembly.wanted().is_empty() && assembly.completed().is_empty());
    place.assert_complete();
    assert!(place.files.iter().all(|file| place.ask(&assembly, file)));
}

#[test]
fn zeros_become_holes() {
    let place = Place::new(files());
    let assembly = Assembly::new(Arc::clone(&place.to)).unwrap();
    place.ask(&assembly, &place.files[4]);
    place.runs().iter().for_each(|run| assembly.take_records(run, 1).unwrap());
    let metadata = fs::metadata(place.to.object_path(Digest::of(&place.files[4]))).unwrap();
    assert!(metadata.blocks() * 512 < 2 << 20, "{} blocks", metadata.blocks());
}

#[test]
fn chunks_are_taken_from_objects_that_the_store_has() {
    let place = Place::new(files());
    let assembly = Assembly::new(Arc::clone(&place.to)).unwrap();
    place.ask(&assembly, &place.files[0]);
    place.runs().iter().for_each(|run| assembly.take_records(run, 1).unwrap());
    place.ask(&assembly, &place.files[1]);
    let wanted: u64 = assembly.wanted().iter().map(|(_, bytes)| u64::from(*bytes)).sum();
    let taken = assembly.take_from(Digest::of(&place.files[0]), 1, &Progress::default()).unwrap();
    let rest: u64 = assembly.wanted().iter().map(|(_, bytes)| u64::from(*bytes)).sum();
    assert_eq!(taken + rest, wanted);
    assert!(taken > 9 * wanted / 10 && rest > 0, "{taken} of {wanted}");
    place.runs().iter().for_each(|run| assembly.take_records(run, 1).unwrap());
    assert!(place.to.usable(Digest::of(&place.files[1]), place.files[1].len() as u64).unwrap());
}

#[test]
fn a_flipped_bit_is_an_error_and_the_right_run_still_completes() {
    let place = Place::new(files());
    let assembly = Assembly::new(Arc::clone(&place.to)).unwrap();
    for file in &place.files {
        place.ask(&assembly, file);
    }
    for run in place.runs() {
        for at in (40..run.len()).step_by(run.len() / 7) {
            let mut flipped = run.clone();
            flipped[at] ^= 4;
            if let Err(error) = assembly.take_records(&flipped, 1) {
                assert_eq!(error.kind, Kind::Integrity);
            }
        }
        assert_eq!(assembly.take_records(&run[..run.len() - 1], 1).expect_err("cut").kind, Kind::Integrity);
        assembly.take_records(&run, 1).unwrap();
    }
    place.assert_complete();
}

#[test]
fn a_table_of_other_chunks_never_becomes_an_object() {
    let place = Place::new(files());
    let assembly = Assembly::new(Arc::clone(&place.to)).unwrap();
    let (claimed, real) = (Digest::of(b"claimed"), Digest::of(&place.files[0]));
    let size = place.files[0].len() as u64;
    let before = place.left();
    assembly.add(claimed, size, place.table(real).as_deref()).unwrap();
    // Shares its chunks with the lie, and is completed all the same.
    place.ask(&assembly, &place.files[0]);
    let errors = place.runs().iter().filter_map(|run| assembly.take_records(run, 2).err()).collect::<Vec<_>>();
    assert_eq!(errors.iter().map(|error| error.kind).collect::<Vec<_>>(), [Kind::Integrity]);
    assert!(errors[0].message.contains(&claimed.to_string()), "{}", errors[0]);
    assert_eq!(assembly.completed(), [real]);
    drop(assembly);
    assert_eq!(place.left(), before + 2);
    assert_eq!(place.to.presence(claimed, size).unwrap(), Presence::Missing);
}

#[test]
fn impossible_objects_are_refused_at_once() {
    let place = Place::new(files());
    let assembly = Assembly::new(Arc::clone(&place.to)).unwrap();
    let digest = Digest::of(&place.files[0]);
    let size = place.files[0].len() as u64;
    let table = place.table(digest).unwrap();
    let add = |digest, size, table: Option<&[u8]>| assembly.add(digest, size, table).expect_err("refused").kind;
    assert_eq!(add(digest, size + 1, Some(&table)), Kind::Integrity);
    assert_eq!(add(digest, u64::MAX, Some(&table)), Kind::Integrity);
    assert_eq!(add(digest, size, None), Kind::Integrity);
    assert_eq!(add(digest, 0, None), Kind::Integrity);
    assert_eq!(add(digest, size, Some(&table[..100])), Kind::Integrity);
    // A chunk of one byte in the first table, of another length in the next.
    assembly.add(Digest::of(b"x"), 1, None).unwrap();
    assert_eq!(add(Digest::of(b"x"), 2, None), Kind::Integrity);
    assert_eq!(assembly.wanted(), [(Digest::of(b"x"), 1)]);
}

#[test]
fn an_assembly_goes_on_with_what_those_before_have_got() {
    let zeros = files().pop().unwrap();
    let (place, at_once) = (Place::new(files()[..4].to_vec()), Place::new(files()[..4].to_vec()));
    let all = at_once.assembly();
    for run in place.runs() {
        let assembly = place.assembly();
        let before = wanted(&assembly);
        assert_eq!(before - assembly.take_left(2, &Progress::default()).unwrap(), wanted(&all));
        assert_eq!(wanted(&assembly), wanted(&all));
        assert_eq!(assembly.take_left(2, &Progress::default()).unwrap(), 0, "each is looked for once");
        assembly.take_records(&run, 2).unwrap();
        all.take_records(&run, 2).unwrap();
    }
    place.assert_complete();
    assert!(place.parts().is_empty());
    // Of zeros nothing was written: they are wanted again.
    let place = Place::new(vec![zeros]);
    let runs = place.runs();
    drop(begun(&place));
    let assembly = place.assembly();
    assembly.take_left(1, &Progress::default()).unwrap();
    runs.iter().for_each(|run| assembly.take_records(run, 1).unwrap());
    place.assert_complete();
}

#[test]
fn what_of_a_part_is_not_as_it_was_is_wanted_again() {
    let place = Place::new(files()[4..].to_vec());
    let file = &place.files[0];
    let runs = place.runs();
    for damaged in [
        [&vec![7; file.len()][..], b"longer"].concat(),
        [&file[..50_000], &[1; 1000], &file[51_000..]].concat(),
        file[..120_000].to_vec(),
        [&file[..200_000], &random(9, 1 << 20), &file[200_000 + (1 << 20)..]].concat(),
        Vec::new(),
    ] {
        drop(begun(&place));
        fs::write(place.parts().pop().unwrap(), damaged).unwrap();
        let assembly = place.assembly();
        assembly.take_left(1, &Progress::default()).unwrap();
        runs.iter().for_each(|run| assembly.take_records(run, 1).unwrap());
        place.assert_complete();
        fs::remove_file(place.to.object_path(Digest::of(file))).unwrap();
    }
}

#[test]
fn taking_what_is_there_can_be_cancelled_and_loses_nothing() {
    let place = Place::new(vec![random(1, 9 << 20), random(2, 3 << 20)]);
    let cancelled = Progress::default();
    cancelled.cancel();
    let kind = |taken: em_core::Result<u64>| taken.unwrap_err().kind;
    drop(begun(&place));
    let first = place.assembly();
    let before = wanted(&first);
    assert_eq!(kind(first.take_left(1, &cancelled)), Kind::Cancelled);
    assert_eq!(wanted(&first), before);
    drop(first);
    let second = place.assembly();
    assert!(second.take_left(1, &Progress::default()).unwrap() > 0);
    place.runs().iter().for_each(|run| second.take_records(run, 1).unwrap());
    place.assert_complete();
    fs::remove_file(place.to.object_path(Digest::of(&place.files[0]))).unwrap();
    let (third, from) = (place.assembly(), Digest::of(&place.files[1]));
    let before = wanted(&third);
    assert_eq!(kind(third.take_from(from, 1, &cancelled)), Kind::Cancelled);
    assert_eq!(wanted(&third), before);
}

/// An assembly that has the first chunk of each of the files that have a table.
fn begun(place: &Place) -> Assembly {
    let assembly = place.assembly();
    for file in &place.files {
        let (_, chunk, bytes) = pieces(&place.from, Digest::of(file))[0];
        let mut writer = em_core::pack::writer::PackWriter::new(Vec::new());
        writer.push(chunk, None, &file[..bytes as usize]).unwrap();
        let pack = writer.finish().unwrap();
        let entry = Pack::open(&pack).unwrap().index.entries[0];
        assembly.take_records(&pack[12..(entry.offset + entry.record.length()) as usize], 1).unwrap();
    }
    assembly
}

#[test]
fn a_part_belongs_to_one_assembly_as_long_as_that_lives() {
    let place = Place::new(vec![random(1, 3 << 20)]);
    let (first, second) = (begun(&place), place.assembly());
    assert_eq!((second.take_left(1, &Progress::default()).unwrap(), place.parts().len()), (0, 1));
    drop(first);
    let (third, fourth) = (place.assembly(), place.assembly());
    assert!(third.take_left(1, &Progress::default()).unwrap() > 0);
    assert_eq!((fourth.take_left(1, &Progress::default()).unwrap(), place.parts().len()), (0, 1));
    for assembly in [fourth, third, second] {
        place.runs().iter().for_each(|run| assembly.take_records(run, 1).unwrap());
    }
    place.assert_complete();
    assert!(place.parts().is_empty());
}

#[test]
fn parts_that_nobody_goes_on_with_are_garbage() {
    let place = Place::new(vec![random(1, 3 << 20)]);
    let assembly = begun(&place);
    let collect = |grace, dry_run| gc(&place.to, Duration::from_secs(grace), dry_run, &Progress::default()).unwrap();
    assert_eq!(collect(0, true), Reclaimed::default());
    assert_eq!(collect(0, false), Reclaimed::default(), "its assembly lives");
    drop(assembly);
    let bytes = fs::metadata(&place.parts()[0]).unwrap().blocks() * 512;
    assert!((16 << 10..1 << 20).contains(&bytes), "{bytes}");
    let mut found = Reclaimed { unreachable_objects: 1, unreachable_bytes: bytes, ..Reclaimed::default() };
    found.reclaimable_bytes = bytes;
    assert_eq!(collect(0, true), found);
    assert_eq!(collect(3600, false), found);
    assert_eq!(place.parts().len(), 1, "somebody may go on with it");
    assert!(Verify { store: &place.to, progress: &Progress::default(), threads: 2 }.store().unwrap().is_clean());
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(collect(0, false), Reclaimed { deleted_objects: 1, freed_bytes: bytes, ..found });
    assert!(place.parts().is_empty());
}

#[test]
fn an_object_of_one_chunk_that_is_dropped_incomplete_leaves_no_file() {
    let place = Place::new(vec![b"small".to_vec(), random(1, 300_000)]);
    let before = place.left();
    let assembly = place.assembly();
    assert_eq!(place.left(), before + 1, "a table");
    drop(assembly);
    assert_eq!(place.left(), before);
}

#[test]
fn a_damaged_object_gives_no_chunk_that_is_wrong() {
    let place = Place::new(files());
    let object = Digest::of(&place.files[0]);
    let path = place.from.object_path(object);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"damage", 3 << 20).unwrap();
    let from = Arc::new(Store::open(place.from.root()).unwrap());
    let assembly = Assembly::new(Arc::clone(&from)).unwrap();
    let (other, size) = (Digest::of(&place.files[1]), place.files[1].len() as u64);
    let table = place.table(other);
    fs::remove_file(from.object_path(other)).unwrap();
    assert!(!assembly.add(other, size, table.as_deref()).unwrap());
    let taken = assembly.take_from(object, 1, &Progress::default()).unwrap();
    let rest: u64 = assembly.wanted().iter().map(|(_, bytes)| u64::from(*bytes)).sum();
    assert!(taken > 0 && rest > 0 && taken + rest <= size);
    assert!(assembly.completed().is_empty());
}

#[test]
fn chunks_of_large_objects_are_wanted_in_windows() {
    let place = Place::new(files());
    let assembly = Assembly::with_window(Arc::clone(&place.to), 3).unwrap();
    for file in &place.files {
        let digest = Digest::of(file);
        let table = place.table(digest);
        for part in table.iter().flat_map(|table| table.chunks(100)) {
            assembly.push_table(digest, part).unwrap();
        }
        assert!(!assembly.add(digest, file.len() as u64, None).unwrap());
    }
    let runs = place.runs();
    let mut windows = 0;
    while assembly.want_more().unwrap() {
        assert!(assembly.wanted().len() <= 3 + 2, "a window and what a block of it is longer");
        assert!(assembly.want_more().unwrap(), "none comes before the others are there");
        for run in &runs {
            assembly.take_records(run, 1).unwrap();
        }
        windows += 1;
    }
    assert!(windows > 10, "{windows}");
    drop(assembly);
    place.assert_complete();
}

#[test]
fn what_is_pushed_and_is_no_table_is_refused_and_leaves_nothing() {
    let place = Place::new(files());
    let (digest, size) = (Digest::of(&place.files[0]), place.files[0].len() as u64);
    let table = place.table(digest).unwrap();
    let mut flipped = table.clone();
    flipped[100] ^= 1;
    let longer = [&table[..], b"x"].concat();
    let mut huge = table.clone();
    huge[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    for wrong in [&table[..20], &table[..table.len() - 36], &flipped[..], &longer[..], &huge[..], &table[..0]] {
        let assembly = Assembly::new(Arc::clone(&place.to)).unwrap();
        assembly.push_table(digest, wrong).unwrap();
        assert_eq!(assembly.add(digest, size, None).expect_err("refused").kind, Kind::Integrity);
        assert!(!assembly.want_more().unwrap());
    }
    assert_eq!(place.left(), 0);
}
