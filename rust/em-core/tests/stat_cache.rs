//! The stat cache: when it answers, and that nothing on disk can make it answer wrongly or fail.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use em_core::{
    Digest,
    scan::Stat,
    stat_cache::{MAX_ROWS, SLACK_NS, Sketch, StatCache, now_ns},
};
use tempfile::TempDir;

const SECOND: i64 = 1_000_000_000;
const WRITTEN: i64 = 1_700_000_000 * SECOND;

fn stat(ino: u64) -> Stat {
    Stat { dev: 7, ino, size: 100, mtime_ns: WRITTEN, ctime_ns: WRITTEN, sparse: false }
}

fn digest(ino: u64) -> Digest {
    Digest::of(&ino.to_le_bytes())
}

fn shards(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for kind in ["files", "hints"] {
        if let Ok(entries) = fs::read_dir(dir.join(kind)) {
            found.extend(entries.map(|entry| entry.unwrap().path()));
        }
    }
    found
}

/// A directory with one flushed row, and the path of its shard.
fn small() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let cache = StatCache::open(dir.path());
    cache.record(&stat(1), digest(1));
    cache.flush();
    let found = shards(dir.path());
    assert_eq!(found.len(), 1);
    (dir, found[0].clone())
}

/// Inode numbers whose rows fall into one shard.
fn one_shard(count: usize) -> Vec<u64> {
    let shard = |ino: u64| {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&7u64.to_le_bytes());
        key[8..].copy_from_slice(&ino.to_le_bytes());
        xxhash_rust::xxh3::xxh3_64(&key) % 256
    };
    (1..).filter(|&ino| shard(ino) == 0).take(count).collect()
}

#[test]
fn test_lookup_unchanged_file_is_known_in_another_value() {
    let (dir, _) = small();
    let cache = StatCache::open(dir.path());
    assert_eq!(cache.lookup(&stat(1)), Some(digest(1)));
    assert_eq!(cache.lookup(&stat(2)), None);
    assert_eq!(cache.lookup(&Stat { dev: 8, ..stat(1) }), None);
}

#[test]
fn test_lookup_changed_file_is_unknown() {
    let (dir, _) = small();
    let cache = StatCache::open(dir.path());
    assert_eq!(cache.lookup(&Stat { mtime_ns: WRITTEN + 1, ..stat(1) }), None);
    assert_eq!(cache.lookup(&Stat { ctime_ns: WRITTEN + 1, ..stat(1) }), None);
    assert_eq!(cache.lookup(&Stat { size: 101, ..stat(1) }), None);
}

#[test]
fn test_file_whose_newest_time_is_not_older_than_the_slack_is_racy() {
    let written = i128::from(WRITTEN);
    for (began, racy) in [
        (written - 1, true),
        (written, true),
        (written + SLACK_NS, true),
        (written + SLACK_NS + 1, false),
        (i128::MIN, true),
        (i128::MAX, false),
    ] {
        assert_eq!(StatCache::is_racy(&stat(1), began), racy, "{began}");
    }
    // The newer of both times counts.
    let touched = Stat { ctime_ns: WRITTEN + 10 * SECOND, ..stat(6) };
    assert!(StatCache::is_racy(&touched, written + 11 * i128::from(SECOND)));
}

#[test]
fn test_file_written_just_now_is_racy() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("f"), "bytes").unwrap();
    let found = em_core::scan::stat_file(&dir.path().join("f")).unwrap();
    assert!(StatCache::is_racy(&found.stat, now_ns()));
}

#[test]
fn test_shard_with_any_byte_flipped_or_cut_is_empty() {
    let (dir, shard) = small();
    let good = fs::read(&shard).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&shard, &bad).unwrap();
        assert_eq!(StatCache::open(dir.path()).lookup(&stat(1)), None, "byte {at}");
        fs::write(&shard, &good[..at]).unwrap();
        assert_eq!(StatCache::open(dir.path()).lookup(&stat(1)), None, "cut at {at}");
    }
    fs::write(&shard, &good).unwrap();
    assert_eq!(StatCache::open(dir.path()).lookup(&stat(1)), Some(digest(1)));
}

#[test]
fn test_shard_of_another_version_is_empty_and_replaced() {
    let (dir, shard) = small();
    for version in [0u8, 1, 3] {
        let mut other = fs::read(&shard).unwrap();
        other[8] = version;
        let end = other.len() - 8;
        let sum = xxhash_rust::xxh3::xxh3_64(&other[..end]);
        other[end..].copy_from_slice(&sum.to_le_bytes());
        fs::write(&shard, &other).unwrap();
        let cache = StatCache::open(dir.path());
        assert_eq!(cache.lookup(&stat(1)), None);
        cache.record(&stat(1), digest(1));
        cache.flush();
        assert_eq!(StatCache::open(dir.path()).lookup(&stat(1)), Some(digest(1)));
    }
}

#[test]
fn test_oversized_shard_is_empty() {
    let (dir, shard) = small();
    fs::File::options().write(true).open(&shard).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(StatCache::open(dir.path()).lookup(&stat(1)), None);
}

#[test]
fn test_two_caches_on_one_directory_keep_both_rows() {
    let dir = TempDir::new().unwrap();
    let inodes = one_shard(3);
    let (a, b) = (StatCache::open(dir.path()), StatCache::open(dir.path()));
    a.record(&stat(inodes[0]), digest(0));
    assert_eq!(b.lookup(&stat(inodes[1])), None);
    b.record(&stat(inodes[1]), digest(1));
    a.flush();
    b.flush();
    assert_eq!(shards(dir.path()).len(), 1);
    let cache = StatCache::open(dir.path());
    assert_eq!(cache.lookup(&stat(inodes[0])), Some(digest(0)));
    assert_eq!(cache.lookup(&stat(inodes[1])), Some(digest(1)));
    // What `b` merged, it answers itself.
    assert_eq!(b.lookup(&stat(inodes[0])), Some(digest(0)));
}

#[test]
fn test_threads_and_flushes_at_once_never_leave_a_damaged_shard() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (StatCache::open(dir.path()), StatCache::open(dir.path()));
    std::thread::scope(|scope| {
        for (cache, first) in [(&a, 0), (&a, 100), (&b, 200), (&b, 300)] {
            scope.spawn(move || {
                for ino in first..first + 100 {
                    cache.record(&stat(ino), digest(ino));
                    if ino % 25 == 24 {
                        cache.flush();
                    }
                }
            });
        }
    });
    a.flush();
    b.flush();
    let cache = StatCache::open(dir.path());
    for ino in 0..400 {
        // A row may be lost to the other flush, but never be wrong.
        let answer = cache.lookup(&stat(ino));
        assert!(answer.is_none() || answer == Some(digest(ino)), "{ino}: {answer:?}");
    }
    let temporary = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(".tmp");
    assert!(!shards(dir.path()).iter().any(temporary));
}

#[test]
fn test_flush_unchanged_writes_nothing() {
    let (dir, shard) = small();
    let cache = StatCache::open(dir.path());
    cache.lookup(&stat(1));
    fs::remove_file(&shard).unwrap();
    cache.flush();
    assert!(!shard.exists());
}

#[test]
fn test_flush_keeps_at_most_the_bounded_rows_and_the_new_ones() {
    let dir = TempDir::new().unwrap();
    let inodes = one_shard(MAX_ROWS + 50);
    let (old, new) = inodes.split_at(MAX_ROWS);
    for part in [old, new] {
        let cache = StatCache::open(dir.path());
        for &ino in part {
            cache.record(&stat(ino), digest(ino));
        }
        cache.flush();
    }
    let bytes = fs::metadata(&shards(dir.path())[0]).unwrap().len();
    assert_eq!(bytes, 16 + 80 * MAX_ROWS as u64 + 8);
    let cache = StatCache::open(dir.path());
    let kept = |inodes: &[u64]| inodes.iter().filter(|&&ino| cache.lookup(&stat(ino)).is_some()).count();
    assert_eq!((kept(old), kept(new)), (MAX_ROWS - 50, 50));
}

#[test]
fn test_flush_drops_the_rows_unused_for_longest() {
    let dir = TempDir::new().unwrap();
    let inodes = one_shard(MAX_ROWS + 1);
    let cache = StatCache::open(dir.path());
    inodes[..MAX_ROWS].iter().for_each(|&ino| cache.record(&stat(ino), digest(ino)));
    cache.flush();
    // Make one row a year older: its day is the last field of the row.
    let shard = &shards(dir.path())[0];
    let mut bytes = fs::read(shard).unwrap();
    let row = 16 + 80 * 4000;
    let old = u64::from_le_bytes(bytes[row + 8..row + 16].try_into().unwrap());
    let day = u32::from_le_bytes(bytes[row + 76..row + 80].try_into().unwrap()) - 365;
    bytes[row + 76..row + 80].copy_from_slice(&day.to_le_bytes());
    let end = bytes.len() - 8;
    let sum = xxhash_rust::xxh3::xxh3_64(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum.to_le_bytes());
    fs::write(shard, &bytes).unwrap();

    let cache = StatCache::open(dir.path());
    cache.record(&stat(inodes[MAX_ROWS]), digest(0));
    cache.flush();
    let cache = StatCache::open(dir.path());
    for &ino in &inodes {
        assert_eq!(cache.lookup(&stat(ino)).is_none(), ino == old);
    }
}

/// The sketch of bytes in memory, and the places that were read.
fn sketch(bytes: &[u8]) -> (Sketch, Vec<std::ops::Range<usize>>) {
    let mut places = Vec::new();
    let sketch = Sketch::of(bytes.len() as u64, |buffer, offset| {
        let place = offset as usize..(offset as usize + buffer.len()).min(bytes.len());
        buffer[..place.len()].copy_from_slice(&bytes[place.clone()]);
        places.push(place.clone());
        Ok(place.len())
    });
    (sketch.unwrap(), places)
}

#[test]
fn test_sketch_sees_both_ends_and_a_page_in_each_mib() {
    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;
    for (size, inner) in [(0, 0), (1, 0), (MIB - 1, 0), (MIB, 1), (MIB + 1, 1), (5 * MIB, 5), (70 * MIB + 7, 64)] {
        let mut bytes = vec![0; size];
        let (before, places) = sketch(&bytes);
        assert_eq!(sketch(&bytes).0, before);
        assert_eq!(places.len(), 2 + inner, "{size}");
        assert_eq!(places[0], 0..size.min(64 * KIB));
        assert_eq!(places[1], size.saturating_sub(64 * KIB)..size);
        let starts = places[2..].iter().map(|place| place.start);
        assert!(starts.clone().all(|start| start.is_multiple_of(4096)));
        assert!(places[2..].iter().all(|place| place.len() == 4096));
        let gaps: Vec<_> = [0].into_iter().chain(starts).chain([size]).collect();
        assert!(gaps.windows(2).all(|pair| pair[1] - pair[0] <= MIB.max(size / 65 + 8192)), "{size}: {gaps:?}");
        for place in places.into_iter().filter(|place| !place.is_empty()) {
            for at in [place.start, place.end - 1] {
                bytes[at] ^= 1;
                assert_ne!(sketch(&bytes).0, before, "{size}: byte {at}");
                bytes[at] ^= 1;
            }
        }
        bytes.push(0);
        assert_ne!(sketch(&bytes).0, before, "the size counts");
    }
    // Files that shrank meanwhile, and of sizes that no disk has.
    assert!(Sketch::of(u64::MAX, |_, _| Ok(0)).is_ok());
    assert!(Sketch::of(5, |_, _| Err(std::io::ErrorKind::Other.into())).is_err());
}

#[test]
fn test_hint_is_given_until_it_would_have_been_wrong() {
    let dir = TempDir::new().unwrap();
    let [alike, other] = [b"a", b"b"].map(|bytes| sketch(bytes).0);
    for again in [false, true] {
        let cache = StatCache::open(dir.path());
        assert_eq!(cache.hint(&alike), again.then_some(digest(1)));
        cache.record_hint(&alike, digest(1));
        assert_eq!(cache.hint(&alike), Some(digest(1)));
        cache.flush();
    }
    let cache = StatCache::open(dir.path());
    assert_eq!(cache.hint(&other), None);
    for number in [2, 2, 1] {
        cache.record_hint(&alike, digest(number));
        assert_eq!(cache.hint(&alike), None, "files of two contents look like this");
    }
    cache.flush();
    assert_eq!(StatCache::open(dir.path()).hint(&alike), None);
}

#[test]
fn test_unusable_directory_behaves_as_empty() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for place in [dir.path().join("file"), PathBuf::from("/dev/null/x"), PathBuf::from("/proc/nothing")] {
        let cache = StatCache::open(&place);
        assert_eq!(cache.lookup(&stat(1)), None);
        cache.record(&stat(1), digest(1));
        cache.flush();
        assert_eq!(cache.lookup(&stat(1)), Some(digest(1)));
    }
}

#[test]
fn test_flush_removes_temporary_files_that_a_crash_left() {
    let (dir, shard) = small();
    let [old, young] = [".tmp-00-1-1", ".tmp-00-1-2"].map(|name| shard.with_file_name(name));
    fs::write(&young, "").unwrap();
    let hours_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 3600);
    fs::File::create(&old).unwrap().set_modified(hours_ago).unwrap();
    let cache = StatCache::open(dir.path());
    cache.record(&stat(2), digest(2));
    cache.flush();
    assert!(!old.exists() && young.exists() && shard.exists());
}

/// A directory with a shard of `tests/fixtures`.
fn fixture(table: &str, shard: &str, name: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join(table)).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    fs::copy(fixtures.join(name), dir.path().join(table).join(shard)).unwrap();
    dir
}

#[test]
fn test_fixture_is_read_and_one_of_an_older_version_is_empty() {
    let shard = format!("{:02x}", em_core::stat_cache::shard_of(&stat(1)));
    let dir = fixture("files", &shard, "stat-cache-v2.bin");
    assert_eq!(StatCache::open(dir.path()).lookup(&stat(1)), Some(digest(1)));
    let dir = fixture("files", &shard, "stat-cache-v1.bin");
    let cache = StatCache::open(dir.path());
    assert_eq!(cache.lookup(&stat(1)), None);
    cache.record(&stat(1), digest(2));
    cache.flush();
    assert_eq!(StatCache::open(dir.path()).lookup(&stat(1)), Some(digest(2)));
}

#[test]
fn test_fixture_of_hints_is_read() {
    let dir = fixture("hints", "eb", "stat-cache-hints-v2.bin");
    let content = |step: usize| (0..251).map(|index| (index * step % 251) as u8).collect::<Vec<_>>().repeat(12_534);
    let cache = StatCache::open(dir.path());
    assert_eq!(cache.hint(&sketch(&content(1)).0), Some(Digest::of(&content(1))));
    assert_eq!(cache.hint(&sketch(&content(212)).0), None, "files of several contents look like this");
    assert_eq!(cache.hint(&sketch(&content(2)).0), None);
}
