//! Seconds, memory and processor time of what is run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Output, World};
use tokio::process::Command;

/// What is measured, how it is compressed, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// `backup`, `restore`, `archive`.
    pub measure: &'static str,
    /// `zstd-3`, `lz4`, or empty.
    pub variant: &'static str,
    /// `holdfast`, `pgbackrest`, or a plain tool.
    pub program: &'static str,
}

/// All samples of one key.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// One a run.
    pub seconds: Vec<f64>,
    /// The largest in any run, in bytes: all of the program's processes together.
    pub peak_memory: u64,
    /// In one run, of the program's processes.
    pub processor_seconds: Vec<f64>,
    /// What is in the store afterwards; 0: not told.
    pub stored_bytes: u64,
}

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub BTreeMap<Key, Series>);

impl Samples {
    /// Adds a run.
    pub fn add(
        &mut self,
        measure: &'static str,
        variant: &'static str,
        program: &'static str,
        run: Run,
    ) {
        let key = Key {
            measure,
            variant,
            program,
        };
        let series = self.0.entry(key).or_default();
        series.seconds.push(run.seconds);
        series.peak_memory = series.peak_memory.max(run.peak_memory);
        series.processor_seconds.push(run.processor_seconds);
        series.stored_bytes = series.stored_bytes.max(run.stored_bytes);
    }
}

/// One run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// By the clock.
    pub seconds: f64,
    /// In bytes.
    pub peak_memory: u64,
    /// User and system.
    pub processor_seconds: f64,
    /// In the store.
    pub stored_bytes: u64,
}

/// The middle one, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (Some(value), 1) => *value,
        (Some(value), _) => (value + sorted.get(middle.wrapping_sub(1)).unwrap_or(value)) / 2.0,
        (None, _) => f64::NAN,
    }
}

/// Runs a command that must succeed, and watches all processes of the world whose command line holds `word`.
pub async fn timed(world: &World, word: &'static str, command: Command) -> Result<(Run, Output)> {
    let mut output = None;
    let run = watched(world, &[word], async {
        output = Some(world.run(command).await?.success()?);
        Ok(())
    })
    .await?;
    Ok((run, output.context("it has ended")?))
}

/// The same for whatever is done.
pub async fn watched(
    world: &World,
    words: &[&'static str],
    work: impl Future<Output = Result<()>>,
) -> Result<Run> {
    let watch = Watch::begin(world.user(), words.to_vec());
    let begun = Instant::now();
    let done = work.await;
    let seconds = begun.elapsed().as_secs_f64();
    let (peak_memory, processor_seconds) = watch.end();
    done?;
    Ok(Run {
        seconds,
        peak_memory,
        processor_seconds,
        stored_bytes: 0,
    })
}

/// Looks at processes every 20 ms, in a thread of its own.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u64, f64)>,
}

impl Watch {
    fn begin(user: Option<u32>, words: Vec<&'static str>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let before = Looked::around(user, &words);
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            let mut ticks = BTreeMap::new();
            loop {
                let ended = until.load(Ordering::Relaxed);
                let now = Looked::around(user, &words);
                peak = peak.max(now.peak);
                // Of those that have ended what was seen last is kept.
                ticks.extend(now.ticks);
                if ended {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let used: u64 = ticks
                .iter()
                .map(|(pid, ticks)| {
                    ticks.saturating_sub(before.ticks.get(pid).copied().unwrap_or(0))
                })
                .sum();
            (peak, used as f64 / USER_HZ)
        });
        Self { stop, thread }
    }

    fn end(self) -> (u64, f64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// What there is at one moment.
struct Looked {
    /// VmHWM of all of the program's processes.
    peak: u64,
    /// Processor time of each that nobody watched has started, with all that it has started and waited for.
    ticks: BTreeMap<u32, u64>,
}

impl Looked {
    fn around(user: Option<u32>, words: &[&str]) -> Self {
        let mut found = processes(user, words);
        let peak = found.values().map(|process| process.peak).sum();
        if let Some(this) = look_at(Path::new("/proc/self")) {
            // What the calls that have ended took. What this program itself takes does not count.
            let started = Process { ticks: 0, ..this };
            found.insert(std::process::id(), started);
        }
        Self {
            peak,
            ticks: by_root(&found, |pid| Some(look(pid)?.parent)),
        }
    }
}

/// What each family took: those whose ancestor is another of these, over a shell that is none, are of one. A process that has
/// ended and was waited for is in its parent's `waited`, and must not be told as a family of its own as well.
fn by_root(
    found: &BTreeMap<u32, Process>,
    parent_of: impl Fn(u32) -> Option<u32>,
) -> BTreeMap<u32, u64> {
    let mut ticks = BTreeMap::new();
    for (pid, process) in found {
        let (mut root, mut parent) = (*pid, Some(process.parent));
        // Bounded, because what is read of one moment is not of one moment.
        for _ in 0..DEEPEST {
            let Some(above) = parent.filter(|above| *above > 1) else {
                break;
            };
            let known = found.get(&above);
            if known.is_some() {
                root = above;
            }
            parent = known.map_or_else(|| parent_of(above), |known| Some(known.parent));
        }
        *ticks.entry(root).or_default() += process.ticks + process.waited;
    }
    ticks
}

/// More than there are from any process up to the first.
const DEEPEST: usize = 32;

/// The kernel counts in hundredths, whatever its own clock is.
const USER_HZ: f64 = 100.0;

/// A process, as the kernel tells it.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// VmHWM, bytes.
    pub peak: u64,
    /// VmRSS, bytes.
    pub resident: u64,
    parent: u32,
    /// User and system time.
    ticks: u64,
    /// The same of children that have ended and were waited for, and of theirs.
    waited: u64,
}

impl Process {
    /// User and system time.
    pub fn processor_seconds(&self) -> f64 {
        self.ticks as f64 / USER_HZ
    }
}

/// None if it has ended.
pub fn look(pid: u32) -> Option<Process> {
    look_at(Path::new(&format!("/proc/{pid}")))
}

/// The archiver of the world's server, which runs the calls: its own time is that of an archive module.
const ARCHIVER: &[u8] = b"postgres: archiver";

/// Whether there is one.
pub fn has_archiver(user: Option<u32>) -> bool {
    !processes_that(user, |command| command.starts_with(ARCHIVER)).is_empty()
}

fn processes(user: Option<u32>, words: &[&str]) -> BTreeMap<u32, Process> {
    processes_that(user, |command| {
        command.starts_with(ARCHIVER) || words.iter().any(|word| holds(command, word))
    })
}

fn processes_that(user: Option<u32>, wanted: impl Fn(&[u8]) -> bool) -> BTreeMap<u32, Process> {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    let mut found = BTreeMap::new();
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let ours = |uid| user.is_none_or(|user| user == uid);
        if !entry.metadata().is_ok_and(|meta| ours(meta.uid())) || pid == std::process::id() {
            continue;
        }
        let path = entry.path();
        let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
        if !wanted(&command) {
            continue;
        }
        if let Some(mut process) = look_at(&path) {
            if command.starts_with(ARCHIVER) {
                // Most of it is the server's, which all of its processes share.
                process.peak = 0;
            }
            found.insert(pid, process);
        }
    }
    found
}

/// Whether an argument is this program: its last path component, so that a data directory's name does not count.
fn holds(command: &[u8], word: &str) -> bool {
    command
        .split(|byte| *byte == 0)
        .take(6)
        .any(|argument| Path::new(&*String::from_utf8_lossy(argument)).ends_with(word))
}

fn look_at(path: &Path) -> Option<Process> {
    let status = std::fs::read_to_string(path.join("status")).ok()?;
    let kib = |name: &str| {
        let mut values = status.lines().filter_map(|line| line.strip_prefix(name));
        let value = values.next()?.trim().strip_suffix(" kB")?;
        value.trim().parse::<u64>().ok()
    };
    let stat = std::fs::read_to_string(path.join("stat")).ok()?;
    // Counted as in proc_pid_stat(5); the name in parentheses may hold blanks.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let field = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
    Some(Process {
        peak: kib("VmHWM:")? * 1024,
        resident: kib("VmRSS:")? * 1024,
        parent: u32::try_from(field(4)?).ok()?,
        ticks: field(14)? + field(15)?,
        waited: field(16)? + field(17)?,
    })
}

/// Database, a restored copy, the stores of a round, and WAL.
pub fn enough_space(dir: &Path, scale: u32) -> Result<()> {
    let space = rustix::fs::statvfs(dir)?;
    let free = space.f_bavail * space.f_frsize;
    let need = u64::from(scale) * 5 * 16_000_000 + 4_000_000_000;
    ensure!(
        free > need,
        "{} has {} MB free, and a database of scale {scale} needs {}: choose another BENCH_DIR or a smaller BENCH_SCALE",
        dir.display(),
        free / 1_000_000,
        need / 1_000_000
    );
    Ok(())
}

/// Bytes of all files below a folder.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_some() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn what_a_family_took_is_told_once() {
        let process = |parent, ticks, waited| Process {
            peak: 0,
            resident: 0,
            parent,
            ticks,
            waited,
        };
        // A caller with a call and its worker, and a daemon that its caller has left.
        let found = BTreeMap::from([
            (10, process(1, 0, 7)),
            (11, process(10, 2, 0)),
            (12, process(11, 3, 0)),
            (20, process(1, 5, 4)),
            // Its parent is a shell, which the caller has started.
            (31, process(30, 1, 1)),
        ]);
        let shell = |pid| (pid == 30).then_some(10);
        let families = BTreeMap::from([(10, 14), (20, 9)]);
        assert_eq!(by_root(&found, shell), families);
        let round = BTreeMap::from([(2, process(3, 1, 0)), (3, process(2, 1, 0))]);
        assert_eq!(by_root(&round, |_| None).values().sum::<u64>(), 2);
    }

    #[test]
    fn programs_are_known_by_the_last_part_of_an_argument() {
        assert!(holds(
            b"/x/ld-linux.so\0--argv0\0/y/usr/bin/pgbackrest\0info",
            "pgbackrest"
        ));
        assert!(holds(b"holdfast\0--config\0f", "holdfast"));
        assert!(!holds(
            b"/x/postgres\0-D\0/shm/holdfast-e2e-1/data",
            "holdfast"
        ));
        assert!(!holds(b"holdfast-wal\0archive", "holdfast"));
    }
}
