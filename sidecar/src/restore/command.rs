//! `holdfast restore`: plan, check, and only then write.

use super::prepare::{Wanted, prepare};
use super::recovery::Action;
use crate::cli::{self, RestoreArgs};
use crate::commands;
use crate::config::Settings;
use crate::exit::Failure;
use crate::status::RestoreStatus;
use std::sync::Arc;

/// Plans and restores, and prints what it did.
pub async fn run(settings: Arc<Settings>, args: &RestoreArgs) -> Result<(), Failure> {
    let repository = settings
        .first_repository()
        .ok_or_else(|| Failure::refused("the settings name no repository"))?;
    let wanted = Wanted {
        repository,
        archive: &settings.archive,
        request: args.request(),
        action: match args.action {
            cli::Action::Promote => Action::Promote,
            cli::Action::Pause => Action::Pause,
            cli::Action::Shutdown => Action::Shutdown,
        },
        to: &args.to,
        parents: false,
        tablespaces: &args.tablespaces,
        wal_directory: args.waldir.as_deref(),
        overwrite: args.overwrite,
        dry_run: args.dry_run,
        order: None,
    };
    let prepared = prepare(&settings, &wanted).await?;
    if args.dry_run {
        let text = format!("{}\nnothing was written (--dry-run)\n", prepared.told());
        let status = prepared.status.clone();
        prepared.end().await;
        return print(args, &status, &text);
    }
    if !args.json {
        eprint!("{}", prepared.told());
    }
    let (status, text) = prepared.carry_out(args.json, &Arc::default()).await?;
    print(args, &status, &text)
}

fn print(args: &RestoreArgs, status: &RestoreStatus, text: &str) -> Result<(), Failure> {
    if args.json {
        commands::print_json(status)
    } else {
        commands::print(text)
    }
}
