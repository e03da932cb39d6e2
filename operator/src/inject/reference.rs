//! An image's reference: registry, path, tag, digest.

/// A reference taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference<'a> {
    /// Registry and path, with what Docker Hub's short names leave out.
    pub(super) repository: String,
    tag: Option<&'a str>,
    digest: bool,
}

impl<'a> Reference<'a> {
    /// Any text: what is no reference gives one that nothing knows.
    pub(super) fn parse(text: &'a str) -> Self {
        let (named, digest) = match text.split_once('@') {
            Some((named, _)) => (named, true),
            None => (text, false),
        };
        let name_starts = named.rfind('/').map_or(0, |slash| slash + 1);
        let (repository, tag) = match named[name_starts..].split_once(':') {
            Some((name, tag)) => (&named[..name_starts + name.len()], Some(tag)),
            None => (named, None),
        };
        Self {
            repository: full(repository),
            tag,
            digest,
        }
    }

    /// The tag; none where only a digest says which image is meant, and so nothing can be read from it.
    pub(super) fn readable_tag(&self) -> Option<&'a str> {
        match (self.tag, self.digest) {
            (Some(tag), _) => Some(tag),
            (None, true) => None,
            (None, false) => Some("latest"),
        }
    }
}

fn full(repository: &str) -> String {
    let (first, rest) = repository.split_once('/').unwrap_or(("", repository));
    let registry = first.contains(['.', ':']) || first == "localhost";
    match (first, rest) {
        ("", name) => format!("docker.io/library/{name}"),
        ("docker.io" | "index.docker.io", path) if !path.contains('/') => {
            format!("docker.io/library/{path}")
        }
        ("index.docker.io", path) => format!("docker.io/{path}"),
        _ if registry => repository.to_owned(),
        _ => format!("docker.io/{repository}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_taken_apart() {
        for (text, repository, tag) in [
            ("postgres", "docker.io/library/postgres", Some("latest")),
            ("postgres:17", "docker.io/library/postgres", Some("17")),
            (
                "docker.io/postgres:17",
                "docker.io/library/postgres",
                Some("17"),
            ),
            (
                "index.docker.io/library/postgres",
                "docker.io/library/postgres",
                Some("latest"),
            ),
            (
                "bitnami/postgresql:17",
                "docker.io/bitnami/postgresql",
                Some("17"),
            ),
            ("localhost/postgres:1", "localhost/postgres", Some("1")),
            ("registry:5000/a/b", "registry:5000/a/b", Some("latest")),
            ("registry:5000/a/b:17-x", "registry:5000/a/b", Some("17-x")),
            ("r.io/a/b:17@sha256:0123", "r.io/a/b", Some("17")),
            ("r.io/a/b@sha256:0123", "r.io/a/b", None),
            ("[::1]:5000/b:2", "[::1]:5000/b", Some("2")),
            ("", "docker.io/library/", Some("latest")),
        ] {
            let reference = Reference::parse(text);
            assert_eq!(reference.repository, repository, "{text}");
            assert_eq!(reference.readable_tag(), tag, "{text}");
        }
    }
}
