//! Whether a server would find what a configuration needs from outside of the data directory.

use super::{Server, ServerError};
use crate::outside::{LIBRARIES, Outside, candidates};
use std::path::Path;

impl Server {
    /// Those that a server of this machine and this installation would lack if it were started with them. What its
    /// command line or a file elsewhere sets, and `postgresql.conf` where that does not lie in the data directory, is not
    /// asked of a backup's configuration. Needs a superuser, as `pg_config` and `pg_stat_file` do.
    pub async fn lacking(&self, outside: Vec<Outside>) -> Result<Vec<Outside>, ServerError> {
        const WHAT: &str = "tell what its configuration needs";
        let row = self
            .query_one(
                "SELECT current_setting('dynamic_library_path'), \
                 (SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'), \
                 current_setting('config_file'), current_setting('data_directory'), \
                 (SELECT coalesce(array_agg(name::text), '{}') FROM pg_settings WHERE source = 'command line' \
                 OR sourcefile IS NOT NULL AND NOT starts_with(sourcefile, current_setting('data_directory') || '/'))",
                &[],
                WHAT,
            )
            .await?;
        let search_path: String = self.column(&row, 0)?;
        let libdir: String = self.column(&row, 1)?;
        let (file, directory): (String, String) = (self.column(&row, 2)?, self.column(&row, 3)?);
        let reads_own = Path::new(&file).starts_with(directory);
        let fixed: Vec<String> = self.column(&row, 4)?;
        let mut lacking = Vec::new();
        for one in outside {
            let is_read = reads_own || one.file == "postgresql.auto.conf";
            if !is_read || fixed.contains(&one.setting) {
                continue;
            }
            let paths = match one.setting.as_str() {
                LIBRARIES => candidates(&one.value, &search_path, &libdir),
                _ => vec![one.value.clone()],
            };
            let there = self
                .query_one(
                    "SELECT coalesce(bool_or((pg_stat_file(path, true)).size IS NOT NULL), false) FROM unnest($1::text[]) path",
                    &[&paths],
                    WHAT,
                )
                .await?;
            if !self.column::<bool>(&there, 0)? {
                lacking.push(one);
            }
        }
        Ok(lacking)
    }
}
