//! Write a mover: a store of objects below a vault, see `wit/mover/0.1.0/objects.wit`.
//!
//! A mover plans requests and says what their answers mean; the host makes them. [`Request`] builds one, and [`done`], [`whole`]
//! and their neighbours say what most answers mean; `sdk/examples/s3` is a whole mover.

mod answers;

pub use crate::bindings::objects::exports::remora::mover::objects::{Capabilities, Object, Page, Stored};
pub use crate::bindings::objects::remora::mover::errors::{Class, Detail, Error};
pub use crate::bindings::objects::remora::mover::host_io::{Buffer, Pending, Response, Secret, Sink};
pub use crate::bindings::objects::remora::mover::{log, task};

pub use answers::{done, escaped, http_time, range, whole};

use crate::Invalid;
use crate::bindings::objects::remora::mover::host_io::{self, Body, Header, HeaderValue, Receive, Slice};

/// The mover, with its store open.
pub trait Mover: Sized + 'static {
    /// The `settings` of the mover's document. Let serde deny unknown fields: then the one who mistyped one is told.
    type Settings: serde::de::DeserializeOwned;

    /// Looks at the settings without asking the store.
    fn check(settings: &Self::Settings) -> Result<(), Invalid>;

    /// Opens the store. `prefix` is where the repository's keys lie in it.
    fn open(settings: Self::Settings, prefix: &str) -> Result<(Self, Capabilities), Error>;

    /// Stores an object if there is none of that key.
    fn put_if_absent(&self, key: &str, data: &Buffer) -> Result<Stored, Error>;

    /// Stores an object in place of whatever is there.
    fn replace(&self, key: &str, data: &Buffer) -> Result<(), Error>;

    /// Fetches exactly `len` bytes from `offset` on.
    fn get(&self, key: &str, offset: u64, len: u64, into: &Sink) -> Result<(), Error>;

    /// What is known of an object.
    fn head(&self, key: &str) -> Result<Object, Error>;

    /// The objects whose keys begin with `prefix` and come after `after`, or what follows the page that gave `token`.
    fn list(&self, prefix: &str, after: Option<&str>, token: Option<&str>) -> Result<Page, Error>;

    /// Deletes objects; a result for each key.
    fn delete(&self, keys: &[String]) -> Vec<Result<(), Error>>;

    /// Begins an upload in parts, and gives its token. Without, [`Capabilities::multipart`] is `false`.
    fn begin(&self, key: &str) -> Result<String, Error> {
        Err(no_parts(key))
    }

    /// Stores a part of an upload.
    fn part(&self, key: &str, token: &str, number: u32, data: &Buffer) -> Result<(), Error> {
        let _ = (token, number, data);
        Err(no_parts(key))
    }

    /// Makes an object of parts 1 to `parts`, if there is none of that key.
    fn complete(&self, key: &str, token: &str, parts: u32) -> Result<Stored, Error> {
        let _ = (token, parts);
        Err(no_parts(key))
    }

    /// Gives an upload up.
    fn abort(&self, key: &str, token: &str) -> Result<(), Error> {
        let _ = token;
        Err(no_parts(key))
    }
}

fn no_parts(key: &str) -> Error {
    Error::new(Class::Invalid, "no-multipart", format!("{key} cannot be stored in parts"))
}

impl Error {
    /// What went wrong; `code` is the store's own name for it.
    pub fn new(class: Class, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class, code: code.into(), retry_after_ms: None, message: message.into(), details: Vec::new() }
    }
}

/// A request that is put together.
pub struct Request<'a> {
    method: &'a str,
    url: String,
    headers: Vec<(String, Value<'a>)>,
    body: Content<'a>,
    receive: Where<'a>,
}

enum Value<'a> {
    Text(String),
    Secret(String, &'a Secret),
    Basic(String, &'a Secret),
}

enum Content<'a> {
    None,
    Inline(Vec<u8>),
    Buffer(&'a Buffer),
}

enum Where<'a> {
    Discard,
    Inline(u32),
    Sink(&'a Sink),
}

/// What an error's text may have of an answer.
const TOLD: u32 = 64 << 10;

impl<'a> Request<'a> {
    /// One without a body, whose answer's body comes back if it is at most 64 KiB.
    pub fn new(method: &'a str, url: impl Into<String>) -> Self {
        Self { method, url: url.into(), headers: Vec::new(), body: Content::None, receive: Where::Inline(TOLD) }
    }

    /// With a header, whose name is in lower case.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), Value::Text(value.into())));
        self
    }

    /// With a header that is a secret, after some text such as `Bearer `.
    #[must_use]
    pub fn secret(mut self, name: &str, before: &str, secret: &'a Secret) -> Self {
        self.headers.push((name.into(), Value::Secret(before.into(), secret)));
        self
    }

    /// With a user and a password in the `authorization` header.
    #[must_use]
    pub fn basic(mut self, user: &str, password: &'a Secret) -> Self {
        self.headers.push(("authorization".into(), Value::Basic(user.into(), password)));
        self
    }

    /// Sends a buffer.
    #[must_use]
    pub fn buffer(mut self, buffer: &'a Buffer) -> Self {
        self.body = Content::Buffer(buffer);
        self
    }

    /// Sends some bytes, at most 64 KiB.
    #[must_use]
    pub fn inline(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = Content::Inline(bytes.into());
        self
    }

    /// Receives at most so many bytes.
    #[must_use]
    pub fn receive(mut self, most: u32) -> Self {
        self.receive = Where::Inline(most);
        self
    }

    /// Receives nothing.
    #[must_use]
    pub fn discard(mut self) -> Self {
        self.receive = Where::Discard;
        self
    }

    /// Receives into a sink what a successful answer has.
    #[must_use]
    pub fn into_sink(mut self, sink: &'a Sink) -> Self {
        self.receive = Where::Sink(sink);
        self
    }

    /// Starts it.
    pub fn submit(self) -> Result<Pending, Error> {
        let value = |value| match value {
            Value::Text(text) => HeaderValue::Text(text),
            Value::Secret(before, secret) => HeaderValue::Secret((before, secret)),
            Value::Basic(user, secret) => HeaderValue::Basic((user, secret)),
        };
        let headers = self.headers.into_iter().map(|(name, header)| Header { name, value: value(header) });
        host_io::submit(&host_io::Request {
            method: self.method.into(),
            url: self.url,
            headers: headers.collect(),
            body: match self.body {
                Content::None => Body::None,
                Content::Inline(bytes) => Body::Inline(bytes),
                Content::Buffer(buffer) => Body::Buffer(Slice { buffer, offset: 0, len: buffer.len() }),
            },
            receive: match self.receive {
                Where::Discard => Receive::Discard,
                Where::Inline(most) => Receive::Inline(most),
                Where::Sink(sink) => Receive::Sink(sink),
            },
            timeout_ms: 0,
        })
    }

    /// Makes it and waits for its answer.
    pub fn send(self) -> Result<Response, Error> {
        self.submit()?.wait()
    }
}

/// Makes a component of a [`Mover`].
#[macro_export]
macro_rules! objects {
    ($mover:ty) => {
        const _: () = {
            use ::std::rc::Rc;
            use $crate::bindings::objects::exports::remora::mover::objects as wit;
            use $crate::objects::{Buffer, Capabilities, Error, Mover, Object, Page, Sink, Stored};

            struct Component;
            struct Session(Rc<$mover>);
            struct Upload {
                mover: Rc<$mover>,
                key: String,
                token: String,
            }

            impl wit::Guest for Component {
                type Session = Session;
                type Upload = Upload;

                fn validate(settings: String) -> Result<(), Vec<wit::FieldError>> {
                    let checked = $crate::configure(&settings, |settings| <$mover as Mover>::check(&settings));
                    checked.map_err(|invalid| {
                        let errors = invalid.into_iter();
                        errors.map(|(path, message)| wit::FieldError { path, message }).collect()
                    })
                }

                fn open(settings: String, prefix: String) -> Result<(wit::Session, Capabilities), Error> {
                    let settings = $crate::configure(&settings, Ok).map_err(|_| {
                        Error::new($crate::objects::Class::Invalid, "settings", "the settings cannot be read")
                    })?;
                    let (mover, can) = <$mover as Mover>::open(settings, &prefix)?;
                    Ok((wit::Session::new(Session(Rc::new(mover))), can))
                }
            }

            impl wit::GuestSession for Session {
                fn put_if_absent(&self, key: String, data: &Buffer) -> Result<Stored, Error> {
                    self.0.put_if_absent(&key, data)
                }

                fn replace(&self, key: String, data: &Buffer) -> Result<(), Error> {
                    self.0.replace(&key, data)
                }

                fn get(&self, key: String, offset: u64, len: u64, into: &Sink) -> Result<(), Error> {
                    self.0.get(&key, offset, len, into)
                }

                fn head(&self, key: String) -> Result<Object, Error> {
                    self.0.head(&key)
                }

                fn list(&self, prefix: String, after: Option<String>, token: Option<String>) -> Result<Page, Error> {
                    self.0.list(&prefix, after.as_deref(), token.as_deref())
                }

                fn delete(&self, keys: Vec<String>) -> Vec<Result<(), Error>> {
                    self.0.delete(&keys)
                }

                fn multipart(&self, key: String) -> Result<wit::Upload, Error> {
                    let token = self.0.begin(&key)?;
                    Ok(wit::Upload::new(Upload { mover: self.0.clone(), key, token }))
                }

                fn resume(&self, key: String, token: String) -> Result<wit::Upload, Error> {
                    Ok(wit::Upload::new(Upload { mover: self.0.clone(), key, token }))
                }
            }

            impl wit::GuestUpload for Upload {
                fn token(&self) -> String {
                    self.token.clone()
                }

                fn part(&self, number: u32, data: &Buffer) -> Result<(), Error> {
                    self.mover.part(&self.key, &self.token, number, data)
                }

                fn complete(&self, parts: u32) -> Result<Stored, Error> {
                    self.mover.complete(&self.key, &self.token, parts)
                }

                fn abort(&self) -> Result<(), Error> {
                    self.mover.abort(&self.key, &self.token)
                }
            }

    $crate::bindings::objects::export!(Component with_types_in $crate::bindings::objects);
        };
    };
}
