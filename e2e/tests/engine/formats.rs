//! Segment sizes, encryption, compression and stores, in pairs: of any two settings, every combination is here once.

use anyhow::{Result, ensure};
use holdfast_e2e::{Ledger, Minio, Target, World};

struct Format {
    major: u32,
    segment_mib: u32,
    compression: &'static str,
    encrypted: bool,
    s3: bool,
    /// pgbench's scale, so that larger segments are filled too.
    scale: u32,
}

/// Backup, WAL past it, verification, restore to the end.
async fn kept_and_restored(format: Format) -> Result<()> {
    let Format {
        major,
        segment_mib,
        compression,
        encrypted,
        s3,
        scale,
    } = format;
    let name = format!("{segment_mib}-{compression}");
    World::scenario(&name, async |world| {
        let postgres = world
            .postgres("primary", major)
            .segment_mib(segment_mib)
            .create()
            .await?;
        let minio = if s3 {
            Some(Minio::start(world).await?)
        } else {
            None
        };
        let mut settings = world
            .holdfast("shop/orders", &postgres)
            .compression(compression);
        settings = match &minio {
            Some(minio) => settings.s3(&minio.bucket("backups")?),
            None => settings.filesystem("backups")?,
        };
        if encrypted {
            settings = settings.encrypted()?;
        }
        let holdfast = settings.build()?;
        let sidecar = holdfast.sidecar().await?;
        postgres.archive_with(&holdfast).await?;
        let mut ledger = Ledger::create(&postgres).await?;
        let load = ledger.start(&postgres, 2).await?;
        let backup = holdfast.backup().await?;
        ensure!(backup["size"]["stored"].as_u64() > Some(0), "{backup:#}");
        // Whole segments, which are not all zeros at their end.
        postgres
            .pgbench(&["-i", "-s", &scale.to_string(), "-q"])
            .await?;
        load.stop().await?;
        postgres.archive_all().await?;
        ledger.read_wal(&postgres).await?;

        let stored = holdfast.objects()?;
        // A table that both stored WAL and stored pages name, as it is where nothing is compressed or sealed.
        let word = b"pgbench_branches_pkey".as_slice();
        let mut readable = false;
        for key in stored.keys("").await? {
            let object = stored.get(&key).await?;
            readable |= object.windows(word.len()).any(|window| window == word);
        }
        ensure!(
            readable == (compression == "none" && !encrypted),
            "readable: {readable}"
        );
        if segment_mib > 16 {
            ensure!(
                !stored.keys("/chunks/").await?.is_empty(),
                "no chunk objects"
            );
        }
        let verified = holdfast.verify().await?.success()?.json()?;
        ensure!(
            verified["backups"][0]["result"] == "Good"
                && verified["damage"].as_array().is_some_and(Vec::is_empty),
            "{verified:#}"
        );
        let mut restored = world
            .restored("restored", major, &holdfast, &[], &[])
            .await?;
        restored.postgres.start().await?;
        restored.postgres.wait_promoted().await?;
        let all = ledger.expected(1, &Target::Latest, false)?;
        Ledger::compare(&restored.postgres, &all).await?;
        let accounts = restored
            .postgres
            .value("SELECT count(*) FROM pgbench_accounts")
            .await?;
        ensure!(
            accounts == (100_000 * scale).to_string(),
            "{accounts} accounts"
        );
        restored.postgres.amcheck().await?;
        sidecar.stop().await
    })
    .await
}

#[tokio::test]
async fn segments_of_1_mb_zstd_encrypted_in_a_folder() -> Result<()> {
    kept_and_restored(Format {
        major: 14,
        segment_mib: 1,
        compression: "zstd",
        encrypted: true,
        s3: false,
        scale: 1,
    })
    .await
}

#[tokio::test]
async fn segments_of_1_mb_lz4_plain_in_s3() -> Result<()> {
    kept_and_restored(Format {
        major: 18,
        segment_mib: 1,
        compression: "lz4",
        encrypted: false,
        s3: true,
        scale: 1,
    })
    .await
}

#[tokio::test]
async fn segments_of_1_mb_uncompressed_encrypted_in_s3() -> Result<()> {
    kept_and_restored(Format {
        major: 17,
        segment_mib: 1,
        compression: "none",
        encrypted: true,
        s3: true,
        scale: 1,
    })
    .await
}

#[tokio::test]
async fn segments_of_16_mb_zstd_plain_in_s3() -> Result<()> {
    kept_and_restored(Format {
        major: 15,
        segment_mib: 16,
        compression: "zstd",
        encrypted: false,
        s3: true,
        scale: 2,
    })
    .await
}

#[tokio::test]
async fn segments_of_16_mb_lz4_encrypted_in_a_folder() -> Result<()> {
    kept_and_restored(Format {
        major: 16,
        segment_mib: 16,
        compression: "lz4",
        encrypted: true,
        s3: false,
        scale: 2,
    })
    .await
}

#[tokio::test]
async fn segments_of_16_mb_uncompressed_plain_in_a_folder() -> Result<()> {
    kept_and_restored(Format {
        major: 17,
        segment_mib: 16,
        compression: "none",
        encrypted: false,
        s3: false,
        scale: 2,
    })
    .await
}

#[tokio::test]
async fn segments_of_64_mb_zstd_plain_in_a_folder() -> Result<()> {
    kept_and_restored(Format {
        major: 18,
        segment_mib: 64,
        compression: "zstd",
        encrypted: false,
        s3: false,
        scale: 6,
    })
    .await
}

#[tokio::test]
async fn segments_of_64_mb_lz4_encrypted_in_s3() -> Result<()> {
    kept_and_restored(Format {
        major: 14,
        segment_mib: 64,
        compression: "lz4",
        encrypted: true,
        s3: true,
        scale: 6,
    })
    .await
}

#[tokio::test]
async fn segments_of_64_mb_uncompressed_encrypted_in_a_folder() -> Result<()> {
    kept_and_restored(Format {
        major: 17,
        segment_mib: 64,
        compression: "none",
        encrypted: true,
        s3: false,
        scale: 6,
    })
    .await
}
