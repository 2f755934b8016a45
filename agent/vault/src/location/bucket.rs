//! A bucket of an object store, as a URL names it.

use std::fmt;

use object_store::path::Path;
use remora_core::{Error, ErrorKind};
use url::Url;

/// A bucket or container, and the folder in it that the repository fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) vendor: Vendor,
    pub(crate) name: String,
    pub(crate) prefix: Path,
    /// The server, if it is not the vendor's own.
    pub(crate) endpoint: Option<Url>,
    /// S3's region.
    pub(crate) region: Option<String>,
    /// How S3's bucket is named in a request, if it was said.
    pub(crate) addressing: Option<Addressing>,
    /// Azure's storage account.
    pub(crate) account: Option<String>,
}

/// Whose protocol a store speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vendor {
    S3,
    Azure,
    Google,
}

/// Where a request names S3's bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addressing {
    /// `https://host/bucket/…`
    Path,
    /// `https://bucket.host/…`
    VirtualHost,
}

impl Vendor {
    pub(crate) fn of_scheme(scheme: &str) -> Option<Self> {
        match scheme {
            "s3" => Some(Self::S3),
            "az" => Some(Self::Azure),
            "gs" => Some(Self::Google),
            _ => None,
        }
    }

    const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azure => "az",
            Self::Google => "gs",
        }
    }

    /// The parameters that a URL may have.
    const fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &["endpoint", "region", "path-style"],
            Self::Azure => &["endpoint", "account"],
            Self::Google => &["endpoint"],
        }
    }

    fn usage(self) -> String {
        let parameters: Vec<_> = self.parameters().iter().map(|name| format!("{name}=…")).collect();
        format!("Give {}://bucket/prefix, with any of ?{}.", self.scheme(), parameters.join("&"))
    }
}

impl Bucket {
    /// No error repeats the text: a secret may stand in it by mistake.
    pub(crate) fn parse(vendor: Vendor, text: &str) -> Result<Self, Error> {
        let invalid = |why: String| {
            Error::new(ErrorKind::Invalid, format!("repository {}://…: {why}", vendor.scheme())).advise(vendor.usage())
        };
        let url = Url::parse(text).map_err(|e| invalid("it is no URL".into()).because(e))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(secret(vendor, "a user or password"));
        }
        let name =
            url.host_str().filter(|name| !name.is_empty()).ok_or_else(|| invalid("it names no bucket".into()))?;
        if url.port().is_some() {
            return Err(invalid("a bucket has no port; a server's address goes into endpoint=".into()));
        }
        if url.fragment().is_some() {
            return Err(invalid("it has a fragment (#…)".into()));
        }
        let prefix = Path::from_url_path(url.path()).map_err(|e| invalid("its prefix is no path".into()).because(e))?;
        let mut bucket =
            Self { vendor, name: name.into(), prefix, endpoint: None, region: None, addressing: None, account: None };
        for (parameter, value) in url.query_pairs() {
            if !vendor.parameters().contains(&parameter.as_ref()) {
                return Err(if sounds_secret(&parameter) {
                    secret(vendor, &format!("the parameter {parameter}"))
                } else {
                    invalid(format!("the parameter {parameter} is not known"))
                });
            }
            bucket.set(&parameter, &value).map_err(|why| invalid(format!("the parameter {parameter} {why}")))?;
        }
        Ok(bucket)
    }

    fn set(&mut self, parameter: &str, value: &str) -> Result<(), &'static str> {
        if value.is_empty() {
            return Err("is empty");
        }
        match parameter {
            "endpoint" => self.endpoint = Some(endpoint(value)?),
            "region" => self.region = Some(value.into()),
            "account" => self.account = Some(value.into()),
            _ => {
                self.addressing = Some(match value {
                    "true" => Addressing::Path,
                    "false" => Addressing::VirtualHost,
                    _ => return Err("is neither true nor false"),
                });
            }
        }
        Ok(())
    }
}

fn endpoint(value: &str) -> Result<Url, &'static str> {
    let url = Url::parse(value).map_err(|_| "is no URL such as https://host:port")?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("is no URL such as https://host:port");
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("holds more than https://host:port: credentials never go into a URL");
    }
    Ok(url)
}

fn sounds_secret(parameter: &str) -> bool {
    let parameter = parameter.to_ascii_lowercase();
    ["key", "secret", "token", "sig", "sas", "pass", "cred"].iter().any(|word| parameter.contains(word))
}

fn secret(vendor: Vendor, what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("repository {}://…: it holds {what}", vendor.scheme())).advise(
        "Credentials never go into a URL, where every process list and log shows them: use --credentials with a file or \
         a folder, or the environment. Change the secret if it was real.",
    )
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.vendor.scheme(), self.name)?;
        if !self.prefix.as_ref().is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        // What is at another server is another place.
        match &self.endpoint {
            Some(endpoint) => write!(f, " at {}", endpoint.as_str().trim_end_matches('/')),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::location::{Location, Place};

    fn bucket(text: &str) -> Bucket {
        match text.parse::<Location>().unwrap_or_else(|e| panic!("{text}: {}", e.chain())).place {
            Place::Bucket(bucket) => bucket,
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn a_url_names_bucket_prefix_and_server() {
        let found = bucket("s3://my-bucket/a/b%20c?endpoint=https://s3.local:9000&region=eu-west-1&path-style=false");
        assert_eq!((found.vendor, found.name.as_str(), found.prefix.as_ref()), (Vendor::S3, "my-bucket", "a/b c"));
        assert_eq!(found.endpoint.as_ref().map(Url::as_str), Some("https://s3.local:9000/"));
        assert_eq!((found.region.as_deref(), found.addressing), (Some("eu-west-1"), Some(Addressing::VirtualHost)));
        assert_eq!(found.to_string(), "s3://my-bucket/a/b c at https://s3.local:9000");
        let found = bucket("az://box/p/?account=shop");
        assert_eq!((found.vendor, found.prefix.as_ref(), found.account.as_deref()), (Vendor::Azure, "p", Some("shop")));
        assert_eq!(bucket("gs://box").to_string(), "gs://box");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, says) in [
            ("s3://", "bucket"),
            ("s3:///prefix", "bucket"),
            ("s3://b:9000/p", "endpoint="),
            ("s3://b/p?regoin=x", "regoin"),
            ("s3://b/p?account=x", "account"),
            ("s3://b/p?path-style=yes", "neither"),
            ("s3://b/p?endpoint=host:9000", "https://host:port"),
            ("s3://b/p?endpoint=", "empty"),
            ("s3://b/a//b", "prefix"),
            ("s3://b/p#x", "fragment"),
        ] {
            let error = text.parse::<Location>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            let told = format!("{} {}", error.chain(), error.advice().unwrap());
            assert!(told.contains(says), "{text}: {told}");
        }
    }

    #[test]
    fn a_secret_in_a_url_is_refused_and_not_repeated() {
        for text in [
            "s3://AKIA:hunter2@bucket/p",
            "s3://hunter2@bucket/p",
            "s3://bucket/p?secret_access_key=hunter2",
            "az://box/p?sig=hunter2",
            "gs://box/p?access_token=hunter2",
            "s3://bucket/p?endpoint=https://a:hunter2@host",
        ] {
            let error = text.parse::<Location>().unwrap_err();
            let told = format!("{} {}", error.chain(), error.advice().unwrap());
            assert!(told.contains("never go into a URL") && !told.contains("hunter2"), "{text}: {told}");
        }
    }
}
