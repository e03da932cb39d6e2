//! Real stores under the suite that every store passes, and a database that comes back from each; the filesystem passes
//! the suite in `repository/tests`.

use anyhow::{Context, Result, ensure};
use holdfast_e2e::azurite::{ACCOUNT, ACCOUNT_KEY, shared_access_signature};
use holdfast_e2e::{Azurite, Gcs, Ledger, Minio, ServiceAccount, Target, World};
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

/// A bucket with versions and a lock on all that is stored, for the one who maintains it.
#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms_with_a_lock() -> Result<()> {
    World::scenario("s3-lock", async |world| {
        let minio = Minio::start(world).await?;
        minio.locked_bucket("conformance").await?;
        let store = open(&minio, None)?;
        conformance::all(&store).await;
        // Holdfast does not see it any more, and its version is there.
        let Created::New = store.create("kept", vec!["x".into()]).await? else {
            anyhow::bail!("it was there");
        };
        store.delete("kept").await?;
        ensure!(store.get("kept", 9).await.is_err_and(|e| e.is_not_found()));
        let versions = minio
            .versions("conformance", "deep/prefix/shop/orders/kept")
            .await?;
        ensure!(
            versions.matches("<Version>").count() == 1
                && versions.matches("<DeleteMarker>").count() == 1,
            "{versions}"
        );
        Ok(())
    })
    .await
}

/// The policy that docs/stores.md has for a database's pods, in a bucket with a lock: a database comes back, and nothing that was
/// stored can be removed.
#[tokio::test]
async fn a_database_comes_back_from_where_its_pods_may_not_delete() -> Result<()> {
    World::scenario("least", async |world| {
        let minio = Minio::start(world).await?;
        let bucket = minio.locked_bucket("acme-pg").await?;
        let docs = include_str!("../../../docs/stores.md");
        let (_, policy) = docs.split_once("```json\n").context("a policy")?;
        let (policy, _) = policy.split_once("```").context("it ends")?;
        let [id, secret, token] = minio.allowed(policy).await?;
        for (file, content) in [("id", &id), ("secret", &secret), ("token", &token)] {
            world.write(&format!("home/{file}"), content)?;
        }
        world.write("home/wrong", "wrong-secret")?;
        let repository = |secret: &str| {
            format!(
                "s3: {{bucket: acme-pg, prefix: prod, region: us-east-1, endpoint: \"{}\"}}\ncredentials: {{accessKeyIdFile: id, secretAccessKeyFile: {secret}, sessionTokenFile: token}}",
                bucket.endpoint
            )
        };
        comes_back(world, &repository("secret"), &repository("wrong")).await?;
        let settings = S3Settings {
            bucket: bucket.name,
            prefix: "prod".into(),
            region: Some("us-east-1".into()),
            endpoint: Some(bucket.endpoint),
            ca: None,
            verify_tls: true,
            credentials: Some(Credentials {
                access_key_id: id,
                secret_access_key: secret,
                session_token: Some(token),
            }),
        };
        let pods = StoreSettings::S3(settings).open("shop/orders")?;
        let refused = pods.delete("archive.json").await.unwrap_err();
        ensure!(refused.kind() == ErrorKind::Denied, "{refused}");
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

/// Postgres archives to the repository that these lines of the file name, is backed up, loses everything and comes back.
/// With the credentials of `wrong`, nothing is read, and it is said why.
async fn comes_back(world: &World, repository: &str, wrong: &str) -> Result<()> {
    let mut primary = world
        .postgres("primary", 17)
        .segment_mib(1)
        .create()
        .await?;
    let settings = world
        .holdfast("shop/orders", &primary)
        .repository(repository)
        .encrypted()?;
    let holdfast = settings.clone().build()?;
    let sidecar = holdfast.sidecar().await?;
    primary.archive_with(&holdfast).await?;
    let mut ledger = Ledger::create(&primary).await?;
    ledger.write(&primary, 20).await?;
    holdfast.run(&["check"]).await?.success()?;
    holdfast.backup().await?;
    ledger.write(&primary, 20).await?;
    primary.archive_all().await?;
    ledger.read_wal(&primary).await?;
    primary.kill9().await?;
    sidecar.kill9().await?;
    std::fs::remove_dir_all(primary.dir())?;

    let wrong = settings.instance("wrong").repository(wrong).build()?;
    for command in [
        &["info"][..],
        &["verify"],
        &["restore", "--to", "/nowhere", "--dry-run"],
    ] {
        let refused = wrong.run(command).await?;
        let said = &refused.stderr;
        ensure!(
            refused.code != 0 && said.contains("check the credentials and their rights"),
            "{command:?} with wrong credentials: exit {}: {said}",
            refused.code
        );
    }

    holdfast.verify().await?.success()?;
    let mut restored = world.restored("restored", 17, &holdfast, &[], &[]).await?;
    restored.postgres.start().await?;
    restored.postgres.wait_promoted().await?;
    let all = ledger.expected(1, &Target::Latest, false)?;
    Ledger::compare(&restored.postgres, &all).await
}

/// With a signature that neither overwrites nor deletes.
#[tokio::test]
async fn a_database_comes_back_from_azure() -> Result<()> {
    World::scenario("azure", async |world| {
        let azurite = Azurite::start(world).await?;
        azurite.container("acme-pg").await?;
        world.write("home/token", shared_access_signature("acme-pg", "rcl")?)?;
        world.write("home/wrong", "d3Jvbmc=")?;
        let repository = |credentials: &str| {
            format!(
                "azure: {{account: {ACCOUNT}, container: acme-pg, prefix: prod, endpoint: \"{}\"}}\ncredentials: {{{credentials}}}",
                azurite.endpoint()
            )
        };
        comes_back(
            world,
            &repository("sasTokenFile: token"),
            &repository("accountKeyFile: wrong"),
        )
        .await
    })
    .await
}

#[tokio::test]
async fn a_database_comes_back_from_google_cloud_storage() -> Result<()> {
    World::scenario("gcs", async |world| {
        let server = Gcs::start(world, "acme-pg").await?;
        world.write("home/key.json", &server.account().key)?;
        let other = ServiceAccount::create(world, "other-account").await?;
        world.write("home/wrong.json", &other.key)?;
        let repository = |key: &str| {
            format!(
                "gcs: {{bucket: acme-pg, prefix: prod, endpoint: \"{}\"}}\ncredentials: {{serviceAccountFile: {key}}}",
                server.endpoint()
            )
        };
        comes_back(world, &repository("key.json"), &repository("wrong.json")).await
    })
    .await
}
