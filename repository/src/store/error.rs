//! What can go wrong with a store, as far as callers decide by it.

use std::error::Error as StdError;
use std::fmt;

/// What a caller decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The store says that there is no such object. Proof of absence only together with a readable `archive.json`:
    /// a wrong bucket or an unmounted folder answers the same.
    NotFound,
    /// The bucket or container itself does not exist.
    NoBucket,
    /// Credentials are missing, wrong, or not allowed to do this.
    Denied,
    /// The object or the answer is not what it should be: too short, too long, or too large.
    Damaged,
    /// The key or the settings can't be used with this store.
    Invalid,
    /// Anything else: an outage, a timeout, a full disk. Trying again may help.
    Trouble,
}

/// An operation on a store that failed.
#[derive(Debug)]
pub struct StoreError {
    kind: ErrorKind,
    store: String,
    operation: &'static str,
    key: String,
    source: Box<dyn StdError + Send + Sync>,
}

impl StoreError {
    pub(super) fn new(
        store: &str,
        operation: &'static str,
        key: &str,
        source: object_store::Error,
    ) -> Self {
        Self {
            kind: classify(&source),
            store: store.to_owned(),
            operation,
            key: key.to_owned(),
            source: Box::new(source),
        }
    }

    pub(crate) fn invalid(
        store: &str,
        key: &str,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            kind: ErrorKind::Invalid,
            store: store.to_owned(),
            operation: "use",
            key: key.to_owned(),
            source: source.into(),
        }
    }

    pub(super) fn damaged(store: &str, key: &str, why: String) -> Self {
        Self {
            kind: ErrorKind::Damaged,
            store: store.to_owned(),
            operation: "read",
            key: key.to_owned(),
            source: why.into(),
        }
    }

    pub(super) fn undecided(store: &str, key: &str) -> Self {
        Self {
            kind: ErrorKind::Trouble,
            store: store.to_owned(),
            operation: "write",
            key: key.to_owned(),
            source: "the store says that it exists, and then that it does not".into(),
        }
    }

    pub(super) fn withdrawn(store: &str, key: &str) -> Self {
        Self {
            kind: ErrorKind::Trouble,
            store: store.to_owned(),
            operation: "write",
            key: key.to_owned(),
            source: "what comes before it was not stored".into(),
        }
    }

    pub(super) fn short(store: &str, key: &str, wanted: u64, got: u64) -> Self {
        Self::damaged(
            store,
            key,
            format!("{wanted} bytes were expected and {got} came"),
        )
    }

    /// The object, or the folder.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What a caller decides by.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the store answered that there is no such object.
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }

    /// Whether trying again can't help without somebody changing something.
    pub fn is_permanent(&self) -> bool {
        !matches!(self.kind, ErrorKind::Trouble | ErrorKind::Damaged)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            store,
            operation,
            key,
            source,
        } = self;
        match kind {
            ErrorKind::NotFound => write!(f, "{store} has no object {key}"),
            ErrorKind::NoBucket => {
                let (what, setting) = match store.split_once("://") {
                    Some(("azure", _)) => ("container", "azure.container"),
                    Some(("gs", _)) => ("bucket", "gcs.bucket"),
                    _ => ("bucket", "s3.bucket"),
                };
                write!(
                    f,
                    "the {what} of {store} does not exist: create it, or correct {setting}"
                )
            }
            // Told as a refusal by the store, and no credentials mend it.
            ErrorKind::Denied if chain(&**source).contains("RequestTimeTooSkewed") => write!(
                f,
                "{store} does not let us {operation} {key}: this machine's clock and the store's are too far apart: set the clock"
            ),
            ErrorKind::Denied => write!(
                f,
                "{store} does not let us {}: check the credentials and their rights ({})",
                [*operation, key].join(" ").trim_end(),
                plain(&chain(&**source))
            ),
            ErrorKind::Damaged => write!(f, "{key} in {store} is damaged: {}", chain(&**source)),
            ErrorKind::Invalid | ErrorKind::Trouble if key.is_empty() => {
                write!(f, "can't {operation} {store}: {}", plain(&chain(&**source)))
            }
            ErrorKind::Invalid | ErrorKind::Trouble => write!(
                f,
                "can't {operation} {key} in {store}: {}",
                plain(&chain(&**source))
            ),
        }
    }
}

impl StdError for StoreError {}

/// The last cause says what happened; the ones above it mostly repeat each other.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let (outer, inner) = (error.to_string(), innermost.to_string());
    let text = if outer.contains(&inner) {
        outer
    } else {
        format!("{outer}: {inner}")
    };
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = line.char_indices().nth(600) {
        line.truncate(cut);
        line.push('…');
    }
    line
}

/// What an HTTP request failed of, without what differs each time (durations, request ids): who repeats it, as a
/// Kubernetes condition does, says the same as long as the same is wrong.
fn plain(line: &str) -> String {
    let Some((_, request)) = line.rsplit_once("Error performing ") else {
        return line.to_owned();
    };
    let Some((request, why)) = request.split_once(" - ") else {
        return line.to_owned();
    };
    let between = |open: &str, close: &str| Some(why.split_once(open)?.1.split_once(close)?.0);
    let why = match between("<Code>", "</Code>") {
        Some(code) => {
            // Azure's goes on with ` RequestId:… Time:…`; Google's says the rest in a field of its own.
            let message =
                between("<Message>", "</Message>").and_then(|m| m.split(" RequestId:").next());
            let details = between("<Details>", "</Details>");
            let said: Vec<&str> = message.into_iter().chain(details).collect();
            match said.is_empty() {
                false => format!("{code}: {}", said.join(" ")),
                true => code.to_owned(),
            }
        }
        None => why.to_owned(),
    };
    // Such as `GET http://minio:9000/bucket?list-type=2 in 2.3ms`.
    let address = request.split(' ').nth(1).and_then(|url| {
        let (scheme, rest) = url.split_once("://")?;
        let host = rest.split(['/', '?']).next()?;
        Some(format!("{scheme}://{host}"))
    });
    match address {
        Some(address) => format!("{why} (at {address})"),
        None => why,
    }
}

/// Whether a create-only write was refused because of what is there already, or may have been: who may create and not
/// overwrite is told by Azure (`UnauthorizedBlobOverwrite`) and by Google (`storage.objects.delete`) that a right is missing.
pub(super) fn says_that_it_is_there(error: &object_store::Error) -> bool {
    use object_store::Error;
    matches!(
        error,
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::PermissionDenied { .. }
    )
}

fn classify(error: &object_store::Error) -> ErrorKind {
    use object_store::Error;
    let text = error.to_string();
    if ["NoSuchBucket", "<Code>ContainerNotFound</Code>"]
        .iter()
        .any(|code| text.contains(code))
    {
        return ErrorKind::NoBucket;
    }
    // Listings that are refused come as any other trouble, and so do the deletes of S3 and Azure, which go in batches.
    let refusals = [
        "non-2xx status code: 401 Unauthorized",
        "non-2xx status code: 403 Forbidden",
        "(code: 401)",
        "(code: 403)",
        "(code: AccessDenied)",
    ];
    if refusals.iter().any(|refusal| text.contains(refusal)) {
        return ErrorKind::Denied;
    }
    match error {
        Error::NotFound { .. } => ErrorKind::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => ErrorKind::Denied,
        Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => ErrorKind::Invalid,
        _ => ErrorKind::Trouble,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_has_the_same_words() {
        for (line, told) in [
            (
                "Generic S3 error: Error performing list request: Error performing GET http://10.0.0.1:9000/b?list-type=2&prefix=p in 2.35538ms - Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?> <Error><Code>InvalidAccessKeyId</Code><Message>It does not exist.</Message><RequestId>18EA</RequestId></Error>",
                "InvalidAccessKeyId: It does not exist. (at http://10.0.0.1:9000)",
            ),
            (
                "Generic S3 error: Error performing PUT https://s3.x/b/k in 5.6s, after 4 retries, max_retries: 4, retry_timeout: 20s - HTTP error: error sending request: Connection refused (os error 111)",
                "HTTP error: error sending request: Connection refused (os error 111) (at https://s3.x)",
            ),
            (
                "Generic MicrosoftAzure error: Error performing PUT in 2.3ms - Server returned non-2xx status code: 403 Forbidden: <Error> <Code>AuthorizationFailure</Code> <Message>It is not authorized. RequestId:18EA Time:2026-11-20T10:00:00Z</Message> </Error>",
                "AuthorizationFailure: It is not authorized.",
            ),
            (
                "Generic GCS error: Error performing PUT https://storage.x/b/k in 2.3ms - Server returned non-2xx status code: 403 Forbidden: <Error><Code>AccessDenied</Code><Message>Access denied.</Message><Details>x@y may not create.</Details></Error>",
                "AccessDenied: Access denied. x@y may not create. (at https://storage.x)",
            ),
            ("Error performing GET x", "Error performing GET x"),
            ("no such file", "no such file"),
        ] {
            assert_eq!(plain(line), told);
        }
    }
}
