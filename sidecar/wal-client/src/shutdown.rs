//! Whether the server is shutting down: then it waits for its archiver, and whoever stops it waits too.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Of `state` in pg_control (`ControlFileData`), the same on 14 to 18, in bytes.
const STATE: u64 = 16;
/// `DB_SHUTDOWNED`, `DB_SHUTDOWNED_IN_RECOVERY` and `DB_SHUTDOWNING`: the last of it, once nobody writes any more.
const STOPPING: [u32; 3] = [1, 2, 3];

/// Of the server whose data directory that is, as PostgreSQL runs archive_command in. Where it can't be told it is not.
pub(crate) fn is_under_way(directory: &Path) -> bool {
    let mut state = [0; 4];
    let read = File::open(directory.join("global/pg_control"))
        .and_then(|file| file.read_exact_at(&mut state, STATE));
    read.is_ok() && STOPPING.contains(&u32::from_ne_bytes(state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_pg_controls() {
        let directory = std::env::temp_dir().join(format!("holdfast-wal-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("global")).unwrap();
        assert!(!is_under_way(&directory), "without one");
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
            let mut file = vec![0xff; 16];
            file.extend(state.to_ne_bytes());
            std::fs::write(directory.join("global/pg_control"), file).unwrap();
            assert_eq!(is_under_way(&directory), stopping, "{state}");
        }
        std::fs::write(directory.join("global/pg_control"), [0; 3]).unwrap();
        assert!(!is_under_way(&directory), "too short");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
