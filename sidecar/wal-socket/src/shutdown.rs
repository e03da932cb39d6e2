//! Whether the server is shutting down: then it waits for its archiver, and whoever stops it waits too.

use crate::{AT_A_SHUTDOWN, now};
use core::time::Duration;
use rustix::fd::BorrowedFd;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::pread;

/// Relative to the data directory.
const CONTROL_FILE: &str = "global/pg_control";
/// Of `state` in pg_control (`ControlFileData`), the same on 14 to 18, in bytes.
const STATE: u64 = 16;
/// `DB_SHUTDOWNED`, `DB_SHUTDOWNED_IN_RECOVERY` and `DB_SHUTDOWNING`: the last of it, once nobody writes any more.
const STOPPING: [u32; 3] = [1, 2, 3];

/// Of the server whose data directory is the working directory, as PostgreSQL has it. Where it can't be told it is not.
pub fn is_under_way() -> bool {
    is_under_way_in(CWD)
}

/// For how long a server that is shutting down is still asked for.
#[derive(Debug, Default)]
pub struct Patience {
    /// When it was seen first, by the clock of [`now`].
    since: Option<Duration>,
}

impl Patience {
    /// Looks whether the server has been shutting down for [`AT_A_SHUTDOWN`]; seen first now, it has just begun to.
    pub fn is_over(&mut self) -> bool {
        if !is_under_way() {
            self.since = None;
            return false;
        }
        let time = now();
        time >= *self.since.get_or_insert(time) + AT_A_SHUTDOWN
    }
}

fn is_under_way_in(directory: BorrowedFd<'_>) -> bool {
    let mut state = [0; 4];
    let read = openat(
        directory,
        CONTROL_FILE,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .and_then(|file| pread(file, &mut state, STATE));
    read == Ok(state.len()) && STOPPING.contains(&u32::from_ne_bytes(state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use std::fs;
    use std::vec;

    #[test]
    fn the_state_is_pg_controls() {
        let name = std::format!("holdfast-wal-socket-{}-control", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(directory.join("global")).unwrap();
        let path = directory.to_str().unwrap();
        let opened = openat(CWD, path, OFlags::DIRECTORY, Mode::empty()).unwrap();
        let file = directory.join(CONTROL_FILE);
        assert!(!is_under_way_in(opened.as_fd()), "without one");
        // DB_STARTUP to DB_IN_PRODUCTION
        for (state, stopping) in [
            (0_u32, false),
            (1, true),
            (2, true),
            (3, true),
            (4, false),
            (5, false),
            (6, false),
        ] {
            let mut content = vec![0xff; 16];
            content.extend(state.to_ne_bytes());
            fs::write(&file, content).unwrap();
            assert_eq!(is_under_way_in(opened.as_fd()), stopping, "{state}");
        }
        fs::write(&file, [0; 3]).unwrap();
        assert!(!is_under_way_in(opened.as_fd()), "too short");
        fs::remove_dir_all(directory).unwrap();
    }
}
