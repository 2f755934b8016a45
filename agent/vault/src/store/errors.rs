//! What a store's answer means, in words of ours: what it is, why, and what to do.

use std::borrow::Cow;
use std::error::Error as StdError;

use object_store::Error as StoreError;
use remora_core::ErrorKind;

/// What is known of a failure.
pub(super) struct Explained {
    pub(super) kind: ErrorKind,
    /// The cause, on one line.
    pub(super) why: String,
    pub(super) advice: Option<Cow<'static, str>>,
}

/// The signs of a failure in the text of an error, and what they mean; the first that fits counts.
const SIGNS: &[(&[&str], ErrorKind, &str)] = &[
    (
        &["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"],
        ErrorKind::NotFound,
        "There is no such bucket: make it, or check its name, the region and the endpoint.",
    ),
    (
        &["RequestTimeTooSkewed", "RequestExpired", "Request has expired"],
        ErrorKind::Unavailable,
        "The clocks of this host and of the store differ too much: set this host's; let chrony or systemd-timesyncd keep it.",
    ),
    (
        &["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthenticationFailed"],
        ErrorKind::Unavailable,
        "The store does not accept the credentials: check them, whether they expired, and that they are for this endpoint.",
    ),
    (
        &["AuthorizationHeaderMalformed", "PermanentRedirect", "Received redirect", "IllegalLocationConstraint"],
        ErrorKind::Unavailable,
        "The bucket is in another region: give it as region= in the URL.",
    ),
    (
        &["InvalidBucketObjectLockConfiguration", "missing Object Lock", "missing ObjectLockConfiguration"],
        ErrorKind::Unsupported,
        "Object Lock can only be chosen when a bucket is made.",
    ),
    (
        &[
            "ObjectLocked",
            "WORM",
            "protected by object lock",
            "object is locked",
            "ObjectLock",
            "BlobImmutableDueToPolicy",
        ],
        ErrorKind::Refused,
        "The store keeps this object until its retention ends: run this again after that.",
    ),
    (
        &["AccessDenied", "AuthorizationPermissionMismatch", "403 Forbidden"],
        ErrorKind::Unavailable,
        "Let the credentials' user list the bucket and get, put and delete objects below the prefix; \
         `remora doctor` tells what is missing.",
    ),
    (
        &["invalid peer certificate", "UnknownIssuer", "CertificateUnknown"],
        ErrorKind::Unavailable,
        "The server's certificate is not trusted: give the CA's with --ca-file, and check the endpoint's name.",
    ),
    (
        &["StorageFull", "QuotaExceeded", "InsufficientStorage", "no space left", "No space left", "disk quota"],
        ErrorKind::NoSpace,
        "Free space in the repository's store; what was committed is safe.",
    ),
    (
        &["SlowDown", "TooManyRequests", "ServerBusy"],
        ErrorKind::Unavailable,
        "The store asks for fewer requests: use --limit-requests, or run fewer backups at once.",
    ),
    (
        &["NotImplemented", "501 Not Implemented"],
        ErrorKind::Unsupported,
        "The store cannot do this: see what `remora doctor` says of it.",
    ),
    (
        &["error sending request", "Connect", "connection", "timed out", "error decoding response body"],
        ErrorKind::Unavailable,
        "Check the endpoint, the network between, and HTTPS_PROXY; then run this again: what was committed is safe.",
    ),
];

pub(super) fn explain(error: &StoreError) -> Explained {
    if let Some(error) = of_plugin(error) {
        let advice = error.advice().map(|advice| Cow::Owned(advice.to_owned()));
        return Explained { kind: error.kind(), why: error.chain(), advice };
    }
    let whole = chain(error);
    let why = answer(&whole).unwrap_or_else(|| whole.clone());
    if full(error) {
        return Explained {
            kind: ErrorKind::NoSpace,
            why,
            advice: Some("Free space in the repository's store.".into()),
        };
    }
    let sign = SIGNS.iter().find(|(signs, ..)| signs.iter().any(|sign| whole.contains(sign)));
    let (kind, advice) =
        sign.map_or((ErrorKind::Unavailable, None), |(_, kind, advice)| (*kind, Some((*advice).into())));
    Explained { kind, why, advice }
}

/// What a plugin's store says: in words of ours already.
fn of_plugin(error: &StoreError) -> Option<&remora_core::Error> {
    error.source()?.downcast_ref()
}

/// Whether it may or may not have taken effect.
pub(super) fn unknown_outcome(error: &StoreError) -> bool {
    matches!(error, StoreError::Generic { .. } | StoreError::JoinError { .. })
        && matches!(explain(error).kind, ErrorKind::Unavailable)
}

/// Whether it says that the bucket, and not just an object, is missing.
pub(super) fn no_bucket(error: &StoreError) -> bool {
    explain(error).kind == ErrorKind::NotFound
}

/// The causes, each only if the one before does not tell it already.
fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        next = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What S3's XML says: its code and message.
fn answer(text: &str) -> Option<String> {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(value, _)| value.to_owned())
    };
    let status = text.split_once("status code: ").and_then(|(_, rest)| rest.split_whitespace().next());
    let code = element("Code")?;
    let message = element("Message").unwrap_or_default();
    Some(format!("the store answers {} {code}: {message}", status.unwrap_or_default()))
}

fn full(error: &StoreError) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return matches!(io.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        }
        cause = error.source();
    }
    false
}
