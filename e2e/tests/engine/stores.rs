//! Real stores under the suite that every store passes; the filesystem passes it in `repository/tests`.

use anyhow::{Context, Result};
use holdfast_e2e::azurite::{ACCOUNT, ACCOUNT_KEY, shared_access_signature};
use holdfast_e2e::{Azurite, Gcs, Minio, ServiceAccount, World};
use holdfast_repository::store::{
    AzureCredentials, AzureSettings, Created, Credentials, ErrorKind, GcsSettings, S3Settings,
    Store, StoreSettings, conformance,
};

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

fn azure(azurite: &Azurite, container: &str, credentials: AzureCredentials) -> Result<Store> {
    let settings = AzureSettings {
        account: ACCOUNT.into(),
        container: container.into(),
        prefix: "deep/prefix".into(),
        endpoint: Some(azurite.endpoint()),
        ca: None,
        verify_tls: true,
        credentials: Some(credentials),
    };
    Ok(StoreSettings::Azure(settings).open("shop/orders")?)
}

fn gcs(gcs: &Gcs, bucket: &str, account: &ServiceAccount) -> Result<Store> {
    let settings = GcsSettings {
        bucket: bucket.into(),
        prefix: "deep/prefix".into(),
        endpoint: Some(gcs.endpoint()),
        ca: None,
        verify_tls: true,
        service_account: Some(account.key.clone()),
    };
    Ok(StoreSettings::Gcs(settings).open("shop/orders")?)
}

/// Reads, writes and listings are refused for this reason, each with these words.
async fn is_refused(store: &Store, kind: ErrorKind, words: &[&str]) -> Result<()> {
    let created = store.create("o", vec!["x".into()]).await.map(|_| ());
    let listed = store.list_folders("").await.map(|_| ());
    for answer in [created, listed, store.get("o", 9).await.map(|_| ())] {
        let refused = answer.err().context("it was not refused")?;
        assert_eq!(refused.kind(), kind, "{refused}");
        for words in words {
            assert!(refused.to_string().contains(words), "{words}: {refused}");
        }
    }
    Ok(())
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

#[tokio::test(flavor = "multi_thread")]
async fn azure_conforms() -> Result<()> {
    World::scenario("azure-conforms", async |world| {
        let azurite = Azurite::start(world).await?;
        azurite.container("conformance").await?;
        let key = |key: &str| AzureCredentials::AccountKey(key.into());
        conformance::all(&azure(&azurite, "conformance", key(ACCOUNT_KEY))?).await;

        let nowhere = azure(&azurite, "nowhere", key(ACCOUNT_KEY))?;
        is_refused(
            &nowhere,
            ErrorKind::NoBucket,
            &["the container of azure://nowhere", "azure.container"],
        )
        .await?;
        let wrong = azure(&azurite, "conformance", key("d3Jvbmc="))?;
        is_refused(&wrong, ErrorKind::Denied, &["check the credentials"]).await?;
        let none = azure(&azurite, "conformance", key("no base64!")).unwrap_err();
        assert!(!none.to_string().contains("base64!"), "{none}");
        Ok(())
    })
    .await
}

/// A signature that lets create, read and list is all that a database's pod needs.
#[tokio::test(flavor = "multi_thread")]
async fn azure_conforms_with_a_shared_access_signature() -> Result<()> {
    World::scenario("azure-signature", async |world| {
        let azurite = Azurite::start(world).await?;
        azurite.container("conformance").await?;
        let signed = |permissions: &str| -> Result<_> {
            let token = format!("?{}", shared_access_signature("conformance", permissions)?);
            azure(
                &azurite,
                "conformance",
                AzureCredentials::SasToken(token.clone()),
            )
            .map(|store| (store, token))
        };
        let (all, _) = signed("rcdl")?;
        conformance::all(&all).await;

        let (pods, token) = signed("rcl")?;
        assert!(matches!(
            pods.create("pods/o", vec!["x".into()]).await?,
            Created::New
        ));
        assert_eq!(pods.get("pods/o", 9).await?, "x");
        let refused = pods.delete("pods/o").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
        let (reader, _) = signed("rl")?;
        let refused = reader.create("pods/p", vec!["x".into()]).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
        let (_, signature) = token.rsplit_once("sig=").context("a signature")?;
        assert!(!format!("{refused} {refused:?}").contains(signature));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn gcs_conforms() -> Result<()> {
    World::scenario("gcs-conforms", async |world| {
        let server = Gcs::start(world, "conformance").await?;
        conformance::all(&gcs(&server, "conformance", server.account())?).await;

        let nowhere = gcs(&server, "nowhere", server.account())?;
        is_refused(
            &nowhere,
            ErrorKind::NoBucket,
            &["the bucket of gs://nowhere", "gcs.bucket"],
        )
        .await?;
        let other = ServiceAccount::create(world, "other-account").await?;
        let wrong = gcs(&server, "conformance", &other)?;
        is_refused(&wrong, ErrorKind::Denied, &["check the credentials"]).await?;
        Ok(())
    })
    .await
}
