//! Leases: what keeps `gc` away while an add is in flight; and who is in flight at all.
//!
//! A lease names its process. On the same machine the process table says whether that lives; of another host or
//! container only the lease's age tells, which the add renews. An add that was held up for longer than that finds
//! its lease gone after the commit, and looks after its objects once more.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};

use super::{Boot, Store, is_temp, list, temp_name, write_atomic_by};
use crate::{Error, Result};

/// A lease that was not renewed for this long counts no more, if its process cannot be asked for.
const STALE: Duration = Duration::from_secs(3600);

/// How often a lease is renewed.
const RENEWAL_S: u64 = 60;

/// Keeps `gc` from deleting what an add in flight has seen. Ends when dropped; after a crash it is known by its
/// process.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    taken: Instant,
    renewed_after_s: AtomicU64,
}

impl Lease {
    /// Must be taken before the store is asked for any object.
    pub fn take(store: &Store) -> Result<Self> {
        let path = store.root().join("leases").join(&temp_name()[5..]);
        write_atomic_by(&path, |temp| File::create_new(temp).and_then(|mut file| file.write_all(owner().as_bytes())))?;
        Ok(Self { path, taken: Instant::now(), renewed_after_s: AtomicU64::new(0) })
    }

    /// Says that the add goes on: to be called every few seconds at least.
    pub fn renew(&self) {
        let (last_s, now_s) = (self.renewed_after_s.load(Relaxed), self.taken.elapsed().as_secs());
        if now_s >= last_s + RENEWAL_S && self.renewed_after_s.swap(now_s, Relaxed) == last_s {
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW as _ };
            let times = Timestamps { last_access: now, last_modification: now };
            let _ = rustix::fs::utimensat(CWD, &self.path, &times, AtFlags::SYMLINK_NOFOLLOW);
        }
    }

    /// Of its file: 32 random hex digits.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether nobody took it for stale.
    pub fn is_held(&self) -> bool {
        self.path.exists()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether an add is in flight at the time `now` of the store's file system. Leases of processes that ended, and
/// stale ones, are removed.
pub(crate) fn any(store: &Store, now: SystemTime) -> Result<bool> {
    let mut any = false;
    for (path, is_held) in there(store, now)? {
        any |= is_held;
        if !is_held {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::io("remove", &path, error));
                }
                _ => {}
            }
        }
    }
    Ok(any)
}

/// The leases, and whether each is of an add that is in flight at the time `now`.
pub(crate) fn there(store: &Store, now: SystemTime) -> Result<Vec<(PathBuf, bool)>> {
    let mut leases = Vec::new();
    for path in list(&store.root().join("leases"))? {
        if is_temp(&path) {
            continue;
        }
        let text = match fs::read_to_string(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => continue,
            // Of one that cannot be read only its age tells.
            text => text.unwrap_or_default(),
        };
        let renewed = fs::metadata(&path).and_then(|metadata| metadata.modified()).unwrap_or(now);
        let is_held = is_in_flight(&text, now, renewed);
        leases.push((path, is_held));
    }
    Ok(leases)
}

/// Whether the lease of this name is no more, or its process is known to be gone. Of one on another host that cannot be
/// known before `gc` has taken it for stale.
pub(crate) fn has_ended(store: &Store, name: &str) -> bool {
    if name.len() != 32 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return false;
    }
    let path = store.root().join("leases").join(name);
    let written = fs::metadata(&path).and_then(|metadata| metadata.modified());
    match written.and_then(|written| fs::read_to_string(&path).map(|text| is_alive(&text, written))) {
        Ok(alive) => alive == Some(false),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// Who is adding: host, boot, process namespace, process and its start, so that a reused process id is not taken
/// for it.
pub(crate) fn owner() -> String {
    let pid = std::process::id();
    format!("{} {pid} {}", machine(), start_time(pid).unwrap_or_default())
}

/// Host, boot and process namespace: within them a process id means one process.
fn machine() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{host} {} {}", boot.trim(), namespace.display())
}

/// Field 22 of `/proc/PID/stat`, in clock ticks since boot. None for a process that ended, whether or not its
/// parent has noticed.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(fields.first(), Some(&("Z" | "X"))) {
        return None;
    }
    fields.get(19).map(|&field| field.to_owned())
}

/// Whether the process that wrote `text`, last at the time `written`, is to be taken for running.
pub(crate) fn is_in_flight(text: &str, now: SystemTime, written: SystemTime) -> bool {
    is_alive(text, written).unwrap_or_else(|| now.duration_since(written).unwrap_or_default() < STALE)
}

/// Whether the process that wrote `text`, last at the time `written`, runs. `None` if that cannot be known: another host,
/// another container.
fn is_alive(text: &str, written: SystemTime) -> Option<bool> {
    let (rest, started) = text.rsplit_once(' ')?;
    let (theirs, pid) = rest.rsplit_once(' ')?;
    let mine = machine();
    let part = |machine: &str, at| machine.split(' ').nth(at).map(str::to_owned);
    if theirs == mine {
        let pid = pid.parse().ok()?;
        return Some(!started.is_empty() && start_time(pid).as_deref() == Some(started));
    }
    // The same host in an earlier boot: no process of then runs. Two hosts may have one name, and the processes of hosts
    // themselves are in a namespace of one number everywhere; but then what lives there has written since this boot.
    let began = Duration::from_secs(Boot::current().began_s.max(0).unsigned_abs());
    let rebooted = part(theirs, 0) == part(&mine, 0) && part(theirs, 2) == part(&mine, 2);
    (rebooted && written < UNIX_EPOCH + began).then_some(false)
}
