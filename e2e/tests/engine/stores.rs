//! A real S3 under the suite that every store passes; the filesystem passes it in `repository/tests`.

use anyhow::{Context, Result};
use holdfast_e2e::{Minio, World};
use holdfast_repository::store::{Credentials, S3Settings, Store, StoreSettings, conformance};

fn open(minio: &Minio, ca: Option<Vec<u8>>) -> Result<Store> {
    let bucket = minio.bucket("conformance")?;
    let settings = S3Settings {
        bucket: bucket.name,
        prefix: "deep/prefix".into(),
        region: Some("us-east-1".into()),
        endpoint: Some(bucket.endpoint),
        ca,
        verify_tls: true,
        credentials: Some(Credentials {
            access_key_id: holdfast_e2e::minio::ACCESS_KEY.into(),
            secret_access_key: holdfast_e2e::minio::SECRET_KEY.into(),
            session_token: None,
        }),
    };
    Ok(StoreSettings::S3(settings).open("shop/orders")?)
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms() -> Result<()> {
    World::scenario("s3-conforms", async |world| {
        let minio = Minio::start(world).await?;
        conformance::all(&open(&minio, None)?).await;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms_over_tls() -> Result<()> {
    World::scenario("s3-conforms-over-tls", async |world| {
        let minio = Minio::start_tls(world).await?;
        let certificate = minio.certificate().context("a certificate")?;
        conformance::all(&open(&minio, Some(std::fs::read(certificate)?))?).await;
        Ok(())
    })
    .await
}
