//! `docs/kubernetes.md` tells the truth: its blocks marked `bash` are run, in a namespace of their own.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::Space;

/// Begins the section that is for another namespace than the others.
pub const GONE: &str = "## When everything is gone";

/// From one heading to before another one.
pub fn between<'a>(page: &'a str, from: &str, to: &str) -> Result<&'a str> {
    let (_, rest) = page
        .split_once(&format!("\n{from}\n"))
        .context("the first heading")?;
    let (section, _) = rest
        .split_once(&format!("\n{to}\n"))
        .context("the second heading")?;
    Ok(section)
}

/// The page as it is read.
pub fn page() -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    Ok(std::fs::read_to_string(root.join("docs/kubernetes.md"))?)
}

/// Its commands, in their order.
pub fn script(page: &str) -> String {
    let mut script = "set -ex\n".to_owned();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```bash" => inside = true,
            "```" => inside = false,
            _ if inside => script += &format!("{line}\n"),
            _ => {}
        }
    }
    script
}

#[tokio::test]
async fn every_command_of_the_page_works() -> Result<()> {
    // It installs Holdfast as it is installed already: nothing begins anew.
    Space::scenario("docs", async |space| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = page()?;
        // The last one is run by a scenario of its own.
        let gone = between(&page, GONE, "## Not there yet")?;
        let page = page.replace(gone, "");
        let (repository, tag) = space
            .cluster()
            .image()
            .rsplit_once(':')
            .context("a tag")?;
        let script = script(&page)
            .replace(
                "helm upgrade --install holdfast charts/holdfast",
                &format!("helm upgrade --install holdfast charts/holdfast --set image.repository={repository},image.tag={tag}"),
            );
        ensure!(script.lines().count() > 10, "{script}");
        // The scenario's own make way for the page's.
        let secrets = ["delete", "secret", "s3-writer", "backup-key"];
        space.kubectl(&secrets).await?.success()?;
        let said = space.shell(&script, &root).await?;
        ensure!(said.ok, "{script}\n{}{}", said.out, said.err);
        Ok(())
    })
    .await
}
