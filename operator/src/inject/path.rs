//! Paths in a container, compared by their parts.

use std::fmt;

const LONGEST: usize = 4096;

/// An absolute path without `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path(Vec<String>);

impl Path {
    /// None for a relative one, one with `..`, and one with characters that a mount or a variable would not carry as
    /// they are.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let odd = |c: char| c.is_control() || c == ':' || c == '$';
        if !text.starts_with('/') || text.len() > LONGEST || text.contains(odd) {
            return None;
        }
        let parts: Vec<String> = text
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .map(str::to_owned)
            .collect();
        (!parts.iter().any(|part| part == "..")).then_some(Self(parts))
    }

    /// Whether `other` is this one or lies below it.
    pub(super) fn holds(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    /// How far below the root.
    pub(super) fn depth(&self) -> usize {
        self.0.len()
    }

    /// That path below this one.
    pub(super) fn join(mut self, name: &str) -> Self {
        self.0.push(name.to_owned());
        self
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_parts() {
        for (text, expected) in [
            ("/a/b", Some("/a/b")),
            ("//a/./b/", Some("/a/b")),
            ("/", Some("/")),
            ("a", None),
            ("", None),
            ("/a/../b", None),
            ("/a/..", None),
            ("/a\0b", None),
            ("/a\nb", None),
            ("/a:b", None),
            ("/a/$(B)", None),
        ] {
            let path = Path::parse(text).map(|path| path.to_string());
            assert_eq!(path.as_deref(), expected, "{text:?}");
        }
        assert_eq!(Path::parse(&"/a".repeat(4000)), None);
    }

    #[test]
    fn a_path_holds_what_lies_below_it() {
        let path = |text| Path::parse(text).unwrap();
        assert!(path("/a").holds(&path("/a")));
        assert!(path("/a").holds(&path("/a/b")));
        assert!(path("/").holds(&path("/a")));
        assert!(!path("/a").holds(&path("/ab")));
        assert!(!path("/a/b").holds(&path("/a")));
        assert_eq!(path("/a").join("b"), path("/a/b"));
    }
}
